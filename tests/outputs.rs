//! Outputs never overwrite an input or a file of a run, and another file only with `--force`.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::files::test_file;
use crate::running::Running;
use crate::support::{Outcome, Sandbox};

/// The content of a folder: files with their bytes, links with their targets.
fn everything(sandbox: &Sandbox) -> BTreeMap<PathBuf, String> {
    let described = |path: &Path| {
        let path = sandbox.path(path);
        let kind = path.symlink_metadata().unwrap().file_type();
        if kind.is_symlink() {
            return format!("to {}", path.read_link().unwrap().display());
        }
        if kind.is_file() {
            return format!("{:?}", fs::read(path).unwrap());
        }
        format!("folder {}, pipe {}", kind.is_dir(), kind.is_fifo())
    };
    let entries = sandbox.entries().into_iter().filter(|path| !path.starts_with("trained"));
    entries.map(|path| (path.clone(), described(&path))).collect()
}

/// A run, with inputs of every kind beside it.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("small.toml", "dataset = 'digits'\n[train]\nmax_steps = 1\n[model]\ndepth = 1\n");
    sandbox.run("-q train --config small.toml --run-dir run").succeeded();
    fs::copy(test_file("fixtures/digit.png"), sandbox.path("digit.png")).unwrap();
    fs::copy(sandbox.path("run/model.safetensors"), sandbox.path("model.safetensors")).unwrap();
    sandbox
}

/// Runs a command that reads `input` and writes to its last argument, with every kind of target.
#[track_caller]
fn assert_output_rules(command: &str, input: &str) {
    let sandbox = sandbox();
    let run = |target: &str, force: &str| {
        // The run directory left by `--trace` is irrelevant.
        let _ = fs::remove_dir_all(sandbox.path("trained"));
        sandbox.run(&format!("-q {command} {target}{force}"))
    };
    let before = everything(&sandbox);
    // Nothing is written: checks the exit code and part of the message, with and without --force.
    let refused = |target: &str, code: i32, says: &str, forces: &[&str]| {
        let before = everything(&sandbox);
        for force in forces {
            let outcome = run(target, force);
            let about = format!("{command} {target}{force}: {}", outcome.stderr);
            assert_eq!(outcome.code, Some(code), "{about}");
            assert!(outcome.stderr.contains(says), "{about}");
            assert!(everything(&sandbox) == before, "{about}");
        }
    };
    // Only `written` changes, and is not a link.
    let writes = |target: &str, force: &str, written: &str| {
        let before = everything(&sandbox);
        run(target, force).succeeded();
        let mut after = everything(&sandbox);
        let got = after.remove(Path::new(written)).expect("it was written");
        assert!(got.starts_with('[') && got.len() > 100, "{command} {target}: {got}");
        assert!(before.get(Path::new(written)) != Some(&got), "{command} {target}");
        let others = before.into_iter().filter(|(path, _)| path != Path::new(written));
        assert!(others.eq(after), "{command} {target}: another file was changed");
        fs::remove_file(sandbox.path(written)).unwrap();
    };
    let (always, unforced) = (["", " --force"], [""]);
    let path = |name: &str| sandbox.path(name);

    writes("new.png", "", "new.png");
    sandbox.write("old.png", "old");
    refused("old.png", 2, "cannot write old.png: it exists", &unforced);
    writes("old.png", " --force", "old.png");

    fs::hard_link(path(input), path("hard.png")).unwrap();
    symlink(input, path("soft.png")).unwrap();
    for name in [input, "hard.png", "soft.png", &format!("run/../{input}")] {
        refused(name, 2, "this command reads it", &always);
    }
    fs::remove_file(path("hard.png")).unwrap();
    fs::remove_file(path("soft.png")).unwrap();

    sandbox.write("other.png", "other");
    symlink("other.png", path("link.png")).unwrap();
    refused("link.png", 2, "cannot write link.png: it exists", &unforced);
    writes("link.png", " --force", "other.png");
    // The link now leads to nothing, and the file is created there.
    writes("link.png", "", "other.png");
    fs::remove_file(path("link.png")).unwrap();

    symlink("run", path("to-run")).unwrap();
    for name in [
        "run/config.toml",
        "run/report.html",
        "run/new.png",
        "run/plots/new.png",
        "run/checkpoints/last/state.json",
        "to-run/new.png",
    ] {
        refused(name, 2, "cannot write", &always);
    }
    fs::remove_file(path("to-run")).unwrap();

    fs::create_dir(path("folder.png")).unwrap();
    refused("folder.png", 4, "expected a file, got a folder", &always);
    fs::remove_dir(path("folder.png")).unwrap();
    refused("no/folder/new.png", 4, "cannot write no/folder/new.png", &always);

    run("/dev/null", "").succeeded();
    assert!(Path::new("/dev/null").metadata().unwrap().file_type().is_char_device());
    assert!(everything(&sandbox) == before, "{command} /dev/null");

    assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    let mut reader = Command::new("cat");
    let reader = reader.arg(path("pipe")).stdout(Stdio::piped());
    let reader = Running::start(reader.stderr(Stdio::null()).stdin(Stdio::null()));
    let reader = std::thread::spawn(move || reader.end_in_bytes());
    run("pipe", "").succeeded();
    assert!(reader.join().unwrap().len() > 20, "{command} pipe");
    assert!(path("pipe").symlink_metadata().unwrap().file_type().is_fifo(), "{command} pipe");
    fs::remove_file(path("pipe")).unwrap();
    assert!(everything(&sandbox) == before, "{command} left something behind");
}

#[test]
fn explain_follows_the_output_rules() {
    assert_output_rules("explain run digit.png -o", "digit.png");
}

#[test]
fn export_follows_the_output_rules() {
    assert_output_rules("export model.safetensors --layout notebook -o", "model.safetensors");
    assert_output_rules("export model.safetensors --layout onnx -o", "model.safetensors");
}

#[test]
fn import_follows_the_output_rules() {
    assert_output_rules("import model.safetensors -o", "model.safetensors");
}

#[test]
fn trace_follows_the_output_rules() {
    assert_output_rules("train --config small.toml --run-dir trained --trace", "small.toml");
}

/// Its inputs are files of runs, which are protected anyway.
#[test]
fn compare_follows_the_output_rules() {
    let sandbox = sandbox();
    let before = everything(&sandbox);
    for target in ["run/config.toml", "run/metrics.jsonl", "run/compare.html", "run/checkpoints/a"]
    {
        for force in ["", " --force"] {
            sandbox.refuses(2, &format!("compare run run -o {target}{force}"));
        }
    }
    assert!(everything(&sandbox) == before);
    sandbox.run("compare run -o compare.html").succeeded();
    let refusal = sandbox.refuses(2, "compare run -o compare.html");
    assert_eq!(refusal.hint, "pass --force to overwrite it, or choose another file");
    sandbox.run("compare run -o compare.html --force").succeeded();
    let page = sandbox.run("compare run -o /dev/stdout").succeeded().stdout;
    let table = sandbox.run("compare run").succeeded().stdout;
    assert_eq!(page, String::from_utf8(sandbox.read("compare.html")).unwrap() + &table);
}

/// Opening `/dev/stdout` anew would start at the file's beginning, and the table would overwrite the page.
#[test]
fn stdout_to_a_file_gets_the_output_then_the_result() {
    let sandbox = sandbox();
    let script = "exec \"$0\" \"$@\" > out.html";
    let output = sandbox.script(&[], script, "compare run -o /dev/stdout").output().unwrap();
    Outcome::of(&output).succeeded();
    let written = String::from_utf8(sandbox.read("out.html")).unwrap();
    let table = sandbox.run("compare run").succeeded().stdout;
    assert!(written.starts_with("<!doctype html>"), "{}", &written[..40]);
    assert!(written.ends_with(&format!("</html>\n{table}")));
}

/// The user's own folder, and folders of runs.
#[test]
fn folders_get_new_files_and_keep_existing_ones() {
    let sandbox = sandbox();
    let model = "depth = 1\npool = 'cls'\nqkv_bias = true\nactivation = 'gelu'\n";
    sandbox
        .write("cls.toml", format!("dataset = 'digits'\n[train]\nmax_steps = 1\n[model]\n{model}"));
    sandbox.run("-q train --config cls.toml --run-dir cls").succeeded();
    sandbox.run("-q export cls --layout hf -o new/hf").succeeded();
    sandbox.run("-q man -o new/man").succeeded();
    sandbox.write("config-only/config.json", "mine");
    let before = everything(&sandbox);
    for (code, words) in [
        (2, "export cls --layout hf -o cls --force"),
        (2, "export cls --layout hf -o run --force"),
        (2, "export cls --layout hf -o run/hf"),
        (2, "export cls --layout hf -o new/hf"),
        (2, "export cls --layout hf -o config-only"),
        (4, "export cls --layout hf -o digit.png --force"),
        (2, "man -o new/man"),
        (2, "man -o run --force"),
        (2, "import new/hf -o new/hf/model.safetensors --force"),
        (2, "import new/hf/model.safetensors -o new/hf/config.json --force"),
        (2, "train --config small.toml --run-dir run/another"),
        (2, "train --config small.toml --run-dir run/checkpoints/another"),
        (2, "train --config small.toml --run-dir run"),
        (2, "train --resume run --trace run/trace.json"),
        (2, "compare run --force"),
        (2, "train --config small.toml --force"),
    ] {
        let refused = sandbox.run(words);
        assert_eq!(refused.code, Some(code), "{words}: {}", refused.stderr);
        assert!(everything(&sandbox) == before, "{words} changed something");
    }
    sandbox.run("-q import new/hf -o new/hf/ours.safetensors").succeeded();
    for words in ["export cls --layout hf -o new/hf --force", "man -o new/man --force"] {
        sandbox.run(&format!("-q {words}")).succeeded();
    }
}

/// A file read through stdin is an input too.
#[test]
fn the_file_behind_stdin_is_protected() {
    let sandbox = sandbox();
    let before = everything(&sandbox);
    let mut explain = sandbox.command("-q explain run - -o digit.png --force");
    explain.stdin(fs::File::open(sandbox.path("digit.png")).unwrap());
    let outcome = Outcome::of(&explain.output().unwrap());
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("this command reads it"), "{}", outcome.stderr);
    assert!(everything(&sandbox) == before);
}

/// It can be resumed, so it is worth protecting.
#[test]
fn incomplete_runs_are_protected() {
    let sandbox = sandbox();
    for lost in ["metrics.jsonl", "config.toml", "env.json"] {
        let kept = sandbox.read(&format!("run/{lost}"));
        fs::remove_file(sandbox.path("run").join(lost)).unwrap();
        let before = everything(&sandbox);
        for target in ["run/config.toml", "run/metrics.jsonl", "run/checkpoints/new"] {
            let words = format!("-q import model.safetensors -o {target} --force");
            let outcome = sandbox.run(&words);
            assert_eq!(outcome.code, Some(2), "{words}: {}", outcome.stderr);
            assert!(outcome.stderr.contains("run is a run directory"), "{}", outcome.stderr);
        }
        assert!(everything(&sandbox) == before);
        sandbox.write(&format!("run/{lost}"), kept);
    }
}

#[test]
fn data_are_not_downloaded_into_a_run() {
    let sandbox = sandbox();
    for folder in ["run", "run/checkpoints/last"] {
        for command in ["fetch mnist", "train", "train --dataset mnist"] {
            let words = format!("{command} --data-dir {folder}");
            let refusal = sandbox.refuses(2, &words);
            assert_eq!(refusal.hint, "pass a --data-dir outside of it", "{words}");
            refusal.saying(&["run is a run directory"]);
        }
    }
}
