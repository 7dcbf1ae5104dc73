//! Which files of a dataset are on disk, and whether they are the published ones.

use std::io;
use std::path::Path;

use crate::check::{check_packed, check_plain, unpacked_digest};
use crate::{Checksum, Error, Mismatch, Source, SourceFile};

/// Which files of a dataset are on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Every file exists and is the published one.
    Verified,
    /// Files are missing; the existing ones are the published ones.
    Incomplete {
        /// The names of the missing files.
        missing: Vec<&'static str>,
    },
}

/// Checks a dataset's folder, which is only read.
///
/// A file may be plain or a `.gz`. If both exist, the plain one is checked, because it is the one that is read. If only
/// the
/// `.gz`'s digest is known, the `.gz` must hold the same bytes.
///
/// # Errors
/// [`Error::Altered`] if a file is not the published one, [`Error::Unverifiable`] if that is unknown, and
/// [`Error::Files`] if the disk fails.
pub fn verify(source: &Source, folder: &Path) -> Result<Presence, Error> {
    let mut missing = Vec::new();
    for file in source.files {
        if !verify_file(file, folder)? {
            missing.push(file.name);
        }
    }
    Ok(if missing.is_empty() { Presence::Verified } else { Presence::Incomplete { missing } })
}

/// Whether the file exists. An existing file that is not the published one is an error.
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

/// Converts a mismatch into an error that names the file.
fn accept<T>(
    path: &Path,
    checked: Result<Result<T, Mismatch>, vit_files::Error>,
) -> Result<T, Error> {
    checked?.map_err(|mismatch| Error::Altered { path: path.to_path_buf(), mismatch })
}
