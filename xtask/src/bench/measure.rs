//! Runs a program once: its output, duration and peak memory.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use wait4::Wait4;

use super::workloads::{Program, Run};
use crate::cargo::root;

/// The programs, with their inputs.
pub(super) struct Programs {
    vit: PathBuf,
    /// tests/consumer's binaries, one with the README's settings and one with the system's allocator, if a row needs
    /// them.
    speed: Option<[PathBuf; 2]>,
    python: Option<PathBuf>,
    /// The folder that holds `mnist/`.
    data: PathBuf,
    scratch: TempDir,
}

/// Results of a run.
pub(super) struct Measurement {
    pub(super) run: Run,
    round: u32,
    /// Its JSON output, the last metrics in `metrics.jsonl`, and `wall_ms` and `peak_mb`; medians if it started several
    /// times.
    pub(super) figures: Map<String, Value>,
}

impl Programs {
    /// Creates the model that is evaluated.
    ///
    /// # Errors
    /// If the venv has no Python, or the model cannot be created.
    pub(super) fn new(
        built: &Path,
        speed: Option<[PathBuf; 2]>,
        venv: Option<&Path>,
        data: &Path,
    ) -> Result<Self> {
        let python = venv.map(python_of).transpose()?;
        // Programs run in the workspace, not in the user's working directory.
        let data = std::path::absolute(data)?;
        let name = built.file_name().context("cargo built no file")?;
        let scratch = tempfile::tempdir_in(built.with_file_name(""))?;
        // A second name or a copy, so that a build in the meantime does not change what is measured: cargo removes the
        // old file first. A copy is cached in larger folios, which Linux 6.18 maps whole: up to 5 MB more memory.
        let vit = scratch.path().join(name);
        if cfg!(target_os = "linux") {
            fs::hard_link(built, &vit)
        } else {
            fs::copy(built, &vit).map(|_| ())
        }
        .with_context(|| format!("cannot link or copy {}", built.display()))?;
        for shards in [1, 4] {
            let settings = format!("[train]\nshards = {shards}\n");
            fs::write(scratch.path().join(format!("shards-{shards}.toml")), settings)?;
        }
        let programs = Self { vit, speed, python, data, scratch };
        for args in [
            "train --preset notebook --dataset digits --max-steps 1 --run-dir {model}",
            "export {model} --layout notebook --output {state}",
        ] {
            programs.start(&Run { program: Program::Vit, args: args.to_owned(), starts: 1 })?;
        }
        Ok(programs)
    }

    pub(super) fn have_python(&self) -> bool {
        self.python.is_some()
    }

    /// Runs a program as often as one round requires.
    ///
    /// # Errors
    /// If it fails.
    pub(super) fn measure(&self, run: &Run, round: u32) -> Result<Measurement> {
        let starts = (0..run.starts).map(|_| self.start(run)).collect::<Result<Vec<_>>>()?;
        Ok(Measurement { run: run.clone(), round, figures: medians(starts) })
    }

    /// The output of `vit ARGS`.
    ///
    /// # Errors
    /// If it fails.
    pub(super) fn vit_says(&self, args: &str) -> Result<String> {
        let output = Command::new(&self.vit).args(args.split_whitespace()).output()?;
        ensure!(output.status.success(), "vit {args} failed ({})", output.status);
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    fn start(&self, run: &Run) -> Result<Map<String, Value>> {
        let begun = Instant::now();
        let mut command = self.command(run)?;
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let mut printed = String::new();
        child.stdout.take().context("stdout is piped")?.read_to_string(&mut printed)?;
        let ended = child.wait4()?;
        let wall = begun.elapsed();
        ensure!(ended.status.success(), "{run} failed ({})", ended.status);
        // The scratch folder's path is irrelevant, and differs from run to run.
        let scratch = self.scratch.path().display().to_string();
        let mut figures = last_line(&printed.replace(&scratch, "scratch"));
        let folder = self.scratch.path().join("run");
        if let Ok(metrics) = fs::read_to_string(folder.join("metrics.jsonl")) {
            figures.extend(last_line(&metrics));
            fs::remove_dir_all(&folder)?;
        }
        figures.insert("wall_ms".to_owned(), json!(1e3 * wall.as_secs_f64()));
        figures.insert("peak_mb".to_owned(), json!(ended.rusage.maxrss as f64 / 1e6));
        Ok(figures)
    }

    fn command(&self, run: &Run) -> Result<Command> {
        let [speed, system] = match &self.speed {
            Some([speed, system]) => [Some(speed), Some(system)],
            None => [None, None],
        };
        let program = match run.program {
            Program::Vit => &self.vit,
            Program::Speed => speed.context("speed was not built")?,
            Program::SpeedSystem => system.context("speed was not built")?,
            Program::Python => self.python.as_ref().context("no venv")?,
        };
        let mut command = Command::new(program);
        command.args(run.args.split_whitespace().map(|arg| self.place(arg)));
        command.current_dir(root()).env("VIT_DATA", &self.data);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        if run.program == Program::Vit {
            command.arg("--quiet");
        }
        Ok(command)
    }

    /// An argument, with placeholders replaced by paths.
    fn place(&self, arg: &str) -> PathBuf {
        match arg {
            "{model}" => self.scratch.path().join("model"),
            "{state}" => self.scratch.path().join("state.safetensors"),
            "{run}" => self.scratch.path().join("run"),
            "{shards-1}" => self.scratch.path().join("shards-1.toml"),
            "{shards-4}" => self.scratch.path().join("shards-4.toml"),
            arg => arg.into(),
        }
    }
}

impl Measurement {
    pub(super) fn as_json(&self) -> Value {
        json!({ "command": self.run.to_string(), "round": self.round, "figures": self.figures })
    }

    /// One figure, for tests.
    #[cfg(test)]
    pub(super) fn of(run: &Run, round: u32, field: &str, value: f64) -> Self {
        let figures = Map::from_iter([(field.to_owned(), json!(value))]);
        Self { run: run.clone(), round, figures }
    }

    /// A figure, if the run has it.
    pub(super) fn figure(&self, field: &str) -> Option<f64> {
        self.figures.get(field)?.as_f64()
    }
}

fn python_of(venv: &Path) -> Result<PathBuf> {
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    ensure!(python.exists(), "{} has no Python: expected {}", venv.display(), python.display());
    Ok(std::path::absolute(python)?)
}

/// The JSON object on the last line, if any.
fn last_line(text: &str) -> Map<String, Value> {
    let line = text.lines().next_back().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_default()
}

/// The median of each number over several starts; other values are the last start's.
fn medians(starts: Vec<Map<String, Value>>) -> Map<String, Value> {
    let mut numbers: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut figures = Map::new();
    let alone = starts.len() == 1;
    for (name, value) in starts.into_iter().flatten() {
        if let (false, Some(number)) = (alone, value.as_f64()) {
            numbers.entry(name.clone()).or_default().push(number);
        }
        figures.insert(name, value);
    }
    figures.extend(numbers.into_iter().map(|(name, numbers)| (name, json!(median(numbers)))));
    figures
}

/// The middle number, or the mean of the two in the middle.
///
/// # Panics
/// If there are no numbers.
pub(super) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    if numbers.len() % 2 == 1 {
        numbers[middle]
    } else {
        f64::midpoint(numbers[middle - 1], numbers[middle])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 100.0]), 3.0);
    }

    #[test]
    fn the_last_line_is_parsed_and_other_text_gives_nothing() {
        assert_eq!(last_line("warning\n{\"a\": 1}\n")["a"], 1);
        assert!(last_line("").is_empty());
        assert!(last_line("{\"a\": 1}\nbye").is_empty());
    }

    #[test]
    fn starts_are_merged_by_their_medians() {
        let start = |ms| last_line(&format!("{{\"wall_ms\": {ms}, \"image\": \"a.png\"}}"));
        let joined = medians(vec![start(7), start(1), start(2)]);
        assert_eq!((&joined["wall_ms"], &joined["image"]), (&json!(2.0), &json!("a.png")));
    }
}
