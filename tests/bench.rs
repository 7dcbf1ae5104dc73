//! `vit bench`: its output, not its speed.

use serde_json::Value;

use crate::files::test_file;
use crate::support::Sandbox;

/// The result of a benchmark, checking that it leaves no files.
#[track_caller]
fn measured(sandbox: &Sandbox, words: &str) -> Value {
    let before = sandbox.entries();
    let result = sandbox.run(&format!("-q bench {words} --json")).succeeded().json();
    assert_eq!(sandbox.entries(), before, "vit bench {words} left something behind");
    result
}

/// Checks that p90 >= median >= p10 > 0.
#[track_caller]
fn assert_times(result: &Value, unit: &str) {
    let [p10, median, p90] = ["p10", "median", "p90"].map(|which| {
        result[format!("{which}_{unit}")].as_f64().unwrap_or_else(|| panic!("{result}"))
    });
    assert!(0.0 < p10 && p10 <= median && median <= p90 && p90.is_finite(), "{result}");
}

/// Checks that images per second match the median.
#[track_caller]
fn assert_rate(result: &Value, images: u64) {
    let rate = result["images_per_second"].as_f64().unwrap();
    let expected = images as f64 / (result["median_ms"].as_f64().unwrap() / 1e3);
    assert!((rate / expected - 1.0).abs() < 1e-6, "{result}");
}

#[test]
fn training_can_be_timed_on_noise_and_on_a_dataset() {
    let sandbox = Sandbox::new();
    let words = "train --preset notebook --batch-size 4 --steps 6 --warmup 1 --threads 2";
    for (data, images) in [("", "noise"), ("--dataset digits", "digits (built in)")] {
        let result = measured(&sandbox, &format!("{words} {data}"));
        assert_times(&result, "ms");
        assert_rate(&result, 4);
        assert_eq!((&result["workload"], &result["images"]), (&"train".into(), &images.into()));
        for (key, value) in [("batch_size", 4), ("ranks", 1), ("threads", 2), ("steps", 6)] {
            assert_eq!(result[key], value, "{key}");
        }
        assert_eq!(result["communication_ms"], 0.0);
        assert_eq!(result["model"], "notebook");
    }
}

#[test]
fn evaluation_can_be_timed_on_noise_and_on_a_dataset() {
    let sandbox = Sandbox::new();
    for (data, images, samples) in
        [("--images 150", "noise", 150), ("--dataset digits", "digits (built in)", 2000)]
    {
        let result = measured(&sandbox, &format!("eval {data} --rounds 2 --threads 1"));
        assert_times(&result, "ms");
        assert_rate(&result, samples);
        assert_eq!((&result["workload"], &result["images"]), (&"eval".into(), &images.into()));
        for (key, value) in [("samples", samples), ("threads", 1), ("rounds", 2)] {
            assert_eq!(result[key], value, "{key}");
        }
    }
}

#[test]
fn a_forward_pass_can_be_timed_with_new_and_saved_models() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 1");
    for (model, name) in [("--preset notebook", "notebook"), ("run", "run")] {
        let result = measured(
            &sandbox,
            &format!("latency {model} --iterations 5 --batch-size 2 --threads 2"),
        );
        assert_times(&result, "us");
        assert_eq!((&result["workload"], &result["model"]), (&"latency".into(), &name.into()));
        for (key, value) in [("batch_size", 2), ("threads", 2), ("iterations", 5)] {
            assert_eq!(result[key], value, "{key}");
        }
    }
}

/// Colour, another size, and more classes than a byte can hold.
#[test]
fn any_configuration_can_be_timed_on_noise() {
    let sandbox = Sandbox::new();
    let config = test_file("../configs/vit-ti16-224.toml");
    let text = std::fs::read_to_string(config).unwrap();
    sandbox.write("c.toml", text + "\n[model]\ndepth = 1\n");
    let result = measured(&sandbox, "train --config c.toml --batch-size 2 --steps 1 --warmup 0");
    assert_times(&result, "ms");
    assert_eq!(result["model"], "c.toml");
    measured(&sandbox, "eval --config c.toml --images 2 --rounds 1");
}

/// The number of parameters that timm gives for `vit_tiny_patch16_224`.
#[test]
fn the_benchmark_configuration_equals_timms_model() {
    let config = test_file("../configs/vit-ti16-224.toml");
    let words = format!("latency --config {} --iterations 1", config.display());
    assert_eq!(measured(&Sandbox::new(), &words)["parameters"], 5_717_416);
}

#[test]
fn text_output_has_a_line_for_each_figure() {
    let outcome = Sandbox::new().run("bench train --batch-size 4 --steps 2 --warmup 0 --threads 1");
    let outcome = outcome.succeeded();
    assert_eq!(outcome.stderr, "timing 2 steps of shallow on noise\n");
    let first_words: Vec<_> = outcome.stdout.lines().map(|line| line.split("  ").next()).collect();
    assert_eq!(first_words, [Some("a step"), Some("images/s"), Some("threads")]);
}

#[test]
fn impossible_benchmarks_are_rejected() {
    let sandbox = Sandbox::new();
    for (words, message) in [
        ("train --preset huge", "no preset is called \"huge\""),
        ("train --steps 0", "0 is not in 1.."),
        ("train --batch-size 0", "expected batch_size of at least 1, got 0"),
        ("train --batch-size 10001 --dataset digits", "10001"),
        ("train --batch-size 18446744073709551615", "expected at most 4000000000 bytes of noise"),
        ("train --config absent.toml", "cannot read absent.toml"),
        ("eval --images 4294967295", "got 4294967295 images of 28x28 px with 1 channels"),
        ("eval --images 3 --dataset digits", "cannot be used with"),
        ("eval run --preset shallow", "cannot be used with"),
        ("latency --batch-size 0", "0 is not in 1.."),
    ] {
        let outcome = sandbox.run(&format!("-q bench {words}"));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{words}");
        assert!(outcome.stderr.contains(message), "{words}: {}", outcome.stderr);
    }
    sandbox.refuses(4, "bench latency absent.safetensors").saying(&["absent.safetensors"]);
    sandbox.write("wide.toml", "[model]\nimage = { height = 28, width = 56, channels = 1 }\n");
    sandbox
        .refuses(2, "bench eval --config wide.toml --dataset digits")
        .saying(&["28x56 px", "digits has 28x28 px"]);
}
