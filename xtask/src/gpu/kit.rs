//! A CUDA toolkit from NVIDIA's Python packages: enough to build, without an installer and without root.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::failure::Hinted;

/// The packages and versions. Compiler, its parts, runtime and headers are from one release.
const PACKAGES: [(&str, &str); 5] = [
    ("nvidia-cuda-nvcc", "13.0.88"),
    ("nvidia-cuda-crt", "13.0.88"),
    ("nvidia-nvvm", "13.0.88"),
    ("nvidia-cuda-runtime", "13.0.96"),
    ("nvidia-cuda-cccl", "13.0.85"),
];
/// Folder of the toolkit in the packages of CUDA 13.
const HOME: &str = "nvidia/cu13";
/// The installed versions, to recognise an outdated kit.
const REQUIREMENTS: &str = "requirements.txt";

/// The kit under a target folder, installed or not.
pub(crate) struct Kit {
    folder: PathBuf,
}

impl Kit {
    pub(crate) fn under(target: &Path) -> Self {
        Self { folder: target.join("cuda-kit") }
    }

    /// The toolkit's folder, if the kit is complete.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        let held = fs::read_to_string(self.folder.join(REQUIREMENTS)).ok()?;
        (held == requirements()).then(|| self.folder.join(HOME))
    }

    /// The toolkit's folder; installs the kit if it is missing.
    pub(crate) fn install(&self) -> Result<PathBuf> {
        if let Some(home) = self.home() {
            return Ok(home);
        }
        if !pip_is_there() {
            let hint = "install Python 3 with pip, or a CUDA toolkit and leave --kit out";
            return Err(
                Hinted::new("`--kit` needs `python3 -m pip`, which does not run", hint).into()
            );
        }
        self.download().with_context(|| self.folder.display().to_string())?;
        self.home().context("expected the kit after its installation, got none")
    }

    /// Installs elsewhere and renames, so that an interrupted installation does not count.
    fn download(&self) -> Result<()> {
        let target = self.folder.parent().expect("the kit lies in the target folder");
        fs::create_dir_all(target)?;
        let beside = tempfile::Builder::new().prefix("cuda-kit-").tempdir_in(target)?;
        let requirements_file = beside.path().join(REQUIREMENTS);
        fs::write(&requirements_file, requirements())?;
        run_pip(beside.path(), &requirements_file)?;
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder)?;
        }
        fs::rename(beside.keep(), &self.folder)?;
        Ok(())
    }
}

/// Whether this machine can install a kit.
pub(crate) fn pip_is_there() -> bool {
    let version = pip().arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

fn pip() -> Command {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip"]);
    pip
}

#[expect(clippy::disallowed_methods, reason = "its stdout is for another program")]
fn run_pip(folder: &Path, requirements: &Path) -> Result<()> {
    eprintln!("installing {} Python packages, 104 MB to fetch", PACKAGES.len());
    let mut install = pip();
    install.args(["install", "--no-deps", "--only-binary=:all:", "--no-compile"]);
    install.args(["--disable-pip-version-check", "--root-user-action=ignore"]);
    install.arg("--target").arg(folder).arg("--requirement").arg(requirements);
    // pip's output is progress, not a result.
    let status = install.stdout(io::stderr()).status().context("cannot start python3")?;
    if status.success() {
        return Ok(());
    }
    let hint = "look at what pip says above: it needs a registry in reach, and the packages are for Linux alone; \
        or install a CUDA toolkit, and leave --kit out";
    Err(Hinted::new(format!("pip failed ({status})"), hint).into())
}

/// The packages as pip requirements.
fn requirements() -> String {
    PACKAGES.iter().flat_map(|(name, version)| [name, "==", version, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kit_with_other_versions_is_incomplete() {
        let target = tempfile::tempdir().unwrap();
        let kit = Kit::under(target.path());
        assert_eq!(kit.home(), None);

        fs::create_dir_all(kit.folder.join(HOME)).unwrap();
        assert_eq!(kit.home(), None);
        let file = kit.folder.join(REQUIREMENTS);
        fs::write(&file, requirements().replace("13.0.88", "12.8.93")).unwrap();
        assert_eq!(kit.home(), None);
        fs::write(&file, requirements()).unwrap();
        assert_eq!(kit.home(), Some(kit.folder.join(HOME)));
    }

    #[test]
    fn each_package_is_pinned() {
        let requirements = requirements();
        assert_eq!(requirements.lines().count(), PACKAGES.len());
        assert!(requirements.lines().all(|line| line.split_once("==").is_some()));
    }
}
