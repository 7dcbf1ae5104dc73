//! `vit predict`: a JSON line for each image.

use image::{DynamicImage, GrayImage, ImageFormat, Luma};
use serde_json::Value;

use crate::support::{Sandbox, json_lines};

fn sandbox_with_run() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 40");
    sandbox
}

fn stroke(side: u32) -> DynamicImage {
    let white =
        |x: u32, y: u32| y > side / 5 && y < side * 4 / 5 && x.abs_diff(side / 2) < side / 10;
    GrayImage::from_fn(side, side, |x, y| Luma([if white(x, y) { 255 } else { 0 }])).into()
}

#[track_caller]
fn assert_sound(line: &Value) {
    let probabilities: Vec<f64> =
        line["probabilities"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect();
    assert_eq!(probabilities.len(), 10);
    assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{line}");
    let class = line["class"].as_u64().unwrap() as usize;
    assert_eq!(line["probability"], probabilities[class]);
    assert!(probabilities.iter().all(|&probability| probability <= probabilities[class]), "{line}");
}

#[test]
fn pictures_of_any_format_give_a_line_each_in_order() {
    let sandbox = sandbox_with_run();
    let picture = stroke(28);
    picture.save_with_format(sandbox.path("grey.png"), ImageFormat::Png).unwrap();
    picture.to_rgb8().save_with_format(sandbox.path("colour.jpg"), ImageFormat::Jpeg).unwrap();
    picture.to_rgba8().save_with_format(sandbox.path("alpha.png"), ImageFormat::Png).unwrap();
    stroke(100).save_with_format(sandbox.path("large.png"), ImageFormat::Png).unwrap();
    // Detected by content: the extension is wrong.
    picture.save_with_format(sandbox.path("lies.jpg"), ImageFormat::Png).unwrap();
    let names = ["grey.png", "colour.jpg", "alpha.png", "large.png", "lies.jpg"];
    let outcome = sandbox.run(&format!("predict run {}", names.join(" "))).succeeded();
    let lines = json_lines(&outcome.stdout);
    assert_eq!(lines.len(), names.len());
    for (line, name) in lines.iter().zip(names) {
        assert_eq!(line["image"], name);
        assert_sound(line);
    }
    for same in [2, 4] {
        assert_eq!(lines[same]["probabilities"], lines[0]["probabilities"], "{}", names[same]);
    }
    let said = "large.png: 100x100 px, strokes placed as MNIST's in the model's 28x28\n";
    assert_eq!(outcome.stderr, said);
}

#[test]
fn top_k_classes_are_in_order() {
    let sandbox = sandbox_with_run();
    stroke(28).save_with_format(sandbox.path("one.png"), ImageFormat::Png).unwrap();
    let line = sandbox.run("predict run one.png --top-k 3").succeeded().json();
    let top = line["top"].as_array().unwrap();
    assert_eq!(top.len(), 3);
    assert_eq!((&top[0]["class"], &top[0]["probability"]), (&line["class"], &line["probability"]));
    let probability = |rank: usize| top[rank]["probability"].as_f64().unwrap();
    assert!(probability(0) >= probability(1) && probability(1) >= probability(2), "{line}");
}

#[test]
fn a_split_gives_a_line_for_each_of_its_images() {
    let sandbox = sandbox_with_run();
    let lines =
        json_lines(sandbox.run("predict run --dataset digits --split test").succeeded().stdout);
    assert_eq!(lines.len(), 2000);
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["index"], index);
        assert_sound(line);
    }
    let correct = lines.iter().filter(|line| line["class"] == line["label"]).count();
    let eval = sandbox.run("eval run --json").succeeded().json();
    assert_eq!(eval["correct"], correct);
}

#[test]
fn unreadable_pictures_are_named() {
    let sandbox = sandbox_with_run();
    sandbox.write("text.png", "not a picture");
    sandbox.write("empty.png", "");
    let mut truncated = Vec::new();
    stroke(28).write_to(&mut std::io::Cursor::new(&mut truncated), ImageFormat::Png).unwrap();
    truncated.truncate(60);
    sandbox.write("truncated.png", truncated);
    for name in ["text.png", "empty.png"] {
        let refusal = sandbox.refuses(3, &format!("predict run {name}"));
        assert!(refusal.hint.contains("PNG"), "{refusal:?}");
        refusal.saying(&[name, "expected a PNG, JPEG, WebP, GIF or BMP picture"]);
    }
    sandbox.refuses(3, "predict run truncated.png").saying(&["truncated.png: "]);
    sandbox.refuses(3, "predict run missing.png").saying(&["cannot read missing.png"]);
    sandbox.refuses(3, "predict run run").saying(&["no pictures in run"]);
}
