//! Hostile files: each is an error that names it, quickly and in little memory.

use std::fs;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::rewrite;
use crate::memory::{Measured, measured};
use crate::png_file::{Header, png};
use crate::support::Sandbox;

/// Memory allowed beyond the size of the input.
const MEMORY: u64 = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// Checks that a command ends with this code and message, within the limits.
#[track_caller]
fn assert_rejected(sandbox: &Sandbox, code: i32, words: &str, says: &str, input: u64) {
    let begun = Instant::now();
    let Measured { code: ended, stderr: said, peak } =
        measured(&sandbox.command(&format!("-q {words}")));
    assert!(begun.elapsed() < PATIENCE, "vit {words}: it took {:?}", begun.elapsed());
    assert_eq!(ended, Some(code), "vit {words}: {said}");
    assert!(said.starts_with("error: ") && said.contains(says), "vit {words}: {said}");
    assert!(!said.contains("panicked"), "vit {words}: {said}");
    let most = input + MEMORY;
    assert!(peak < most, "vit {words}: {peak} bytes, expected at most {most}: {said}");
}

fn sandbox() -> Sandbox {
    let sandbox = super::sandbox();
    super::uninterrupted(&sandbox);
    // Only one checkpoint, so that an error in it cannot be avoided.
    for step in [32, 36] {
        fs::remove_dir_all(sandbox.path(format!("whole/checkpoints/step-{step:06}"))).unwrap();
    }
    sandbox
}

/// A safetensors file with this header.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

/// A header of this length, full of empty tensors.
fn many_tensors(length: usize) -> String {
    let mut header = "{".to_owned();
    for number in 0.. {
        header += &format!(r#""{number}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},"#);
        if header.len() + 60 > length {
            break;
        }
    }
    format!(r#"{header}"last":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}}}"#)
}

#[test]
fn hostile_models_are_rejected() {
    let sandbox = sandbox();
    let one =
        |shape: &str| format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,4]}}}}"#);
    let twice = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let (unlike, long) =
        ("is not a safetensors file", "expected a header of at most 2097152 bytes");
    let bytes: [(Vec<u8>, &str); 11] = [
        // A header of 100 MB of spaces, or of names; or one that is only announced.
        (safetensors(&" ".repeat(100_000_000), 0), long),
        (safetensors(&many_tensors(100_000_000), 0), long),
        (100_000_000_u64.to_le_bytes().to_vec(), unlike),
        (u64::MAX.to_le_bytes().to_vec(), unlike),
        // The most tensors within the limit.
        (safetensors(&many_tensors(2 << 20), 0), "hostile.safetensors"),
        (safetensors(&one("[18446744073709551615,4]"), 4), unlike),
        (safetensors(&one("[1000000000000]"), 4), unlike),
        (safetensors(twice, 8), "hostile.safetensors"),
        (safetensors(&"[".repeat(1_000_000), 0), unlike),
        (safetensors(&format!(r#"{{"a":[{}0]}}"#, r#"{"":0},"#.repeat(290_000)), 0), unlike),
        (safetensors(&one(&format!("[{}0]", "0,".repeat(1_000_000))), 4), unlike),
    ];
    for (bytes, says) in bytes {
        sandbox.write("hostile.safetensors", &bytes);
        let length = bytes.len() as u64;
        drop(bytes);
        for command in ["info", "eval", "train --dataset tiny --batch-size 9 --init"] {
            assert_rejected(&sandbox, 4, &format!("{command} hostile.safetensors"), says, length);
        }
    }
}

/// A model file whose configuration does not match.
#[test]
fn hostile_configurations_in_model_files_are_rejected() {
    let sandbox = sandbox();
    let whole = sandbox.read("whole/model.safetensors");
    let length = u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    let (header, data) = whole[8..].split_at(length);
    let header = str::from_utf8(header).unwrap().trim_end();
    for (right, wrong, says) in [
        ("heads\\\":4", "heads\\\":1000000000000", "heads"),
        ("heads\\\":4", "heads\\\":0", "heads"),
        ("heads\\\":4", "heads\\\":1e12", "cannot parse the configuration"),
        ("heads\\\":4,", "", "cannot parse the configuration"),
        ("depth\\\":1", "depth\\\":18446744073709551615", "expected depth of at most 1024"),
        ("dim\\\":32", "dim\\\":1000000000000", "expected dim of at most 65536"),
        ("\\\"height\\\":28", "\\\"height\\\":28000000", "image"),
        ("attention\\\":0.2", "attention\\\":NaN", "cannot parse the configuration"),
        ("\"head.weight\"", "\"head.weights\"", "head.weight"),
    ] {
        assert!(header.contains(right), "{header} has no {right}");
        let mut bytes = safetensors(&header.replace(right, wrong), 0);
        bytes.extend(data);
        sandbox.write("hostile.safetensors", &bytes);
        let words = "eval hostile.safetensors --dataset tiny";
        assert_rejected(&sandbox, 4, words, says, bytes.len() as u64);
    }
}

/// Configurations of impossible models.
#[test]
fn hostile_configurations_are_rejected() {
    let sandbox = sandbox();
    let keys: String = (0..3_000_000).map(|number| format!("k{number} = 1\n")).collect();
    let fewer = &keys[..keys[..1 << 15].rfind('\n').unwrap() + 1];
    // The text that needs the most parser memory.
    let dots = format!("x = [{}]\n", "{a.a.a.a.a.a.a.a.a.a.a.a.a.a=0},".repeat(1000));
    for (text, says) in [
        ("[model]\nheads = 1000000000000\n", "heads"),
        ("[model]\ndim = 1000000000000\nheads = 1\n", "expected dim of at most 65536"),
        ("[model]\ndepth = 18446744073709551615\n", "hostile.toml:2: "),
        ("[model]\ndepth = 9223372036854775807\n", "expected depth of at most 1024"),
        (
            "[model]\ndropout = { embedding = nan, attention = 0.0, projection = 0.0, mlp = 0.0 }\n",
            "NaN",
        ),
        ("[train.optimizer]\nlr = nan\n", "NaN"),
        ("[train.optimizer]\nlr = inf\n", "inf"),
        ("[train]\nepochs = 1\nepochs = 2\n", "duplicate key"),
        ("[augment]\nshift = -1.0\n", "shift"),
        ("val_split = nan\n", "NaN"),
        (&"[".repeat(100_000), "hostile.toml"),
        (&format!("x = {}1{}", "[".repeat(100_000), "]".repeat(100_000)), "hostile.toml"),
        ("preset = '\u{0}'\n", "hostile.toml"),
        (&keys, "hostile.toml: expected at most 32768 bytes, got more"),
        (&dots, "hostile.toml"),
        (fewer, "hostile.toml"),
    ] {
        sandbox.write("hostile.toml", text);
        let words = "train --config hostile.toml --dataset tiny --batch-size 9 --epochs 1";
        assert_rejected(&sandbox, 2, words, says, text.len() as u64);
    }
}

/// Valid numbers, limited by the number of images.
#[test]
fn huge_batches_and_shards_take_little_memory() {
    let sandbox = sandbox();
    sandbox.write("hostile.toml", "[train]\nshards = 9223372036854775807\n");
    let words = "-q train --config hostile.toml --dataset tiny --batch-size 9 --epochs 1";
    let Measured { code, stderr, peak } = measured(&sandbox.command(words));
    assert!(code == Some(0) && peak < MEMORY, "{peak} bytes: {stderr}");
    sandbox.write("hostile.toml", "[train]\nbatch_size = 9223372036854775807\n");
    let words = "train --config hostile.toml --dataset tiny --epochs 1";
    assert_rejected(&sandbox, 2, words, "9223372036854775807", 0);
}

/// timm's configuration with this in addition.
fn timm(rest: &str) -> String {
    format!("{{\"architecture\":\"vit_tiny_patch7_28\",\"global_pool\":\"token\",{rest}}}")
}

/// The JSON of foreign models.
#[test]
fn hostile_json_of_foreign_models_is_rejected() {
    let sandbox = sandbox();
    sandbox.write("cls.toml", "[model]\npool = 'cls'\nqkv_bias = true\ndepth = 1\n");
    let words = "train --config cls.toml --dataset tiny --batch-size 9 --max-steps 1 --run-dir cls";
    sandbox.run(&format!("-q {words}")).succeeded();
    sandbox.write("foreign/config.json", "");
    // Without our configuration, which would override the JSON.
    let tensors = candle_core::safetensors::load(
        sandbox.path("cls/model.safetensors"),
        &candle_core::Device::Cpu,
    );
    let bare = sandbox.path("foreign/model.safetensors");
    candle_core::safetensors::save(&tensors.unwrap(), bare).unwrap();
    let numbers: String = (0..3_000_000).map(|number| format!("{number},")).collect();
    for (code, text, says) in [
        (
            4,
            format!("{{\"a\":[{numbers}0]}}"),
            "config.json: expected at most 262144 bytes, got more",
        ),
        (
            2,
            format!("{{\"a\":[{}0]}}", &numbers[..numbers[..250_000].rfind(',').unwrap() + 1]),
            "architecture",
        ),
        (2, format!("{{\"a\":[{}0]}}", "{\"\":0},".repeat(30_000)), "architecture"),
        (4, "{".repeat(250_000), "config.json"),
        (2, "[]".to_owned(), "architecture"),
        (4, "{\"num_classes\":1e400}".to_owned(), "config.json"),
        (2, timm(r#""model_args":{"num_heads":1000000000000}"#), "heads"),
    ] {
        sandbox.write("foreign/config.json", &text);
        let words = "import foreign -o out.safetensors";
        let length = text.len() as u64 + sandbox.read("foreign/model.safetensors").len() as u64;
        assert_rejected(&sandbox, code, words, says, length);
    }
}

#[test]
fn hostile_datasets_are_rejected() {
    let sandbox = sandbox();
    let header =
        |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
    for bytes in [
        Vec::new(),
        // More images than bytes, an overflowing size, no images, images without pixels.
        header(&[0x803, u32::MAX, 28, 28]),
        header(&[0x803, u32::MAX, u32::MAX, u32::MAX]),
        header(&[0x803, 0, 28, 28]),
        header(&[0x803, 40, 0, 28]),
        // A wrong magic number.
        header(&[0x1803, 40, 28, 28]),
    ] {
        sandbox.write("tiny/train-images-idx3-ubyte", &bytes);
        let words = "train --dataset tiny --batch-size 9";
        assert_rejected(&sandbox, 3, words, "train-images-idx3-ubyte", bytes.len() as u64);
    }
}

/// A gzipped IDX file of this header, this many zeros, and these bytes.
fn packed(header: &[u32], zeros: u64, rest: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    header.iter().for_each(|word| encoder.write_all(&word.to_be_bytes()).unwrap());
    let zeros = std::io::repeat(0).take(zeros);
    std::io::copy(&mut zeros.chain(rest), &mut encoder).unwrap();
    encoder.finish().unwrap()
}

/// 784 MB of black images in less than 8 MB, with and without matching labels.
#[test]
fn gzip_bombs_are_rejected() {
    const COUNT: u32 = 1_000_000;
    let sandbox = sandbox();
    let count = u64::from(COUNT);
    let images = packed(&[0x803, COUNT, 28, 28], count * 28 * 28, &[]);
    let length = images.len() as u64;
    std::fs::remove_file(sandbox.path("tiny/train-images-idx3-ubyte")).unwrap();
    sandbox.write("tiny/train-images-idx3-ubyte.gz", images);
    let words = "train --dataset tiny --batch-size 9";
    assert_rejected(&sandbox, 3, words, "got a header that announces 784000016", length);
    std::fs::remove_file(sandbox.path("tiny/train-labels-idx1-ubyte")).unwrap();
    sandbox.write("tiny/train-labels-idx1-ubyte.gz", packed(&[0x801, COUNT], count, &[]));
    assert_rejected(
        &sandbox,
        3,
        words,
        "bytes unpacked, got a header that announces 784000016",
        length,
    );
}

/// 61 MiB of black images in a small file, wrong in the last byte of either file.
#[test]
fn gzipped_files_wrong_at_their_end_are_rejected() {
    const COUNT: u32 = 82_000;
    let sandbox = sandbox();
    for name in ["images-idx3-ubyte", "labels-idx1-ubyte"] {
        std::fs::remove_file(sandbox.path(format!("tiny/train-{name}"))).unwrap();
    }
    let write = |name: &str, bytes: &[u8]| sandbox.write(&format!("tiny/train-{name}.gz"), bytes);
    let count = u64::from(COUNT);
    let images = packed(&[0x803, COUNT, 28, 28], count * 28 * 28, &[]);
    let right = packed(&[0x801, COUNT], count - 1, &[9]);
    let words = "train --dataset tiny --batch-size 9";
    let length = (images.len() + right.len()) as u64;
    write("labels-idx1-ubyte", &right);
    // The checksum at the end of a gzip file, and its length.
    let mut altered = images.clone();
    let at = altered.len() - 8;
    altered[at] ^= 1;
    write("images-idx3-ubyte", &altered);
    assert_rejected(&sandbox, 3, words, "train-images-idx3-ubyte.gz", length);
    write("images-idx3-ubyte", &images[..at]);
    assert_rejected(&sandbox, 3, words, "train-images-idx3-ubyte.gz", length);
}

/// Small files of huge images, which no model accepts and which are never unpacked.
#[test]
fn huge_images_are_rejected_without_unpacking() {
    let sandbox = sandbox();
    let (images, labels) =
        (packed(&[0x803, 1, 8000, 8000], 64_000_000, &[]), packed(&[0x801, 1], 1, &[]));
    for split in ["train", "t10k"] {
        for (name, bytes) in [("images-idx3-ubyte", &images), ("labels-idx1-ubyte", &labels)] {
            std::fs::remove_file(sandbox.path(format!("tiny/{split}-{name}"))).unwrap();
            sandbox.write(&format!("tiny/{split}-{name}.gz"), bytes);
        }
    }
    let length = 2 * (images.len() + labels.len()) as u64;
    let says = "the model expects images of 28x28 px with 1 channels, tiny has 8000x8000 px";
    assert_rejected(&sandbox, 2, "eval whole --dataset tiny", says, length);
    let says = "tiny: expected images of at most 16777216 numbers";
    assert_rejected(&sandbox, 2, "train --dataset tiny --batch-size 1", says, length);
}

#[test]
fn hostile_checkpoints_are_rejected() {
    let sandbox = sandbox();
    let read = |name: &str| sandbox.read(&format!("whole/checkpoints/step-000040/{name}"));
    let (sound_state, sound_tensors) = (read("state.json"), read("state.safetensors"));
    let state = String::from_utf8(sound_state.clone()).unwrap();
    let deep = "[".repeat(1_000_000);
    for (name, bytes) in [
        ("state.json", state.replace("\"step\": 40", "\"step\": -1").into_bytes()),
        ("state.json", state.replace("\"format\": 1", "\"format\": 1e400").into_bytes()),
        ("state.json", deep.clone().into_bytes()),
        ("state.json", b"null".to_vec()),
        ("state.json", format!("{{\"a\":[{}0]}}", "0,".repeat(10_000_000)).into_bytes()),
        (
            "state.json",
            format!("{{\"format\":1,\"about\":[{}0]}}", "{\"\":0},".repeat(30_000)).into_bytes(),
        ),
        ("state.safetensors", u64::MAX.to_le_bytes().to_vec()),
        ("state.safetensors", safetensors(&many_tensors(50_000_000), 0)),
        ("state.safetensors", safetensors("{}", 0)),
    ] {
        rewrite(&sandbox, name, &bytes);
        // A file without tensors is valid by itself.
        let says = if bytes == safetensors("{}", 0) { "missing, expected shape" } else { name };
        assert_rejected(&sandbox, 4, "train --resume whole", says, bytes.len() as u64);
        rewrite(&sandbox, "state.json", &sound_state);
        rewrite(&sandbox, "state.safetensors", &sound_tensors);
    }
    let before = sandbox.read("whole/config.toml");
    for bytes in [deep.clone().into_bytes(), vec![0xff; 1000], Vec::new()] {
        sandbox.write("whole/config.toml", &bytes);
        assert_rejected(&sandbox, 4, "train --resume whole", "config.toml", bytes.len() as u64);
    }
    sandbox.write("whole/config.toml", before);
    sandbox.write("whole/metrics.jsonl", deep);
    let said = sandbox.run("train --resume whole").succeeded().stderr;
    assert!(said.contains("metrics.jsonl was damaged"), "{said}");
}

/// Settings of run and checkpoint that describe a model of 4 GB.
#[test]
fn checkpoints_of_a_huge_model_are_rejected() {
    let sandbox = sandbox();
    let config = String::from_utf8(sandbox.read("whole/config.toml")).unwrap();
    for (name, small, large) in [("dim", 32, 8192), ("mlp_dim", 128, 16384)] {
        let line = |width| format!("\n{name} = {width}\n");
        assert!(config.contains(&line(small)), "{config}");
        let config = config.replace(&line(small), &line(large));
        rewrite(&sandbox, "config.toml", config.as_bytes());
        sandbox.write("whole/config.toml", &config);
        for command in ["train --resume", "verify"] {
            let says =
                if command == "verify" { "checks failed" } else { "do not match its settings" };
            assert_rejected(&sandbox, 4, &format!("{command} whole"), says, 0);
        }
    }
}

/// The largest files that the run's model allows, valid except at their end.
#[test]
fn checkpoints_wrong_at_their_end_are_rejected() {
    const SIZE: usize = 4_000_000;
    let sandbox = sandbox();
    let header = format!(
        r#"{{"parameters/a":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{SIZE}]}},"b":{{"dtype":"U8","shape":[1],"data_offsets":[{SIZE},{}]}}}}"#,
        SIZE / 4,
        SIZE + 1
    );
    let bytes = safetensors(&header, SIZE + 1);
    let length = bytes.len() as u64;
    rewrite(&sandbox, "state.safetensors", &bytes);
    drop(bytes);
    let says = "state.safetensors: b: expected F32 or F64, got U8";
    assert_rejected(&sandbox, 4, "train --resume whole", says, length);
}

#[test]
fn hostile_metrics_are_rejected() {
    let sandbox = sandbox();
    let text = r#"{"kind":"step","step":1,"loss":1}
"#
    .repeat(3_000_000);
    let text = format!("{text}{{\n");
    sandbox.write("whole/metrics.jsonl", &text);
    assert_rejected(
        &sandbox,
        4,
        "compare whole",
        "whole/metrics.jsonl:3000001: ",
        text.len() as u64,
    );
    let line = format!(r#"{{"kind":"step","step":1,"x":[{}0]}}"#, "0,".repeat(10_000_000));
    sandbox.write("whole/metrics.jsonl", &line);
    assert_rejected(&sandbox, 4, "compare whole", "whole/metrics.jsonl:1: ", line.len() as u64);
}

/// Pipes without a writer in place of files.
#[test]
fn pipes_do_not_block() {
    let sandbox = sandbox();
    for (path, words) in [
        ("model.safetensors", "eval model.safetensors --dataset tiny"),
        ("whole/config.toml", "train --resume whole"),
        ("whole/metrics.jsonl", "compare whole"),
        ("tiny/t10k-labels-idx1-ubyte", "train --dataset tiny --batch-size 9"),
    ] {
        let pipe = sandbox.path(path);
        let before = std::fs::read(&pipe);
        let _ = std::fs::remove_file(&pipe);
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let code = if path.starts_with("tiny") { 3 } else { 4 };
        assert_rejected(&sandbox, code, words, path, 0);
        std::fs::remove_file(&pipe).unwrap();
        if let Ok(before) = before {
            std::fs::write(&pipe, before).unwrap();
        }
    }
}

/// Headers that announce more than any memory, and files wrong at their end.
#[test]
fn hostile_pictures_are_rejected() {
    let sandbox = sandbox();
    sandbox.train_digits("--max-steps 1");
    let large =
        |side, depth| Header { width: side, height: side, depth, colour: 6, interlaced: false };
    let announced = png(&large(60_000, 16), &[]);
    let jpeg = b"\xff\xd8\xff\xc0\x00\x0b\x08\xea\x60\xea\x60\x01\x01\x11\x00\xff\xd9";
    let (sound_png, sound_jpeg) = (large_png(), large_jpeg());
    let cut = sound_png[..sound_png.len() - 40].to_vec();
    // A second frame within the last rows.
    let mut altered = sound_jpeg.clone();
    let at = altered.len() - 100;
    altered[at..at + 2].copy_from_slice(&[0xFF, 0xC0]);
    for (name, bytes) in [
        ("cut.png", announced[..20].to_vec()),
        ("large.png", announced),
        ("cut-at-its-end.png", cut),
        ("large.jpg", jpeg.to_vec()),
        ("altered-at-its-end.jpg", altered),
        ("progressive.jpg", progressive(2590)),
        ("large-progressive.jpg", progressive(2591)),
    ] {
        sandbox.write(name, &bytes);
        for command in ["predict run", "explain run"] {
            let output = if command.starts_with("explain") { " -o out.png" } else { "" };
            assert_rejected(
                &sandbox,
                3,
                &format!("{command} {name}{output}"),
                name,
                bytes.len() as u64,
            );
        }
    }
    for (name, bytes) in [("sound.png", sound_png), ("sound.jpg", sound_jpeg)] {
        sandbox.write(name, &bytes);
        let words = format!("-q predict run {name}");
        let Measured { code, stderr, peak } = measured(&sandbox.command(&words));
        let most = bytes.len() as u64 + MEMORY;
        assert!(code == Some(0) && peak < most, "{name}: {peak} bytes: {stderr}");
    }
}

/// A single colour, four samples of 16 bits: 512 MiB in half a megabyte.
fn large_png() -> Vec<u8> {
    let row = vec![0; 8 * 8192];
    let rows = crate::png_file::rows(std::iter::repeat_n(row.as_slice(), 8192));
    let header = Header { width: 8192, height: 8192, depth: 16, colour: 6, interlaced: false };
    png(&header, &[(b"IDAT", rows)])
}

/// The size of a camera's picture, in colour.
fn large_jpeg() -> Vec<u8> {
    let pixel =
        |x: u32, y: u32| image::Rgb([x / 16, (x + y) / 16, y / 16].map(|light| light as u8));
    let picture = image::RgbImage::from_fn(6000, 4000, pixel);
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

/// A small file that announces this size, padded so that the size is plausible. With sides of 2590 it reaches the limit
/// of coefficients.
fn progressive(side: u16) -> Vec<u8> {
    let mut bytes = include_bytes!("../fixtures/jpeg/progressive.jpg").to_vec();
    let frame = bytes.windows(2).position(|two| two == [0xFF, 0xC2]).unwrap();
    let [high, low] = side.to_be_bytes();
    bytes[frame + 5..frame + 9].copy_from_slice(&[high, low, high, low]);
    bytes.extend(vec![0; 20_000]);
    bytes
}
