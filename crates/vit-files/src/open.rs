//! Opens regular files only: a pipe without a writer would block its reader forever.
//!
//! The file is opened without blocking and checked afterwards, so nothing can change between check and opening.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;

/// Opens a regular file for reading; links are followed. A folder, pipe or device is an error at once.
///
/// # Errors
/// If it is not a regular file ([`ErrorKind::InvalidInput`]), or cannot be opened.
pub fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    set_flags(&mut options, rustix::fs::OFlags::empty());
    open_regular(path, &options).map_err(|error| explained(error, fs::metadata(path)))
}

/// Opens one of the program's own files with these options. A symbolic link is an error, because it could lead
/// anywhere.
///
/// # Errors
/// If it is not a regular file ([`ErrorKind::InvalidInput`]), or cannot be opened.
pub fn open_own_file(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    #[cfg(unix)]
    set_flags(options, rustix::fs::OFlags::NOFOLLOW);
    #[cfg(not(unix))]
    if let Ok(metadata) = fs::symlink_metadata(path)
        && !metadata.is_file()
    {
        return Err(not_regular(metadata.file_type()));
    }
    open_regular(path, options).map_err(|error| explained(error, fs::symlink_metadata(path)))
}

#[cfg(unix)]
fn set_flags(options: &mut OpenOptions, others: rustix::fs::OFlags) {
    use std::os::unix::fs::OpenOptionsExt;

    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY | others;
    options.custom_flags(flags.bits().cast_signed());
}

fn open_regular(path: &Path, options: &OpenOptions) -> io::Result<File> {
    let file = options.open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() { Ok(file) } else { Err(not_regular(kind)) }
}

/// Explains the system's errors for a link, a pipe or a socket (`ELOOP`, `ENXIO`), which do not name what was found.
fn explained(error: io::Error, found: io::Result<fs::Metadata>) -> io::Error {
    match found {
        Ok(metadata) if !metadata.is_file() => not_regular(metadata.file_type()),
        _ => error,
    }
}

fn not_regular(kind: FileType) -> io::Error {
    let got = if kind.is_dir() {
        "folder"
    } else if kind.is_symlink() {
        "symbolic link"
    } else {
        "pipe, socket or device"
    };
    io::Error::new(ErrorKind::InvalidInput, format!("expected a regular file, got a {got}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[cfg(unix)]
    pub(crate) fn make_pipe(path: &Path) {
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(open_file(folder.path()).unwrap_err().kind(), ErrorKind::InvalidInput);
        let absent = open_file(&folder.path().join("absent")).unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::NotFound);
        #[cfg(unix)]
        {
            let pipe = folder.path().join("pipe");
            make_pipe(&pipe);
            for opened in [
                open_file(&pipe),
                open_own_file(&pipe, OpenOptions::new().write(true)),
                open_own_file(&pipe, OpenOptions::new().append(true)),
                open_file(Path::new("/dev/null")),
            ] {
                let error = opened.unwrap_err().to_string();
                assert_eq!(error, "expected a regular file, got a pipe, socket or device");
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_for_reading_only() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "text").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert_eq!(io::read_to_string(open_file(&link).unwrap()).unwrap(), "text");
        let mut truncate = OpenOptions::new();
        truncate.write(true).create(true).truncate(true);
        assert!(open_own_file(&link, &mut truncate).is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "text");
        open_own_file(&file, &mut truncate).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "");
    }
}
