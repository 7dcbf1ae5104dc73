//! Finding a CUDA toolkit that candle's bindings support.

use std::env::consts::EXE_SUFFIX;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result};

use crate::failure::Hinted;

/// Supported versions of cudarc 0.19, which candle 0.11 uses.
const OLDEST: Version = (11, 4);
const NEWEST: Version = (13, 4);

/// Hint for every error that a kit solves.
const TAKE_THE_KIT: &str =
    "`--kit` installs a toolkit from Python packages, under cargo's target folder";

pub(crate) type Version = (u32, u32);

/// A toolkit of a supported version.
pub(crate) struct Toolkit {
    home: PathBuf,
    version: Version,
}

impl Toolkit {
    /// The first one on PATH, in CUDA_HOME and CUDA_PATH, in the usual folders, or the kit.
    pub(crate) fn find(kit: Option<PathBuf>) -> Result<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
        let named: Vec<PathBuf> = named.map(PathBuf::from).collect();
        let places = places(&path, named, Path::new("/")).into_iter().chain(kit);
        let home = first(places).ok_or_else(|| {
            let message = "no CUDA toolkit: expected nvcc on the PATH, or in `bin` of CUDA_HOME, CUDA_PATH, \
                /usr/local/cuda or /opt/cuda, got none";
            Hinted::new(message, TAKE_THE_KIT)
        })?;
        Self::at(home)
    }

    /// The toolkit in this folder.
    pub(crate) fn at(home: PathBuf) -> Result<Self> {
        let nvcc = nvcc(&home);
        let output = Command::new(&nvcc).arg("--version").output();
        let output = output.with_context(|| format!("cannot start {}", nvcc.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let version = version_of(&said).with_context(|| {
            format!("{} --version: expected `release N.N`, got {said:?}", nvcc.display())
        })?;
        check(version, &home)?;
        Ok(Self { home, version })
    }

    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// The folder of its programs.
    pub(crate) fn bin(&self) -> PathBuf {
        self.home.join("bin")
    }

    /// Path of a library.
    pub(crate) fn library(&self, file: &str) -> Result<PathBuf> {
        let folders = ["lib64", "lib", "targets/x86_64-linux/lib", "lib/x86_64-linux-gnu"];
        let found = folders.map(|folder| self.home.join(folder).join(file));
        let found = found.into_iter().find(|path| path.is_file());
        found.ok_or_else(|| {
            let home = self.home.display();
            let message =
                format!("the CUDA toolkit in {home}: expected {file} in `lib64`, got none");
            Hinted::new(message, TAKE_THE_KIT).into()
        })
    }
}

/// Path of the compiler in a toolkit.
fn nvcc(home: &Path) -> PathBuf {
    home.join("bin").join(format!("nvcc{EXE_SUFFIX}"))
}

/// The first of these folders with a compiler.
fn first(homes: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    homes.into_iter().find(|home| nvcc(home).is_file())
}

/// Folders that may contain a toolkit, in search order.
fn places(path: &OsStr, named: Vec<PathBuf>, root: &Path) -> Vec<PathBuf> {
    let on_the_path = env::split_paths(path).filter_map(|bin| home_of(&bin));
    let mut places: Vec<PathBuf> = on_the_path.chain(named).collect();
    let local = root.join("usr/local");
    places.push(local.join("cuda"));
    places.extend(versions_in(&local));
    places.push(root.join("opt/cuda"));
    places
}

/// The toolkit of the compiler in this folder, which may be a link.
fn home_of(bin: &Path) -> Option<PathBuf> {
    let nvcc = fs::canonicalize(bin.join(format!("nvcc{EXE_SUFFIX}"))).ok()?;
    Some(nvcc.parent()?.parent()?.to_owned())
}

/// Folders like `cuda-13.0`, newest first.
fn versions_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<(Version, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            Some((numbers(name.to_str()?.strip_prefix("cuda-")?)?, entry.path()))
        })
        .collect();
    found.sort_by(|(one, _), (other, _)| other.cmp(one));
    found.into_iter().map(|(_, path)| path).collect()
}

/// The release in the output of `nvcc --version`: `Cuda compilation tools, release 13.0, V13.0.88`.
fn version_of(said: &str) -> Option<Version> {
    let (_, release) = said.split_once("release ")?;
    numbers(release.split(',').next()?)
}

/// The two numbers of `13.0`.
fn numbers(text: &str) -> Option<Version> {
    let (major, minor) = text.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn check(version: Version, home: &Path) -> Result<(), Hinted> {
    if (OLDEST..=NEWEST).contains(&version) {
        return Ok(());
    }
    let dotted = |(major, minor): Version| format!("{major}.{minor}");
    let (oldest, newest) = (dotted(OLDEST), dotted(NEWEST));
    let message = format!(
        "the CUDA toolkit in {}: expected version {oldest} to {newest}, got {}",
        home.display(),
        dotted(version)
    );
    Err(Hinted::new(message, TAKE_THE_KIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "nvcc: NVIDIA (R) Cuda compiler driver\n\
        Built on Wed_Aug_20_01:58:59_PM_PDT_2025\n\
        Cuda compilation tools, release 13.0, V13.0.88\n\
        Build cuda_13.0.r13.0/compiler.36424714_0\n";

    /// Creates a compiler in this folder.
    fn install(home: &Path) -> PathBuf {
        fs::create_dir_all(home.join("bin")).unwrap();
        fs::write(nvcc(home), "").unwrap();
        home.to_owned()
    }

    #[test]
    fn the_release_is_read_from_nvccs_output() {
        assert_eq!(version_of(SAID), Some((13, 0)));
        assert_eq!(version_of("release 12.8, V12.8.93"), Some((12, 8)));
        for said in ["", "nvcc: not found", "release 13", "release x.y, V"] {
            assert_eq!(version_of(said), None, "{said:?}");
        }
    }

    #[test]
    fn unsupported_versions_are_named_with_the_supported_ones() {
        for known in [(11, 4), (12, 0), (12, 9), (13, 4)] {
            check(known, Path::new("cuda")).unwrap();
        }
        for unknown in [(10, 2), (11, 3), (13, 5), (14, 0)] {
            let message = check(unknown, Path::new("/opt/cuda")).unwrap_err().to_string();
            let expected = "the CUDA toolkit in /opt/cuda: expected version 11.4 to 13.4, got";
            assert_eq!(message, format!("{expected} {}.{}", unknown.0, unknown.1));
        }
    }

    #[test]
    fn path_comes_first_then_variables_then_usual_folders_newest_first() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        let expected = ["mine", "named", "usr/local/cuda", "usr/local/cuda-13.0"];
        let expected =
            [&expected[..], &["usr/local/cuda-12.10", "usr/local/cuda-12.9", "opt/cuda"]];
        let expected: Vec<PathBuf> = expected.concat().iter().map(|home| root.join(home)).collect();
        for home in &expected {
            install(home);
        }
        fs::create_dir_all(root.join("usr/local/cuda-samples")).unwrap();

        let path = env::join_paths([root.join("no"), root.join("mine/bin")]).unwrap();
        assert_eq!(places(&path, vec![root.join("named")], &root), expected);
    }

    #[test]
    fn folders_without_a_compiler_are_not_toolkits() {
        let root = tempfile::tempdir().unwrap();
        let empty = root.path().join("empty");
        fs::create_dir(&empty).unwrap();
        assert_eq!(first([empty.clone()]), None);
        let whole = install(&root.path().join("whole"));
        assert_eq!(first([empty, whole.clone()]), Some(whole));
    }

    #[test]
    #[cfg(unix)]
    fn links_to_the_compiler_are_followed() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        let home = install(&root.join("cuda"));
        fs::create_dir(root.join("bin")).unwrap();
        std::os::unix::fs::symlink(nvcc(&home), root.join("bin/nvcc")).unwrap();
        assert_eq!(home_of(&root.join("bin")), Some(home));
    }
}
