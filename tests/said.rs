//! What is said, word for word: errors, hints and plain output, as committed in `snapshots/said.txt`.

use crate::files::test_file;
use crate::support::Sandbox;

/// Each is tried in the same folder, after those before it.
const COMMANDS: [&str; 25] = [
    "train --dataset digits --max-steps 120 --run-dir run",
    "train --dataset digits --max-steps 1 --run-dir run",
    "train --dataset digits --epochs 0",
    "train --dataset digits --lr fast",
    "train --dataset digits --dropout 1.5",
    "train --dataset nothing",
    "train --preset shalow",
    "train --config shalow.toml",
    "train --config typo.toml",
    "train --config absent.toml",
    "train --resume absent",
    "train --resume run --epochs 3",
    "train --resume run",
    "eval absent",
    "info run/model.safetensors",
    "predict run absent.png",
    "predict run text.png",
    "predict run --top-k 0",
    "explain run text.png -o out.png",
    "explain run text.png",
    "export run --layout timm -o out.safetensors",
    "compare run absent",
    "verify run",
    "config --ema 2",
    "wrong",
];

#[test]
fn errors_and_plain_output_are_as_committed() {
    let sandbox = Sandbox::new();
    sandbox.write("shalow.toml", "preset = 'shalow'\n");
    sandbox.write("typo.toml", "[train]\nepoch = 3\n");
    sandbox.write("text.png", "no picture");
    let mut said = String::new();
    for words in COMMANDS {
        let outcome = sandbox.run(words);
        let code = outcome.code.unwrap();
        said += &format!("$ vit {words}\n{}{}[{code}]\n\n", outcome.stderr, outcome.stdout);
    }
    let said = without_times(&said);
    let path = test_file("snapshots/said.txt");
    if std::env::var_os("VIT_RENEW_SNAPSHOTS").is_some() {
        std::fs::write(&path, &said).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(said == committed, "it differs; VIT_RENEW_SNAPSHOTS=1 renews it. Now:\n{said}");
}

/// Speeds, the number of threads and what training comes to are the machine's.
fn without_times(said: &str) -> String {
    let lines = said.lines().map(|line| {
        let is_result = ["epoch ", "train accuracy", "test accuracy"];
        let is_result = is_result.iter().any(|start| line.starts_with(start));
        let words: Vec<&str> = line.split(' ').collect();
        let masked = words.iter().enumerate().map(|(at, word)| {
            let next = words.get(at + 1).copied().unwrap_or_default();
            let is_fraction = word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
            let is_speed = next == "images/s" || next.starts_with("thread");
            if is_speed || (is_result && is_fraction) { "N" } else { word }
        });
        masked.collect::<Vec<_>>().join(" ").replace("threads", "thread")
    });
    lines.map(|line| line + "\n").collect()
}
