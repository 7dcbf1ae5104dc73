//! A machine with a driver of ours: a folder of stub libraries, which the dynamic loader looks into first.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// Endings of the names that a library is looked for under; on a machine with CUDA another folder may have any.
const ENDINGS: [&str; 7] = ["", ".13", ".12", ".11", ".10", ".9", ".1"];

/// A folder of libraries, and what its driver is to say.
pub(crate) struct Machine {
    folder: TempDir,
    settings: Vec<(&'static str, &'static str)>,
}

impl Machine {
    /// One that can be computed on: a GPU of compute capability 9.0, and driver and libraries of CUDA 13.0. None where
    /// no C compiler is, which is said.
    #[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
    pub(crate) fn with_a_gpu() -> Option<Self> {
        let machine = Self { folder: tempfile::tempdir().unwrap(), settings: Vec::new() };
        if !machine.compile(include_str!("driver.c"), "libcuda.so.1") {
            eprintln!("skipped: no C compiler, which makes the stub of a driver");
            return None;
        }
        machine.copy("libcuda.so.1", "libcuda.so");
        assert!(machine.compile("", "libcublas.so.13"));
        machine.copy("libcublas.so.13", "libcublasLt.so.13");
        machine.copy("libcublas.so.13", "libcurand.so.10");
        Some(machine)
    }

    /// With files under the names of this library that are none: were they absent, one in another folder would be found.
    pub(crate) fn without(self, library: &str) -> Self {
        for ending in ENDINGS {
            fs::write(self.path(&format!("{library}{ending}")), "").unwrap();
        }
        self
    }

    /// With another answer of the driver's.
    pub(crate) fn saying(mut self, setting: &'static str, value: &'static str) -> Self {
        self.settings.push((setting, value));
        self
    }

    /// The environment of a program that is to run on this machine.
    pub(crate) fn environment(&self) -> Vec<(&'static str, OsString)> {
        let settings = self.settings.iter().map(|(setting, value)| (*setting, value.into()));
        settings.chain([("LD_LIBRARY_PATH", self.folder.path().into())]).collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn copy(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).unwrap();
    }

    /// Whether there is a compiler. What it cannot compile is an error of ours.
    fn compile(&self, code: &str, library: &str) -> bool {
        let source = self.path("source.c");
        fs::write(&source, code).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC"]).arg(source).arg("-o").arg(self.path(library));
        let Ok(status) = cc.status() else { return false };
        assert!(status.success(), "cc: {status}");
        true
    }
}
