//! Writes a folder of files atomically, and checks later that it is intact.
//!
//! The files go into a temporary folder, files and names are synced, the folder is renamed, and its name is synced.
//! [`SUMS`] holds their digests.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::atomic::folder_of;
use crate::sums::{self, SUMS, Sums};
use crate::temporary::Temporary;
use crate::{Digest, Error, system};

/// Writes a folder of these files to `path`, or leaves the old one. It is first written in `beside`, a folder on the
/// same file system, so `path` never shows a part of it. An existing folder is replaced; if power fails in that moment,
/// neither exists.
///
/// ```
/// # let run = tempfile::tempdir().unwrap();
/// # let run = run.path();
/// let path = run.join("checkpoint");
/// vit_files::write_folder_atomically(&path, run, &[("weights", b"12"), ("step", b"7")])?;
/// vit_files::check_folder(&path, &["weights", "step"], 1 << 20)?;
/// # Ok::<(), vit_files::Error>(())
/// ```
///
/// # Errors
/// If a system call fails. Nothing temporary is left then.
pub fn write_folder_atomically(
    path: &Path,
    beside: &Path,
    files: &[(&str, &[u8])],
) -> Result<(), Error> {
    let sums: Sums =
        files.iter().map(|(name, bytes)| ((*name).to_owned(), Digest::of_bytes(bytes))).collect();
    let sums = sums::render(&sums);
    let files = files.iter().copied().chain([(SUMS, sums.as_bytes())]);
    let temporary = write_temporary(path, beside, files)?;
    let aside = if fs::symlink_metadata(path).is_ok() {
        Some(Temporary::folder_in(beside).map_err(Error::io("write", path))?)
    } else {
        None
    };
    let swapped = temporary.into_place(|from| {
        let Some(aside) = &aside else { return system::rename(from, path) };
        let replaced = aside.path().join("replaced");
        system::rename(path, &replaced)?;
        system::rename(from, path).inspect_err(|_| {
            // The failed replacement is the error to report.
            let _ = fs::rename(&replaced, path);
        })
    });
    let operation = if aside.is_some() { "replace" } else { "create" };
    swapped.map_err(Error::io(operation, path))?;
    let above = folder_of(path);
    system::sync_folder(above).map_err(Error::io("sync", above))
}

/// Creates a folder of these files, or nothing. It must not exist; its parent must. It has no [`SUMS`], because its
/// files may change.
///
/// # Errors
/// If a system call fails. Nothing temporary is left then. If the folder exists, the source is
/// [`io::ErrorKind::AlreadyExists`].
pub fn create_folder_atomically(path: &Path, files: &[(&str, &[u8])]) -> Result<(), Error> {
    let exists = || Error::io("create", path)(io::ErrorKind::AlreadyExists.into());
    if fs::symlink_metadata(path).is_ok() {
        return Err(exists());
    }
    let above = folder_of(path);
    let temporary = write_temporary(path, above, files.iter().copied())?;
    let renamed = temporary.into_place(|from| system::rename(from, path));
    renamed.map_err(|error| match error.kind() {
        // Another process created one meanwhile.
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory => exists(),
        _ => Error::io("create", path)(error),
    })?;
    system::sync_folder(above).map_err(Error::io("sync", above))
}

/// Checks that these files, and all others in the folder's [`SUMS`], have the bytes that [`write_folder_atomically`]
/// wrote. Other files are ignored.
///
/// A file of more than `most_bytes` counts as altered and is not read.
///
/// # Errors
/// [`Error::Altered`] if a file is missing or has other bytes. Any other error means that the folder cannot be read
/// now, and says nothing about its content.
pub fn check_folder(path: &Path, files: &[&str], most_bytes: u64) -> Result<(), Error> {
    let sums = sums::read(&path.join(SUMS))?;
    if let Some(name) = files.iter().find(|&&name| !sums.contains_key(name)) {
        let (path, expected) = (path.join(SUMS), format!("the digest of {name}"));
        return Err(Error::Altered { path, expected, got: "none".to_owned() });
    }
    for (name, digest) in sums {
        let file = path.join(&name);
        let altered = |expected: String, got: &str| {
            Err(Error::Altered { path: file.clone(), expected, got: got.to_owned() })
        };
        // A listed path outside the folder is not opened.
        if Path::new(&name).file_name() != Some(name.as_ref()) {
            return altered("a file of the folder".to_owned(), "a path to another");
        }
        let length = match fs::symlink_metadata(&file) {
            Ok(metadata) if metadata.is_file() => metadata.len(),
            Ok(_) => return altered("a file".to_owned(), "something else"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return altered("a file".to_owned(), "none");
            }
            Err(error) => return Err(Error::io("read", &file)(error)),
        };
        if length > most_bytes {
            return altered(format!("at most {most_bytes} bytes"), &length.to_string());
        }
        let got = Digest::of_file(&file)?;
        if got != digest {
            return altered(format!("SHA-256 {digest}"), &got.to_string());
        }
    }
    Ok(())
}

/// A synced temporary folder in `beside`, ready to be renamed to `path`.
fn write_temporary<'a>(
    path: &Path,
    beside: &Path,
    files: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Result<Temporary, Error> {
    let temporary = Temporary::folder_in(beside).map_err(Error::io("write", path))?;
    for (name, bytes) in files {
        // Errors show the final name, not the temporary one.
        write_file(&temporary.path().join(name), bytes)
            .map_err(Error::io("write", &path.join(name)))?;
    }
    system::sync_folder(temporary.path()).map_err(Error::io("sync", path))?;
    Ok(temporary)
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    system::sync_file(&file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::PathBuf;
    use tempfile::TempDir;

    const MOST: u64 = 1000;

    /// A folder of two files, and its parent.
    fn written() -> (TempDir, PathBuf) {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("checkpoint");
        write_folder_atomically(&path, above.path(), &[("b", b"second"), ("a", b"first")]).unwrap();
        (above, path)
    }

    fn names_in(folder: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn listed_paths_outside_the_folder_are_not_read() {
        let (above, path) = written();
        let elsewhere = above.path().join("elsewhere");
        fs::write(&elsewhere, b"third").unwrap();
        for name in ["../elsewhere", elsewhere.to_str().unwrap()] {
            let mut sums = sums::read(&path.join(SUMS)).unwrap();
            sums.insert(name.to_owned(), Digest::of_bytes(b"third"));
            let (other, whole) = (sums::render(&sums), fs::read(path.join(SUMS)).unwrap());
            fs::write(path.join(SUMS), other).unwrap();
            let error = check_folder(&path, &["a", "b"], MOST).unwrap_err().to_string();
            assert!(
                error.ends_with("expected a file of the folder, got a path to another"),
                "{error}"
            );
            fs::write(path.join(SUMS), whole).unwrap();
        }
    }

    #[test]
    fn folder_is_written_whole_and_replaced() {
        let (above, path) = written();
        assert_eq!(names_in(&path), ["SHA256SUMS", "a", "b"].map(str::to_owned).into());
        check_folder(&path, &["a", "b"], MOST).unwrap();
        write_folder_atomically(&path, above.path(), &[("c", b"other")]).unwrap();
        check_folder(&path, &["c"], MOST).unwrap();
        assert_eq!(names_in(&path), ["SHA256SUMS", "c"].map(str::to_owned).into());
        assert_eq!(names_in(above.path()), ["checkpoint".to_owned()].into());
    }

    #[test]
    fn bytes_are_synced_before_the_folder_is_renamed() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("checkpoint");
        let write = || write_folder_atomically(&path, above.path(), &[("a", b"1")]).unwrap();
        let expected =
            ["sync file", "sync file", "sync folder", "rename to checkpoint", "sync folder"];
        assert_eq!(system::calls_of(write).1, expected);
    }

    #[test]
    fn failed_write_keeps_the_old_folder_only() {
        let (above, path) = written();
        let error = write_folder_atomically(&path, above.path(), &[("no/such", b"")]).unwrap_err();
        assert!(error.to_string().contains("checkpoint/no/such"), "{error}");
        check_folder(&path, &["a", "b"], MOST).unwrap();
        assert_eq!(names_in(above.path()), ["checkpoint".to_owned()].into());
    }

    #[test]
    fn new_folder_is_whole_and_replaces_nothing() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("run");
        create_folder_atomically(&path, &[("settings", b"1")]).unwrap();
        assert_eq!(names_in(&path), ["settings".to_owned()].into());
        for taken in [path, above.path().join("file")] {
            if !taken.exists() {
                fs::write(&taken, b"").unwrap();
            }
            let error = create_folder_atomically(&taken, &[]).unwrap_err();
            let Error::Io { source, .. } = error else { panic!("{error}") };
            assert_eq!(source.kind(), io::ErrorKind::AlreadyExists);
        }
        assert_eq!(names_in(above.path()), ["file", "run"].map(str::to_owned).into());
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let (_above, path) = written();
        for name in ["a", "b", SUMS] {
            let whole = fs::read(path.join(name)).unwrap();
            for bit in 0..8 * whole.len() {
                let mut other = whole.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                fs::write(path.join(name), other).unwrap();
                assert!(
                    check_folder(&path, &["a", "b"], MOST).is_err(),
                    "bit {bit} of {name} is not seen"
                );
            }
            fs::write(path.join(name), whole).unwrap();
        }
        check_folder(&path, &["a", "b"], MOST).unwrap();
    }

    #[test]
    fn any_truncation_is_found() {
        let (_above, path) = written();
        for name in ["a", "b", SUMS] {
            let whole = fs::read(path.join(name)).unwrap();
            for len in 0..whole.len() {
                fs::write(path.join(name), &whole[..len]).unwrap();
                assert!(
                    check_folder(&path, &["a", "b"], MOST).is_err(),
                    "{name} cut to {len} is not seen"
                );
            }
            fs::write(path.join(name), whole).unwrap();
        }
    }

    #[test]
    fn missing_file_is_named_and_unlisted_file_ignored() {
        let (_above, path) = written();
        for other in [".DS_Store", ".nfs0001", "notes.txt"] {
            fs::write(path.join(other), "of somebody else").unwrap();
        }
        fs::create_dir(path.join("@eaDir")).unwrap();
        check_folder(&path, &["a", "b"], MOST).unwrap();
        for name in ["a", SUMS] {
            let bytes = fs::read(path.join(name)).unwrap();
            fs::remove_file(path.join(name)).unwrap();
            let error = check_folder(&path, &["a", "b"], MOST).unwrap_err();
            assert!(matches!(error, Error::Altered { .. }), "{error}");
            let expected = format!("checkpoint/{name}: expected a file, got none");
            assert!(error.to_string().ends_with(&expected), "{error}");
            fs::write(path.join(name), bytes).unwrap();
        }
    }

    #[test]
    fn too_long_file_is_not_read() {
        let (_above, path) = written();
        let file = fs::File::options().write(true).open(path.join("a")).unwrap();
        // Sparse: one terabyte takes no space.
        file.set_len(1 << 40).unwrap();
        let error = check_folder(&path, &["a", "b"], MOST).unwrap_err().to_string();
        assert!(error.ends_with("a: expected at most 1000 bytes, got 1099511627776"), "{error}");
    }

    /// An unreadable file is not damaged.
    #[cfg(unix)]
    #[test]
    fn unreadable_file_is_not_reported_as_altered() {
        use std::os::unix::fs::symlink;
        let (_above, path) = written();
        let aside = path.with_file_name("aside");
        fs::rename(&path, &aside).unwrap();
        // A loop of links is an error for every user.
        symlink(&path, &path).unwrap();
        let error = check_folder(&path, &["a", "b"], MOST).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn permissions_follow_the_umask() {
        use std::os::unix::fs::PermissionsExt;
        let (above, path) = written();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
        fs::create_dir(above.path().join("plain")).unwrap();
        assert_eq!(mode(&path), mode(&above.path().join("plain")));
        fs::write(above.path().join("plain/file"), b"").unwrap();
        assert_eq!(mode(&path.join("a")), mode(&above.path().join("plain/file")));
    }
}
