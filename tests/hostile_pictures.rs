//! Pictures that are damaged or too large.

use std::fs::File;
use std::io::Cursor;

use image::{DynamicImage, ImageFormat, RgbImage};

use crate::png_file::{Header, png};
use crate::support::Sandbox;

/// Rejected before memory for pixels is allocated.
const TOO_LARGE: [(&str, &str); 3] = [
    ("bomb.png", "expected at most 67,108,864 pixels, got 60000x60000"),
    ("bomb.jpg", "expected at most 67,108,864 pixels, got 60000x60000"),
    ("long.png", "expected sides of at most 65,535 pixels, got 65536x1"),
];

fn sandbox_with_run() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 1");
    sandbox
}

fn jpeg(side: u32) -> Vec<u8> {
    let picture = RgbImage::from_fn(side, side, |x, y| image::Rgb([(x * y % 256) as u8; 3]));
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(picture).write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

/// The same file with another announced size.
fn announcing(mut jpeg: Vec<u8>, side: u16) -> Vec<u8> {
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    let side = side.to_be_bytes();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[side, side].concat());
    jpeg
}

#[test]
fn too_many_announced_pixels_are_rejected() {
    let sandbox = sandbox_with_run();
    let header = Header { width: 60_000, height: 60_000, depth: 16, colour: 6, interlaced: false };
    sandbox.write("bomb.png", png(&header, &[(b"IDAT", vec![0x78, 0x9C])]));
    sandbox.write("bomb.jpg", announcing(jpeg(16), 60_000));
    sandbox.write("long.png", png(&Header { width: 1 << 16, height: 1, ..header }, &[]));
    for (name, says) in TOO_LARGE {
        for words in [format!("predict run {name}"), format!("explain run {name} -o out.png")] {
            sandbox.refuses(3, &words).saying(&[name, says]);
        }
    }
}

/// Progressive pictures have a lower limit; the hint names another format.
#[test]
fn too_large_progressive_pictures_are_rejected() {
    let sandbox = sandbox_with_run();
    let mut bytes = include_bytes!("fixtures/jpeg/progressive.jpg").to_vec();
    sandbox.write("whole.jpg", &bytes);
    sandbox.run("predict run whole.jpg").succeeded();
    let frame = bytes.windows(2).position(|pair| pair == [0xFF, 0xC2]).unwrap();
    bytes[frame + 5..frame + 9].copy_from_slice(&[0x10, 0, 0x10, 0]);
    bytes.extend([0; 40_000]);
    sandbox.write("large.jpg", bytes);
    let refusal = sandbox.refuses(3, "predict run large.jpg");
    let says = ["large.jpg", "6,710,886 pixels of a progressive JPEG, got 4096x4096"];
    let refusal = refusal.saying(&says);
    assert!(refusal.hint.contains("PNG"), "{refusal:?}");
}

/// Each scan has ten bytes, and takes a pass over all pixels.
#[test]
fn too_many_scans_are_rejected() {
    let sandbox = sandbox_with_run();
    let whole = include_bytes!("fixtures/jpeg/progressive.jpg");
    let scan = whole.windows(2).position(|pair| pair == [0xFF, 0xDA]).unwrap();
    let length = usize::from(u16::from_be_bytes([whole[scan + 2], whole[scan + 3]]));
    let (before, header) = (&whole[..scan], &whole[scan..scan + 2 + length]);
    sandbox.write("scans.jpg", [before, &header.repeat(5000), &[0xFF, 0xD9]].concat());
    let says = ["scans.jpg: expected at most 100 scans, got 5000"];
    sandbox.refuses(3, "predict run scans.jpg").saying(&says);
}

/// The decoder keeps a copy of profiles.
#[test]
fn too_large_profiles_are_rejected() {
    let sandbox = sandbox_with_run();
    let whole = jpeg(16);
    let profile = [&[0xFF, 0xE2, 0xFF, 0xFF][..], &[0; 0xFFFD]].concat();
    sandbox.write("profiles.jpg", [&whole[..2], &profile.repeat(200), &whole[2..]].concat());
    let says = ["profiles.jpg: expected at most 8388608 bytes of profiles"];
    sandbox.refuses(3, "predict run profiles.jpg").saying(&says);
}

#[test]
fn truncated_pictures_are_rejected() {
    let sandbox = sandbox_with_run();
    let whole = jpeg(64);
    sandbox.write("whole.jpg", &whole);
    sandbox.run("predict run whole.jpg").succeeded();
    for length in [3, 40, whole.len() / 2, whole.len() - 2] {
        sandbox.write("cut.jpg", &whole[..length]);
        sandbox.refuses(3, "predict run cut.jpg").saying(&["cut.jpg: "]);
    }
    sandbox.refuses(3, "predict run cut.jpg").saying(&["the picture is cut off: it has no end"]);
    sandbox.write("lies.jpg", announcing(jpeg(16), 8000));
    sandbox.refuses(3, "predict run lies.jpg").saying(&["lies.jpg", "8000x8000 px they announce"]);
    let header = Header { width: 40, height: 40, depth: 8, colour: 0, interlaced: false };
    let rows = crate::png_file::rows([&[7; 40][..]; 3]);
    sandbox.write("lies.png", png(&header, &[(b"IDAT", rows)]));
    sandbox.refuses(3, "predict run lies.png").saying(&["lies.png: "]);
    sandbox.write("none.png", png(&Header { width: 0, height: 0, ..header }, &[]));
    sandbox.refuses(3, "predict run none.png").saying(&["none.png: "]);
}

#[test]
fn changed_bytes_never_panic() {
    let sandbox = sandbox_with_run();
    let whole = jpeg(24);
    for at in (0..whole.len()).step_by(whole.len() / 60) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x5A;
        sandbox.write(&format!("changed/{at:05}.jpg"), bytes);
    }
    let outcome = sandbox.run("-q predict run changed");
    assert!(matches!(outcome.code, Some(0 | 3)), "{}", outcome.stderr);
    let is_said = |line: &str| line.starts_with("error: ") || line.starts_with("hint: ");
    assert!(outcome.stderr.lines().all(is_said), "{}", outcome.stderr);
}

#[test]
fn too_long_files_are_not_read_completely() {
    let sandbox = sandbox_with_run();
    File::create(sandbox.path("long.png")).unwrap().set_len(1 << 40).unwrap();
    sandbox.refuses(3, "predict run long.png").saying(&["long.png", "at most 64 MiB"]);
}
