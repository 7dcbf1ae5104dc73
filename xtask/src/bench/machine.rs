//! The machine that a benchmark ran on.

use std::fmt;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::measure::{Measurement, Programs};
use crate::cargo::{root, stdout_of};

/// The machine, and the versions of the programs.
pub(super) struct Machine {
    cpu: String,
    cores: usize,
    /// Load average over the last minute: other programs would affect every figure.
    load: Option<f64>,
    seconds: u64,
    vit: String,
    rustc: String,
    revision: Option<String>,
}

impl Machine {
    /// # Errors
    /// If `vit` or `rustc` does not print its version.
    pub(super) fn look(programs: &Programs) -> Result<Self> {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            cpu: cpu(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            cores: thread::available_parallelism().map_or(1, usize::from),
            load: load.split(' ').next().and_then(|load| load.parse().ok()),
            seconds: now.as_secs(),
            vit: programs.vit_says("--version")?,
            rustc: said(Command::new("rustc").arg("--version"))?,
            revision: said(Command::new("git").args(["describe", "--always", "--dirty"])).ok(),
        })
    }

    pub(super) fn as_json(&self) -> Value {
        json!({
            "cpu": self.cpu,
            "cores": self.cores,
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
            "load_before": self.load,
            "unix_seconds": self.seconds,
        })
    }

    /// Versions of our programs and, from their own output, of the peers.
    pub(super) fn versions(&self, measurements: &[Measurement]) -> Value {
        let ours = json!({ "vit": self.vit, "rustc": self.rustc, "revision": self.revision });
        let mut versions = Map::from_iter(ours.as_object().cloned().unwrap_or_default());
        for name in ["python", "torch", "timm"] {
            let said = measurements.iter().find_map(|measurement| measurement.figures.get(name));
            versions.extend(said.map(|version| (name.to_owned(), version.clone())));
        }
        Value::Object(versions)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} cores", self.cpu, self.cores)
    }
}

/// The processor's name on Linux.
fn cpu(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    line.map_or("an unknown CPU", |line| line.trim_start_matches([' ', '\t', ':'])).to_owned()
}

/// The output of a command.
fn said(command: &mut Command) -> Result<String> {
    let said = stdout_of(command.current_dir(root()))?;
    Ok(String::from_utf8(said)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_name_is_read() {
        assert_eq!(cpu("vendor_id\t: A\nmodel name\t: AMD EPYC 1\ncores: 2\n"), "AMD EPYC 1");
        assert_eq!(cpu(""), "an unknown CPU");
    }
}
