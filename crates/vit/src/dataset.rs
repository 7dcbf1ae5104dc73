//! Finding and loading datasets.

use std::collections::HashSet;
use std::fmt;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use vit_data::{
    Dataset, Examples, HubName, IdxFile, Listing, LoadOptions, Loaded, Normalization, PictureStats,
    PictureView, Split,
};
use vit_fetch::{Checksum, Event, Options, Presence, Source, data_root, user_mirrors};
use vit_files::{Digest, Hasher, write_atomically_with};
use vit_model::{Fit, ModelInfo, Preset, Transform, VitConfig};
use vit_patch::{ImageSize, PatchSize};

use crate::args::{path, path_or_name};
use crate::dataset_name::{DIGITS, is_csv, is_named, is_of_pictures};
use crate::failure::{Exit, Failure, Result};
use crate::output::thousands;
use crate::progress::Counter;
use crate::saved_model::SavedModel;
use crate::settings::{Asked, DataSettings};
use crate::{output, outputs};

/// The dataset, and where named datasets are.
#[derive(Debug, clap::Args)]
pub(crate) struct DataArgs {
    /// mnist, fashion-mnist, cifar10, cifar100, digits, a folder (pictures sorted into classes, parquet files, or four
    /// IDX files), a CSV file with the columns path and label, or a dataset of the Hugging Face Hub
    #[arg(long, value_name = "NAME|DIR|FILE.csv|hf:OWNER/NAME", value_parser = path_or_name())]
    pub(crate) dataset: Option<String>,
    #[command(flatten)]
    pub(crate) place: DataPlace,
}

/// Folder of named datasets, and the mirrors to download them from.
#[derive(Debug, clap::Args)]
pub(crate) struct DataPlace {
    /// Folder with a subfolder for each named dataset, and a cache of scaled-down pictures in `pictures` (at most 20
    /// GB, least recently used removed first) [default: VIT_DATA, else the cache folder]
    #[arg(long, value_name = "DIR", value_parser = path())]
    pub(crate) data_dir: Option<PathBuf>,
    /// URL of a folder with the dataset's .gz files, tried first [default: VIT_MIRROR]
    #[arg(long, value_name = "URL")]
    pub(crate) mirror: Option<String>,
}

/// Time limit of the hub, after all mirrors have failed.
const HUB_PATIENCE: Duration = Duration::from_secs(60);
/// The limit if training can continue without MNIST: the network is probably down, and the user is waiting.
const HUB_PATIENCE_UNASKED: Duration = Duration::from_secs(6);

/// A loaded dataset and its origin.
pub(crate) struct Found {
    pub(crate) dataset: Dataset,
    origin: Origin,
    /// Preprocessing of pictures, if it consists of pictures.
    view: Option<PictureView>,
    /// Skipped pictures, each with its error.
    pub(crate) skipped: Vec<(PathBuf, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    /// A published dataset, verified by its digest.
    Verified,
    /// The user's own; only its structure is checked.
    Unverified,
    /// Built in, as requested.
    BuiltIn,
    /// Built in, because MNIST is not available for this reason.
    InsteadOfMnist(String),
}

impl fmt::Display for Found {
    /// The dataset's name and origin.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remark = match &self.origin {
            Origin::Verified => "verified",
            Origin::Unverified => "unverified",
            Origin::BuiltIn => "built in",
            Origin::InsteadOfMnist(_) => "built in, not MNIST",
        };
        write!(f, "{} ({remark})", self.dataset.name())
    }
}

impl Found {
    const fn new(dataset: Dataset, origin: Origin) -> Self {
        Self { dataset, origin, view: None, skipped: Vec::new() }
    }

    /// The split to evaluate on: test, else validation.
    pub(crate) fn measured(&self) -> (Examples, &'static str) {
        let test = self.dataset.split(Split::Test);
        if test.is_empty() {
            (self.dataset.split(Split::Validation), "validation")
        } else {
            (test, "test")
        }
    }

    /// SHA-256 of all images and labels.
    pub(crate) fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        self.dataset.digest(&mut hasher).expect("a digest takes all bytes");
        hasher.finish()
    }

    /// Class names and preprocessing for the file of a model trained on it.
    pub(crate) fn info(&self, model: &VitConfig, data: &DataSettings) -> ModelInfo {
        let mut class_names = self.dataset.class_names().to_vec();
        // A model may have more classes.
        class_names.extend((class_names.len()..model.classes).map(|class| class.to_string()));
        let of_digits = [vit_fetch::MNIST.name, DIGITS].contains(&self.dataset.name());
        let transform = match self.view {
            Some(PictureView { stored, eval, .. }) => Transform {
                resize: Some(eval.resize),
                stored: (stored != usize::MAX).then_some(stored),
                interpolation: data.interpolation,
                ..Transform::of(Fit::Crop)
            },
            None if of_digits => Transform::of(Fit::Mnist),
            None => Transform::of(Fit::Stretch),
        };
        let transform = match data.normalization() {
            Some(Normalization { mean, std }) => Transform { mean, std, ..transform },
            None => transform,
        };
        ModelInfo { class_names, transform: Some(transform) }
    }

    /// A warning for the start and end of a run on a substitute dataset.
    pub(crate) fn warning(&self) -> Option<String> {
        let Origin::InsteadOfMnist(why) = &self.origin else { return None };
        Some(format!("{why}; using built-in digits instead"))
    }
}

/// The requirements on a dataset, from an existing model, or from settings to be completed with the data.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) model: VitConfig,
    pub(crate) asked: Asked,
    pub(crate) data: DataSettings,
    /// The transform of a model on disk, if it has one.
    pub(crate) transform: Option<Transform>,
}

impl Wanted {
    /// The requirements of an existing model.
    pub(crate) fn by(model: &VitConfig) -> Self {
        let (model, data) = (model.clone(), DataSettings::default());
        Self { model, asked: Asked::all(), data, transform: None }
    }

    /// The requirements of a model on disk, with its run's or its file's preprocessing.
    pub(crate) fn by_saved(saved: &SavedModel) -> Self {
        let mut data =
            saved.run.as_ref().map_or_else(DataSettings::default, |run| run.data.clone());
        let transform = saved.info.transform.clone();
        if let Some(Transform { mean, std, .. }) = &transform {
            (data.mean, data.std) = (mean.clone(), std.clone());
        }
        Self { data, transform, ..Self::by(&saved.config) }
    }

    /// Chooses the view of pictures; where the settings leave it open, by the pictures' colours and size.
    ///
    /// # Errors
    /// If the stored size would be below the viewed size.
    fn take_pictures(&mut self, stats: PictureStats) -> Result<PictureView> {
        let small = Preset::Pictures32.config();
        if !self.asked.model && !self.asked.image && stats.shorter_side < SMALL_PICTURE {
            (self.model.image, self.model.patch) = (small.image, small.patch);
        }
        if !self.asked.channels {
            self.model.image.channels = stats.channels;
        }
        if !self.asked.patch {
            self.model.patch = patch_for(self.model.image, self.model.patch);
        }
        if let Some(transform) = self.transform.as_ref().filter(|it| it.fit == Fit::Crop) {
            let view = view_by(transform, self.model.image);
            view.eval.check()?;
            return Ok(view);
        }
        let ImageSize { height, width, channels } = self.model.image;
        let DataSettings { resize, crop, interpolation, .. } = self.data;
        let view = PictureView::of_size(channels, (height, width));
        let view = view.with(resize, crop, as_in_pictures(interpolation));
        if view.stored < view.eval.resize {
            let (least, got) = (view.eval.resize, view.stored);
            let message = format!("expected data.resize of at least {least}, got {got}");
            return Err(Failure::new(Exit::Usage, message)
                .hint("leave it out, set a smaller --image-size, or a larger data.crop"));
        }
        Ok(view)
    }

    /// Completes channels, height and width from the dataset.
    ///
    /// # Errors
    /// If the settings have other values, or no patch size fits.
    fn take_shape(&mut self, name: &str, shape: (usize, usize, usize)) -> Result<()> {
        let (channels, height, width) = shape;
        if !self.asked.channels {
            self.model.image.channels = channels;
        }
        if !self.asked.image {
            (self.model.image.height, self.model.image.width) = (height, width);
            if !self.asked.patch {
                self.model.patch = patch_for(self.model.image, self.model.patch);
            }
        }
        check_size(name, shape, &self.model)?;
        // Before anything is unpacked or drawn.
        self.model.check().map_err(|error| Failure::from(error).about(name))
    }

    /// Completes the number of classes from the dataset.
    ///
    /// # Errors
    /// If the settings have fewer.
    fn take_classes(&mut self, name: &str, classes: usize) -> Result<()> {
        if !self.asked.classes {
            self.model.classes = classes;
        }
        if classes > self.model.classes {
            let message =
                format!("the model has {} classes, {name} has {classes}", self.model.classes);
            return Err(unfit(message));
        }
        Ok(())
    }
}

/// The view of pictures by this transform.
pub(crate) fn view_by(transform: &Transform, size: ImageSize) -> PictureView {
    let mut view = PictureView::of_size(size.channels, (size.height, size.width));
    view.stored = transform.stored.unwrap_or(usize::MAX);
    view.eval.resize = transform.resize.unwrap_or(view.eval.resize);
    view.eval.interpolation = as_in_pictures(transform.interpolation);
    view
}

const fn as_in_pictures(interpolation: vit_model::Interpolation) -> vit_pictures::Interpolation {
    match interpolation {
        vit_model::Interpolation::Bilinear => vit_pictures::Interpolation::Bilinear,
        vit_model::Interpolation::Bicubic => vit_pictures::Interpolation::Bicubic,
    }
}

/// The preset's patch if it divides the image, else the largest that does and gives at least four in a row.
fn patch_for(image: ImageSize, preset: PatchSize) -> PatchSize {
    let (height, width) = (image.height, image.width);
    if height.is_multiple_of(preset.height) && width.is_multiple_of(preset.width) {
        return preset;
    }
    let fits = |side: &usize| height.is_multiple_of(*side) && width.is_multiple_of(*side);
    let side = (1..=(height.min(width) / 4).max(1)).rev().find(fits).unwrap_or(1);
    PatchSize { height: side, width: side }
}

/// Loads the dataset with this name or path for a model.
///
/// # Errors
/// If there is no such dataset, it cannot be loaded, or it does not suit the model.
pub(crate) fn named(name: &str, place: &DataPlace, wanted: &mut Wanted) -> Result<Found> {
    let found = if name == DIGITS {
        built_in(Origin::BuiltIn)?
    } else if let Some(source) = Source::named(name) {
        published(source, place)?
    } else {
        in_folder(name, place, wanted)?
    };
    fit(&found.dataset, wanted)?;
    normalized(found, &mut wanted.data)
}

/// Applies the requested normalisation, computing it from the images if needed.
fn normalized(found: Found, data: &mut DataSettings) -> Result<Found> {
    let normalization = match data.normalization() {
        Some(normalization) => normalization,
        None => Normalization::of(&found.dataset.split(Split::Train))?,
    };
    (data.mean, data.std) = (normalization.mean.clone(), normalization.std.clone());
    if normalization == Normalization::half() {
        return Ok(found);
    }
    let dataset = found.dataset.with_normalization(&normalization)?;
    Ok(Found { dataset, ..found })
}

/// Seed of drawn test splits: the same for all runs, so that they are tested on the same pictures.
const TEST_SEED: u64 = 0;
/// Pictures with a shorter side below this are trained at 32 pixels.
const SMALL_PICTURE: usize = 48;
/// Folder of the picture cache, in the data folder.
const CACHES: &str = "pictures";

/// Pictures in class folders, in parquet files, or listed in a CSV file.
fn pictures(path: &Path, place: &DataPlace, wanted: &mut Wanted) -> Result<Found> {
    let (name, listing) = list(path, wanted)?;
    advise(&listing, path);
    listed(&name, &listing, place, wanted)
}

/// Lists the pictures; the absolute path lets the run be repeated from any folder.
fn list(path: &Path, wanted: &Wanted) -> Result<(String, Listing)> {
    let whole = std::path::absolute(path).map_err(vit_files::Error::io("find", path))?;
    let split = wanted.data.test_split;
    let listing = if is_csv(path) {
        Listing::of_csv(&whole, split, TEST_SEED)?
    } else if vit_data::holds_tables(path) {
        Listing::of_tables(&whole, split, TEST_SEED)?
    } else {
        Listing::of_folder(&whole, split, TEST_SEED)?
    };
    Ok((whole.display().to_string(), listing))
}

/// Completes the settings from a dataset on disk, decoding only a few pictures; returns its name. `None` for a named
/// dataset, which may not be downloaded yet.
///
/// # Errors
/// If it cannot be read, or does not suit the model.
pub(crate) fn inspect(name: &str, wanted: &mut Wanted) -> Result<Option<String>> {
    if is_named(name) || HubName::is_meant(name) {
        return Ok(None);
    }
    if is_of_pictures(name) {
        let (name, listing) = list(Path::new(name), wanted)?;
        wanted.take_pictures(inspect_pictures(&listing))?;
        wanted.take_classes(&name, listing.classes.len())?;
        return Ok(Some(name));
    }
    let place = DataPlace { data_dir: None, mirror: None };
    let found = in_folder(name, &place, wanted)?;
    fit(&found.dataset, wanted)?;
    Ok(Some(found.dataset.name().to_owned()))
}

/// Inspects some of the pictures.
fn inspect_pictures(listing: &Listing) -> PictureStats {
    vit_data::inspect_pictures(listing).unwrap_or(PictureStats { channels: 3, shorter_side: 64 })
}

/// A dataset of the hub.
fn of_hub(text: &str, place: &DataPlace, wanted: &mut Wanted) -> Result<Found> {
    let Some(name) = HubName::parse(text) else {
        let message = format!("expected hf:OWNER/NAME[/CONFIGURATION][@REVISION], got {text:?}");
        return Err(Failure::new(Exit::Usage, message));
    };
    let bar = Counter::new("files of the hub", None, thousands);
    let files = vit_data::fetch_hub_tables(&name, &mut |done, of| {
        bar.set("files of the hub", done as u64, Some(of as u64));
    });
    drop(bar);
    let files = files?;
    let listing = Listing::of_hub(&files, wanted.data.test_split, TEST_SEED)?;
    advise(&listing, Path::new(&files.name));
    listed(&files.name, &listing, place, wanted)
}

/// Loads the pictures of a listing.
fn listed(name: &str, listing: &Listing, place: &DataPlace, wanted: &mut Wanted) -> Result<Found> {
    let view = wanted.take_pictures(inspect_pictures(listing))?;
    wanted.model.check()?;
    let folder = if wanted.data.cache {
        Some(data_root(place.data_dir.clone())?.join(CACHES))
    } else {
        None
    };
    if let Some(folder) = &folder {
        outputs::check_outside_of_runs(folder, "--data-dir")?;
    }
    let skip_unreadable = wanted.data.skip_unreadable;
    let options = LoadOptions { folder: folder.as_deref(), skip_unreadable };
    let count = listing.pictures().count() as u64;
    let bar = Counter::new("reading pictures", Some(count), thousands);
    let loaded = vit_data::load_pictures(name, listing, view, options, &mut |done| {
        bar.set("reading pictures", done as u64, Some(count));
        ControlFlow::Continue(())
    });
    drop(bar);
    let Loaded { dataset, skipped, duplicates } = loaded?;
    if !skipped.is_empty() {
        tracing::warn!("skipped {} of {count} pictures, which cannot be read", skipped.len());
    }
    if duplicates > 0 {
        tracing::warn!("{duplicates} pictures occur in both the training and the test split");
    }
    Ok(Found { view: Some(view), skipped, ..Found::new(dataset, Origin::Unverified) })
}

/// Advice for datasets that are small or unusual.
fn advise(listing: &Listing, path: &Path) {
    let mut counts = vec![0_usize; listing.classes.len()];
    for listed in &listing.train {
        counts[listed.label as usize] += 1;
    }
    let (total, most) = (listing.train.len(), counts.iter().copied().max().unwrap_or(0));
    let (path, classes) = (path.display(), counts.len());
    if listing.is_test_drawn {
        let (tested, of) = (listing.test.len(), total + listing.test.len());
        tracing::info!("{path}: drew {tested} of {of} pictures as the test split");
    }
    if total < FEW_PICTURES * classes {
        tracing::warn!(
            "{total} pictures of {classes} classes are few to train on: more pictures help most, then \
             --init with a model that was trained on others"
        );
    }
    if most * 10 > total * 9 {
        let class = counts.iter().position(|&count| count == most).unwrap_or(0);
        tracing::warn!(
            "{most} of {total} pictures are of class {:?}: always predicting it is right as often; look at the macro \
             average of `vit eval`",
            listing.classes[class]
        );
    }
    let lower: HashSet<String> = listing.classes.iter().map(|name| name.to_lowercase()).collect();
    if lower.len() < classes {
        tracing::warn!("some of the {classes} classes differ only in upper and lower case");
    }
}

/// Below this number of pictures a class, a model learns little from scratch.
const FEW_PICTURES: usize = 20;

fn in_folder(name: &str, place: &DataPlace, wanted: &mut Wanted) -> Result<Found> {
    let folder = Path::new(name);
    if HubName::is_meant(name) {
        return of_hub(name, place, wanted);
    }
    if is_of_pictures(name) {
        return pictures(folder, place, wanted);
    }
    if folder.is_dir() {
        tracing::warn!("{} is your own dataset: only its structure is checked", folder.display());
        if vit_data::holds_cifar(folder) {
            let whole =
                std::path::absolute(folder).map_err(vit_files::Error::io("find", folder))?;
            let dataset = vit_data::load_cifar(folder)?.with_name(whole.display().to_string());
            return Ok(Found::new(dataset, Origin::Unverified));
        }
        // Before the files are unpacked.
        wanted.take_shape(name, vit_data::image_shape(folder)?)?;
        // The absolute path, so that the run can be repeated from any folder.
        let whole = std::path::absolute(folder).map_err(vit_files::Error::io("find", folder))?;
        let dataset = vit_data::load_dir(folder)?.with_name(whole.display().to_string());
        let known = &vit_fetch::FASHION_MNIST;
        let counts = [Split::Train, Split::Test].map(|split| dataset.split(split).len());
        if counts == FASHION_COUNTS && check_content(&dataset, known).is_ok() {
            let dataset = dataset.with_class_names(FASHION.map(str::to_owned).to_vec());
            return Ok(Found::new(dataset, Origin::Verified));
        }
        return Ok(Found::new(dataset, Origin::Unverified));
    }
    let message = format!("there is no dataset or folder {name:?}");
    Err(Failure::new(Exit::Data, message)
        .hint("pass mnist, fashion-mnist, cifar10, cifar100, digits, a folder of pictures, of parquet or of the four IDX files, a CSV file, or hf:OWNER/NAME"))
}

/// Checks that a model suits a dataset, completing open settings.
///
/// # Errors
/// If it does not; the error names both sizes.
pub(crate) fn fit(dataset: &Dataset, wanted: &mut Wanted) -> Result<()> {
    let shape = (dataset.channels(), dataset.height(), dataset.width());
    wanted.take_shape(dataset.name(), shape)?;
    wanted.take_classes(dataset.name(), dataset.classes())
}

fn check_size(name: &str, of_data: (usize, usize, usize), model: &VitConfig) -> Result<()> {
    let ImageSize { height, width, channels } = model.image;
    if of_data == (channels, height, width) {
        return Ok(());
    }
    let (got_channels, got_height, got_width) = of_data;
    Err(unfit(format!(
        "the model expects images of {height}x{width} px with {channels} channels, {name} has \
         {got_height}x{got_width} px with {got_channels}"
    )))
}

fn unfit(message: String) -> Failure {
    Failure::new(Exit::Usage, message)
        .hint("set [model] image, patch and classes in a file for `vit train --config`")
}

/// MNIST if it is present or can be downloaded, else the built-in digits.
///
/// # Errors
/// If MNIST is present but damaged or unreadable.
pub(crate) fn any(place: &DataPlace) -> Result<Found> {
    match mnist_or_why_not(place)? {
        Ok(folder) => load_published(&vit_fetch::MNIST, &folder),
        Err(why) => {
            let found = built_in(Origin::InsteadOfMnist(why))?;
            tracing::warn!("{}", found.warning().unwrap_or_default());
            Ok(found)
        }
    }
}

/// MNIST's folder, or the reason to train without it.
fn mnist_or_why_not(place: &DataPlace) -> Result<std::result::Result<PathBuf, String>> {
    let source = &vit_fetch::MNIST;
    let unkept = |error: vit_fetch::Error| {
        let why = Failure::from(error);
        tracing::debug!("{why:?}");
        Ok(Err(format!("MNIST cannot be stored ({})", why.message())))
    };
    let folder = match data_root(place.data_dir.clone()) {
        Ok(root) => source.folder(&root),
        Err(error @ vit_fetch::Error::NoHome) => return unkept(error),
        Err(error) => return Err(error.into()),
    };
    outputs::check_outside_of_runs(&folder, "--data-dir")?;
    match vit_fetch::verify(source, &folder) {
        Ok(Presence::Verified) => return Ok(Ok(folder)),
        Ok(_) => {}
        // Files that exist but cannot be read are an error.
        Err(vit_fetch::Error::Files(error)) if is_of_place(&error, "look for") => {
            return unkept(error.into());
        }
        Err(error) => return Err(error.into()),
    }
    match obtain(source, &folder, place, HUB_PATIENCE_UNASKED) {
        Ok(()) => Ok(Ok(folder)),
        Err(vit_fetch::Error::Files(error)) if is_of_place(&error, "") => unkept(error.into()),
        Err(error) => {
            let failure = Failure::from(error);
            if !failure.is(Exit::Data) {
                return Err(failure);
            }
            tracing::debug!("{failure:?}");
            let root = folder.parent().unwrap_or(&folder);
            let deep = if vit_data::holds_idx(root) {
                format!(": pass the folder above {} as --data-dir", root.display())
            } else {
                format!(" (looked in {})", folder.display())
            };
            Ok(Err(format!("MNIST is neither present nor reachable{deep}")))
        }
    }
}

/// Whether the storage location caused the error: not writable, missing or full. `operation` restricts it to one
/// operation.
fn is_of_place(error: &vit_files::Error, operation: &str) -> bool {
    let vit_files::Error::Io { operation: tried, source, .. } = error else { return false };
    let place_is_to_blame = matches!(
        source.kind(),
        ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::FileTooLarge
            | ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::AlreadyExists
    );
    place_is_to_blame && (operation.is_empty() || operation == *tried)
}

/// The folder a dataset is read from; `None` if it is built in.
pub(crate) fn folder_of(name: &str, place: &DataPlace) -> Option<PathBuf> {
    match Source::named(name) {
        Some(source) => Some(source.folder(&data_root(place.data_dir.clone()).ok()?)),
        None => (name != DIGITS).then(|| name.into()),
    }
}

/// Downloads a named dataset if it is missing; returns its folder.
///
/// # Errors
/// If it cannot be downloaded.
pub(crate) fn fetch(source: &'static Source, place: &DataPlace) -> Result<PathBuf> {
    let folder = source.folder(&data_root(place.data_dir.clone())?);
    outputs::check_outside_of_runs(&folder, "--data-dir")?;
    let fetched = vit_fetch::verify(source, &folder).and_then(|presence| match presence {
        Presence::Verified => Ok(()),
        Presence::Incomplete { .. } => obtain(source, &folder, place, HUB_PATIENCE),
    });
    fetched.map_err(|error| {
        let is_of_place =
            matches!(&error, vit_fetch::Error::Files(error) if is_of_place(error, ""));
        let failure = Failure::from(error);
        if is_of_place { failure.hint(ANOTHER_PLACE) } else { failure }
    })?;
    Ok(folder)
}

/// Advice if a dataset cannot be stored.
const ANOTHER_PLACE: &str = "make it writable and free some space, or choose another folder with --data-dir DIR or VIT_DATA";

fn published(source: &'static Source, place: &DataPlace) -> Result<Found> {
    load_published(source, &fetch(source, place)?)
}

fn load_published(source: &Source, folder: &Path) -> Result<Found> {
    let again = |error| {
        let failure = Failure::from(error);
        failure.hint(format!("delete it and download it again: `vit fetch {}`", source.name))
    };
    let loaded = match source.files {
        [archive] => vit_data::load_cifar_archive(&folder.join(format!("{}.gz", archive.name))),
        _ => vit_data::load_dir(folder),
    };
    let mut dataset = loaded.map_err(again)?.with_name(source.name);
    if source.name == vit_fetch::FASHION_MNIST.name {
        dataset = dataset.with_class_names(FASHION.map(str::to_owned).to_vec());
    }
    check_content(&dataset, source)?;
    if source.files.iter().any(|file| matches!(file.sha256, Checksum::Packed(_))) {
        // A dataset known only by its archive's digest is verified on disk, before and after reading.
        vit_fetch::verify(source, folder)?;
    }
    Ok(Found::new(dataset, Origin::Verified))
}

/// Number of images in Fashion-MNIST's training and test split.
const FASHION_COUNTS: [usize; 2] = [60_000, 10_000];

/// The classes of Fashion-MNIST (arXiv 1708.07747).
const FASHION: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

fn built_in(origin: Origin) -> Result<Found> {
    Ok(Found::new(vit_data::digits()?, origin))
}

/// Tries the mirrors in turn; for MNIST, then the hub.
fn obtain(
    source: &'static Source,
    folder: &Path,
    place: &DataPlace,
    hub_patience: Duration,
) -> std::result::Result<(), vit_fetch::Error> {
    let mirrors = user_mirrors(place.mirror.as_deref())?;
    let asked_for: Vec<String> = mirrors.iter().map(ToString::to_string).collect();
    let options = Options { mirrors, ..Options::default() };
    let mut failed = Vec::new();
    let bar = Counter::new(source.name, None, output::megabytes);
    let fetched = vit_fetch::fetch(source, folder, &options, &mut |event| match event {
        Event::Downloading { file, received, total, .. } => {
            bar.set(file, received, total);
        }
        Event::MirrorFailed(attempt) => {
            if asked_for.iter().any(|mirror| attempt.url.starts_with(mirror)) {
                tracing::warn!("{attempt}");
            } else {
                failed.push(attempt.to_string());
            }
        }
        Event::Waiting { folder } => {
            tracing::info!("another process is downloading into {}", folder.display());
        }
        Event::Installed { file } => tracing::debug!("{file} is verified"),
        _ => {}
    });
    drop(bar);
    // If all mirrors fail, one error lists them.
    for attempt in failed {
        if fetched.is_ok() {
            tracing::warn!("{attempt}");
        } else {
            tracing::debug!("{attempt}");
        }
    }
    if let Err(vit_fetch::Error::Download { .. }) = fetched
        && source.name == vit_fetch::MNIST.name
    {
        match from_hub(source, folder, hub_patience, vit_data::load_hub_mnist) {
            Ok(()) => return Ok(()),
            Err(hub) => tracing::debug!("{hub:?}"),
        }
    }
    fetched.map(|_| ())
}

/// Downloads a dataset from the hub through candle-datasets, and verifies its bytes.
fn from_hub(
    source: &Source,
    folder: &Path,
    patience: Duration,
    load: impl FnOnce() -> vit_data::Result<Dataset> + Send + 'static,
) -> Result<()> {
    tracing::info!("asking the hub for {}", source.name);
    let (send, receive) = mpsc::channel();
    // The loader has no time limit; a late thread is abandoned.
    thread::spawn(move || {
        // The receiver may be gone.
        let _ = send.send(load());
    });
    let dataset = receive.recv_timeout(patience).map_err(|_| {
        Failure::new(Exit::Data, format!("the hub did not answer within {patience:?}"))
    })??;
    check_content(&dataset, source)?;
    std::fs::create_dir_all(folder).map_err(vit_files::Error::io("create", folder))?;
    // No lock is needed: every process writes the same complete files.
    for file in IdxFile::ALL {
        write_atomically_with(&folder.join(file.name()), |out| dataset.write_idx(file, out))?;
    }
    Ok(())
}

/// Verifies a dataset in memory: a file can change between its verification and its reading.
///
/// # Errors
/// If the digest of a file reconstructed from it is wrong.
fn check_content(dataset: &Dataset, source: &Source) -> Result<()> {
    for file in IdxFile::ALL {
        let known = source.files.iter().find(|known| known.name == file.name());
        let Some(Checksum::Unpacked(known)) = known.map(|known| known.sha256) else { continue };
        let mut hasher = Hasher::new();
        dataset.write_idx(file, &mut hasher).expect("a digest takes all bytes");
        let digest = hasher.finish();
        if digest != known {
            let message = format!(
                "{} of {} is not the published file: expected SHA-256 {known}, got {digest}",
                file.name(),
                source.name
            );
            return Err(Failure::new(Exit::Data, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_data_from_the_hub_are_rejected() {
        let above = tempfile::tempdir().expect("a temporary folder");
        let folder = above.path().join("mnist");
        let load = || Ok(vit_data::digits()?.with_name("mnist"));
        let refused = from_hub(&vit_fetch::MNIST, &folder, HUB_PATIENCE, load);
        let refused = format!("{:?}", refused.expect_err("digits are not MNIST"));
        assert!(refused.contains("train-images-idx3-ubyte of mnist is not the published file"));
        assert!(!folder.exists());
    }

    #[test]
    fn an_unresponsive_hub_times_out() {
        let folder = Path::new("never-made");
        let load = || loop {
            thread::park();
        };
        let late = from_hub(&vit_fetch::MNIST, folder, Duration::from_millis(10), load);
        assert!(
            format!("{:?}", late.expect_err("too late")).contains("did not answer within 10ms")
        );
        assert!(!folder.exists());
    }

    #[test]
    fn a_dataset_changed_after_its_check_is_rejected() {
        let dataset = vit_data::digits().expect("digits are built in");
        assert!(check_content(&dataset, &vit_fetch::MNIST).is_err());
    }
}
