//! Bounded reading of untrusted input.

use std::io::{self, BufRead, ErrorKind, Read};

/// Reads a text of at most `bytes` bytes. A longer one is not read to its end.
///
/// # Errors
/// If it is longer, not UTF-8, or cannot be read.
pub fn text_of_at_most(bytes: u64, reader: impl Read) -> io::Result<String> {
    let mut text = Vec::new();
    reader.take(bytes.saturating_add(1)).read_to_end(&mut text)?;
    if text.len() as u64 > bytes {
        return Err(too_long(bytes));
    }
    if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] = text[..] {
        let message = "expected UTF-8, got UTF-16, which PowerShell's `>` writes: save it as UTF-8";
        return Err(io::Error::new(ErrorKind::InvalidData, message));
    }
    String::from_utf8(text)
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, format!("expected UTF-8: {error}")))
}

/// Iterates over lines with their line ends, each of at most so many bytes. The iterator ends after a longer line
/// ([`ErrorKind::InvalidData`]) or a read error.
pub fn lines_of_at_most(
    bytes: u64,
    mut reader: impl BufRead,
) -> impl Iterator<Item = io::Result<Vec<u8>>> {
    let mut has_ended = false;
    std::iter::from_fn(move || {
        let mut line = Vec::new();
        let read = match has_ended {
            true => Ok(0),
            false => (&mut reader).take(bytes.saturating_add(1)).read_until(b'\n', &mut line),
        };
        let line = match read {
            Ok(0) => return None,
            Ok(_) if line.len() as u64 > bytes => Err(too_long(bytes)),
            Ok(_) => Ok(line),
            Err(error) => Err(error),
        };
        has_ended = line.is_err();
        Some(line)
    })
}

fn too_long(bytes: u64) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("expected at most {bytes} bytes, got more"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_up_to_its_limit() {
        let read = |text: &[u8]| text_of_at_most(4, text).map_err(|error| error.to_string());
        assert_eq!(read("äöü".as_bytes()), Err("expected at most 4 bytes, got more".to_owned()));
        assert_eq!(read("äö".as_bytes()).as_deref(), Ok("äö"));
        assert!(read(b"a\xff").unwrap_err().starts_with("expected UTF-8"));
        assert!(read(b"\xff\xfea\0").unwrap_err().starts_with("expected UTF-8, got UTF-16"));
        assert!(text_of_at_most(4, io::repeat(b'a')).is_err());
    }

    #[test]
    fn lines_are_read_up_to_their_limit() {
        let read = |text: &'static [u8]| -> Vec<Result<String, String>> {
            let lines = lines_of_at_most(4, text);
            let said = lines.map(|line| line.map_err(|error| error.to_string()));
            said.map(|line| line.map(|line| String::from_utf8(line).unwrap())).collect()
        };
        let ok = |line: &str| Ok(line.to_owned());
        assert_eq!(read(b"abc\n\nde"), [ok("abc\n"), ok("\n"), ok("de")]);
        let long = Err("expected at most 4 bytes, got more".to_owned());
        assert_eq!(read(b"a\nbcde\nf\n"), [ok("a\n"), long]);
        assert_eq!(read(b""), []);
    }
}
