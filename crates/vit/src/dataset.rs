//! Finding the dataset that was asked for, or one to go on with.

use std::collections::HashSet;
use std::fmt;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use vit_data::{
    Dataset, Examples, HubName, IdxFile, Keeping, Listing, Loaded, Look, Normalization,
    PictureView, Split,
};
use vit_fetch::{Checksum, Event, Options, Presence, Source, data_root, user_mirrors};
use vit_files::{Digest, Hasher, write_atomically_with};
use vit_model::{Fit, ModelInfo, Preset, Transform, VitConfig};
use vit_patch::{ImageSize, PatchSize};

use crate::args::{path, path_or_name};
use crate::failure::{Exit, Failure, Result};
use crate::output::thousands;
use crate::picture_set::{is_csv, is_of_pictures};
use crate::progress::Counter;
use crate::saved_model::SavedModel;
use crate::settings::{Asked, DataSettings};
use crate::{output, outputs};

/// Which dataset, and where it lies.
#[derive(Debug, clap::Args)]
pub(crate) struct DataArgs {
    /// mnist, fashion-mnist, cifar10, cifar100, digits, a folder of pictures sorted into classes, of parquet files or of the
    /// four IDX files, a CSV file with the columns path and label, or a dataset of Hugging Face's hub, with its configuration
    /// and @REVISION where there are several
    #[arg(long, value_name = "NAME|DIR|FILE.csv|hf:OWNER/NAME", value_parser = path_or_name())]
    pub(crate) dataset: Option<String>,
    #[command(flatten)]
    pub(crate) place: DataPlace,
}

/// Where named datasets lie, and where they come from.
#[derive(Debug, clap::Args)]
pub(crate) struct DataPlace {
    /// The folder that holds a folder for each named dataset, and in `pictures` what pictures were scaled down to: up to 20 GB,
    /// of which the least recently used goes first [default: VIT_DATA, else the cache folder]
    #[arg(long, value_name = "DIR", value_parser = path())]
    pub(crate) data_dir: Option<PathBuf>,
    /// The address of a folder of the dataset's .gz files, asked first [default: VIT_MIRROR]
    #[arg(long, value_name = "URL")]
    pub(crate) mirror: Option<String>,
}

/// The name of the dataset that is built in.
pub(crate) const DIGITS: &str = "digits";
/// How long the hub may take, after every mirror has failed.
const HUB_PATIENCE: Duration = Duration::from_secs(60);
/// The same where training can go on without MNIST: the network is most likely gone, and someone waits.
const HUB_PATIENCE_UNASKED: Duration = Duration::from_secs(6);

/// A dataset, and how far it can be trusted.
pub(crate) struct Found {
    pub(crate) dataset: Dataset,
    origin: Origin,
    /// How a picture becomes an image of it, if it is made of pictures.
    view: Option<PictureView>,
    /// Pictures that were left out, with what is wrong with each.
    pub(crate) skipped: Vec<(PathBuf, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    /// Its bytes are the published ones.
    Verified,
    /// A folder of the user's, whose structure alone was checked.
    Unverified,
    /// Drawn by the program because it was asked for.
    BuiltIn,
    /// Drawn by the program because MNIST could not be had, and why.
    InsteadOfMnist(String),
}

impl fmt::Display for Found {
    /// The dataset's name, with what there is to say of it.
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

    /// The images that a model is measured on: the test part, else the validation part.
    pub(crate) fn measured(&self) -> (Examples, &'static str) {
        let test = self.dataset.split(Split::Test);
        if test.is_empty() {
            (self.dataset.split(Split::Validation), "validation")
        } else {
            (test, "test")
        }
    }

    /// The SHA-256 of all images and labels.
    pub(crate) fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        self.dataset.digest(&mut hasher).expect("a digest takes all bytes");
        hasher.finish()
    }

    /// What the file of a model that is trained on it says of classes and pictures.
    pub(crate) fn info(&self, model: &VitConfig, data: &DataSettings) -> ModelInfo {
        let mut class_names = self.dataset.class_names().to_vec();
        // A model may know more classes.
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

    /// What must be said first and last, where the dataset is not what was hoped for.
    pub(crate) fn warning(&self) -> Option<String> {
        let Origin::InsteadOfMnist(why) = &self.origin else { return None };
        Some(format!("{why}: this run is on built-in digits"))
    }
}

/// What a dataset is read for: a model that is there, or settings that take from the data what nobody has set.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) model: VitConfig,
    pub(crate) asked: Asked,
    pub(crate) data: DataSettings,
    /// That of a model on disk, if it has one.
    pub(crate) transform: Option<Transform>,
}

impl Wanted {
    /// The images and classes of a model that is there.
    pub(crate) fn by(model: &VitConfig) -> Self {
        let (model, data) = (model.clone(), DataSettings::default());
        Self { model, asked: Asked::all(), data, transform: None }
    }

    /// The same of a model on disk: as its run read its dataset, or as its file says.
    pub(crate) fn by_saved(saved: &SavedModel) -> Self {
        let mut data =
            saved.run.as_ref().map_or_else(DataSettings::default, |run| run.data.clone());
        let transform = saved.info.transform.clone();
        if let Some(Transform { mean, std, .. }) = &transform {
            (data.mean, data.std) = (mean.clone(), std.clone());
        }
        Self { data, transform, ..Self::by(&saved.config) }
    }

    /// How pictures become images: where the settings leave it open, in the colours of the pictures, and small if they are.
    ///
    /// # Errors
    /// If they are kept smaller than they are seen.
    fn take_pictures(&mut self, look: Look) -> Result<PictureView> {
        let small = Preset::Pictures32.config();
        if !self.asked.model && !self.asked.image && look.shorter_side < SMALL_PICTURE {
            (self.model.image, self.model.patch) = (small.image, small.patch);
        }
        if !self.asked.channels {
            self.model.image.channels = look.channels;
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

    /// Takes the images' channels, height and width over where the settings leave them open.
    ///
    /// # Errors
    /// If the settings have others, or no patch fits.
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

    /// Takes the number of classes over where the settings leave it open.
    ///
    /// # Errors
    /// If the settings have fewer.
    fn take_classes(&mut self, name: &str, classes: usize) -> Result<()> {
        if !self.asked.classes {
            self.model.classes = classes;
        }
        if classes > self.model.classes {
            let message =
                format!("the model knows {} classes, {name} has {classes}", self.model.classes);
            return Err(unfit(message));
        }
        Ok(())
    }
}

/// How a picture is seen by a model with this transform.
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

/// The preset's patch where it divides the image, else the largest that does and leaves four in a row at least.
fn patch_for(image: ImageSize, preset: PatchSize) -> PatchSize {
    let (height, width) = (image.height, image.width);
    if height.is_multiple_of(preset.height) && width.is_multiple_of(preset.width) {
        return preset;
    }
    let fits = |side: &usize| height.is_multiple_of(*side) && width.is_multiple_of(*side);
    let side = (1..=(height.min(width) / 4).max(1)).rev().find(fits).unwrap_or(1);
    PatchSize { height: side, width: side }
}

/// The dataset of this name, or in this folder, for a model.
///
/// # Errors
/// If there is no such dataset, or it cannot be had, or the model does not take its images.
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

/// The dataset with the normalisation that is asked for, measured if it is to be.
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

/// The seed that a test part is drawn by: one for all runs, so that they are tested on the same pictures.
const TEST_SEED: u64 = 0;
/// Pictures whose shorter side is below this are trained on at 32 pixels.
const SMALL_PICTURE: usize = 48;
/// The folder of caches in the data folder.
const CACHES: &str = "pictures";

/// Pictures in class folders, in parquet files, or named by a CSV file.
fn pictures(path: &Path, place: &DataPlace, wanted: &mut Wanted) -> Result<Found> {
    let (name, listing) = list(path, wanted)?;
    advise(&listing, path);
    listed(&name, &listing, place, wanted)
}

/// What lies there, and its whole path, so that the run can be repeated from anywhere.
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

/// Takes over what a dataset on disk tells, without reading more of its pictures than a few; gives its name. Nothing where it
/// is a named one, whose files need not be there.
///
/// # Errors
/// If it cannot be read, or is not for the model.
pub(crate) fn look(name: &str, wanted: &mut Wanted) -> Result<Option<String>> {
    if name == DIGITS || Source::named(name).is_some() || HubName::is_meant(name) {
        return Ok(None);
    }
    if is_of_pictures(name) {
        let (name, listing) = list(Path::new(name), wanted)?;
        wanted.take_pictures(look_at(&listing))?;
        wanted.take_classes(&name, listing.classes.len())?;
        return Ok(Some(name));
    }
    let place = DataPlace { data_dir: None, mirror: None };
    let found = in_folder(name, &place, wanted)?;
    fit(&found.dataset, wanted)?;
    Ok(Some(found.dataset.name().to_owned()))
}

/// What some of the pictures are like.
fn look_at(listing: &Listing) -> Look {
    vit_data::look_at(listing).unwrap_or(Look { channels: 3, shorter_side: 64 })
}

/// A dataset of the hub.
fn of_hub(text: &str, place: &DataPlace, wanted: &mut Wanted) -> Result<Found> {
    let Some(name) = HubName::parse(text) else {
        let message = format!(
            "expected hf:OWNER/NAME, hf:OWNER/NAME/CONFIGURATION or either with @REVISION, got {text:?}"
        );
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

/// The pictures of a listing.
fn listed(name: &str, listing: &Listing, place: &DataPlace, wanted: &mut Wanted) -> Result<Found> {
    let view = wanted.take_pictures(look_at(listing))?;
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
    let keeping = Keeping { folder: folder.as_deref(), skip_unreadable };
    let count = listing.pictures().count() as u64;
    let bar = Counter::new("reading pictures", Some(count), thousands);
    let loaded = vit_data::load_pictures(name, listing, view, keeping, &mut |done| {
        bar.set("reading pictures", done as u64, Some(count));
        ControlFlow::Continue(())
    });
    drop(bar);
    let Loaded { dataset, skipped, duplicates } = loaded?;
    if !skipped.is_empty() {
        tracing::warn!("{} of {count} pictures cannot be read and are left out", skipped.len());
    }
    if duplicates > 0 {
        tracing::warn!("{duplicates} pictures are both trained on and tested with");
    }
    Ok(Found { view: Some(view), skipped, ..Found::new(dataset, Origin::Unverified) })
}

/// What helps where there is little to learn from.
fn advise(listing: &Listing, path: &Path) {
    let mut counts = vec![0_usize; listing.classes.len()];
    for listed in &listing.train {
        counts[listed.label as usize] += 1;
    }
    let (total, most) = (listing.train.len(), counts.iter().copied().max().unwrap_or(0));
    let (path, classes) = (path.display(), counts.len());
    if listing.is_test_drawn {
        let (tested, of) = (listing.test.len(), total + listing.test.len());
        tracing::info!("{path}: {tested} of {of} pictures are drawn for the test");
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
            "{most} of {total} pictures are of class {:?}: a model that always says so is as good; look at the macro \
             average of `vit eval`",
            listing.classes[class]
        );
    }
    let lower: HashSet<String> = listing.classes.iter().map(|name| name.to_lowercase()).collect();
    if lower.len() < classes {
        tracing::warn!("some of the {classes} classes differ only in upper and lower case");
    }
}

/// With fewer pictures a class than this, little is learned.
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
        tracing::warn!(
            "{} is a folder of your own: its structure is checked, its content unverified",
            folder.display()
        );
        if vit_data::holds_cifar(folder) {
            let whole =
                std::path::absolute(folder).map_err(vit_files::Error::io("find", folder))?;
            let dataset = vit_data::load_cifar(folder)?.with_name(whole.display().to_string());
            return Ok(Found::new(dataset, Origin::Unverified));
        }
        // Before they are unpacked.
        wanted.take_shape(name, vit_data::image_shape(folder)?)?;
        // The whole path and not the folder's name, so that the run can be repeated from anywhere.
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
    let message = format!("no dataset is called {name:?}, and it is no folder either");
    Err(Failure::new(Exit::Data, message)
        .hint("pass mnist, fashion-mnist, cifar10, cifar100, digits, a folder of pictures, of parquet or of the four IDX files, a CSV file, or hf:OWNER/NAME"))
}

/// Whether a model can be given the images of a dataset, and knows its classes; what it leaves open it takes over.
///
/// # Errors
/// If not: both sizes are named.
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

/// MNIST if it is there or can be fetched, else what is built in.
///
/// # Errors
/// If MNIST is there and is not what was published, or cannot be read.
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

/// The folder that MNIST is in now, or why training goes on without it.
fn mnist_or_why_not(place: &DataPlace) -> Result<std::result::Result<PathBuf, String>> {
    let source = &vit_fetch::MNIST;
    let unkept = |error: vit_fetch::Error| {
        let why = Failure::from(error);
        tracing::debug!("{why:?}");
        Ok(Err(format!("MNIST has no place to be kept ({})", why.message())))
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
        // Files that are there and cannot be read are an error.
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
            Ok(Err(format!("MNIST is neither here nor reachable{deep}")))
        }
    }
}

/// Whether it is the place that is to blame: it may not be written, is none, or is full. `operation` is what was tried, if only
/// that counts.
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

/// The folder that a dataset is read from; none of what is built in.
pub(crate) fn folder_of(name: &str, place: &DataPlace) -> Option<PathBuf> {
    match Source::named(name) {
        Some(source) => Some(source.folder(&data_root(place.data_dir.clone()).ok()?)),
        None => (name != DIGITS).then(|| name.into()),
    }
}

/// Fetches a named dataset where it is missing, and gives its folder.
///
/// # Errors
/// If it cannot be had.
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

/// What to do where a dataset cannot be kept.
const ANOTHER_PLACE: &str =
    "make it writable and have room there, or name another folder with --data-dir DIR or VIT_DATA";

fn published(source: &'static Source, place: &DataPlace) -> Result<Found> {
    load_published(source, &fetch(source, place)?)
}

fn load_published(source: &Source, folder: &Path) -> Result<Found> {
    let again = |error| {
        let failure = Failure::from(error);
        failure.hint(format!("delete it and have it fetched again: `vit fetch {}`", source.name))
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
        // What is known by its packed digest alone is checked on disk, before and after it was read.
        vit_fetch::verify(source, folder)?;
    }
    Ok(Found::new(dataset, Origin::Verified))
}

/// Training and test images of Fashion-MNIST.
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

/// The mirrors in turn; for MNIST, the hub last of all.
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
            tracing::info!("another process fetches into {}", folder.display());
        }
        Event::Installed { file } => tracing::debug!("{file} is verified"),
        _ => {}
    });
    drop(bar);
    // Where no mirror has it, the error tells of all of them, once.
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

/// Takes a dataset from the hub, through candle-datasets, if its bytes are the published ones.
fn from_hub(
    source: &Source,
    folder: &Path,
    patience: Duration,
    load: impl FnOnce() -> vit_data::Result<Dataset> + Send + 'static,
) -> Result<()> {
    tracing::info!("asking the hub for {}", source.name);
    let (send, receive) = mpsc::channel();
    // The loader has no time limit of its own; a thread that is late is left behind.
    thread::spawn(move || {
        // Nobody may wait for it any more.
        let _ = send.send(load());
    });
    let dataset = receive.recv_timeout(patience).map_err(|_| {
        Failure::new(Exit::Data, format!("the hub gave nothing within {patience:?}"))
    })??;
    check_content(&dataset, source)?;
    std::fs::create_dir_all(folder).map_err(vit_files::Error::io("create", folder))?;
    // Without a lock: whoever else writes here writes the same bytes, and whole.
    for file in IdxFile::ALL {
        write_atomically_with(&folder.join(file.name()), |out| dataset.write_idx(file, out))?;
    }
    Ok(())
}

/// Whether a dataset in memory is the published one: a file on disk can change between a check and the reading.
///
/// # Errors
/// If the digest of a file made of it is not the known one.
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
    fn what_the_hub_gives_is_refused_unless_it_is_what_was_published() {
        let above = tempfile::tempdir().expect("a temporary folder");
        let folder = above.path().join("mnist");
        let load = || Ok(vit_data::digits()?.with_name("mnist"));
        let refused = from_hub(&vit_fetch::MNIST, &folder, HUB_PATIENCE, load);
        let refused = format!("{:?}", refused.expect_err("digits are not MNIST"));
        assert!(refused.contains("train-images-idx3-ubyte of mnist is not the published file"));
        assert!(!folder.exists());
    }

    #[test]
    fn a_hub_that_gives_nothing_is_left_in_time() {
        let folder = Path::new("never-made");
        let load = || loop {
            thread::park();
        };
        let late = from_hub(&vit_fetch::MNIST, folder, Duration::from_millis(10), load);
        assert!(format!("{:?}", late.expect_err("too late")).contains("nothing within 10ms"));
        assert!(!folder.exists());
    }

    #[test]
    fn a_dataset_that_changed_after_its_check_is_refused() {
        let dataset = vit_data::digits().expect("digits are built in");
        assert!(check_content(&dataset, &vit_fetch::MNIST).is_err());
    }
}
