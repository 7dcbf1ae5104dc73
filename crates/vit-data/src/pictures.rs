//! Picture files as training images: scaled down once into a cache, then read by index.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use vit_files::{Digest, Hasher};
use vit_pictures::{
    Cache, DecodeOptions, EvalView, Interpolation, Picture, TrainView, decode, decode_file, resize,
};
use vit_random::Random;

use crate::augment::Augment;
use crate::dataset::{Dataset, Parts, Split};
use crate::error::{Error, Result};
use crate::examples::Examples;
use crate::listing::{Listed, Listing};
use crate::tables::Rows;

/// Number of pictures inspected to guess colour and size.
const INSPECTED: usize = 100;
/// Ratio of the stored shorter side to the image's longer side, which leaves a margin for crops.
const ROOM: (usize, usize) = (3, 2);
/// Extension of cache files.
const ENDING: &str = "pictures";
/// Limit of the caches in a folder, in bytes; beyond it the least recently used are removed.
const MOST_CACHED: u64 = 20_000_000_000;
/// Part of the cache key; a new version invalidates all caches.
const VERSION: &str = "vit-data pictures 2";

/// Colour and size of a dataset's pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureStats {
    /// 1 if all inspected pictures are grey, else 3.
    pub channels: usize,
    /// Median of their shorter sides, in pixels.
    pub shorter_side: usize,
}

/// Inspects some pictures, evenly spread over the listing, skipping undecodable ones; `None` if none can be decoded.
#[must_use]
pub fn inspect_pictures(listing: &Listing) -> Option<PictureStats> {
    let rows = Rows::default();
    let options = DecodeOptions { channels: None, at_least: Some(64), ..DecodeOptions::default() };
    let step = listing.train.len().div_ceil(INSPECTED).max(1);
    let seen = listing.train.iter().step_by(step);
    let seen: Vec<(bool, usize)> = seen
        .filter_map(|listed| rows.decode(listed, &options).ok())
        .map(|picture| {
            let is_grey = picture.channels() == 1
                || picture.pixels().chunks_exact(3).all(|rgb| rgb[0] == rgb[1] && rgb[1] == rgb[2]);
            let (height, width) = picture.size();
            (is_grey, height.min(width))
        })
        .collect();
    let mut sides: Vec<usize> = seen.iter().map(|(_, side)| *side).collect();
    sides.sort_unstable();
    let channels = if seen.iter().all(|(is_grey, _)| *is_grey) { 1 } else { 3 };
    Some(PictureStats { channels, shorter_side: *sides.get(sides.len() / 2)? })
}

/// Preprocessing of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureView {
    /// 1 or 3.
    pub channels: usize,
    /// Pictures are first scaled down to this shorter side; smaller ones stay as they are.
    pub stored: usize,
    /// The evaluation view of the stored picture.
    pub eval: EvalView,
}

impl PictureView {
    /// Uses the whole shorter side for images of this height and width, and leaves a margin for crops in training.
    #[must_use]
    pub fn of_size(channels: usize, (height, width): (usize, usize)) -> Self {
        let longer = height.max(width);
        let eval = EvalView {
            resize: longer,
            crop: (height, width),
            interpolation: Interpolation::Bicubic,
        };
        Self { channels, stored: longer * ROOM.0 / ROOM.1, eval }
    }

    /// Stores pictures with the shorter side `stored` and evaluates the middle `crop` of that side, like timm's
    /// `crop_pct`.
    #[must_use]
    pub fn with(self, stored: Option<usize>, crop: f64, interpolation: Interpolation) -> Self {
        let (height, width) = self.eval.crop;
        let resize = (height.max(width) as f64 / crop) as usize;
        let stored = stored.unwrap_or(self.stored.max(resize));
        Self { stored, eval: EvalView { resize, interpolation, ..self.eval }, ..self }
    }

    /// Options for decoding a file.
    #[must_use]
    pub fn decoding(&self) -> DecodeOptions {
        let at_least = u32::try_from(self.stored).ok();
        DecodeOptions { channels: Some(self.channels), at_least, ..DecodeOptions::default() }
    }

    /// Scales a picture to its stored size.
    #[must_use]
    pub fn store(&self, picture: Picture) -> Picture {
        let (height, width) = picture.size();
        let shorter = height.min(width);
        if shorter <= self.stored {
            return picture;
        }
        let side = |side: usize| (self.stored * side / shorter).max(1);
        resize(&picture, (side(height), side(width)), self.eval.interpolation)
    }
}

/// Where the cache goes, and what happens to undecodable pictures.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions<'a> {
    /// The folder for caches; `None` decodes pictures on every access.
    pub folder: Option<&'a Path>,
    /// Skip undecodable pictures instead of failing.
    pub skip_unreadable: bool,
}

/// A dataset of pictures, with what was noticed while loading it.
#[derive(Debug)]
pub struct Loaded {
    /// The dataset.
    pub dataset: Dataset,
    /// Undecodable pictures; each with its error if it was decoded just now.
    pub skipped: Vec<(PathBuf, String)>,
    /// Validation and test pictures whose pixels occur in the training split too.
    pub duplicates: usize,
}

/// Loads the pictures of a listing, building the cache first if it is missing, on all threads of rayon's current pool.
/// `progress` receives the number of pictures decoded so far and may stop the load.
///
/// # Errors
/// If a picture cannot be decoded and `skip_unreadable` is off, a training class is then empty, or the cache cannot be
/// written or read.
pub fn load_pictures(
    name: &str,
    listing: &Listing,
    view: PictureView,
    options: LoadOptions<'_>,
    progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Loaded> {
    let all: Vec<(Split, &Listed)> = listing.pictures().collect();
    let (rows, wrong) = (Rows::default(), Mutex::new(Vec::new()));
    let make = |index: usize| match rows.decode(all[index].1, &view.decoding()) {
        Ok(picture) => Ok(Some(view.store(picture))),
        Err(error) => {
            let error = (index, reason(&error));
            wrong.lock().unwrap_or_else(PoisonError::into_inner).push(error);
            Ok::<_, vit_pictures::Error>(None)
        }
    };
    let (store, sums) = match options.folder {
        Some(folder) => {
            let key = key(&all, view)?;
            let path = folder.join(format!("{key}.{ENDING}"));
            let cache = match Cache::open(&path, &key, all.len()) {
                Ok(cache) => {
                    // Records the last use. A cache that cannot be touched counts as old.
                    let _ = File::open(&path).and_then(|it| it.set_modified(SystemTime::now()));
                    cache
                }
                // Missing, truncated or of another version: rebuild it.
                Err(_) => {
                    fs::create_dir_all(folder).map_err(vit_files::Error::io("create", folder))?;
                    let cache = Cache::make(&path, &key, all.len(), make, &mut *progress)?;
                    make_room(folder, &path, MOST_CACHED);
                    cache
                }
            };
            let sums: Vec<_> = (0..all.len()).map(|index| cache.sum(index)).collect();
            (Store::Cache(cache), sums)
        }
        None => {
            let mut sums = Vec::with_capacity(all.len());
            for index in 0..all.len() {
                let picture = make(index)?;
                sums.push(picture.map(|picture| (picture.size(), crc(picture.pixels()))));
                if index % INSPECTED == 0 && progress(index).is_break() {
                    return Err(vit_pictures::Error::Stopped.into());
                }
            }
            let listed = all.iter().map(|(_, listed)| (*listed).clone()).collect();
            (Store::Files { listed, rows: Rows::default() }, sums)
        }
    };
    let store = Arc::new(Stored { store, view });
    let mut wrong: HashMap<usize, String> =
        wrong.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect();
    let skipped: Vec<(PathBuf, String)> = (0..all.len())
        .filter(|&index| sums[index].is_none())
        .map(|index| {
            let path = all[index].1.name();
            (path, wrong.remove(&index).unwrap_or_else(|| "cannot be decoded".to_owned()))
        })
        .collect();
    if !(skipped.is_empty() || options.skip_unreadable) {
        return Err(Error::Unreadables { pictures: skipped, of: all.len() });
    }
    let (height, width) = view.eval.crop;
    let shape = (view.channels, height, width);
    let part = |split: Split| {
        let of_part = (0..all.len()).filter(|&at| all[at].0 == split && sums[at].is_some());
        let (indices, labels): (Vec<u32>, Vec<u32>) =
            of_part.map(|at| (at as u32, all[at].1.label)).unzip();
        let sums = indices.iter().filter_map(|&at| sums[at as usize]).collect();
        Examples::of_pictures(Pictures { store: Arc::clone(&store), indices, sums }, labels, shape)
    };
    let parts = Parts {
        train: part(Split::Train),
        validation: part(Split::Validation),
        test: part(Split::Test),
    };
    for (label, class) in (0..).zip(&listing.classes) {
        if !parts.train.labels().contains(&label) {
            let (path, class) = (PathBuf::from(name), class.clone());
            return Err(Error::EmptyClass { path, class });
        }
    }
    let duplicates = duplicates(&all, &sums, &store);
    let dataset = Dataset::of_parts(name, listing.classes.clone(), parts);
    Ok(Loaded { dataset, skipped, duplicates })
}

/// Removes the least recently used caches until the folder is within `most` bytes. Keeps this one, and files that
/// another program holds open on systems that refuse to delete those.
fn make_room(folder: &Path, keep: &Path, most: u64) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut caches: Vec<(SystemTime, u64, PathBuf)> = entries
        .filter(|entry| entry.path().extension().is_some_and(|ending| ending == ENDING))
        .filter_map(|entry| {
            let facts = entry.metadata().ok()?;
            Some((facts.modified().ok()?, facts.len(), entry.path()))
        })
        .collect();
    let mut total: u64 = caches.iter().map(|(_, length, _)| length).sum();
    caches.retain(|(.., path)| path != keep);
    caches.sort_unstable();
    for (_, length, path) in caches {
        if total <= most {
            return;
        }
        if fs::remove_file(path).is_ok() {
            total -= length;
        }
    }
}

/// The causes of a picture's error; the first, which names the file, is left out.
fn reason(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Size and checksum of a picture.
type Sum = ((usize, usize), u32);

/// Number of validation and test pictures whose pixels a training picture has.
fn duplicates(all: &[(Split, &Listed)], sums: &[Option<Sum>], store: &Stored) -> usize {
    let mut trained: HashMap<Sum, Vec<usize>> = HashMap::new();
    let is_trained = |&at: &usize| all[at].0 == Split::Train;
    for at in (0..all.len()).filter(is_trained) {
        if let Some(sum) = sums[at] {
            trained.entry(sum).or_default().push(at);
        }
    }
    let others = (0..all.len()).filter(|at| !is_trained(at));
    let is_same =
        |a: usize, b: usize| store.get(a).ok().zip(store.get(b).ok()).is_some_and(|(a, b)| a == b);
    let has_twin = |&at: &usize| {
        let twins = sums[at].and_then(|sum| trained.get(&sum));
        twins.is_some_and(|twins| twins.iter().any(|&twin| is_same(at, twin)))
    };
    others.filter(has_twin).count()
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The cache key: paths, lengths and modification times of the files, and the sizes.
fn key(all: &[(Split, &Listed)], view: PictureView) -> Result<Digest> {
    let mut hasher = Hasher::new();
    let PictureView { channels, stored, eval } = view;
    hasher.update(format!("{VERSION} {channels} {stored} {:?}\n", eval.interpolation).as_bytes());
    let mut before: Option<&Path> = None;
    for (_, listed) in all {
        let path = &*listed.path;
        if let Some(row) = listed.row {
            hasher.update(format!("{row} ").as_bytes());
            if before == Some(path) {
                continue;
            }
            before = Some(path);
        }
        let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
        let facts = fs::metadata(path).map_err(unreadable)?;
        let changed = facts.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let changed = changed.map_or(0, |since| since.as_nanos());
        hasher.update(path.as_os_str().as_encoded_bytes());
        hasher.update(format!("\0{} {changed}\n", facts.len()).as_bytes());
    }
    Ok(hasher.finish())
}

impl Rows {
    /// Decodes a picture, from a file or a row of one.
    fn decode(
        &self,
        listed: &Listed,
        options: &DecodeOptions,
    ) -> std::result::Result<Picture, vit_pictures::Error> {
        let Some(row) = listed.row else { return decode_file(&listed.path, options) };
        let bytes = self.get(&listed.path, row as usize);
        let bytes = bytes.map_err(|error| vit_pictures::Error::Undecodable(error.into()));
        let picture = bytes.and_then(|bytes| decode(bytes.data(), options));
        picture.map_err(|error| {
            let (path, source) = (listed.name(), error.into());
            vit_pictures::Error::File { path, source }
        })
    }
}

/// Scaled-down pictures, in the order of a listing.
#[derive(Debug)]
struct Stored {
    store: Store,
    view: PictureView,
}

#[derive(Debug)]
enum Store {
    Cache(Cache),
    Files { listed: Vec<Listed>, rows: Rows },
}

impl Stored {
    fn get(&self, at: usize) -> std::result::Result<Picture, vit_pictures::Error> {
        match &self.store {
            Store::Cache(cache) => cache.get(at)?.ok_or(vit_pictures::Error::Format),
            Store::Files { listed, rows } => {
                rows.decode(&listed[at], &self.view.decoding()).map(|it| self.view.store(it))
            }
        }
    }
}

/// The pictures of a split.
#[derive(Debug)]
pub(crate) struct Pictures {
    store: Arc<Stored>,
    /// Their indices in the store.
    indices: Vec<u32>,
    sums: Vec<Sum>,
}

impl Pictures {
    /// A picture as stored.
    pub(crate) fn get(&self, index: u32) -> candle_core::Result<Picture> {
        let picture = self.store.get(self.indices[index as usize] as usize);
        // Keeps the original error as the source.
        picture.map_err(|error| candle_core::Error::Io(io::Error::other(error)))
    }

    pub(crate) fn eval(&self) -> EvalView {
        self.store.view.eval
    }

    /// Writes what identifies the pictures.
    pub(crate) fn write_content(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{:?}", self.store.view)?;
        for ((height, width), sum) in &self.sums {
            writeln!(out, "{height}x{width} {sum:08x}")?;
        }
        Ok(())
    }
}

/// The training view of a picture in this (seed, epoch), at this image size.
pub(crate) fn trained(
    picture: &Picture,
    eval: EvalView,
    augment: &Augment,
    (seed, epoch): (u64, u64),
    index: u32,
) -> Picture {
    if !augment.views() {
        return eval.apply(picture);
    }
    let crops = augment.crop_scale > 0.0;
    let view = TrainView {
        size: eval.crop,
        crop_scale: if crops { (augment.crop_scale, 1.0) } else { (1.0, 1.0) },
        flip: augment.flip,
        jitter: augment.jitter(),
        policy: augment.policy.into(),
        interpolation: eval.interpolation,
    };
    let random = Random::new(seed).at_step(epoch);
    if crops {
        return view.apply(picture, random, index);
    }
    // An image in memory already has its size, and may not be square.
    if picture.size() == eval.crop {
        return view.apply(picture, random, index);
    }
    view.apply(&eval.apply(picture), random, index)
}

/// The bytes of a picture, channel by channel.
pub(crate) fn planes(picture: &Picture) -> Vec<u8> {
    let channels = picture.channels();
    let of = |channel: usize| picture.pixels().iter().copied().skip(channel).step_by(channels);
    (0..channels).flat_map(of).collect()
}

/// The inverse of [`planes`].
pub(crate) fn of_planes(bytes: &[u8], (channels, height, width): (usize, usize, usize)) -> Picture {
    let plane = height * width;
    let pixels = (0..plane).flat_map(|at| (0..channels).map(move |channel| channel * plane + at));
    let pixels = pixels.map(|at| bytes[at]).collect();
    Picture::new(pixels, channels, (height, width)).expect("as many bytes as the shape says")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn least_recently_used_caches_are_removed_first() {
        let folder = tempfile::tempdir().unwrap();
        let made = |name: &str, age: u64| {
            let path = folder.path().join(name);
            fs::write(&path, [0; 100]).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
            path
        };
        let [new, old, older, other] = [
            made("new.pictures", 9000),
            made("old.pictures", 100),
            made("older.pictures", 5000),
            made("notes.txt", 9000),
        ];
        make_room(folder.path(), &new, 300);
        assert!([&new, &old, &older, &other].into_iter().all(|path| path.exists()));
        make_room(folder.path(), &new, 299);
        assert!(new.exists() && old.exists() && !older.exists() && other.exists());
        make_room(folder.path(), &new, 0);
        assert!(new.exists() && !old.exists() && other.exists());
    }
}
