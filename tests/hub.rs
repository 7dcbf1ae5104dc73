//! Datasets of parquet files, from a folder and from a hub, which the test's own server simulates.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread;

use serde_json::json;

use crate::support::Sandbox;

const TRAIN: &[u8] = include_bytes!("fixtures/parquet/train.parquet");
const TEST: &[u8] = include_bytes!("fixtures/parquet/test.parquet");
const TEXTS: &[u8] = include_bytes!("fixtures/parquet/texts.parquet");
const SMALL: &str = "--image-size 16 --batch-size 8 --max-steps 6";

/// Two configurations of a dataset, and their commit.
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const FILES: [(&str, &[u8]); 4] = [
    ("flowers/train-00000-of-00001.parquet", TRAIN),
    ("flowers/test-00000-of-00001.parquet", TEST),
    ("words/train/0000.parquet", TEXTS),
    ("words/extra/0000.parquet", TEXTS),
];

/// The address of a hub with one dataset, `a/flowers`; it runs until the test's process ends.
fn hub() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
            let request = lines.next().and_then(Result::ok).unwrap_or_default();
            while lines.next().and_then(Result::ok).is_some_and(|line| !line.is_empty()) {}
            let mut words = request.split_whitespace();
            let (method, path) =
                (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let body: Option<Vec<u8>> = if path.starts_with("/api/datasets/a/flowers/revision/") {
                let names = FILES.map(|(name, _)| json!({ "rfilename": name }));
                let info = json!({ "id": "a/flowers", "sha": COMMIT, "siblings": names });
                Some(info.to_string().into_bytes())
            } else {
                let file = path.strip_prefix(&format!("/datasets/a/flowers/resolve/{COMMIT}/"));
                let file = file.and_then(|name| FILES.iter().find(|(known, _)| *known == name));
                file.map(|(_, bytes)| bytes.to_vec())
            };
            let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
            let body = body.unwrap_or_default();
            let etag = format!("{:x}-{}", body.len(), path.len());
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: application/json\r\nETag: \"{etag}\"\r\n\
                 X-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let body = if method == "HEAD" { &[][..] } else { &body[..] };
            // The client may have disconnected.
            let _ = stream.write_all(&[head.as_bytes(), body].concat());
        }
    });
    address
}

/// `vit` with the hub at this address.
fn at_hub(sandbox: &Sandbox, address: &str, words: &str) -> Command {
    let mut command = sandbox.command(words);
    command.env("HF_ENDPOINT", address).env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    command
}

fn run(sandbox: &Sandbox, address: &str, words: &str) -> crate::support::Outcome {
    crate::support::Outcome::of(&at_hub(sandbox, address, words).output().expect("vit"))
}

#[test]
fn runs_record_the_revision_of_a_hub_dataset() {
    let (sandbox, address) = (Sandbox::new(), hub());
    let words = format!("train --dataset hf:a/flowers/flowers {SMALL} --run-dir run");
    run(&sandbox, &address, &words).succeeded();
    let settings = String::from_utf8(sandbox.read("run/config.toml")).expect("text");
    let name = format!("hf:a/flowers/flowers@{COMMIT}");
    assert!(settings.contains(&format!("dataset = \"{name}\"")), "{settings}");
    let result = run(&sandbox, &address, "eval run --json").succeeded().json();
    assert_eq!((&result["dataset"], &result["samples"]), (&json!(name), &json!(6)));
    assert_eq!(result["classes"][1]["name"], "rose");
    // The same files in a folder give the same model,
    sandbox.write("folder/data/train-00000-of-00001.parquet", TRAIN);
    sandbox.write("folder/data/test-00000-of-00001.parquet", TEST);
    sandbox.run(&format!("train --dataset folder {SMALL} --run-dir local")).succeeded();
    assert!(sandbox.read("run/model.safetensors") == sandbox.read("local/model.safetensors"));
    // also without the cache.
    sandbox.write("off.toml", "[data]\ncache = false\n");
    sandbox
        .run(&format!("train --dataset folder {SMALL} --config off.toml --run-dir off"))
        .succeeded();
    assert!(sandbox.read("run/model.safetensors") == sandbox.read("off/model.safetensors"));
}

#[test]
fn default_run_directories_of_hub_datasets_omit_the_revision() {
    let (sandbox, address) = (Sandbox::new(), hub());
    run(&sandbox, &address, &format!("train --dataset hf:a/flowers/words {SMALL}")).succeeded();
    assert!(sandbox.path("runs/words-pictures-64-1/model.safetensors").exists());
}

#[test]
fn missing_hub_datasets_and_configurations_are_named() {
    let (sandbox, address) = (Sandbox::new(), hub());
    let refused = |name: &str, code: i32, said: &[&str]| {
        let outcome = run(&sandbox, &address, &format!("-q train --dataset {name}"));
        assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
        for text in said {
            assert!(outcome.stderr.contains(text), "expected {text:?} in {}", outcome.stderr);
        }
    };
    let several = "hf:a/flowers: expected one of the configurations flowers, words";
    refused("hf:a/flowers", 3, &[several, "hint: pass hf:OWNER/NAME/CONFIGURATION"]);
    refused("hf:a/flowers/trees", 3, &["words, words/extra, got trees"]);
    refused("hf:a/nothing", 3, &["cannot get hf:a/nothing from the hub", "hint: "]);
    refused("hf:flowers", 2, &["expected hf:OWNER/NAME"]);
}

#[test]
fn a_folder_of_parquet_files_without_test_split_gets_one() {
    let sandbox = Sandbox::new();
    sandbox.write("words/train.parquet", TEXTS);
    let trained = sandbox.run(&format!("train --dataset words {SMALL} --run-dir run")).succeeded();
    assert!(trained.stderr.contains("drew 3 of 12 pictures"), "{}", trained.stderr);
    let result = sandbox.run("eval run --json").succeeded().json();
    assert_eq!(result["classes"][2]["name"], "tulip");
}

#[test]
fn unsuitable_parquet_files_are_rejected() {
    let sandbox = Sandbox::new();
    let refused = |said: &str| {
        let outcome = sandbox.run("-q train --dataset folder");
        assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(said), "expected {said:?} in {}", outcome.stderr);
    };
    sandbox.write("folder/part.parquet", TRAIN);
    refused("expected parquet files of a split called train, got ");
    fs::rename(sandbox.path("folder/part.parquet"), sandbox.path("folder/train.parquet"))
        .expect("a file");
    for length in [0, 3, 100, TRAIN.len() / 2, TRAIN.len() - 1] {
        sandbox.write("folder/train.parquet", &TRAIN[..length]);
        refused("train.parquet");
    }
}
