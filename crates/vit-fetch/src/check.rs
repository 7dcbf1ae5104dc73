//! Checks whether a file has the published bytes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use vit_files::{Digest, Hasher, open_file};

use crate::{Checksum, Mismatch, SourceFile};

/// The result of a check. The outer error is the disk's.
pub(crate) type Verdict = Result<Result<(), Mismatch>, vit_files::Error>;

/// Checks a `.gz`, and passes on the bytes of the known digest, unpacked or packed. They must not be used before the
/// verdict.
pub(crate) fn check_packed(file: &SourceFile, path: &Path, sink: &mut dyn Write) -> Verdict {
    match file.sha256 {
        Checksum::Unpacked(expected) => {
            Ok(read(path, Form::Gzip, file.len, sink)?.and_then(|got| {
                got.has_len(file.len)?;
                got.has_digest(expected)
            }))
        }
        Checksum::Packed(expected) => {
            let got = read(path, Form::Plain, file.longest_packed(), sink)?;
            Ok(got.and_then(|got| got.has_digest(expected)))
        }
    }
}

/// Checks an unpacked file against the digest of its bytes.
pub(crate) fn check_plain(file: &SourceFile, path: &Path, expected: Digest) -> Verdict {
    Ok(read(path, Form::Plain, file.len, &mut io::sink())?.and_then(|got| {
        got.has_len(file.len)?;
        got.has_digest(expected)
    }))
}

/// The digest of the unpacked bytes of a checked `.gz`.
pub(crate) fn unpacked_digest(
    file: &SourceFile,
    path: &Path,
) -> Result<Result<Digest, Mismatch>, vit_files::Error> {
    Ok(read(path, Form::Gzip, file.len, &mut io::sink())?.map(|got| got.digest))
}

/// Storage format of a file.
#[derive(Clone, Copy)]
enum Form {
    Plain,
    Gzip,
}

/// The measured bytes of a file.
struct Content {
    len: u64,
    digest: Digest,
}

impl Content {
    fn has_len(&self, expected: u64) -> Result<(), Mismatch> {
        // Reading stops if the content is too long.
        if self.len < expected {
            return Err(Mismatch::TooShort { expected, got: self.len });
        }
        Ok(())
    }

    fn has_digest(&self, expected: Digest) -> Result<(), Mismatch> {
        if self.digest != expected {
            return Err(Mismatch::Sha256 { expected, got: self.digest });
        }
        Ok(())
    }
}

/// Reads at most `limit` bytes of a file (a few kilobytes of gzip can hold gigabytes), and passes them on.
fn read(
    path: &Path,
    form: Form,
    limit: u64,
    sink: &mut dyn Write,
) -> Result<Result<Content, Mismatch>, vit_files::Error> {
    let file = open_file(path).map_err(vit_files::Error::io("open", path))?;
    let mut file = BufReader::with_capacity(1 << 16, file);
    let read = match form {
        Form::Plain => copy(&mut file, limit, sink),
        Form::Gzip => match not_gzip(&mut file) {
            Ok(None) => copy(&mut MultiGzDecoder::new(file), limit, sink),
            Ok(Some(mismatch)) => return Ok(Err(mismatch)),
            Err(error) => Err(error),
        },
    };
    match read {
        Ok(content) if content.len > limit => Ok(Err(Mismatch::TooLong { expected: limit })),
        Ok(content) => Ok(Ok(content)),
        // Errors of the disk carry the system's number, the decoder's do not.
        Err(error) if matches!(form, Form::Gzip) && error.raw_os_error().is_none() => {
            Ok(Err(Mismatch::DamagedGzip(error.to_string())))
        }
        Err(error) => Err(vit_files::Error::io("read", path)(error)),
    }
}

fn not_gzip(file: &mut impl BufRead) -> io::Result<Option<Mismatch>> {
    const MAGIC: &[u8] = &[0x1f, 0x8b];
    let start = file.fill_buf()?;
    Ok((!start.starts_with(MAGIC))
        .then(|| Mismatch::NotGzip { start: start[..start.len().min(16)].to_vec() }))
}

fn copy(from: &mut dyn Read, limit: u64, sink: &mut dyn Write) -> io::Result<Content> {
    // One byte over the limit reveals longer content.
    let mut from = from.take(limit + 1);
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    let mut len = 0;
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(Content { len, digest: hasher.finish() });
        }
        hasher.update(&buffer[..count]);
        sink.write_all(&buffer[..count])?;
        len += count as u64;
    }
}
