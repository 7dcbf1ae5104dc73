//! What of a dataset is on disk, and whether it is what was published.

use std::io;
use std::path::Path;

use crate::check::{check_packed, check_plain, unpacked_digest};
use crate::{Checksum, Error, Mismatch, Source, SourceFile};

/// What of a dataset is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Every file is there and is the published one.
    Verified,
    /// Files are missing; those that are there are the published ones.
    Incomplete {
        /// The names of the missing files.
        missing: Vec<&'static str>,
    },
}

/// Checks what of a dataset is in its folder, which is only read.
///
/// A file may be plain or a `.gz`. Where both are there the plain one is checked, since that is the
/// one that is read; if only the digest of the `.gz` is known, the `.gz` must hold the same bytes.
///
/// # Errors
/// [`Error::Altered`] when a file is not the published one, [`Error::Unverifiable`] when that
/// cannot be told, and [`Error::Files`] when the disk refuses.
pub fn verify(source: &Source, folder: &Path) -> Result<Presence, Error> {
    let mut missing = Vec::new();
    for file in source.files {
        if !verify_file(file, folder)? {
            missing.push(file.name);
        }
    }
    Ok(if missing.is_empty() { Presence::Verified } else { Presence::Incomplete { missing } })
}

/// Whether the file is there; an error where it is and is not the published one.
pub(crate) fn verify_file(file: &SourceFile, folder: &Path) -> Result<bool, Error> {
    let plain = folder.join(file.name);
    let packed = folder.join(file.packed_name());
    match (file.sha256, exists(&plain)?, exists(&packed)?) {
        (_, false, false) => return Ok(false),
        (_, false, true) => accept(&packed, check_packed(file, &packed, &mut io::sink()))?,
        (Checksum::Unpacked(sha256), true, _) => accept(&plain, check_plain(file, &plain, sha256))?,
        (Checksum::Packed(_), true, true) => {
            accept(&packed, check_packed(file, &packed, &mut io::sink()))?;
            let sha256 = accept(&packed, unpacked_digest(file, &packed))?;
            accept(&plain, check_plain(file, &plain, sha256))?;
        }
        (Checksum::Packed(_), true, false) => return Err(Error::Unverifiable { path: plain }),
    }
    Ok(true)
}

fn exists(path: &Path) -> Result<bool, Error> {
    Ok(path.try_exists().map_err(vit_files::Error::io("look for", path))?)
}

/// Turns a file that is not the published one into an error that names it.
fn accept<T>(
    path: &Path,
    checked: Result<Result<T, Mismatch>, vit_files::Error>,
) -> Result<T, Error> {
    checked?.map_err(|mismatch| Error::Altered { path: path.to_path_buf(), mismatch })
}
