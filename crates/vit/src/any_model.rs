//! Opens a model that may be another library's: a safetensors file, or a folder saved by timm or transformers. Reads no
//! tensors.

use std::path::{Path, PathBuf};

use vit_files::{open_file, text_of_at_most};
use vit_model::{
    Documents, Foreign, Known, Layout, ModelFile, ModelInfo, OtherFormat, Tensors, VitConfig,
};

use crate::failure::{Exit, Failure, Result};
use crate::foreign_folder::{
    CONFIG, PREPROCESSOR, WEIGHTS, index_in, is_foreign_folder, pickle_in,
};
use crate::saved_model::SavedFile;

const OF_ANOTHER: &str = "check that the config.json beside it and your flags belong to this file";

/// A model of ours or another library's, with its header and JSON read.
pub(crate) struct AnyModel {
    pub(crate) file: ModelFile,
    pub(crate) layout: Layout,
    pub(crate) config: VitConfig,
    /// A foreign model's own description.
    pub(crate) foreign: Option<Foreign>,
}

impl AnyModel {
    /// Reads a model's description, and checks the names and shapes of its tensors.
    ///
    /// # Errors
    /// If there is no model or it cannot be imported, or it is one of ours and `known` has settings.
    pub(crate) fn open(path: &Path, known: &Known) -> Result<Self> {
        if is_foreign_folder(path) {
            refuse_other_formats(path)?;
            let file = ModelFile::open(&path.join(WEIGHTS))?;
            if file.config().is_none() {
                return Self::foreign(file, known);
            }
        }
        if path.is_file() {
            let file = ModelFile::open(path)?;
            if file.config().is_none() {
                return Self::foreign(file, known);
            }
        }
        let SavedFile { file, layout, config, .. } = SavedFile::open(path)?;
        if *known != (Known { image: known.image, ..Known::default() }) {
            let message = format!("{} has its own configuration", file.path().display());
            return Err(Failure::new(Exit::Usage, message)
                .hint("leave out --heads, --layer-norm-eps, --mean and --std"));
        }
        Ok(Self { file, layout, config, foreign: None })
    }

    fn foreign(file: ModelFile, known: &Known) -> Result<Self> {
        // The JSON beside a file belongs to it only if the file has the name that both libraries use.
        let folder = file.path().parent().filter(|_| file.path().ends_with(WEIGHTS));
        let text = |name: &str| folder.map_or(Ok(None), |folder| read_if_there(&folder.join(name)));
        let (config, preprocessor) = (text(CONFIG)?, text(PREPROCESSOR)?);
        let documents =
            Documents { config: config.as_deref(), preprocessor: preprocessor.as_deref() };
        let foreign = Foreign::new(file.infos(), documents, known).map_err(|error| {
            let of_another = matches!(error, vit_model::Error::Parameters { .. });
            let failure = Failure::from(error).about(file.path().display());
            if of_another { failure.hint(OF_ANOTHER) } else { failure }
        })?;
        let (layout, config) = (foreign.layout, foreign.config.clone());
        Ok(Self { file, layout, config, foreign: Some(foreign) })
    }

    /// Logs the assumed settings, and a prefix removed from the names.
    pub(crate) fn log_assumptions(&self) {
        let prefix = self.file.prefix();
        if !prefix.is_empty() {
            tracing::info!("names without the prefix {prefix:?} of a PyTorch wrapper");
        }
        let assumed = self.foreign.as_ref().map_or(&[][..], |foreign| &foreign.assumed);
        if !assumed.is_empty() {
            tracing::info!("assumed, because no file says otherwise: {}", assumed.join(", "));
        }
    }

    /// Class names and transform, as far as the files have them.
    pub(crate) fn info(&self) -> ModelInfo {
        self.foreign.as_ref().map_or(self.file.info(), |foreign| &foreign.info).clone()
    }

    /// Reads the parameters under native names, converted to our normalisation.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn parameters(&self) -> Result<Tensors> {
        Ok(match &self.foreign {
            Some(foreign) => foreign.import(&self.file)?,
            None => self.layout.import_file(&self.file, &self.config)?,
        })
    }
}

/// The files read for this path: itself, and the JSON beside it.
pub(crate) fn files_of(path: &Path) -> [PathBuf; 3] {
    [path.to_owned(), path.with_file_name(CONFIG), path.with_file_name(PREPROCESSOR)]
}

/// Size limit of a JSON file, several times a configuration with a thousand class names: the parser takes up to 150
/// bytes for each.
const LONGEST_DOCUMENT: u64 = 1 << 18;

fn read_if_there(path: &Path) -> Result<Option<String>> {
    match open_file(path).and_then(|file| text_of_at_most(LONGEST_DOCUMENT, file)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(Failure::new(Exit::File, format!("cannot read {}: {error}", path.display())))
        }
    }
}

/// Rejects other model formats, each with advice.
fn refuse_other_formats(path: &Path) -> Result<()> {
    if path.join(WEIGHTS).exists() {
        return Ok(());
    }
    if let Some(index) = index_in(path) {
        let message =
            format!("{} lists several model files, expected a single one", index.display());
        let hint = "merge them in Python: from_pretrained(DIR).save_pretrained(OUT, max_shard_size=\"1TB\")";
        return Err(Failure::new(Exit::File, message).hint(hint));
    }
    if let Some(pickle) = pickle_in(path) {
        let format = OtherFormat::Pickle;
        return Err(vit_model::Error::OtherFormat { path: pickle, format }.into());
    }
    Ok(())
}
