//! Checkpoints of a run: each is a folder, complete or absent, with the digests of its files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vit_files::sync_folder;

use crate::folder::free_name;
use crate::names::{CHECKPOINTS, CONFIG, LAST, MODEL, NEW_LAST, OLD_CHECKPOINT, STATE, TENSORS};
use crate::{Error, RunFolder};

fn name_of(step: u64) -> String {
    format!("step-{step:06}")
}

/// The checkpoints of a run, newest first. Other entries of the folder are skipped.
///
/// # Errors
/// If the folder cannot be read.
pub fn newest_checkpoints(run: &Path) -> Result<Vec<PathBuf>, Error> {
    let above = run.join(CHECKPOINTS);
    let unreadable = |error: io::Error| vit_files::Error::io("read", &above)(error);
    let entries = match fs::read_dir(&above) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix("step-"));
        let step = step.and_then(|digits| digits.parse::<u64>().ok());
        if let Some(step) = step.filter(|&step| name.to_str() == Some(&name_of(step)))
            && entry.file_type().map_err(unreadable)?.is_dir()
        {
            found.push((step, entry.path()));
        }
    }
    found.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Verifies the digest of each file of a checkpoint, which may have at most `most_bytes` bytes.
///
/// # Errors
/// If a file is damaged ([`Error::is_damage`]), or cannot be read.
pub fn check_checkpoint(path: &Path, most_bytes: u64) -> Result<(), Error> {
    Ok(vit_files::check_folder(path, &[CONFIG, MODEL, STATE, TENSORS], most_bytes)?)
}

impl RunFolder {
    /// The folder of checkpoints.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.path().join(CHECKPOINTS)
    }

    /// Writes a checkpoint of these files: `checkpoints/step-000937` after 937 steps. It is written elsewhere and moved
    /// there once complete; earlier checkpoints stay.
    ///
    /// # Errors
    /// If it cannot be written; nothing of it remains.
    pub fn write_checkpoint(&self, step: u64, files: &[(&str, &[u8])]) -> Result<PathBuf, Error> {
        let above = self.checkpoints();
        match fs::create_dir(&above) {
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                let made = made.and_then(|()| sync_folder(self.path()));
                made.map_err(vit_files::Error::io("create", &above))?;
            }
        }
        let path = above.join(name_of(step));
        vit_files::write_folder_atomically(&path, self.path(), files)?;
        Ok(path)
    }

    /// Removes all but the newest `keep` checkpoints. Nothing else removes checkpoints.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub fn prune_checkpoints(&self, keep: usize) -> Result<(), Error> {
        for path in newest_checkpoints(self.path())?.into_iter().skip(keep) {
            // Renamed first, so that no half-removed checkpoint is ever among the others.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let step = name.strip_prefix("step-").unwrap_or(&name);
            let aside = self.path().join(format!("{OLD_CHECKPOINT}{step}"));
            let removed = fs::rename(&path, &aside).and_then(|()| fs::remove_dir_all(&aside));
            removed.map_err(vit_files::Error::io("remove", &path))?;
        }
        Ok(())
    }

    /// Renames a checkpoint so that it no longer counts as one: `aside-step-000937`, with a number appended if that
    /// exists.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub fn set_checkpoint_aside(&self, path: &Path) -> Result<PathBuf, Error> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let aside = free_name(&self.checkpoints(), &format!("aside-{name}"), "");
        fs::rename(path, &aside).map_err(vit_files::Error::io("rename", path))?;
        Ok(aside)
    }

    /// Makes `checkpoints/last` a link to a checkpoint, if the file system supports links.
    ///
    /// A folder named `last`, as left by a copy that followed links, is set aside.
    ///
    /// # Errors
    /// If the link cannot replace the previous one.
    pub fn point_last_to(&self, checkpoint: &Path) -> Result<(), Error> {
        #[cfg(unix)]
        {
            let name = checkpoint.file_name().unwrap_or_default();
            let aside = self.path().join(NEW_LAST);
            let last = self.checkpoints().join(LAST);
            if fs::symlink_metadata(&last).is_ok_and(|metadata| metadata.is_dir()) {
                self.set_checkpoint_aside(&last)?;
            }
            if std::os::unix::fs::symlink(name, &aside).is_ok() {
                let renamed = fs::rename(&aside, &last).inspect_err(|_| {
                    // Report the error of the rename.
                    let _ = fs::remove_file(&aside);
                });
                renamed.map_err(vit_files::Error::io("replace", &last))?;
            }
        }
        #[cfg(not(unix))]
        let _ = checkpoint;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    const MOST: u64 = 1000;
    const FILES: [(&str, &[u8]); 4] =
        [(CONFIG, b"x = 1\n"), (MODEL, b"1"), (STATE, b"{}"), (TENSORS, b"2")];

    fn run() -> (TempDir, RunFolder) {
        let above = tempfile::tempdir().expect("a temporary folder");
        let run = RunFolder::create(&above.path().join("run"), &[]).expect("a writable folder");
        (above, run)
    }

    fn write(run: &RunFolder, step: u64) -> PathBuf {
        run.write_checkpoint(step, &FILES).expect("a writable folder")
    }

    #[test]
    fn the_newest_come_first_and_the_oldest_are_removed() {
        let (_above, run) = run();
        assert!(newest_checkpoints(run.path()).expect("none").is_empty());
        for step in [5, 1_000_000, 20] {
            run.point_last_to(&write(&run, step)).expect("a writable folder");
        }
        fs::create_dir(run.checkpoints().join("step-7")).expect("a writable folder");
        let names = || -> Vec<String> {
            let paths = newest_checkpoints(run.path()).expect("a readable folder");
            let name = |path: &PathBuf| path.file_name().expect("a name").display().to_string();
            paths.iter().map(name).collect()
        };
        assert_eq!(names(), ["step-1000000", "step-000020", "step-000005"]);
        // A copy that followed links.
        #[cfg(unix)]
        {
            let last = run.checkpoints().join(LAST);
            fs::remove_file(&last).expect("the link");
            fs::create_dir(&last).expect("a writable folder");
            fs::write(last.join(STATE), "{}").expect("a writable folder");
            run.point_last_to(&run.checkpoints().join(name_of(1_000_000))).expect("a link again");
            assert!(last.is_symlink());
            assert!(run.checkpoints().join("aside-last").join(STATE).exists());
        }
        run.prune_checkpoints(2).expect("a writable folder");
        assert_eq!(names(), ["step-1000000", "step-000020"]);
        #[cfg(unix)]
        check_checkpoint(&run.checkpoints().join(LAST), MOST).expect("the newest");
    }

    #[test]
    fn a_checkpoint_set_aside_keeps_its_files_but_is_not_listed() {
        let (_above, run) = run();
        for name in ["aside-step-000007", "aside-step-000007-2"] {
            let aside = run.set_checkpoint_aside(&write(&run, 7)).expect("a writable folder");
            assert_eq!(aside, run.checkpoints().join(name));
            check_checkpoint(&aside, MOST).expect("as it was");
            assert!(newest_checkpoints(run.path()).expect("a readable folder").is_empty());
        }
    }

    #[test]
    fn a_checkpoint_missing_any_of_its_files_is_an_error() {
        let (_above, run) = run();
        for (name, _) in FILES {
            let others: Vec<_> = FILES.into_iter().filter(|(other, _)| *other != name).collect();
            let path = run.write_checkpoint(1, &others).expect("a writable folder");
            let error = check_checkpoint(&path, MOST).expect_err("a file is missing");
            assert!(error.is_damage() && error.to_string().contains(name), "{error}");
        }
    }
}
