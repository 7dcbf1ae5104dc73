//! Fetches a dataset's missing files from the first mirror that has them.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use vit_files::{FileLock, write_atomically};

use crate::check::check_packed;
use crate::client::{Client, Failure};
use crate::mirror::{Address, Mirror};
use crate::presence::verify_file;
use crate::{Attempt, Checksum, Error, Event, Options, Presence, Source, SourceFile, verify};

/// A successful fetch: every file exists and is the published one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything existed, or another process fetched it meanwhile.
    AlreadyThere,
    /// Files were downloaded.
    Downloaded {
        /// Their number.
        files: usize,
    },
}

/// Ensures that `folder` holds every file of a dataset, verified. Missing files are downloaded.
///
/// A complete folder is only read. Otherwise one process downloads, and the others wait. Mirrors are tried in turn, the
/// options' first. A download is checked before it gets the file's name; an interrupted one stays as a `.part` file and
/// is resumed.
///
/// # Errors
/// [`Error::Altered`] and [`Error::Unverifiable`] for an unusable existing file, [`Error::Download`] if no mirror had a
/// file, [`Error::Busy`] if another process takes too long, [`Error::Mirror`] for a malformed mirror, and
/// [`Error::Files`] if the disk fails.
pub fn fetch(
    source: &Source,
    folder: &Path,
    options: &Options,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, Error> {
    if verify(source, folder)? == Presence::Verified {
        return Ok(Outcome::AlreadyThere);
    }
    let deadline = Instant::now() + options.total;
    fs::create_dir_all(folder).map_err(vit_files::Error::io("create", folder))?;
    let _lock = lock(folder, options, deadline, on_event)?;
    let mut job = Job::new(source, folder, options, deadline, on_event)?;
    let mut files = 0;
    for file in source.files {
        // Another process may have fetched it while this one waited.
        if !verify_file(file, folder)? {
            job.fetch(file)?;
            files += 1;
        }
    }
    Ok(if files == 0 { Outcome::AlreadyThere } else { Outcome::Downloaded { files } })
}

/// Waits, with a time limit, until no other process fetches into the folder.
fn lock(
    folder: &Path,
    options: &Options,
    deadline: Instant,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<FileLock, Error> {
    let path = folder.join(".lock");
    let mut told = false;
    loop {
        if let Some(lock) = FileLock::try_acquire(&path)? {
            return Ok(lock);
        }
        if Instant::now() >= deadline {
            return Err(Error::Busy { folder: folder.to_path_buf(), waited: options.total });
        }
        if !told {
            on_event(Event::Waiting { folder });
            told = true;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The download of a dataset's files, under the folder's lock.
struct Job<'a> {
    dataset: &'static str,
    folder: &'a Path,
    client: Client,
    /// The end of the whole fetch.
    deadline: Instant,
    /// In the order to try.
    mirrors: VecDeque<Mirror>,
    on_event: &'a mut dyn FnMut(Event<'_>),
}

impl<'a> Job<'a> {
    fn new(
        source: &Source,
        folder: &'a Path,
        options: &'a Options,
        deadline: Instant,
        on_event: &'a mut dyn FnMut(Event<'_>),
    ) -> Result<Self, Error> {
        let mut mirrors: VecDeque<Mirror> = options.mirrors.iter().cloned().collect();
        for mirror in source.mirrors {
            mirrors.push_back(mirror.parse()?);
        }
        Ok(Self {
            dataset: source.name,
            folder,
            client: Client::new(options, deadline),
            deadline,
            mirrors,
            on_event,
        })
    }

    /// Installs a file from the first mirror that has it.
    fn fetch(&mut self, file: &SourceFile) -> Result<(), Error> {
        let mut attempts = Vec::new();
        for left in (1..=self.mirrors.len()).rev() {
            let address = self.mirrors[0].file(&file.packed_name());
            let now = Instant::now();
            // A mirror that never ends leaves time for the others.
            let until = now + self.deadline.saturating_duration_since(now) / left as u32;
            match self.fetch_from(&address, file, until) {
                Ok(bytes) => return self.install(file, &bytes),
                Err(Failure::Disk(error)) => return Err(error.into()),
                Err(Failure::Stopped(reason) | Failure::Spoilt(reason)) => {
                    let attempt = Attempt { url: address.shown, reason };
                    (self.on_event)(Event::MirrorFailed(&attempt));
                    attempts.push(attempt);
                    // Try it last for later files too, so a dead mirror costs its time once.
                    self.mirrors.rotate_left(1);
                }
            }
        }
        Err(Error::Download { dataset: self.dataset, file: file.name, attempts })
    }

    /// The checked bytes to install.
    fn fetch_from(
        &mut self,
        address: &Address,
        file: &SourceFile,
        until: Instant,
    ) -> Result<Vec<u8>, Failure> {
        let was_begun = self.part_of(file).exists();
        match self.attempt(address, file, until) {
            // The part may be the beginning of a differently packed file.
            Err(Failure::Spoilt(_)) if was_begun => self.attempt(address, file, until),
            result => result,
        }
    }

    /// Downloads and checks. Wrong bytes are deleted.
    fn attempt(
        &mut self,
        address: &Address,
        file: &SourceFile,
        until: Instant,
    ) -> Result<Vec<u8>, Failure> {
        let part = self.part_of(file);
        let downloaded = self.download(address, file, &part, until);
        let bytes = downloaded.and_then(|()| checked_bytes(file, &part));
        if let Err(Failure::Spoilt(_)) = bytes {
            fs::remove_file(&part).map_err(vit_files::Error::io("delete", &part))?;
        }
        bytes
    }

    fn download(
        &mut self,
        address: &Address,
        file: &SourceFile,
        part: &Path,
        until: Instant,
    ) -> Result<(), Failure> {
        let Address { url, shown } = address;
        self.client.download(url, part, file.longest_packed(), until, &mut |received, total| {
            (self.on_event)(Event::Downloading { file: file.name, url: shown, received, total });
        })
    }

    fn install(&mut self, file: &SourceFile, bytes: &[u8]) -> Result<(), Error> {
        let name = match file.sha256 {
            Checksum::Unpacked(_) => file.name.to_owned(),
            Checksum::Packed(_) => file.packed_name(),
        };
        write_atomically(&self.folder.join(name), bytes)?;
        let part = self.part_of(file);
        fs::remove_file(&part).map_err(vit_files::Error::io("delete", &part))?;
        (self.on_event)(Event::Installed { file: file.name });
        Ok(())
    }

    fn part_of(&self, file: &SourceFile) -> PathBuf {
        self.folder.join(format!("{}.part", file.packed_name()))
    }
}

/// The bytes to install: those that were checked, not a second reading.
fn checked_bytes(file: &SourceFile, part: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    match check_packed(file, part, &mut bytes)? {
        Ok(()) => Ok(bytes),
        Err(mismatch) => Err(Failure::Spoilt(mismatch.into())),
    }
}
