//! Recognising other formats in place of a safetensors file.

use std::fmt;

/// The actual format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OtherFormat {
    /// A Git LFS pointer: the few lines that Git stores in place of a large file.
    LfsPointer,
    /// An HTML page, most likely of the site that hosts the file.
    Html,
    /// A file written by `torch.save`.
    Pickle,
    /// An ONNX graph.
    Onnx,
}

impl OtherFormat {
    /// Recognises a format by the first bytes.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let begin = bytes.trim_ascii_start();
        let begins = |with: &str| {
            begin.get(..with.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(with.as_bytes()))
        };
        if begins("version https://git-lfs") {
            Some(Self::LfsPointer)
        } else if begins("<!doctype html") || begins("<html") {
            Some(Self::Html)
        // A ZIP archive, or a bare pickle of protocol 2 to 5.
        } else if bytes.starts_with(b"PK\x03\x04") || matches!(bytes, [0x80, 2..=5, ..]) {
            Some(Self::Pickle)
        // The format version as field 1, then the producer as field 2.
        } else if matches!(bytes, [0x08, 1..=127, 0x12, ..]) {
            Some(Self::Onnx)
        } else {
            None
        }
    }
}

impl fmt::Display for OtherFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LfsPointer => "a Git LFS pointer",
            Self::Html => "an HTML page",
            Self::Pickle => "a pickle",
            Self::Onnx => "an ONNX graph",
        })
    }
}
