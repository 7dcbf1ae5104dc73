//! SHA-256 (FIPS 180-4), with the processor's instructions if it has them.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::{Error, open_file};

/// A SHA-256 digest. It prints as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Reads 64 hex digits of either case; `None` for anything else.
    ///
    /// It is `const`, so the compiler checks a table of digests:
    ///
    /// ```
    /// use vit_files::Digest;
    ///
    /// const EMPTY: Digest =
    ///     Digest::from_hex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    ///         .expect("64 hex digits");
    /// assert_eq!(Digest::of_bytes(b""), EMPTY);
    /// ```
    #[must_use]
    pub const fn from_hex(hex: &str) -> Option<Self> {
        let hex = hex.as_bytes();
        if hex.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        let mut i = 0;
        // Neither `for` nor `?` is const.
        while i < 32 {
            match (hex_value(hex[2 * i]), hex_value(hex[2 * i + 1])) {
                (Some(high), Some(low)) => bytes[i] = high << 4 | low,
                _ => return None,
            }
            i += 1;
        }
        Some(Self(bytes))
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest of `bytes`.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of a file's content, read in pieces.
    ///
    /// # Errors
    /// If the file cannot be opened or read.
    pub fn of_file(path: &Path) -> Result<Self, Error> {
        let mut file = open_file(path).map_err(Error::io("open", path))?;
        let mut hasher = Hasher::new();
        io::copy(&mut file, &mut hasher).map_err(Error::io("read", path))?;
        Ok(hasher.finish())
    }
}

const fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// Computes a digest of bytes written piece by piece.
///
/// ```
/// use std::io::Write;
/// use vit_files::{Digest, Hasher};
///
/// let mut hasher = Hasher::new();
/// hasher.write_all(b"a piece, ")?;
/// hasher.write_all(b"and another")?;
/// assert_eq!(hasher.finish(), Digest::of_bytes(b"a piece, and another"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Starts an empty digest.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all added bytes.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use super::*;

    /// FIPS 180-4's own example.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn digest_of_the_standards_example_prints_as_hex() {
        assert_eq!(Digest::of_bytes(b"abc").to_string(), ABC);
        assert_eq!(format!("{:?}", Digest::of_bytes(b"abc")), format!("Digest({ABC})"));
    }

    #[test]
    fn hex_of_either_case_is_parsed() {
        assert_eq!(Digest::from_hex(ABC), Some(Digest::of_bytes(b"abc")));
        assert_eq!(Digest::from_hex(&ABC.to_uppercase()), Some(Digest::of_bytes(b"abc")));
    }

    #[test]
    fn anything_but_64_hex_digits_is_rejected() {
        for hex in ["", &ABC[1..], &format!("{ABC}0"), &ABC.replacen('b', "g", 1)] {
            assert_eq!(Digest::from_hex(hex), None, "{hex}");
        }
    }

    #[test]
    fn file_digest_equals_digest_of_its_bytes() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..100_003_u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Digest::of_file(&path).unwrap(), Digest::of_bytes(&bytes));
    }

    #[test]
    fn missing_file_is_named() {
        let error = Digest::of_file(Path::new("no/such/file")).unwrap_err();
        assert_eq!(error.to_string(), "cannot open no/such/file");
    }
}
