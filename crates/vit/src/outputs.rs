//! Output files: the one place that decides, before any work, whether a command may write to a path.
//!
//! An output is never a file that the command reads, nor one inside a run directory. An existing file is replaced only
//! with --force. Symbolic links are followed and kept; pipes and devices are written through.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vit_files::{FileId, Target, create_atomically, write_atomically, write_through};

use vit_run::{CHECKPOINTS, CONFIG, ENVIRONMENT, LOCK, METRICS, STATE, TENSORS};

use crate::failure::{Exit, Failure, Result};
use crate::output;
#[cfg(unix)]
use crate::terminal::stdout;

/// What happens to an existing file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// The file is kept, and the command fails.
    Kept,
    Replaced,
}

impl Existing {
    pub(crate) const fn of_flag(force: bool) -> Self {
        if force { Self::Replaced } else { Self::Kept }
    }
}

/// The flag that allows overwriting.
#[derive(Debug, clap::Args)]
pub(crate) struct Force {
    /// Overwrite an existing output, but never an input file or a file of a run
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
    /// These files, and the files in these folders. Ignores errors; the command reports them when it reads.
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

/// The file behind stdin, if it is one: any command may read it.
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

/// A file, pipe or device that the command may write.
#[derive(Debug)]
pub(crate) struct Output {
    /// The user's own spelling.
    path: PathBuf,
    target: Target,
    is_stdout: bool,
}

impl Output {
    /// Checks that a path may be written.
    ///
    /// # Errors
    /// If it may not.
    pub(crate) fn new(path: &Path, inputs: &Inputs, existing: Existing) -> Result<Self> {
        let output = Self::in_any_folder(path, inputs, existing)?;
        if output.is_file()
            && let Some(folder) = output.target.path().parent()
        {
            fs::metadata(folder).map_err(vit_files::Error::io("write", path))?;
        }
        Ok(output)
    }

    /// Like [`new`](Self::new), but the parent folder may be missing.
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
            return refused("this command reads it".to_owned(), "choose another output file");
        }
        if !matches!(target, Target::Device(_))
            && let Some(run) = run_around(target.path())
        {
            let why = format!("{} is a run directory", run.display());
            return refused(why, "choose a file outside of it");
        }
        match &target {
            Target::Folder(_) => {
                let message =
                    format!("cannot write {}: expected a file, got a folder", path.display());
                return Err(Failure::new(Exit::File, message));
            }
            Target::File(_) if !is_stdout && existing == Existing::Kept => {
                let hint = "pass --force to overwrite it, or choose another file";
                return refused("it exists".to_owned(), hint);
            }
            _ => {}
        }
        target.check_writable().map_err(vit_files::Error::io("write", path))?;
        Ok(Self { path: path.to_owned(), target, is_stdout })
    }

    /// Whether it is a regular file, and so may need a certain extension.
    pub(crate) fn is_file(&self) -> bool {
        !self.is_stdout && matches!(self.target, Target::File(_) | Target::Absent(_))
    }

    /// Writes it; a file atomically. May be called again.
    ///
    /// # Errors
    /// If the system refuses, or the file was created in the meantime.
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

    /// The error with the user's own path.
    fn named(&self, error: vit_files::Error) -> Failure {
        match error {
            vit_files::Error::Io { operation, path, source } if path == self.target.path() => {
                vit_files::Error::io(operation, &self.path)(source).into()
            }
            error => error.into(),
        }
    }
}

/// A folder of output files; it may not exist yet.
#[derive(Debug)]
pub(crate) struct OutputFolder {
    path: PathBuf,
    files: Vec<Output>,
}

impl OutputFolder {
    /// Checks that files of these names may be written in a folder.
    ///
    /// # Errors
    /// If they may not.
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

/// Rejects a new run directory or data folder inside a run directory; `flag` names the option.
///
/// # Errors
/// If it would be inside one.
pub(crate) fn check_outside_of_runs(path: &Path, flag: &str) -> Result<()> {
    // An invalid path is reported when the folder is created.
    let Ok(target) = Target::of(path) else { return Ok(()) };
    match run_around(target.path()) {
        None => Ok(()),
        Some(run) => {
            let message =
                format!("cannot write {}: {} is a run directory", path.display(), run.display());
            Err(Failure::new(Exit::Usage, message).hint(format!("pass a {flag} outside of it")))
        }
    }
}

/// The run or checkpoint directory that contains a real path, relative to the current folder if possible.
fn run_around(path: &Path) -> Option<PathBuf> {
    let is_run = |folder: &&Path| {
        let holds = |name: &str| folder.join(name).exists();
        let parts = [CONFIG, METRICS, ENVIRONMENT, CHECKPOINTS, STATE, TENSORS, LOCK];
        // A run directory counts even if some files are missing.
        (holds(CONFIG) || holds(METRICS) || holds(STATE))
            && parts.into_iter().filter(|name| holds(name)).count() > 1
    };
    // The outermost: for a checkpoint, its run.
    let run = path.ancestors().skip(1).filter(is_run).last()?;
    let here = std::env::current_dir().and_then(fs::canonicalize).unwrap_or_default();
    let below = run.strip_prefix(here).ok().filter(|below| !below.as_os_str().is_empty());
    Some(below.unwrap_or(run).to_owned())
}

/// Whether a path leads to stdout, such as `/dev/stdout`: opening it anew would overwrite a file from its beginning.
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
