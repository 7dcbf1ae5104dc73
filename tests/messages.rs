//! Errors, hints and plain output, compared with `snapshots/messages.txt`.

use crate::files::test_file;
use crate::support::Sandbox;

/// Commands, run one after another in the same folder.
const COMMANDS: [&str; 42] = [
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
    "predict run digit.png",
    "predict run absent.png",
    "predict run text.png",
    "predict run --top-k 0",
    "explain run digit.png -o out.png",
    "explain run digit.png -o out.png",
    "explain run digit.png -o digit.png --force",
    "explain run text.png -o text-explained.png",
    "explain run text.png",
    "export run --layout timm -o out.safetensors",
    "train -q --dataset digits --max-steps 1 --seed 1 --run-dir other",
    "compare run other",
    "compare run other -o run/compare.html",
    "compare run absent",
    "verify run",
    "train --config rising.toml --run-dir diverged",
    "config --ema 2",
    "info text.png",
    "info absent",
    "import text.png -o imported.safetensors",
    "import absent -o imported.safetensors",
    "explain run digit.png -o absent/out.png",
    "serve absent",
    "serve run --listen nowhere",
    "fetch nothing",
    "completions tcsh",
    "wrong",
];

/// Commands run after a checkpoint was damaged.
const COMMANDS_ON_DAMAGE: [&str; 2] = ["train --resume run", "verify run"];

/// A learning rate that makes training diverge.
const RISING: &str = "\
dataset = 'digits'
[train.schedule]
kind = 'constant'
warmup = 1000000
[train.optimizer]
kind = 'adam'
lr = 1e36
";

#[test]
fn errors_and_plain_output_equal_the_snapshot() {
    let sandbox = Sandbox::new();
    sandbox.write("shalow.toml", "preset = 'shalow'\n");
    sandbox.write("typo.toml", "[train]\nepoch = 3\n");
    sandbox.write("text.png", "no picture");
    sandbox.write("rising.toml", RISING);
    std::fs::copy(test_file("fixtures/digit.png"), sandbox.path("digit.png")).unwrap();
    let mut said = String::new();
    let mut listen = |words: &str| {
        let outcome = sandbox.run(words);
        let code = outcome.code.unwrap();
        let is_of_machine =
            ["predict", "explain", "compare"].iter().any(|it| words.starts_with(it));
        let stdout = if is_of_machine { without_numbers(&outcome.stdout) } else { outcome.stdout };
        said += &format!("$ vit {words}\n{}{stdout}[{code}]\n\n", outcome.stderr);
    };
    COMMANDS.into_iter().for_each(&mut listen);
    sandbox.write("run/checkpoints/step-000120/state.json", "{}");
    COMMANDS_ON_DAMAGE.into_iter().for_each(&mut listen);
    let said = without_times(&said);
    let path = test_file("snapshots/messages.txt");
    if std::env::var_os("VIT_RENEW_SNAPSHOTS").is_some() {
        std::fs::write(&path, &said).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(said == committed, "it differs; VIT_RENEW_SNAPSHOTS=1 renews it. Now:\n{said}");
}

/// Replaces predictions and run results, which differ between machines, and with them the width of columns.
fn without_numbers(said: &str) -> String {
    let is_digit = |c: char| c.is_ascii_digit() || c == '.';
    let mut masked = String::new();
    for part in said.split_inclusive(|c| !is_digit(c)) {
        let number = part.trim_end_matches(|c| !is_digit(c));
        let is_number = number.contains(|c: char| c.is_ascii_digit());
        masked += if is_number { "N" } else { number };
        masked += &part[number.len()..];
    }
    let lines = masked.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.map(|line| line + "\n").collect()
}

/// Replaces speeds, the number of threads, digests and training results, which differ between machines.
fn without_times(said: &str) -> String {
    let lines = said.lines().map(|line| {
        // A row or the headings of the table of epochs, whose columns are as wide as the numbers.
        let is_of_epoch = line.split_once('/').is_some_and(|(epoch, rest)| {
            epoch.trim().parse::<u64>().is_ok() && rest.starts_with(|c: char| c.is_ascii_digit())
        });
        if is_of_epoch {
            return without_numbers(line).trim_end().to_owned();
        }
        let is_result = ["train accuracy", "test accuracy"];
        let is_result = is_result.iter().any(|start| line.starts_with(start));
        let words: Vec<&str> = line.split(' ').collect();
        let masked = words.iter().enumerate().map(|(at, word)| {
            let next = words.get(at + 1).copied().unwrap_or_default();
            let is_fraction = word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
            let is_speed = next == "images/s" || next.starts_with("thread");
            let digest = word.trim_end_matches([',', ';']);
            let is_digest = digest.len() == 64 && digest.chars().all(|c| c.is_ascii_hexdigit());
            if is_digest || is_speed || (is_result && is_fraction) { "N" } else { word }
        });
        masked.collect::<Vec<_>>().join(" ").replace("threads", "thread")
    });
    lines.map(|line| line + "\n").collect()
}
