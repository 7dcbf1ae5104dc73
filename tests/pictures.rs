//! Preprocessing of pictures: any format, dark on light or light on dark, from a file, a folder or stdin.

use std::fs::File;
use std::io::Cursor;
use std::process::Stdio;

use image::{DynamicImage, GrayAlphaImage, GrayImage, ImageBuffer, ImageFormat, Luma, LumaA};
use serde_json::Value;

use crate::files::test_file;
use crate::idx_folder::IdxFolder;
use crate::png_file::{Header, grey, png, rows};
use crate::support::{Outcome, Sandbox, json_lines};

fn sandbox_with_run() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 40");
    sandbox
}

/// A seven drawn in a canvas of 28x28 pixels, or this many times that.
fn seven(times: u32) -> GrayImage {
    let is_ink = |x: u32, y: u32| {
        (5..8).contains(&y) && (8..20).contains(&x)
            || (8..24).contains(&y) && (x + y / 2).abs_diff(21) < 2
    };
    let pixel = |x, y| Luma([if is_ink(x / times, y / times) { 255 } else { 0 }]);
    GrayImage::from_fn(28 * times, 28 * times, pixel)
}

fn dark_on_light(mut picture: GrayImage) -> GrayImage {
    image::imageops::invert(&mut picture);
    picture
}

fn save(sandbox: &Sandbox, name: &str, picture: impl Into<DynamicImage>) {
    let mut bytes = Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, ImageFormat::Png).unwrap();
    sandbox.write(name, bytes.into_inner());
}

fn predict(sandbox: &Sandbox, words: &str) -> (Value, String) {
    let outcome = sandbox.run(&format!("predict run {words}")).succeeded();
    (outcome.json(), outcome.stderr)
}

#[track_caller]
fn assert_near(line: &Value, expected: &Value) {
    assert_eq!(line["class"], expected["class"]);
    let probabilities = |line: &Value| line["probabilities"].as_array().unwrap().clone();
    for (got, expected) in probabilities(line).iter().zip(&probabilities(expected)) {
        let difference = got.as_f64().unwrap() - expected.as_f64().unwrap();
        assert!(difference.abs() < 1e-4, "{line}");
    }
}

#[test]
fn a_picture_of_the_models_size_is_only_inverted() {
    let sandbox = sandbox_with_run();
    save(&sandbox, "light.png", seven(1));
    save(&sandbox, "dark.png", dark_on_light(seven(1)));
    let (light, said) = predict(&sandbox, "light.png");
    assert_eq!((&light["inverted"], said.as_str()), (&Value::Bool(false), ""));
    let (dark, said) = predict(&sandbox, "dark.png");
    assert_eq!(dark["inverted"], true);
    assert_eq!(said, "dark.png: 28x28 px, dark on light, inverted\n");
    assert_near(&dark, &light);
    let (always, said) = predict(&sandbox, "dark.png --invert always");
    assert_eq!(always["probabilities"], dark["probabilities"]);
    assert_eq!(said, "dark.png: 28x28 px, inverted\n");
    let (never, said) = predict(&sandbox, "dark.png --invert never");
    assert_eq!((&never["inverted"], said.as_str()), (&Value::Bool(false), ""));
    assert_ne!(never["probabilities"], dark["probabilities"]);
}

#[test]
fn every_kind_of_png_gives_the_same_prediction() {
    let sandbox = sandbox_with_run();
    let seven = seven(1);
    save(&sandbox, "grey.png", seven.clone());
    let (expected, _) = predict(&sandbox, "grey.png");
    let wide: Vec<u16> = seven.pixels().map(|pixel| 257 * u16::from(pixel.0[0])).collect();
    let wide: ImageBuffer<Luma<u16>, _> = ImageBuffer::from_raw(28, 28, wide).unwrap();
    save(&sandbox, "16.png", wide);
    // A palette where 1 is white and 0 is black, and grey of one bit, eight pixels to a byte.
    let header = |depth, colour| Header { width: 28, height: 28, depth, colour, interlaced: false };
    let indices: Vec<u8> = seven.pixels().map(|pixel| pixel.0[0] / 255).collect();
    let palette = (b"PLTE", vec![0, 0, 0, 255, 255, 255]);
    let chunks = [palette, (b"IDAT", rows(indices.chunks(28)))];
    sandbox.write("palette.png", png(&header(8, 3), &chunks));
    let bits = |row: &[u8]| -> Vec<u8> {
        row.chunks(8).map(|bits| (0..).zip(bits).map(|(at, bit)| bit << (7 - at)).sum()).collect()
    };
    let packed: Vec<Vec<u8>> = indices.chunks(28).map(bits).collect();
    let packed = rows(packed.iter().map(Vec::as_slice));
    sandbox.write("bits.png", png(&header(1, 0), &[(b"IDAT", packed)]));
    sandbox.write("interlaced.png", grey(28, seven.as_raw(), true));
    for name in ["16.png", "palette.png", "bits.png", "interlaced.png"] {
        let (line, said) = predict(&sandbox, name);
        assert_eq!(line["probabilities"], expected["probabilities"], "{name}");
        assert_eq!(said, "", "{name}");
    }
}

/// Covers passes without pixels, and squares whose pixels come in several passes.
#[test]
fn interlacing_does_not_change_the_prediction() {
    let sandbox = sandbox_with_run();
    for (width, height) in [(1, 1), (4, 3), (5, 1), (1, 5), (61, 9), (700, 611)] {
        let pixels: Vec<u8> = (0..width * height).map(|at| (at % 997 * 31 % 251) as u8).collect();
        sandbox.write("plain.png", grey(width, &pixels, false));
        sandbox.write("interlaced.png", grey(width, &pixels, true));
        let (plain, _) = predict(&sandbox, "plain.png --fit stretch");
        let (interlaced, _) = predict(&sandbox, "interlaced.png --fit stretch");
        assert_eq!(interlaced["probabilities"], plain["probabilities"], "{width}x{height}");
    }
}

#[test]
fn a_drawing_on_transparency_is_read_in_any_colour() {
    let sandbox = sandbox_with_run();
    let drawing = |ink: u8| {
        let pixels = seven(1);
        GrayAlphaImage::from_fn(28, 28, |x, y| LumaA([ink, pixels.get_pixel(x, y).0[0]]))
    };
    save(&sandbox, "seven.png", seven(1));
    save(&sandbox, "white.png", drawing(255));
    save(&sandbox, "black.png", drawing(0));
    let (expected, _) = predict(&sandbox, "seven.png");
    let (white, _) = predict(&sandbox, "white.png");
    assert_eq!(white["probabilities"], expected["probabilities"]);
    let (black, _) = predict(&sandbox, "black.png");
    assert_eq!((&white["inverted"], &black["inverted"]), (&false.into(), &true.into()));
    assert_near(&black, &expected);
}

#[test]
fn position_and_page_shape_do_not_matter() {
    let sandbox = sandbox_with_run();
    let pages = [("wide.png", 500, 300, 230, 40), ("tall.png", 300, 500, 10, 200)];
    for (name, width, height, left, top) in pages {
        let mut page = GrayImage::from_pixel(width, height, Luma([200]));
        image::imageops::replace(&mut page, &dark_on_light(seven(8)), left, top);
        // The white around the seven becomes the page's grey.
        for pixel in page.pixels_mut() {
            pixel.0[0] = pixel.0[0].min(200);
        }
        save(&sandbox, name, page);
    }
    let (wide, said) = predict(&sandbox, "wide.png");
    let expected =
        "500x300 px, dark on light, inverted; strokes placed as MNIST's in the model's 28x28";
    assert_eq!(said, format!("wide.png: {expected}\n"));
    let (tall, _) = predict(&sandbox, "tall.png");
    assert_near(&tall, &wide);
    for (fit, how) in [("pad", "scaled and padded to"), ("stretch", "scaled to")] {
        let (line, said) = predict(&sandbox, &format!("wide.png --fit {fit}"));
        assert!(said.contains(&format!("inverted; {how} the model's 28x28")), "{said}");
        assert_ne!(line["probabilities"], wide["probabilities"]);
    }
}

#[test]
fn a_blank_page_gives_a_warning() {
    let sandbox = sandbox_with_run();
    save(&sandbox, "blank.png", GrayImage::from_fn(90, 120, |x, y| Luma([(90 + x + y / 2) as u8])));
    let (_, said) = predict(&sandbox, "blank.png");
    assert!(
        said.starts_with("warning: blank.png: no strokes stand out from the background: "),
        "{said}"
    );
    save(&sandbox, "small.png", GrayImage::new(28, 28));
    let (_, said) = predict(&sandbox, "small.png");
    assert!(said.starts_with("warning: small.png: no strokes stand out "), "{said}");
}

#[test]
fn guessed_polarity_gives_a_warning_and_explicit_polarity_does_not() {
    let sandbox = sandbox_with_run();
    let both = GrayImage::from_fn(200, 200, |x, y| {
        let is_stroke = (60..140).contains(&y);
        Luma([match x {
            50..60 if is_stroke => 10,
            140..150 if is_stroke => 240,
            _ => 125,
        }])
    });
    save(&sandbox, "both.png", both);
    let (_, said) = predict(&sandbox, "both.png");
    let doubt =
        "warning: both.png: the strokes may be the dark or the light parts: --invert always takes";
    assert!(said.starts_with(doubt), "{said}");
    for (invert, inverted) in [("always", true), ("never", false)] {
        let (line, said) = predict(&sandbox, &format!("both.png --invert {invert}"));
        assert_eq!(line["inverted"], inverted);
        assert!(!said.contains("warning"), "{said}");
    }
}

/// A thin line covers less than one percent of the picture.
#[test]
fn a_thin_seven_on_a_large_page_is_recognised() {
    let sandbox = Sandbox::new();
    let model = test_file("fixtures/mnist.safetensors");
    let from_to = [((120.0, 80.0), (280.0, 80.0)), ((280.0, 80.0), (180.0, 320.0))];
    let distance = |x: f32, y: f32, ((ax, ay), (bx, by)): ((f32, f32), (f32, f32))| {
        let (dx, dy) = (bx - ax, by - ay);
        let along = ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy);
        let along = along.clamp(0.0, 1.0);
        (x - ax - along * dx).hypot(y - ay - along * dy)
    };
    let seven = GrayImage::from_fn(400, 400, |x, y| {
        let is_ink = from_to.iter().any(|&line| distance(x as f32, y as f32, line) < 1.5);
        Luma([if is_ink { 0 } else { 255 }])
    });
    save(&sandbox, "7.png", seven);
    let line = sandbox.run(&format!("-q predict {} 7.png", model.display())).succeeded().json();
    assert_eq!((&line["class"], &line["inverted"]), (&7.into(), &true.into()));
    assert!(line["probability"].as_f64().unwrap() > 0.9, "{line}");
}

#[test]
fn an_explicit_fit_applies_at_the_models_own_size() {
    let sandbox = sandbox_with_run();
    let shifted = |by: i64| {
        let mut picture = GrayImage::new(28, 28);
        image::imageops::replace(&mut picture, &seven(1), by, 0);
        picture
    };
    save(&sandbox, "middle.png", shifted(0));
    save(&sandbox, "right.png", shifted(4));
    let words = "--fit mnist";
    let (middle, said) = predict(&sandbox, &format!("middle.png {words}"));
    assert_eq!(said, "middle.png: 28x28 px, strokes placed as MNIST's in the model's 28x28\n");
    let (right, _) = predict(&sandbox, &format!("right.png {words}"));
    assert_near(&right, &middle);
    let (whole, said) = predict(&sandbox, "right.png --fit pad");
    assert_eq!(said, "right.png: 28x28 px, scaled and padded to the model's 28x28\n");
    assert_ne!(whole["probabilities"], right["probabilities"]);
}

#[test]
fn pictures_of_a_folder_are_sorted_by_name() {
    let sandbox = sandbox_with_run();
    for name in ["b.png", "a.JPEG", "c.jpg", "in/d.png", "e.jfif", "f.jpe"] {
        save(&sandbox, &format!("folder/{name}"), seven(1));
    }
    sandbox.write("folder/notes.txt", "no picture");
    sandbox.write("folder/._b.png", "no picture either");
    let outcome = sandbox.run("predict run folder").succeeded();
    assert_eq!(outcome.stderr, "folder: skipped 3 of 8 entries, which are not pictures\n");
    let lines = json_lines(&outcome.stdout);
    let names: Vec<&str> = lines.iter().map(|line| line["image"].as_str().unwrap()).collect();
    let expected = ["a.JPEG", "b.png", "c.jpg", "e.jfif", "f.jpe"];
    assert_eq!(names, expected.map(|name| format!("folder/{name}")));
    sandbox.write("empty/notes.txt", "no picture");
    let refusal = sandbox.refuses(3, "predict run empty");
    assert!(refusal.hint.contains(".jpeg"), "{refusal:?}");
    refusal.saying(&["no pictures in empty"]);
}

#[cfg(unix)]
#[test]
fn links_in_a_folder_are_followed_only_to_files() {
    use std::os::unix::fs::symlink;
    let sandbox = sandbox_with_run();
    save(&sandbox, "seven.png", seven(1));
    save(&sandbox, "other/seven.png", seven(1));
    std::fs::create_dir(sandbox.path("folder")).unwrap();
    symlink("../seven.png", sandbox.path("folder/file.png")).unwrap();
    symlink("../other", sandbox.path("folder/folder.png")).unwrap();
    symlink("nowhere", sandbox.path("folder/nothing.png")).unwrap();
    let outcome = sandbox.run("predict run folder").succeeded();
    assert_eq!(outcome.json()["image"], "folder/file.png");
    assert_eq!(outcome.stderr, "folder: skipped 2 of 3 entries, which are not pictures\n");
}

#[test]
fn a_picture_can_be_read_from_stdin() {
    let sandbox = sandbox_with_run();
    save(&sandbox, "seven.png", seven(1));
    let (expected, _) = predict(&sandbox, "seven.png");
    let piped = |words: &str| {
        let stdin = Stdio::from(File::open(sandbox.path("seven.png")).unwrap());
        Outcome::of(&sandbox.command(words).stdin(stdin).output().unwrap()).succeeded()
    };
    let line = piped("predict run -").json();
    assert_eq!(line["image"], "-");
    assert_eq!(line["probabilities"], expected["probabilities"]);
    piped("explain run - -o piped.png");
    sandbox.run("explain run seven.png -o named.png").succeeded();
    assert_eq!(sandbox.read("piped.png"), sandbox.read("named.png"));
    sandbox
        .refuses(3, "predict run -")
        .saying(&["-: expected a PNG, JPEG, WebP, GIF or BMP picture"]);
}

#[test]
fn several_pictures_can_be_read_from_stdin() {
    let sandbox = sandbox_with_run();
    save(&sandbox, "seven.png", seven(1));
    save(&sandbox, "large.png", dark_on_light(seven(10)));
    let named = sandbox.run("predict run seven.png large.png seven.png").succeeded();
    let pictures = ["seven.png", "large.png", "seven.png"].map(|name| sandbox.read(name));
    sandbox.write("all", pictures.concat());
    let piped = |words: &str| {
        let stdin = Stdio::from(File::open(sandbox.path("all")).unwrap());
        Outcome::of(&sandbox.command(words).stdin(stdin).output().unwrap())
    };
    let piped_lines = json_lines(piped("predict run -").succeeded().stdout);
    let names: Vec<&str> = piped_lines.iter().map(|line| line["image"].as_str().unwrap()).collect();
    assert_eq!(names, ["-", "-:2", "-:3"]);
    for (got, expected) in piped_lines.iter().zip(json_lines(named.stdout)) {
        assert_eq!(got["probabilities"], expected["probabilities"]);
    }
    let explained = piped("explain run - -o out.png");
    assert_eq!(explained.code, Some(2));
    assert!(explained.stderr.contains("expected one picture, got 3"), "{}", explained.stderr);
}

#[test]
fn predictions_can_be_csv() {
    let sandbox = sandbox_with_run();
    save(&sandbox, "a,b.png", seven(1));
    let outcome = sandbox.command("predict run --csv").arg("a,b.png").output().unwrap();
    let stdout = Outcome::of(&outcome).succeeded().stdout;
    let rows: Vec<&str> = stdout.lines().collect();
    assert_eq!(rows[0], "image,inverted,class,name,probability,0,1,2,3,4,5,6,7,8,9");
    assert!(rows[1].starts_with("\"a,b.png\",false,"), "{stdout}");
    assert_eq!((rows.len(), rows[1].matches(',').count()), (2, 15), "{stdout}");
    let stdout = sandbox.run("predict run --dataset digits --csv").succeeded().stdout;
    assert!(stdout.starts_with("index,label,class,name,probability,0,"), "{stdout:.100}");
    assert_eq!(stdout.lines().count(), 2001);
}

#[test]
fn an_unreadable_picture_does_not_stop_the_others() {
    let sandbox = sandbox_with_run();
    save(&sandbox, "seven.png", seven(1));
    sandbox.write("text.png", "no picture");
    let outcome = sandbox.run("predict run text.png seven.png missing.png seven.png");
    assert_eq!(outcome.code, Some(3));
    assert_eq!(json_lines(&outcome.stdout).len(), 2);
    let errors: Vec<&str> =
        outcome.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(errors[0].starts_with("error: text.png: expected a PNG, JPEG"), "{errors:?}");
    assert!(errors[1].starts_with("error: cannot read missing.png: "), "{errors:?}");
    assert_eq!(errors[2..], ["error: 2 of 4 pictures could not be read"]);
}

#[test]
fn explain_and_predict_agree() {
    let sandbox = sandbox_with_run();
    let mut page = GrayImage::from_pixel(500, 400, Luma([255]));
    image::imageops::replace(&mut page, &dark_on_light(seven(6)), 200, 30);
    save(&sandbox, "page.png", page);
    let (line, _) = predict(&sandbox, "page.png");
    let told = sandbox.run("explain run page.png -o out.png").succeeded().stdout;
    let probability = 100.0 * line["probability"].as_f64().unwrap();
    let expected = format!("class        {}\nprobability  {probability:.2} %\n", line["class"]);
    assert!(told.starts_with(&expected), "{told}");
}

#[test]
fn conflicting_flags_are_rejected() {
    let sandbox = sandbox_with_run();
    save(&sandbox, "seven.png", seven(1));
    for (name, value) in [("--invert", "always"), ("--fit", "pad")] {
        let outcome = sandbox.run(&format!("predict run --dataset digits {name} {value}"));
        assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
        let said = format!("' cannot be used with '{name} <");
        assert!(outcome.stderr.contains(&said), "{}", outcome.stderr);
    }
    let outcome = sandbox.run("predict run seven.png --fit nowhere");
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
}

#[test]
fn models_of_colour_or_other_images_get_pictures_without_stroke_extraction() {
    let sandbox = Sandbox::new();
    let foreign = test_file("fixtures/hf/4");
    sandbox.run(&format!("import {} -o colour.safetensors", foreign.display())).succeeded();
    IdxFolder::default().write(&sandbox, "clothes");
    sandbox.run("train --dataset clothes --max-steps 1 --batch-size 8 --run-dir run").succeeded();
    save(&sandbox, "page.png", dark_on_light(seven(10)));
    for model in ["run", "colour.safetensors"] {
        let outcome = sandbox.run(&format!("predict {model} page.png")).succeeded();
        assert_eq!(outcome.json()["inverted"], false, "{model}");
        let scaled = "page.png: 280x280 px, scaled to the model's ";
        assert!(outcome.stderr.starts_with(scaled), "{}", outcome.stderr);
        let always = sandbox.run(&format!("predict {model} page.png --invert always --fit pad"));
        assert_eq!(always.succeeded().json()["inverted"], true, "{model}");
    }
    let words = "predict colour.safetensors page.png --fit mnist";
    sandbox.refuses(2, words).saying(&["--fit mnist is for models of grey images"]);
    let strokes = sandbox.run("predict run page.png --fit mnist --invert always").succeeded();
    assert!(strokes.stderr.contains("strokes placed as MNIST's"), "{}", strokes.stderr);
}
