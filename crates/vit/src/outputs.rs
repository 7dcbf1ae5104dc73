//! Where a command writes what its user names: the one place that decides whether it may, before any work is done.
//!
//! An output is never a file that the command reads, nor one of a run. A file that exists is replaced only where that was
//! asked for. Links are followed and stay, pipes and devices are written through.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vit_files::{FileId, Target, create_atomically, write_atomically, write_through};

use vit_run::{CHECKPOINTS, CONFIG, ENVIRONMENT, LOCK, METRICS, STATE, TENSORS};

use crate::failure::{Exit, Failure, Result};
use crate::output;
#[cfg(unix)]
use crate::terminal::stdout;

/// What becomes of a file that lies where an output is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It stays, and the command is refused.
    Kept,
    Replaced,
}

impl Existing {
    pub(crate) const fn of_flag(force: bool) -> Self {
        if force { Self::Replaced } else { Self::Kept }
    }
}

/// Whether an output may replace a file.
#[derive(Debug, clap::Args)]
pub(crate) struct Force {
    /// Replace the output if it exists; a file that the command reads, or one of a run, is never replaced
    #[arg(long, requires = "output")]
    force: bool,
}

impl Force {
    pub(crate) const fn existing(&self) -> Existing {
        Existing::of_flag(self.force)
    }
}

/// The files that a command reads.
pub(crate) struct Inputs(Vec<FileId>);

impl Inputs {
    /// These files, and the files in these folders. What cannot be looked at is told by who reads it.
    pub(crate) fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut files = Vec::new();
        for path in paths {
            if path.is_dir() {
                let entries = fs::read_dir(path).into_iter().flatten().flatten();
                files.extend(entries.map(|entry| entry.path()));
            } else {
                files.push(path.to_owned());
            }
        }
        let ids = files.iter().filter(|path| path.is_file()).map(|path| FileId::of(path));
        Self(ids.flatten().chain(stdin()).collect())
    }
}

/// The file that stdin comes from, if it is one: any command may read it.
#[cfg(unix)]
fn stdin() -> Option<FileId> {
    use std::os::fd::AsFd;
    let stdin = fs::File::from(io::stdin().as_fd().try_clone_to_owned().ok()?);
    let metadata = stdin.metadata().ok()?;
    metadata.is_file().then(|| FileId::of_metadata(&metadata))
}

#[cfg(not(unix))]
fn stdin() -> Option<FileId> {
    None
}

/// A file, pipe or device that may be written.
#[derive(Debug)]
pub(crate) struct Output {
    /// As the user names it.
    path: PathBuf,
    target: Target,
    is_stdout: bool,
}

impl Output {
    /// Decides whether a file may be written.
    ///
    /// # Errors
    /// If not.
    pub(crate) fn new(path: &Path, inputs: &Inputs, existing: Existing) -> Result<Self> {
        let output = Self::in_any_folder(path, inputs, existing)?;
        if output.is_file()
            && let Some(folder) = output.target.path().parent()
        {
            fs::metadata(folder).map_err(vit_files::Error::io("write", path))?;
        }
        Ok(output)
    }

    /// The same where the folder may be missing.
    fn in_any_folder(path: &Path, inputs: &Inputs, existing: Existing) -> Result<Self> {
        let target = Target::of(path).map_err(vit_files::Error::io("write", path))?;
        let is_stdout = is_stdout(path);
        let refused = |why: String, hint: &str| {
            let message = format!("cannot write {}: {why}", path.display());
            Err(Failure::new(Exit::Usage, message).hint(hint))
        };
        if let Target::File(_) = target
            && FileId::of(path).is_ok_and(|file| inputs.0.contains(&file))
        {
            return refused("this command reads it".to_owned(), "name another file to write");
        }
        if !matches!(target, Target::Device(_))
            && let Some(run) = run_around(target.path())
        {
            let why = format!("{} is the folder of a run", run.display());
            return refused(why, "name a file outside of it");
        }
        match &target {
            Target::Folder(_) => {
                let message =
                    format!("cannot write {}: expected a file, got a folder", path.display());
                return Err(Failure::new(Exit::File, message));
            }
            Target::File(_) if !is_stdout && existing == Existing::Kept => {
                let hint = "pass --force to replace it, or name another file";
                return refused("it exists".to_owned(), hint);
            }
            _ => {}
        }
        target.check_writable().map_err(vit_files::Error::io("write", path))?;
        Ok(Self { path: path.to_owned(), target, is_stdout })
    }

    /// Whether it is a regular file, so that it may have to have a name of some kind.
    pub(crate) fn is_file(&self) -> bool {
        !self.is_stdout && matches!(self.target, Target::File(_) | Target::Absent(_))
    }

    /// Writes it: a file whole or not at all. It may be written again.
    ///
    /// # Errors
    /// If the system refuses, or a file was made there meanwhile.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.is_stdout {
            return write_stdout(bytes).map_err(|error| output::unwritable(&error));
        }
        match &self.target {
            Target::File(real) => write_atomically(real, bytes).map_err(|error| self.named(error)),
            Target::Absent(real) => {
                create_atomically(real, bytes).map_err(|error| self.named(error))?;
                self.target = Target::File(real.clone());
                Ok(())
            }
            Target::Folder(path) | Target::Device(path) => {
                Ok(write_through(path, bytes).map_err(vit_files::Error::io("write", &self.path))?)
            }
        }
    }

    /// The error with the name that the user knows.
    fn named(&self, error: vit_files::Error) -> Failure {
        match error {
            vit_files::Error::Io { operation, path, source } if path == self.target.path() => {
                vit_files::Error::io(operation, &self.path)(source).into()
            }
            error => error.into(),
        }
    }
}

/// A folder of files that may be written. It may be missing, and those above it.
#[derive(Debug)]
pub(crate) struct OutputFolder {
    path: PathBuf,
    files: Vec<Output>,
}

impl OutputFolder {
    /// Decides whether files of these names may be written in a folder.
    ///
    /// # Errors
    /// If not.
    pub(crate) fn new(
        path: &Path,
        names: &[&str],
        inputs: &Inputs,
        existing: Existing,
    ) -> Result<Self> {
        if let Ok(Target::File(_) | Target::Device(_)) = Target::of(path) {
            let message =
                format!("cannot write into {}: expected a folder, got a file", path.display());
            return Err(Failure::new(Exit::File, message));
        }
        let files =
            names.iter().map(|name| Output::in_any_folder(&path.join(name), inputs, existing));
        Ok(Self { path: path.to_owned(), files: files.collect::<Result<_>>()? })
    }

    /// Writes the files, in the order of their names.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) fn write(self, contents: &[&[u8]]) -> Result<()> {
        fs::create_dir_all(&self.path).map_err(vit_files::Error::io("create", &self.path))?;
        self.files.into_iter().zip(contents).try_for_each(|(mut file, bytes)| file.write(bytes))
    }
}

/// Refuses a folder in that of a run, as the one of a new run or of data; `flag` names it.
///
/// # Errors
/// If it would lie there.
pub(crate) fn check_outside_of_runs(path: &Path, flag: &str) -> Result<()> {
    // A path that leads nowhere is told by who makes the folder.
    let Ok(target) = Target::of(path) else { return Ok(()) };
    match run_around(target.path()) {
        None => Ok(()),
        Some(run) => {
            let message = format!(
                "cannot write {}: {} is the folder of a run",
                path.display(),
                run.display()
            );
            Err(Failure::new(Exit::Usage, message).hint(format!("pass a {flag} outside of it")))
        }
    }
}

/// The folder of the run or checkpoint that a real path lies in, as seen from the current folder where it lies below it.
fn run_around(path: &Path) -> Option<PathBuf> {
    let is_run = |folder: &&Path| {
        let holds = |name: &str| folder.join(name).exists();
        let parts = [CONFIG, METRICS, ENVIRONMENT, CHECKPOINTS, STATE, TENSORS, LOCK];
        // A run that lacks a file is one all the same.
        (holds(CONFIG) || holds(METRICS) || holds(STATE))
            && parts.into_iter().filter(|name| holds(name)).count() > 1
    };
    // The outermost: of a checkpoint, its run.
    let run = path.ancestors().skip(1).filter(is_run).last()?;
    let here = std::env::current_dir().and_then(fs::canonicalize).unwrap_or_default();
    let below = run.strip_prefix(here).ok().filter(|below| !below.as_os_str().is_empty());
    Some(below.unwrap_or(run).to_owned())
}

/// Whether a path leads to stdout, such as `/dev/stdout`: opened anew, a file that stdout goes to would be written from its
/// beginning again.
#[cfg(unix)]
fn is_stdout(path: &Path) -> bool {
    let stdout = stdout::file().and_then(|stdout| stdout.metadata());
    let id = |metadata| FileId::of_metadata(&metadata);
    matches!((stdout.map(id), FileId::of(path)), (Ok(stdout), Ok(file)) if stdout == file)
}

#[cfg(unix)]
fn write_stdout(bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    // As they are: results that are text are printed elsewhere.
    stdout::file()?.write_all(bytes)
}

#[cfg(not(unix))]
fn is_stdout(_path: &Path) -> bool {
    false
}

#[cfg(not(unix))]
fn write_stdout(_bytes: &[u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
