//! Finding the dataset that was asked for, or one to go on with.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use vit_data::{Dataset, IdxFile};
use vit_fetch::{Checksum, Event, Options, Presence, Source, data_root, user_mirrors};
use vit_files::{Digest, Hasher, write_atomically_with};
use vit_model::{Fit, ModelInfo, Transform, VitConfig};
use vit_patch::{ImageSize, PatchSize};

use crate::args::{path, path_or_name};
use crate::failure::{Exit, Failure, Result};
use crate::progress::Counter;
use crate::settings::Asked;
use crate::{output, outputs};

/// Which dataset, and where it lies.
#[derive(Debug, clap::Args)]
pub(crate) struct DataArgs {
    /// mnist, fashion-mnist, digits, or a folder of the four IDX files
    #[arg(long, value_name = "NAME|DIR", value_parser = path_or_name())]
    pub(crate) dataset: Option<String>,
    #[command(flatten)]
    pub(crate) place: DataPlace,
}

/// Where named datasets lie, and where they come from.
#[derive(Debug, clap::Args)]
pub(crate) struct DataPlace {
    /// The folder that holds a folder for each named dataset [default: VIT_DATA, else the cache folder]
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
    /// The SHA-256 of all images and labels.
    pub(crate) fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        self.dataset.digest(&mut hasher).expect("a digest takes all bytes");
        hasher.finish()
    }

    /// What the file of a model that is trained on it says of classes and pictures.
    pub(crate) fn info(&self, model: &VitConfig) -> ModelInfo {
        let mut class_names = self.dataset.class_names().to_vec();
        // A model may know more classes.
        class_names.extend((class_names.len()..model.classes).map(|class| class.to_string()));
        let of_digits = [vit_fetch::MNIST.name, DIGITS].contains(&self.dataset.name());
        let fit = if of_digits { Fit::Mnist } else { Fit::Stretch };
        ModelInfo { class_names, transform: Some(Transform::of(fit)) }
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
}

impl Wanted {
    /// The images and classes of a model that is there.
    pub(crate) fn by(model: &VitConfig) -> Self {
        Self { model: model.clone(), asked: Asked::all() }
    }

    /// Takes the images' channels, height and width over where the settings leave them open.
    ///
    /// # Errors
    /// If the settings have others, or no patch fits.
    fn take_shape(&mut self, name: &str, shape: (usize, usize, usize)) -> Result<()> {
        if !self.asked.image {
            let (channels, height, width) = shape;
            self.model.image = ImageSize { height, width, channels };
            if !self.asked.patch {
                self.model.patch = patch_for(self.model.image, self.model.patch);
            }
        }
        check_size(name, shape, &self.model)
    }

    /// Takes the number of classes over where the settings leave it open.
    ///
    /// # Errors
    /// If the settings have fewer.
    fn take_classes(&mut self, dataset: &Dataset) -> Result<()> {
        if !self.asked.classes {
            self.model.classes = dataset.classes();
        }
        check_classes(dataset, &self.model)
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
        in_folder(name, wanted)?
    };
    fit(&found.dataset, wanted)?;
    Ok(found)
}

fn in_folder(name: &str, wanted: &mut Wanted) -> Result<Found> {
    let folder = Path::new(name);
    if folder.is_dir() {
        tracing::warn!(
            "{} is a folder of your own: its structure is checked, its content unverified",
            folder.display()
        );
        // Before they are unpacked.
        wanted.take_shape(name, vit_data::image_shape(folder)?)?;
        // The whole path and not the folder's name, so that the run can be repeated from anywhere.
        let whole = std::path::absolute(folder).map_err(vit_files::Error::io("find", folder))?;
        let dataset = vit_data::load_dir(folder)?.with_name(whole.display().to_string());
        return Ok(Found { dataset, origin: Origin::Unverified });
    }
    let message = format!("no dataset is called {name:?}, and it is no folder either");
    Err(Failure::new(Exit::Data, message)
        .hint("pass mnist, fashion-mnist, digits, or a folder of the four IDX files"))
}

/// Whether a model can be given the images of a dataset, and knows its classes; what it leaves open it takes over.
///
/// # Errors
/// If not: both sizes are named.
pub(crate) fn fit(dataset: &Dataset, wanted: &mut Wanted) -> Result<()> {
    let shape = (dataset.channels(), dataset.height(), dataset.width());
    wanted.take_shape(dataset.name(), shape)?;
    wanted.take_classes(dataset)
}

fn check_classes(dataset: &Dataset, model: &VitConfig) -> Result<()> {
    if dataset.classes() > model.classes {
        let (of_model, of_data) = (model.classes, dataset.classes());
        let message =
            format!("the model knows {of_model} classes, {} has {of_data}", dataset.name());
        return Err(unfit(message));
    }
    Ok(())
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
            Ok(Err("MNIST is neither here nor reachable".to_owned()))
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
    let dataset = vit_data::load_dir(folder)?.with_name(source.name);
    check_content(&dataset, source)?;
    if source.files.iter().any(|file| matches!(file.sha256, Checksum::Packed(_))) {
        // What is known by its packed digest alone is checked on disk, before and after it was read.
        vit_fetch::verify(source, folder)?;
    }
    Ok(Found { dataset, origin: Origin::Verified })
}

fn built_in(origin: Origin) -> Result<Found> {
    Ok(Found { dataset: vit_data::digits()?, origin })
}

/// The mirrors in turn; for MNIST, the hub last of all.
fn obtain(
    source: &'static Source,
    folder: &Path,
    place: &DataPlace,
    hub_patience: Duration,
) -> std::result::Result<(), vit_fetch::Error> {
    let mirrors = user_mirrors(place.mirror.as_deref())?;
    let options = Options { mirrors, ..Options::default() };
    let bar = Counter::new(source.name, None, output::megabytes);
    let fetched = vit_fetch::fetch(source, folder, &options, &mut |event| match event {
        Event::Downloading { file, received, total, .. } => {
            bar.set(file, received, total);
        }
        Event::MirrorFailed(attempt) => tracing::warn!("{attempt}"),
        Event::Waiting { folder } => {
            tracing::info!("another process fetches into {}", folder.display());
        }
        Event::Installed { file } => tracing::debug!("{file} is verified"),
        _ => {}
    });
    drop(bar);
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
    thread::spawn(move || send.send(load()));
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
