//! Files made to do harm: each is an error that names it, soon, in little memory.

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use wait4::Wait4 as _;

use crate::support::Sandbox;

/// What a program may take beyond the size of its input.
const MEMORY: u64 = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// Holds a command to end with this code and an error that says so, within bounds. What it takes to start, and for a dataset
/// that is there, is `base`.
#[track_caller]
fn refused(sandbox: &Sandbox, code: i32, words: &str, says: &str, input: u64) {
    let base = peak(sandbox, "info whole").1;
    let begun = Instant::now();
    let (ended, memory, said) = {
        let (output, memory) = peak(sandbox, &format!("-q {words}"));
        (output.0, memory, output.1)
    };
    assert!(begun.elapsed() < PATIENCE, "vit {words}: it took {:?}", begun.elapsed());
    assert_eq!(ended, Some(code), "vit {words}: {said}");
    assert!(said.starts_with("error: ") && said.contains(says), "vit {words}: {said}");
    assert!(!said.contains("panicked"), "vit {words}: {said}");
    let most = base + input + MEMORY;
    assert!(memory < most, "vit {words}: {memory} bytes, expected at most {most}");
}

/// How a command ends, what it says on stderr, and the most memory that it had.
fn peak(sandbox: &Sandbox, words: &str) -> ((Option<i32>, String), u64) {
    let mut command = sandbox.command(words);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let stderr = child.stderr.take().unwrap();
    let said = thread::spawn(move || std::io::read_to_string(stderr).unwrap());
    let ended = child.wait4().unwrap();
    ((ended.status.code(), said.join().unwrap()), ended.rusage.maxrss)
}

fn sandbox() -> Sandbox {
    let sandbox = super::sandbox();
    super::uninterrupted(&sandbox);
    sandbox
}

/// A safetensors file of this header.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn models() {
    let sandbox = sandbox();
    let one =
        |shape: &str| format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,4]}}}}"#);
    // 100 MB of a header that is none, one that is announced only, and one of the right length.
    let blanks = " ".repeat(100_000_000);
    let twice = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    for (name, bytes) in [
        ("blank", safetensors(&blanks, 0)),
        ("announced", 100_000_000_u64.to_le_bytes().to_vec()),
        ("endless", u64::MAX.to_le_bytes().to_vec()),
        ("overflow", safetensors(&one("[18446744073709551615,4]"), 4)),
        ("huge", safetensors(&one("[1000000000000]"), 4)),
        ("twice", safetensors(twice, 8)),
        ("deep", safetensors(&"[".repeat(1_000_000), 0)),
    ] {
        sandbox.write("hostile.safetensors", &bytes);
        for command in ["info", "eval", "train --dataset tiny --batch-size 9 --init"] {
            let words = format!("{command} hostile.safetensors");
            refused(&sandbox, 4, &words, "hostile.safetensors", bytes.len() as u64);
        }
        let _ = name;
    }
}

/// A model whose configuration asks for more than there can be.
#[test]
fn configurations() {
    let sandbox = sandbox();
    for (text, says) in [
        ("[model]\nheads = 1000000000000\n", "heads"),
        ("[model]\ndim = 1000000000000\nheads = 1\n", ""),
        ("[model]\ndepth = 18446744073709551615\n", ""),
        ("[model]\ndepth = 9223372036854775807\n", ""),
        (
            "[model]\ndropout = { embedding = nan, attention = 0.0, projection = 0.0, mlp = 0.0 }\n",
            "NaN",
        ),
        ("[train.optimizer]\nlr = nan\n", "NaN"),
        ("[train.optimizer]\nlr = inf\n", "inf"),
        ("[train]\nepochs = 1\nepochs = 2\n", "duplicate key"),
        ("[train]\nbatch_size = 9223372036854775807\n", ""),
        ("[train]\nshards = 9223372036854775807\n", ""),
        ("[augment]\nshift = -1.0\n", "shift"),
        ("val_split = nan\n", "NaN"),
        (&"[".repeat(100_000), "hostile.toml"),
        (&format!("x = {}1{}", "[".repeat(100_000), "]".repeat(100_000)), "hostile.toml"),
        ("preset = '\u{0}'\n", ""),
    ] {
        sandbox.write("hostile.toml", text);
        let shown: String = text.chars().take(60).collect();
        let (outcome, _) = peak(
            &sandbox,
            "-q train --config hostile.toml --dataset tiny --batch-size 9 --epochs 1",
        );
        // A batch size of the command line, or as many shards as there are images, make some of these sound.
        if outcome.0 == Some(0) {
            assert!(text.contains("batch_size") || text.contains("shards"), "{shown}");
            continue;
        }
        refused(
            &sandbox,
            2,
            "train --config hostile.toml --dataset tiny --epochs 1",
            says,
            text.len() as u64,
        );
    }
}

#[test]
fn datasets() {
    let sandbox = sandbox();
    let header =
        |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
    for (name, bytes) in [
        ("nothing", Vec::new()),
        ("more images than bytes", header(&[0x803, u32::MAX, 28, 28])),
        ("a size that overflows", header(&[0x803, u32::MAX, u32::MAX, u32::MAX])),
        ("no images", header(&[0x803, 0, 28, 28])),
        ("images without pixels", header(&[0x803, 40, 0, 28])),
        ("another magic number", header(&[0x1803, 40, 28, 28])),
    ] {
        sandbox.write("tiny/train-images-idx3-ubyte", &bytes);
        let words = "train --dataset tiny --batch-size 9";
        refused(&sandbox, 3, words, "train-images-idx3-ubyte", bytes.len() as u64);
        let _ = name;
    }
}

#[test]
fn checkpoints_and_what_lies_beside_them() {
    let sandbox = sandbox();
    let state =
        String::from_utf8(sandbox.read("whole/checkpoints/step-000040/state.json")).unwrap();
    let run = sandbox.path("whole");
    let path = run.join("checkpoints/step-000040");
    let whole: Vec<(&str, Vec<u8>)> =
        ["config.toml", "model.safetensors", "state.json", "state.safetensors"]
            .map(|name| (name, std::fs::read(path.join(name)).unwrap()))
            .into();
    // Each is as its digests say, so that its content alone is wrong.
    let deep = "[".repeat(1_000_000);
    for (name, bytes) in [
        ("state.json", state.replace("\"step\": 40", "\"step\": -1").into_bytes()),
        ("state.json", state.replace("\"format\": 1", "\"format\": 1e400").into_bytes()),
        ("state.json", deep.clone().into_bytes()),
        ("state.json", b"null".to_vec()),
        ("state.safetensors", u64::MAX.to_le_bytes().to_vec()),
        ("state.safetensors", safetensors("{}", 0)),
    ] {
        let files: Vec<(&str, &[u8])> = whole
            .iter()
            .map(|(other, old)| {
                (*other, if *other == name { bytes.as_slice() } else { old.as_slice() })
            })
            .collect();
        vit_files::write_folder_atomically(&path, &run, &files).unwrap();
        refused(&sandbox, 4, "train --resume whole", "", bytes.len() as u64);
    }
    let files: Vec<(&str, &[u8])> =
        whole.iter().map(|(name, old)| (*name, old.as_slice())).collect();
    vit_files::write_folder_atomically(&path, &run, &files).unwrap();
    for name in ["config.toml", "metrics.jsonl"] {
        let before = sandbox.read(&format!("whole/{name}"));
        for bytes in [deep.clone().into_bytes(), vec![0xff; 1000], Vec::new()] {
            sandbox.write(&format!("whole/{name}"), &bytes);
            refused(&sandbox, 4, "train --resume whole", name, bytes.len() as u64);
        }
        sandbox.write(&format!("whole/{name}"), before);
    }
    sandbox.run("-q train --resume whole").succeeded();
}

/// With a header that announces what no memory could hold.
#[test]
fn pictures() {
    let sandbox = sandbox();
    sandbox.train_digits("--max-steps 1");
    let size = 60_000_u32.to_be_bytes();
    let ihdr = [b"IHDR".as_slice(), &size, &size, &[16, 6, 0, 0, 0]].concat();
    let png =
        [b"\x89PNG\r\n\x1a\n".as_slice(), &13_u32.to_be_bytes(), &ihdr, &crc(&ihdr).to_be_bytes()];
    let jpeg = b"\xff\xd8\xff\xc0\x00\x0b\x08\xea\x60\xea\x60\x01\x01\x11\x00\xff\xd9";
    for (name, bytes) in [
        ("large.png", png.concat()),
        ("large.jpg", jpeg.to_vec()),
        ("cut.png", png.concat()[..20].to_vec()),
    ] {
        sandbox.write(name, &bytes);
        for command in ["predict run", "explain run"] {
            let output = if command.starts_with("explain") { " -o out.png" } else { "" };
            refused(&sandbox, 3, &format!("{command} {name}{output}"), name, bytes.len() as u64);
        }
    }
}

/// That of PNG's chunks (ISO 3309).
fn crc(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    };
    !bytes.iter().fold(u32::MAX, step)
}
