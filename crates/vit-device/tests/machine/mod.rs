//! A fake machine: a folder of stub libraries, which the dynamic loader searches first.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// Endings of library names that are tried. On a machine with CUDA another folder may have any of them.
const ENDINGS: [&str; 7] = ["", ".13", ".12", ".11", ".10", ".9", ".1"];

/// A folder of libraries, and its driver's answers.
pub(crate) struct Machine {
    folder: TempDir,
    settings: Vec<(&'static str, &'static str)>,
}

impl Machine {
    /// A usable machine: a GPU of compute capability 9.0, and driver and libraries of CUDA 13.0.
    pub(crate) fn with_a_gpu() -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap(), settings: Vec::new() };
        machine.compile(include_str!("driver.c"), "libcuda.so.1");
        machine.copy("libcuda.so.1", "libcuda.so");
        machine.compile("", "libcublas.so.13");
        machine.copy("libcublas.so.13", "libcublasLt.so.13");
        machine.copy("libcublas.so.13", "libcurand.so.10");
        machine
    }

    /// Replaces this library with invalid files. If they were absent, one in another folder would be found.
    pub(crate) fn without(self, library: &str) -> Self {
        for ending in ENDINGS {
            fs::write(self.path(&format!("{library}{ending}")), "").unwrap();
        }
        self
    }

    /// Sets another answer of the driver.
    pub(crate) fn saying(mut self, setting: &'static str, value: &'static str) -> Self {
        self.settings.push((setting, value));
        self
    }

    /// The environment for a program on this machine.
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

    fn compile(&self, code: &str, library: &str) {
        let source = self.path("source.c");
        fs::write(&source, code).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC"]).arg(source).arg("-o").arg(self.path(library));
        let status = cc.status().expect("the tests need a C compiler, cc");
        assert!(status.success(), "cc: {status}");
    }
}
