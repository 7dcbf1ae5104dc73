//! A folder with everything the GPU tests need, to copy to a machine without Rust or sources.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vit_device::Build;

use super::build::Built;
use super::run::Tests;
use crate::cargo::{root, target_dir};
use crate::failure::Hinted;

const TESTS: &str = "gpu-tests";
const VIT: &str = "vit";
const XTASK: &str = "xtask";
const FIXTURES: &str = "fixtures";
/// The fixtures that tests on a GPU read.
const READ: [&str; 3] = ["adam-f64", "agreement", "timm"];
/// The build's target. Written last, so a folder without it is incomplete.
const BUILD: &str = "build.json";
/// Size limit that file transfers accept.
const MOST_BYTES: u64 = 60 << 20;

/// Copies a build into a folder under cargo's target folder, replacing an earlier one.
pub(crate) fn make(built: &Built) -> Result<PathBuf> {
    let folder = target_dir()?.join("gpu-tests");
    fill(&folder, built).with_context(|| folder.display().to_string())?;
    let bytes = size(&folder)?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!("{}: {:.1} MiB", folder.display(), mib(bytes));
    ensure!(
        bytes <= MOST_BYTES,
        "{}: expected at most {:.0} MiB, got {:.1}",
        folder.display(),
        mib(MOST_BYTES),
        mib(bytes)
    );
    Ok(folder)
}

/// The tests in such a folder.
pub(crate) fn open(folder: &Path) -> Result<Tests> {
    let whole = [BUILD, TESTS, VIT, FIXTURES].map(|name| folder.join(name));
    if let Some(missing) = whole.iter().find(|path| !path.exists()) {
        let message = format!(
            "{}: expected a folder of GPU tests, got no {}",
            folder.display(),
            missing.display()
        );
        let hint = "`cargo xtask test-gpu --build-only` makes one and names it";
        return Err(Hinted::new(message, hint).into());
    }
    // The tests may run in another working directory.
    let folder = fs::canonicalize(folder).with_context(|| folder.display().to_string())?;
    let build = folder.join(BUILD);
    Ok(Tests {
        binary: folder.join(TESTS),
        vit: folder.join(VIT),
        fixtures: folder.join(FIXTURES),
        build: read(&build).with_context(|| build.display().to_string())?,
    })
}

/// The program in such a folder.
pub(crate) fn vit(folder: &Path) -> PathBuf {
    folder.join(VIT)
}

/// The xtask binary in such a folder.
pub(crate) fn xtask(folder: &Path) -> PathBuf {
    folder.join(XTASK)
}

/// The tests' fixtures in this checkout.
pub(crate) fn fixtures() -> PathBuf {
    root().join("tests/fixtures")
}

fn fill(folder: &Path, built: &Built) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    for name in READ {
        copy_folder(&fixtures().join(name), &folder.join(FIXTURES).join(name))?;
    }
    fs::copy(&built.tests, folder.join(TESTS))?;
    fs::copy(&built.vit, folder.join(VIT))?;
    fs::copy(env::current_exe()?, folder.join(XTASK))?;
    fs::write(folder.join(BUILD), written(&built.build))?;
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &copy)?;
        } else {
            fs::copy(entry.path(), copy)?;
        }
    }
    Ok(())
}

/// Total size of all files in a folder.
fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

fn written(build: &Build) -> String {
    let (major, minor) = build.toolkit;
    format!(
        "{}\n",
        json!({ "architecture": build.architecture, "toolkit": format!("{major}.{minor}") })
    )
}

fn read(path: &Path) -> Result<Build> {
    let build: Value = serde_json::from_slice(&fs::read(path)?)?;
    let text = |name: &str| {
        let text = build[name].as_str();
        text.with_context(|| format!("expected {name}, got none"))
    };
    Ok(Build::parse(text("architecture")?, text("toolkit")?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(folder: &Path) -> Build {
        let binary = folder.join("built");
        fs::write(&binary, "binary").unwrap();
        let build = Build::parse("sm_90a", "13.0").unwrap();
        let built = Built { tests: binary.clone(), vit: binary, build: build.clone() };
        fill(&folder.join("gpu-tests"), &built).unwrap();
        build
    }

    #[test]
    fn folders_can_be_opened_and_name_their_target() {
        let scratch = tempfile::tempdir().unwrap();
        let build = whole(scratch.path());
        let folder = scratch.path().join("gpu-tests");
        let tests = open(&folder).unwrap();
        assert_eq!(tests.build, build);
        assert!(
            tests.binary.is_absolute()
                && tests.fixtures.join("agreement/gelu.safetensors").exists()
        );
        assert!(vit(&folder).exists() && xtask(&folder).exists());
    }

    #[test]
    fn earlier_content_is_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let stray = scratch.path().join("gpu-tests/stray");
        fs::create_dir_all(&stray).unwrap();
        whole(scratch.path());
        assert!(!stray.exists());
    }

    #[test]
    fn incomplete_folders_are_rejected_naming_what_is_missing() {
        let scratch = tempfile::tempdir().unwrap();
        let message = |folder: &Path| open(folder).err().unwrap().to_string();
        let said = message(scratch.path());
        assert!(said.contains("expected a folder of GPU tests, got no"), "{said}");
        assert!(said.ends_with("build.json"), "{said}");

        whole(scratch.path());
        let folder = scratch.path().join("gpu-tests");
        fs::remove_dir_all(folder.join(FIXTURES)).unwrap();
        assert!(message(&folder).ends_with("fixtures"));
    }

    #[test]
    fn sizes_are_summed_recursively() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("below")).unwrap();
        fs::write(scratch.path().join("a"), [0; 3]).unwrap();
        fs::write(scratch.path().join("below/b"), [0; 4]).unwrap();
        assert_eq!(size(scratch.path()).unwrap(), 7);
    }
}
