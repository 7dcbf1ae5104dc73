//! A file of pictures of any size, read by index.
//!
//! ```text
//! header    magic (8 bytes), key (32), number of entries (8)
//! pictures  pixels (height, width, channels), one after the other
//! index     for each entry: offset (8), height (4), width (4), channels (4), CRC-32 of the pixels (4)
//! footer    CRC-32 of header and index (4), magic (8)
//! ```
//!
//! Numbers are little-endian. The entry of a skipped picture is all zeros.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use vit_files::{Digest, open_file, write_atomically_with};

use crate::{Error, Picture};

const MAGIC: [u8; 8] = *b"vitpics1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
const FOOTER: usize = 12;

/// Pictures decoded per thread before a chunk is written.
const CHUNK: usize = 16;

/// A file of pictures, open for reading by any number of threads.
///
/// ```
/// use std::ops::ControlFlow;
/// use vit_files::Digest;
/// use vit_pictures::{Cache, Error, Picture};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("pictures");
/// let key = Digest::of_bytes(b"source files and settings");
/// let grey = |index: usize| Picture::new(vec![index as u8; 6], 1, (2, 3));
/// let cache = Cache::make(&path, &key, 10, |index| grey(index).map(Some), |_| ControlFlow::Continue(()))?;
/// assert_eq!(cache.get(7)?, Some(grey(7)?));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct Cache {
    path: PathBuf,
    file: File,
    entries: Vec<Entry>,
}

/// Position and shape of a picture; no channels if it was skipped.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    offset: u64,
    height: u32,
    width: u32,
    channels: u32,
    sum: u32,
}

impl Cache {
    /// Builds the file at `path` from `count` pictures and opens it. `picture` makes one from its index, or returns
    /// `None` to skip it.
    ///
    /// The threads of rayon's current pool make about 16 pictures each, which are then written in the order of their
    /// indices, so the file's bytes depend on the pictures alone. After each such chunk `progress` receives the number
    /// of pictures made so far, and may stop. `key` identifies the sources and settings; [`open`](Self::open) requires
    /// the same key.
    ///
    /// # Errors
    /// If `picture` fails (the error of the smallest index in its chunk), `progress` stops, or the file cannot be
    /// written. Any earlier file at `path` is then unchanged.
    pub fn make<E: From<Error> + Send>(
        path: &Path,
        key: &Digest,
        count: usize,
        picture: impl Fn(usize) -> Result<Option<Picture>, E> + Sync,
        mut progress: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Self, E> {
        let mut failure = None;
        let written = write_atomically_with(path, |file| {
            let header = header(key, count);
            file.write_all(&header)?;
            let mut index = Vec::with_capacity(count * ENTRY);
            let mut offset = HEADER as u64;
            let chunk = CHUNK * rayon::current_num_threads();
            for first in (0..count).step_by(chunk) {
                let indices = first..(first + chunk).min(count);
                let done = indices.end;
                let made: Vec<_> =
                    indices.into_par_iter().map(|at| picture(at).map(summed)).collect();
                for made in made {
                    match made {
                        Ok(Some((picture, sum))) => {
                            Entry::of(&picture, offset, sum).write(&mut index);
                            offset += picture.pixels().len() as u64;
                            file.write_all(picture.pixels())?;
                        }
                        Ok(None) => Entry::default().write(&mut index),
                        Err(error) => {
                            failure = Some(error);
                            return Err(io::ErrorKind::Interrupted.into());
                        }
                    }
                }
                if progress(done).is_break() {
                    failure = Some(Error::Stopped.into());
                    return Err(io::ErrorKind::Interrupted.into());
                }
            }
            file.write_all(&index)?;
            file.write_all(&footer(&header, &index))
        });
        match (failure, written) {
            (Some(failure), _) => Err(failure),
            (None, written) => {
                written.map_err(Error::from)?;
                Ok(Self::open(path, key, count)?)
            }
        }
    }

    /// Opens a file built by [`make`](Self::make) from `count` pictures with this key. Reads and checks its index, 24
    /// bytes a picture; each picture is checked when it is read.
    ///
    /// # Errors
    /// If there is no such file, it is truncated or damaged, or it has another key or number of pictures.
    pub fn open(path: &Path, key: &Digest, count: usize) -> Result<Self, Error> {
        let wrong = |expected: String, got: String| {
            Err(Error::Cache { path: path.to_owned(), expected, got })
        };
        let io = |error| Error::from(vit_files::Error::io("read", path)(error));
        let file = open_file(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let rest = (HEADER + FOOTER) as u64;
        let index = (count as u64).saturating_mul(ENTRY as u64);
        let mut found = [0; HEADER];
        let header = header(key, count);
        if length < rest {
            return wrong("a cache of pictures".to_owned(), format!("{length} bytes"));
        }
        read_at(&file, &mut found, 0).map_err(io)?;
        if found[..8] != MAGIC {
            return wrong("a cache of pictures".to_owned(), "another file".to_owned());
        }
        if found[..40] != header[..40] {
            return wrong(
                "the cache of these pictures and settings".to_owned(),
                "one with another key".to_owned(),
            );
        }
        let of = u64::from_le_bytes(found[40..].try_into().expect("8 bytes"));
        if of != count as u64 {
            return wrong(format!("{count} pictures"), of.to_string());
        }
        let cut = || wrong("a whole cache of pictures".to_owned(), "a truncated one".to_owned());
        let Some(begin) = length.checked_sub(index.saturating_add(FOOTER as u64)) else {
            return cut();
        };
        let mut index = vec![0; count * ENTRY];
        read_at(&file, &mut index, begin).map_err(io)?;
        let mut end = [0; FOOTER];
        read_at(&file, &mut end, length - FOOTER as u64).map_err(io)?;
        if end[4..] != MAGIC {
            return cut();
        }
        let entries: Vec<Entry> = index.as_chunks().0.iter().map(Entry::read).collect();
        let valid = HEADER as u64..=begin;
        let fits = |entry: &Entry| {
            let end = entry.offset.saturating_add(entry.len());
            entry.channels == 0 || valid.contains(&entry.offset) && valid.contains(&end)
        };
        if end != footer(&header, &index) || !entries.iter().all(fits) {
            return wrong(
                "an index with the right checksum".to_owned(),
                "a damaged one".to_owned(),
            );
        }
        Ok(Self { path: path.to_owned(), file, entries })
    }

    /// Number of pictures, skipped ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Height and width of a picture; `None` if it was skipped.
    ///
    /// # Panics
    /// If `index` is out of range.
    #[must_use]
    pub fn size(&self, index: usize) -> Option<(usize, usize)> {
        let entry = self.entries[index];
        (entry.channels > 0).then_some((entry.height as usize, entry.width as usize))
    }

    /// Height and width of a picture and the CRC-32 of its pixels; `None` if it was skipped.
    ///
    /// # Panics
    /// If `index` is out of range.
    #[must_use]
    pub fn sum(&self, index: usize) -> Option<((usize, usize), u32)> {
        self.size(index).map(|size| (size, self.entries[index].sum))
    }

    /// Reads a picture and verifies its checksum; `None` if it was skipped.
    ///
    /// # Errors
    /// If it cannot be read, or its checksum is wrong.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn get(&self, index: usize) -> Result<Option<Picture>, Error> {
        let entry = self.entries[index];
        let Some((height, width)) = self.size(index) else { return Ok(None) };
        let mut pixels = vec![0; entry.len() as usize];
        let read = read_at(&self.file, &mut pixels, entry.offset);
        read.map_err(vit_files::Error::io("read", &self.path))?;
        if crc32fast::hash(&pixels) != entry.sum {
            return Err(Error::Cache {
                path: self.path.clone(),
                expected: format!("picture {index} with the right checksum"),
                got: "a damaged one".to_owned(),
            });
        }
        Picture::new(pixels, entry.channels as usize, (height, width)).map(Some)
    }
}

/// A picture with its checksum.
fn summed(picture: Option<Picture>) -> Option<(Picture, u32)> {
    picture.map(|picture| {
        let sum = crc32fast::hash(picture.pixels());
        (picture, sum)
    })
}

fn header(key: &Digest, count: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..40].copy_from_slice(key.bytes());
    header[40..].copy_from_slice(&(count as u64).to_le_bytes());
    header
}

fn footer(header: &[u8], index: &[u8]) -> [u8; FOOTER] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(index);
    let mut footer = [0; FOOTER];
    footer[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
    footer[4..].copy_from_slice(&MAGIC);
    footer
}

impl Entry {
    fn of(picture: &Picture, offset: u64, sum: u32) -> Self {
        let (height, width) = picture.size();
        let [height, width, channels] = [height, width, picture.channels()].map(|n| n as u32);
        Self { offset, height, width, channels, sum }
    }

    fn len(self) -> u64 {
        let area = u64::from(self.height).saturating_mul(self.width.into());
        area.saturating_mul(self.channels.into())
    }

    fn write(self, index: &mut Vec<u8>) {
        index.extend(self.offset.to_le_bytes());
        for number in [self.height, self.width, self.channels, self.sum] {
            index.extend(number.to_le_bytes());
        }
    }

    fn read(bytes: &[u8; ENTRY]) -> Self {
        let (offset, rest) = bytes.split_first_chunk::<8>().expect("24 bytes");
        let number = |at: usize| u32::from_le_bytes(rest.as_chunks().0[at]);
        let [height, width, channels, sum] = [0, 1, 2, 3].map(number);
        Self { offset: u64::from_le_bytes(*offset), height, width, channels, sum }
    }
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn picture(index: usize) -> Picture {
        let (channels, height, width) = ([1, 3][index % 2], index % 5 + 1, index % 7 + 1);
        let pixels = (0..channels * height * width).map(|at| (at * 31 + index) as u8).collect();
        Picture::new(pixels, channels, (height, width)).unwrap()
    }

    fn key() -> Digest {
        Digest::of_bytes(b"these pictures")
    }

    /// Every tenth picture is skipped.
    fn made(path: &Path, count: usize) -> Result<Cache, Error> {
        let picture = |index| Ok((index % 10 != 9).then(|| picture(index)));
        Cache::make(path, &key(), count, picture, |_| ControlFlow::Continue(()))
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn any_thread_reads_pictures_and_thread_count_does_not_change_the_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let mut files = Vec::new();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let cache = pool.install(|| made(&path, 200)).unwrap();
            assert_eq!(cache.len(), 200);
            pool.install(|| {
                (0..200).into_par_iter().for_each(|index| {
                    let expected = (index % 10 != 9).then(|| picture(index));
                    assert_eq!(cache.size(index), expected.as_ref().map(Picture::size));
                    assert_eq!(cache.get(index).unwrap(), expected);
                });
            });
            files.push(fs::read(&path).unwrap());
        }
        assert_eq!(files[0], files[1]);
        assert!(made(&path, 0).unwrap().is_empty());
    }

    #[test]
    fn truncating_or_changing_a_cache_anywhere_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        drop(made(&path, 12).unwrap());
        let whole = fs::read(&path).unwrap();
        let read_all = || {
            let cache = Cache::open(&path, &key(), 12)?;
            (0..12).try_for_each(|index| cache.get(index).map(drop))
        };
        read_all().unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let error = read_all().unwrap_err().to_string();
            assert!(error.contains("cache: expected "), "{length}: {error}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 4;
            fs::write(&path, changed).unwrap();
            assert!(read_all().is_err(), "{at}");
        }
        fs::write(&path, [&whole[..], b"more"].concat()).unwrap();
        assert!(read_all().is_err());
    }

    #[test]
    fn opening_another_cache_or_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        drop(made(&path, 12).unwrap());
        let open = |key, count| Cache::open(&path, &key, count).unwrap_err().to_string();
        let named = format!("{}: expected ", path.display());
        assert_eq!(open(key(), 11), format!("{named}11 pictures, got 12"));
        let other = Digest::of_bytes(b"other pictures");
        assert_eq!(
            open(other, 12),
            format!("{named}the cache of these pictures and settings, got one with another key")
        );
        fs::write(&path, [7; 1000]).unwrap();
        assert_eq!(open(key(), 12), format!("{named}a cache of pictures, got another file"));
        fs::remove_file(&path).unwrap();
        assert_eq!(open(key(), 12), format!("cannot read {}", path.display()));
    }

    #[test]
    fn a_failing_picture_or_a_stop_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let fails = |index| if index < 57 { Ok(Some(picture(index))) } else { Err(Error::CutOff) };
        let go = |_| ControlFlow::Continue(());
        let failed = Cache::make(&path, &key(), 100, fails, go);
        assert!(matches!(failed, Err(Error::CutOff)));
        let ok = |index| Ok(Some(picture(index)));
        let stopped: Result<_, Error> =
            Cache::make(&path, &key(), 100, ok, |_| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(Error::Stopped)));
        assert!(names(folder.path()).is_empty());
    }

    /// The test re-runs itself under a file-size limit of 64 KiB.
    #[cfg(unix)]
    #[test]
    fn a_full_disk_is_an_error_and_leaves_no_file() {
        const FOLDER: &str = "VIT_PICTURES_FULL_DISK";
        if let Some(folder) = std::env::var_os(FOLDER) {
            let path = Path::new(&folder).join("cache");
            let error = made(&path, 10_000).unwrap_err().to_string();
            assert_eq!(error, format!("cannot write {}", path.display()));
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        // The shell counts blocks of 512 or 1024 bytes. With the signal ignored, the write fails instead.
        let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
        let output = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .arg("a_full_disk_is_an_error_and_leaves_no_file")
            .env(FOLDER, folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        assert!(names(folder.path()).is_empty());
    }
}
