//! `vit explain`: draws an explanation of a prediction.

use crate::files::test_file;
use crate::support::Sandbox;

fn sandbox_with_run(words: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.train_digits(words);
    std::fs::copy(test_file("fixtures/digit.png"), sandbox.path("digit.png")).unwrap();
    sandbox
}

#[test]
fn explain_prints_and_draws_the_prediction() {
    for preset in ["shallow", "notebook"] {
        let sandbox = sandbox_with_run(&format!("--max-steps 60 --preset {preset}"));
        let predicted = sandbox.run("predict run digit.png").succeeded().json();
        let outcome = sandbox.run("explain run digit.png -o out.png").succeeded();
        let lines: Vec<&str> = outcome.stdout.lines().collect();
        let probability = 100.0 * predicted["probability"].as_f64().unwrap();
        let expected = [
            format!("class        {}", predicted["class"]),
            format!("probability  {probability:.2} %"),
            "picture      out.png".to_owned(),
        ];
        assert_eq!(lines, expected);
        let drawn = image::load_from_memory(&sandbox.read("out.png")).unwrap().into_rgb8();
        // The image comes first, enlarged ten times, with the pixels of its file.
        let digit = image::open(sandbox.path("digit.png")).unwrap().into_luma8();
        for (x, y, pixel) in digit.enumerate_pixels() {
            let shown = drawn.get_pixel(24 + 10 * x + 5, 24 + 26 + 10 * y + 5);
            assert_eq!(shown.0, [pixel.0[0]; 3], "at {x}, {y}");
        }
        // Repeating it gives the same file.
        let first = sandbox.read("out.png");
        sandbox.run("explain run digit.png -o out.png --force").succeeded();
        assert_eq!(sandbox.read("out.png"), first);
    }
}

#[test]
fn impossible_explanations_are_rejected() {
    let sandbox = sandbox_with_run("--max-steps 1");
    sandbox
        .refuses(2, "explain run digit.png -o out.jpg")
        .saying(&["expected an output file that ends in .png, got out.jpg"]);
    sandbox.refuses(3, "explain run missing.png -o out.png").saying(&["cannot read missing.png"]);
    std::fs::create_dir(sandbox.path("scans")).unwrap();
    let refusal = sandbox
        .refuses(2, "explain run scans -o out.png")
        .saying(&["scans: expected one picture, got a folder"]);
    assert!(refusal.hint.contains("`vit predict` takes folders"), "{refusal:?}");
    sandbox.refuses(4, "explain absent digit.png -o out.png").saying(&["absent"]);
    sandbox.refuses(4, "explain run digit.png -o no/folder/out.png").saying(&["no/folder"]);
}
