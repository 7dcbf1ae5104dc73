//! Reading what somebody else may have written: no more than is asked for, and nothing that keeps its reader waiting.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Opens a file. What is none, such as a pipe that nobody writes to, is an error.
///
/// # Errors
/// If it is no file, or cannot be opened.
pub fn open_file(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_file() {
        return File::open(path);
    }
    Err(io::Error::new(ErrorKind::InvalidInput, "expected a file, got a folder, pipe or device"))
}

/// The whole text, which has at most so many bytes. A longer one is not read to its end.
///
/// # Errors
/// If it is longer, no UTF-8, or cannot be read.
pub fn text_of_at_most(bytes: u64, reader: impl Read) -> io::Result<String> {
    let mut text = Vec::new();
    reader.take(bytes.saturating_add(1)).read_to_end(&mut text)?;
    let invalid = |message: String| io::Error::new(ErrorKind::InvalidData, message);
    if text.len() as u64 > bytes {
        return Err(invalid(format!("expected at most {bytes} bytes, got more")));
    }
    String::from_utf8(text).map_err(|error| invalid(format!("expected UTF-8: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_up_to_its_limit_and_no_further() {
        let read = |text: &[u8]| text_of_at_most(4, text).map_err(|error| error.to_string());
        assert_eq!(read("äöü".as_bytes()), Err("expected at most 4 bytes, got more".to_owned()));
        assert_eq!(read("äö".as_bytes()).as_deref(), Ok("äö"));
        assert!(read(b"a\xff").unwrap_err().starts_with("expected UTF-8"));
        assert!(text_of_at_most(4, io::repeat(b'a')).is_err());
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(open_file(folder.path()).unwrap_err().kind(), ErrorKind::InvalidInput);
        let absent = open_file(&folder.path().join("absent")).unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::NotFound);
        #[cfg(unix)]
        {
            let pipe = folder.path().join("pipe");
            let made = std::process::Command::new("mkfifo").arg(&pipe).status();
            assert!(made.unwrap().success());
            assert_eq!(open_file(&pipe).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    }
}
