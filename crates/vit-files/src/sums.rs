//! Digests of a folder's files, in the format of `sha256sum`.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use crate::{Digest, Error, open_file, text_of_at_most};

/// The file with the digests of a folder's other files; `sha256sum --check` reads it too.
pub const SUMS: &str = "SHA256SUMS";

/// Longer than any that we write. A longer file is not read.
const MOST_BYTES: u64 = 64 * 1024;

/// Digests by file name.
pub(crate) type Sums = BTreeMap<String, Digest>;

/// One line per file, sorted by name.
pub(crate) fn render(sums: &Sums) -> String {
    sums.iter().map(|(name, digest)| format!("{digest}  {name}\n")).collect()
}

/// Parses the output of [`render`]. Any other byte is an error.
///
/// # Errors
/// [`Error::Altered`] if it is missing or invalid; [`Error::Io`] if it cannot be read now.
pub(crate) fn read(path: &Path) -> Result<Sums, Error> {
    let altered = |expected: &str, got: &str| Error::Altered {
        path: path.to_owned(),
        expected: expected.to_owned(),
        got: got.to_owned(),
    };
    let other_text = || altered("lines of a digest and a name, sorted", "something else");
    let text = open_file(path).and_then(|file| text_of_at_most(MOST_BYTES, file));
    let text = text.map_err(|error| match error.kind() {
        ErrorKind::NotFound => altered("a file", "none"),
        ErrorKind::InvalidData => other_text(),
        _ => Error::io("read", path)(error),
    })?;
    let sums = text.lines().map(|line| {
        let (digest, name) = line.split_once("  ")?;
        Some((name.to_owned(), Digest::from_hex(digest)?))
    });
    let sums: Option<Sums> = sums.collect();
    sums.filter(|sums| render(sums) == text).ok_or_else(other_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums() -> Sums {
        ["a", "b c"].map(|name| (name.to_owned(), Digest::of_bytes(name.as_bytes()))).into()
    }

    #[test]
    fn sums_round_trip_and_any_flipped_bit_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SUMS);
        let text = render(&sums()).into_bytes();
        std::fs::write(&path, &text).unwrap();
        assert_eq!(read(&path).unwrap(), sums());
        for bit in 0..8 * text.len() {
            let mut other = text.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, other).unwrap();
            assert!(read(&path).ok() != Some(sums()), "bit {bit} is not seen");
        }
    }

    #[test]
    fn invalid_text_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SUMS);
        for text in ["no sums", "\n", "0  a\n", "\u{0}"] {
            std::fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(SUMS), "{error}");
        }
    }
}
