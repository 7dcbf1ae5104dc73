//! Reading pictures from files, folders and stdin.

use std::fs;
use std::io::{self, IsTerminal, Read, Seek};
use std::path::{Path, PathBuf};

use vit_files::open_file;
use vit_pictures::{Error, MOST_BYTES, file_bytes};

use crate::failure::{Exit, Failure, Result};

/// Stands for stdin on the command line.
const STDIN: &str = "-";

/// The pictures that an argument means: the file itself, or the pictures in the folder, sorted by name.
///
/// # Errors
/// If it is a folder that cannot be read or has no pictures.
pub(crate) fn expand(path: &Path) -> Result<Vec<PathBuf>> {
    if path == Path::new(STDIN) || !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(|error| unreadable(path, &error))?;
    let paths = entries.into_iter().map(|entry| entry.path());
    let (mut pictures, others): (Vec<PathBuf>, Vec<PathBuf>) =
        paths.partition(|path| is_named_as_picture(path) && path.is_file());
    if pictures.is_empty() {
        let message = format!("no pictures in {}", path.display());
        return Err(Failure::new(Exit::Data, message)
            .hint("it takes files that end in .png, .jpg, .jpeg, .jpe, .jfif, .webp, .gif or .bmp, not subfolders"));
    }
    pictures.sort();
    if !others.is_empty() {
        let (count, of) = (others.len(), pictures.len() + others.len());
        tracing::info!(
            "{}: skipped {count} of {of} entries, which are not pictures",
            path.display()
        );
    }
    Ok(pictures)
}

/// By extension, because other files in a folder are not opened. Hidden files, such as `._1.png`, belong to the system.
fn is_named_as_picture(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let end = path.extension().map(|end| end.to_string_lossy().to_lowercase());
    !hidden && end.is_some_and(|end| ENDS.contains(&end.as_str()))
}

const ENDS: [&str; 8] = ["png", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp"];

/// A picture's bytes and display name.
pub(crate) struct NamedPicture {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// The picture in a file, or all concatenated pictures on stdin.
///
/// # Errors
/// If it cannot be read, or is too long.
pub(crate) fn read(path: &Path) -> Result<Vec<NamedPicture>> {
    let bytes = bytes(path)?;
    let name = path.display().to_string();
    if path != Path::new(STDIN) {
        return Ok(vec![NamedPicture { name, bytes }]);
    }
    let (mut pictures, mut rest) = (Vec::new(), bytes.as_slice());
    loop {
        let (first, others) = rest.split_at(vit_pictures::length_of_first(rest));
        let name = match pictures.len() {
            0 => name.clone(),
            before => format!("{name}:{}", before + 1),
        };
        pictures.push(NamedPicture { name, bytes: first.to_vec() });
        if others.is_empty() {
            return Ok(pictures);
        }
        rest = others;
    }
}

/// The content of the file, or of stdin.
///
/// # Errors
/// If it cannot be read, or is too long.
fn bytes(path: &Path) -> Result<Vec<u8>> {
    let read = if path == Path::new(STDIN) {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            let message = "expected a picture on stdin, which is a terminal";
            return Err(Failure::new(Exit::Usage, message).hint("vit predict MODEL - < digit.png"));
        }
        // Its length is unknown until its end.
        tempfile::tempfile().and_then(|mut file| {
            io::copy(&mut stdin.lock().take(MOST_BYTES + 1), &mut file)?;
            file.rewind()?;
            Ok(file)
        })
    } else if path.is_dir() {
        let failure = Failure::new(Exit::Usage, "expected one picture, got a folder");
        return Err(failure
            .hint("pass one of its pictures; `vit predict` takes folders")
            .about(path.display()));
    } else {
        open_file(path)
    };
    let file = read.map_err(|error| unreadable(path, &error))?;
    file_bytes(file).map_err(|error| match error {
        Error::Io(error) => unreadable(path, &error),
        error => Failure::from(error).about(path.display()),
    })
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new(Exit::Data, format!("cannot read {}: {error}", path.display()));
    match error.kind() {
        io::ErrorKind::NotFound => failure.hint("check the path"),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_recognised_by_extension() {
        for name in ["a.png", "in/b.JPG", "c.d.jpeg", "e.webp", "f.jfif", "g.JPE"] {
            assert!(is_named_as_picture(Path::new(name)), "{name}");
        }
        for name in ["png", "a.txt", ".png", "._a.png", "a.png.gz"] {
            assert!(!is_named_as_picture(Path::new(name)), "{name}");
        }
    }
}
