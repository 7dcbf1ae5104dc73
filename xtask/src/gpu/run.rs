//! Running the GPU tests.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use vit_device::Build;

/// A test binary, and its environment.
pub(crate) struct Tests {
    pub(crate) binary: PathBuf,
    pub(crate) vit: PathBuf,
    pub(crate) fixtures: PathBuf,
    pub(crate) build: Build,
}

impl Tests {
    /// Runs the tests with these arguments, and prints the GPU and how many passed.
    ///
    /// At least one must pass.
    pub(crate) fn run(&self, args: &[OsString]) -> Result<()> {
        let gpu = vit_device::find(0, &self.build)?;
        let (major, minor) = self.build.toolkit;
        println!("{gpu}");
        println!("tests built for {} by CUDA {major}.{minor}", self.build.architecture);
        let passed = self.start(args)?;
        ensure!(passed > 0, "expected tests to run, got none");
        println!("{passed} tests passed on {}", gpu.name);
        Ok(())
    }

    /// Runs the binary, passing its output on; returns the number of passed tests.
    fn start(&self, args: &[OsString]) -> Result<u64> {
        let mut command = Command::new(&self.binary);
        command.env("VIT_FIXTURES", &self.fixtures).env("VIT_BINARY", &self.vit);
        // One after another: the test that fills the GPU's memory would disturb others.
        command.arg("--test-threads=1").args(args).stdout(Stdio::piped());
        let cannot_start = || format!("cannot start {}", self.binary.display());
        let mut tests = command.spawn().with_context(cannot_start)?;
        let mut passed = 0;
        for line in BufReader::new(tests.stdout.take().expect("it is piped")).lines() {
            let line = line?;
            println!("{line}");
            passed += passed_of(&line).unwrap_or(0);
        }
        let status = tests.wait()?;
        ensure!(status.success(), "the tests on the GPU failed ({status})");
        Ok(passed)
    }
}

/// The number of passed tests in `test result: ok. 12 passed; 0 failed; ...`.
fn passed_of(line: &str) -> Option<u64> {
    let (counts, _) = line.strip_prefix("test result: ")?.split_once(" passed;")?;
    counts.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_read_from_the_last_line() {
        let line = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(passed_of(line), Some(12));
        assert_eq!(passed_of("test result: FAILED. 3 passed; 1 failed; 0 ignored"), Some(3));
        for other in ["", "running 12 tests", "test a ... ok", "12 passed; 0 failed"] {
            assert_eq!(passed_of(other), None, "{other:?}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn failed_tests_and_missing_binaries_are_errors() {
        let tests = |binary: &str| Tests {
            binary: binary.into(),
            vit: "vit".into(),
            fixtures: "fixtures".into(),
            build: Build::parse("sm_90a", "13.0").unwrap(),
        };
        assert_eq!(tests("true").start(&[]).unwrap(), 0);
        let message = tests("false").start(&[]).unwrap_err().to_string();
        assert!(message.starts_with("the tests on the GPU failed (exit"), "{message}");
        let message = tests("/no/such/binary").start(&[]).unwrap_err().to_string();
        assert_eq!(message, "cannot start /no/such/binary");
    }
}
