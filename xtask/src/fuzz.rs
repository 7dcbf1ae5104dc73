//! `cargo xtask fuzz`: searches for inputs that make a parser panic, or use too much memory or time.

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use tempfile::TempDir;

use crate::cargo::{root, run, target_dir};
use crate::failure::Hinted;
use crate::nightly::{self, nightly, succeeds};

/// Fuzzes the parsers, some time each (libFuzzer)
///
/// Needs a nightly toolchain and cargo-fuzz; without them it is skipped. The first build takes minutes. It starts from
/// the inputs in fuzz/corpus and fuzz/regressions and from earlier findings under cargo's target folder. Not part of
/// ci, where the test `parsers` reads the committed inputs.
#[derive(Args)]
pub(crate) struct Fuzz {
    /// Seconds for each target
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    seconds: u64,
    /// Targets fuzzed in parallel, one process each
    #[arg(long, value_name = "N", default_value = "1")]
    jobs: NonZeroUsize,
    /// Names of the files in fuzz/targets [default: all]
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

/// Seconds for one input; even the slowest picture takes less with a sanitizer.
const TIMEOUT: u64 = 20;
/// MiB for one allocation (the largest picture takes 192) and in total, which includes the sanitizer's own memory.
const MOST_AT_ONCE: u64 = 512;
const MOST: u64 = 2048;
/// Lines of the fuzzer's log shown after a finding.
const LINES_SHOWN: usize = 40;

impl Fuzz {
    pub(crate) fn run(self) -> Result<()> {
        let targets = chosen(&self.targets, &known_targets()?)?;
        if let Some(missing) = missing_tool() {
            eprintln!("skipped: {missing}");
            return Ok(());
        }
        let folder = target_dir()?.join("fuzz");
        // Built together, because they share dependencies.
        run(nightly("cargo")
            .args(["fuzz", "build", "--fuzz-dir", "fuzz"])
            .env("CARGO_TARGET_DIR", &folder))?;
        let found = self.search_all(&targets, &folder)?;
        if found.is_empty() {
            return Ok(());
        }
        let hint = "move the input into fuzz/regressions/TARGET, where the test `parsers` reads it, and fix the parser";
        Err(Hinted::new(format!("failing inputs found in {}", found.join(", ")), hint).into())
    }

    /// The targets with findings.
    fn search_all<'a>(&self, targets: &'a [String], folder: &Path) -> Result<Vec<&'a str>> {
        let next = AtomicUsize::new(0);
        let worker = || -> Result<Vec<&'a str>> {
            let mut found = Vec::new();
            while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                eprintln!("[{target}] {} s", self.seconds);
                if !self.search(target, folder)? {
                    found.push(target.as_str());
                }
            }
            Ok(found)
        };
        let found: Result<Vec<_>> = thread::scope(|scope| {
            let workers: Vec<_> = (0..self.jobs.get()).map(|_| scope.spawn(worker)).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().expect("a worker does not panic"))
                .collect()
        });
        Ok(found?.concat())
    }

    /// Whether the target has no findings.
    fn search(&self, target: &str, folder: &Path) -> Result<bool> {
        let grown = folder.join("corpus").join(target);
        fs::create_dir_all(&grown).with_context(|| grown.display().to_string())?;
        let log_path = folder.join(target).with_extension("log");
        let log = File::create(&log_path).with_context(|| log_path.display().to_string())?;
        let scratch = scratch()?;
        let mut search = nightly("cargo");
        search.env("CARGO_TARGET_DIR", folder).env("TMPDIR", scratch.path());
        // libFuzzer writes new inputs to the first folder.
        search
            .args(["fuzz", "run", "--fuzz-dir", "fuzz", target])
            .arg(&grown)
            .args(committed(target))
            .arg("--");
        search.args([
            format!("-max_total_time={}", self.seconds),
            format!("-timeout={TIMEOUT}"),
            format!("-malloc_limit_mb={MOST_AT_ONCE}"),
            format!("-rss_limit_mb={MOST}"),
            "-print_final_stats=1".to_owned(),
        ]);
        let status = search.stdout(log.try_clone()?).stderr(log).status();
        let status = status.context("cannot start cargo")?;
        // The log contains arbitrary bytes from inputs.
        let text = fs::read(&log_path).with_context(|| log_path.display().to_string())?;
        let text = String::from_utf8_lossy(&text);
        let executions = executions(&text).map_or("unknown".to_owned(), |count| count.to_string());
        let result = if status.success() { "nothing found" } else { "FOUND something" };
        println!("{target}: {executions} executions in {} s, {result}", self.seconds);
        if !status.success() {
            let lines: Vec<&str> = text.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
            eprintln!("{}\nall of it is in {}", shown.join("\n"), log_path.display());
        }
        Ok(status.success())
    }
}

/// The requested targets, or all.
fn chosen(asked: &[String], known: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = asked.iter().find(|name| !known.contains(name)) {
        let hint = format!("there are {}", known.join(", "));
        return Err(Hinted::new(format!("fuzz/targets has no target {unknown}"), hint).into());
    }
    Ok(if asked.is_empty() { known } else { asked }.to_vec())
}

fn known_targets() -> Result<Vec<String>> {
    let folder = root().join("fuzz/targets");
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Why this machine cannot fuzz.
fn missing_tool() -> Option<&'static str> {
    if cfg!(not(unix)) {
        Some("cargo-fuzz runs only on Unix")
    } else if !nightly::is_installed() {
        Some("no nightly toolchain; install it with `rustup toolchain install nightly`")
    } else if !succeeds(nightly("cargo").args(["fuzz", "--version"])) {
        Some("no cargo-fuzz; install it with `cargo install cargo-fuzz`")
    } else {
        None
    }
}

/// The folders with a target's committed inputs.
fn committed(target: &str) -> impl Iterator<Item = PathBuf> {
    let folders = ["corpus", "regressions"].map(|kind| root().join("fuzz").join(kind).join(target));
    folders.into_iter().filter(|folder| folder.is_dir())
}

/// Folder for the parsers' temporary files: in memory, if possible.
fn scratch() -> Result<TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).context("no temporary folder")
}

/// Number of executions, from libFuzzer's last lines.
fn executions(log: &str) -> Option<u64> {
    let line = log.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_requested_ones_or_all() {
        let known = ["idx", "sums"].map(str::to_owned);
        assert_eq!(chosen(&[], &known).unwrap(), known);
        assert_eq!(chosen(&known[1..], &known).unwrap(), known[1..]);
        let error = chosen(&["xid".to_owned()], &known).unwrap_err();
        assert_eq!(error.to_string(), "fuzz/targets has no target xid");
    }

    #[test]
    fn the_count_is_read_from_the_log() {
        let log = "Done 7 runs in 1 second(s)\nstat::number_of_executed_units: 7\nstat::average";
        assert_eq!(executions(log), Some(7));
        assert_eq!(executions("stat::"), None);
    }

    /// Fuzz targets match the parsers in the tests.
    #[test]
    fn every_target_has_a_corpus() {
        let targets = known_targets().unwrap();
        assert!(targets.len() >= 9, "{targets:?}");
        for target in targets {
            assert!(committed(&target).next().is_some(), "{target}");
        }
    }
}
