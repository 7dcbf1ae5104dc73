//! The same seed gives the same bits for any number of threads.

use serde_json::{Value, json};

use crate::idx_folder::IdxFolder;
use crate::support::{Sandbox, timeless};

const SOME_STEPS: &str = "--max-steps 30 --batch-size 50 --log-every 7";

/// With dropout, and batches of 50 in shards of unequal size, unless `words` say otherwise.
fn model_and_metrics(preset: &str, words: &str) -> (Vec<u8>, Vec<Value>) {
    let sandbox = Sandbox::new();
    sandbox.train_digits(&format!("--preset {preset} {SOME_STEPS} {words}"));
    (sandbox.read("run/model.safetensors"), timeless(&sandbox.read("run/metrics.jsonl")))
}

/// Threads without a shard take part in the operations of others.
#[test]
fn threads_do_not_change_shards_that_they_share() {
    let sandbox = Sandbox::new();
    sandbox.write("one.toml", "[train]\nshards = 1\n");
    let train = |threads: u64| {
        let words = "-q train --config one.toml --dataset digits --max-steps 6";
        let run = format!("run-{threads}");
        sandbox.run(&format!("{words} --threads {threads} --run-dir {run}")).succeeded();
        sandbox.read(&format!("{run}/model.safetensors"))
    };
    let one = train(1);
    for threads in [2, 4] {
        assert!(one == train(threads), "{threads} threads give other bits than 1");
    }
}

/// A thread takes several shards in one pass if it can.
#[test]
fn threads_do_not_change_shards_of_one_pass() {
    let sandbox = Sandbox::new();
    let model = "dim = 16\nmlp_dim = 32\nlayer_scale = 0.1\ndrop_path = 0.2\nqkv_bias = true\nregisters = 2\n";
    for (name, more) in [
        ("class-token", "pool = \"cls\"\nactivation = \"gelu\"\n"),
        ("mean", "pool = \"mean\"\nqk_norm = true\nposition_rows = \"patches\"\n"),
        ("post-norm", "norm = \"post\"\nposition = \"patch_linear\"\n"),
    ] {
        let train = "[train]\nbatch_size = 37\nshards = 7\naccumulate = 2\nclip = 1.0\n";
        sandbox.write(&format!("{name}.toml"), format!("{train}[model]\n{model}{more}"));
        let train = |threads: u64| {
            let run = format!("{name}-{threads}");
            let words = "-q train --dataset digits --max-steps 4 --augment-mixup 0.2 --log-every 1";
            let output = format!("--config {name}.toml --threads {threads} --run-dir {run}");
            sandbox.run(&format!("{words} {output}")).succeeded();
            let metrics = timeless(&sandbox.read(&format!("{run}/metrics.jsonl")));
            (sandbox.read(&format!("{run}/model.safetensors")), metrics)
        };
        // Each of sixteen threads takes a shard alone.
        let alone = train(16);
        for threads in [1, 2, 3] {
            assert!(alone == train(threads), "{name}: {threads} threads give other bits than 16");
        }
    }
}

/// Shuffled or not, within an epoch.
#[test]
fn threads_do_not_change_model_or_metrics() {
    for (preset, order, numbers) in
        [("notebook", "", &[3][..]), ("shallow", "", &[2, 3, 4]), ("shallow", "--no-shuffle", &[3])]
    {
        let one = model_and_metrics(preset, &format!("--threads 1 {order}"));
        for threads in numbers {
            let more = model_and_metrics(preset, &format!("--threads {threads} {order}"));
            assert!(one == more, "{preset} {order}: {threads} threads give other bits than 1");
        }
    }
}

/// Shuffled or not, over two epochs of 40 images in batches of 9: the incomplete last batch is dropped, and each epoch
/// is evaluated on 20 images.
#[test]
fn threads_do_not_change_epochs_with_an_incomplete_batch() {
    let sandbox = Sandbox::new();
    IdxFolder::default().write(&sandbox, "tiny");
    for (preset, order) in [("notebook", ""), ("shallow", ""), ("shallow", "--no-shuffle")] {
        let train = |threads: u64| {
            let run = format!("{preset}{order}-{threads}");
            sandbox
                .run(&format!(
                    "-q train --dataset tiny --preset {preset} --epochs 2 --batch-size 9 --log-every 3 \
                     --threads {threads} {order} --run-dir {run}"
                ))
                .succeeded();
            let metrics = timeless(&sandbox.read(&format!("{run}/metrics.jsonl")));
            (sandbox.read(&format!("{run}/model.safetensors")), metrics)
        };
        let one = train(1);
        let last = one.1.last().unwrap();
        assert_eq!(
            (&last["kind"], &last["epoch"], &last["step"]),
            (&json!("epoch"), &json!(2), &json!(8))
        );
        for threads in [2, 4] {
            let more = train(threads);
            assert!(one == more, "{preset} {order}: {threads} threads give other bits than 1");
        }
    }
}

#[test]
fn instruction_sets_do_not_change_the_model() {
    let (best, _) = model_and_metrics("shallow", "");
    // Instructions that this machine lacks are not used, so two of these may be the same.
    for path in ["portable", "avx2", "avx512"] {
        let sandbox = Sandbox::new();
        let words = format!("-q train --dataset digits --run-dir run {SOME_STEPS}");
        let output = sandbox.command(&words).env("VIT_SIMD", path).output().unwrap();
        assert!(output.status.success());
        assert!(sandbox.read("run/model.safetensors") == best, "{path} gives other bits");
    }
}

#[test]
fn an_unknown_instruction_set_is_rejected() {
    let sandbox = Sandbox::new();
    let output = sandbox.command("info run").env("VIT_SIMD", "avx3").output().unwrap();
    let refused = crate::support::Outcome::of(&output);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("VIT_SIMD: expected portable, avx2 or avx512, got \"avx3\""),
        "{}",
        refused.stderr
    );
}

#[test]
fn another_seed_gives_another_model() {
    let (zero, _) = model_and_metrics("shallow", "");
    let (one, _) = model_and_metrics("shallow", "--seed 1");
    assert!(zero != one);
}
