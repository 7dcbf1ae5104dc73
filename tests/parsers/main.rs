//! All parsers with malformed input: the files in `fuzz/corpus`, former findings in `fuzz/regressions`, and truncated
//! and changed variants of all of them. `cargo xtask fuzz` searches for more.

#![allow(clippy::unwrap_used, reason = "a helper that panics fails its test, as it should")]

mod inputs;
#[path = "../../fuzz/src/parsers/mod.rs"]
mod parsers;
#[path = "../png_file.rs"]
mod png_file;
mod round_trips;
mod seeds;

use std::collections::BTreeMap;
use std::fs;
use std::panic;
use std::time::{Duration, Instant};

use inputs::{Input, folder};
use parsers::Parser;

/// Time limit for one input, on a busy machine; most take less than a millisecond.
const LONGEST: Duration = Duration::from_secs(5);
/// Memory limit of this process, which includes all inputs.
#[cfg(target_os = "linux")]
const MOST_MEMORY_KB: u64 = 512 << 10;

/// Runs a parser on bytes, and fails with their name.
fn hold(parser: &Parser, what: &dyn Fn() -> String, bytes: &[u8]) {
    let begun = Instant::now();
    let read = panic::catch_unwind(|| (parser.read)(bytes));
    assert!(read.is_ok(), "{} panics at {}", parser.name, what());
    let took = begun.elapsed();
    assert!(took < LONGEST, "{} takes {took:?} for {}", parser.name, what());
}

#[test]
fn every_input_stays_within_time_and_memory() {
    for parser in &parsers::ALL {
        let inputs = inputs::of(parser.name);
        assert!(!inputs.is_empty(), "no input for {}", parser.name);
        for Input { path, bytes } in inputs {
            hold(parser, &|| path.display().to_string(), &bytes);
        }
    }
    #[cfg(target_os = "linux")]
    {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak < MOST_MEMORY_KB, "{peak} kB");
    }
}

/// Truncates and changes each input in many places.
#[test]
fn truncated_and_changed_inputs_never_panic() {
    const PLACES: usize = 24;
    for parser in &parsers::ALL {
        for Input { path, bytes } in inputs::of(parser.name) {
            let step = bytes.len().div_ceil(PLACES).max(1);
            for at in (0..bytes.len()).step_by(step) {
                let what = |how: &str| format!("{} {how} at {at}", path.display());
                hold(parser, &|| what("cut"), &bytes[..at]);
                for bits in [0x01, 0x80, 0xFF] {
                    let mut changed = bytes.clone();
                    changed[at] ^= bits;
                    hold(parser, &|| what("changed"), &changed);
                }
            }
        }
    }
}

/// Valid seeds must be accepted, or everything after the first check would go untested.
#[test]
fn valid_seeds_are_accepted() {
    let right = [
        ("checkpoint", &["state", "tensors"][..]),
        ("foreign", &["timm", "hf", "hf-alone", "notebook"]),
        ("idx", &["images", "labels", "packed-images", "packed-twice", "eleven-classes"]),
        ("metrics", &["a-run", "still-being-written", "not-finite", "extreme"]),
        ("model_config", &["shallow", "notebook", "every-field"]),
        (
            "pictures",
            &[
                "grey.png",
                "sixteen-bits.png",
                "transparent.png",
                "interlaced.png",
                "grey.jpg",
                "progressive.jpg",
                "cmyk.jpg",
                "lossy.webp",
                "animated.gif",
                "colour.bmp",
            ],
        ),
        ("safetensors", &["native", "half", "notebook", "other-shapes", "empty-tensor"]),
        ("settings", &["every-table"]),
        ("sums", &["right"]),
    ];
    let mut taken: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, seed, bytes) in seeds::all() {
        let parser = parsers::ALL.iter().find(|parser| parser.name == name).unwrap();
        if (parser.read)(&bytes) {
            taken.entry(name).or_default().push(seed);
        }
    }
    let right = right.map(|(name, seeds)| (name, seeds.to_vec()));
    assert_eq!(taken, BTreeMap::from(right));
}

/// The seeds, which the fuzzer starts from too; `VIT_RENEW_CORPUS=1` rewrites them.
#[test]
fn every_seed_is_in_the_corpus() {
    let renew = std::env::var_os("VIT_RENEW_CORPUS").is_some();
    for (parser, name, bytes) in seeds::all() {
        assert!(parsers::ALL.iter().any(|known| known.name == parser), "no parser {parser}");
        let path = folder("corpus", parser).join(name);
        if renew {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes).unwrap();
        }
        assert!(path.is_file(), "{}: run again with VIT_RENEW_CORPUS=1", path.display());
    }
}
