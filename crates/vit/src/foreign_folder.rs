//! Folders in which timm or transformers saved a model.

use std::path::{Path, PathBuf};

pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const CARD: &str = "README.md";
pub(crate) const CONFIG: &str = "config.json";
pub(crate) const PREPROCESSOR: &str = "preprocessor_config.json";

/// Whether the folder has a foreign model. A run directory has a `config.toml` instead.
pub(crate) fn is_foreign_folder(path: &Path) -> bool {
    let holds = |name: &str| path.join(name).exists();
    path.is_dir()
        && !holds(vit_run::CONFIG)
        && (holds(CONFIG)
            || holds(WEIGHTS)
            || index_in(path).is_some()
            || pickle_in(path).is_some())
}

pub(crate) fn pickle_in(folder: &Path) -> Option<PathBuf> {
    let named = |name: &str| Some(folder.join(name)).filter(|path| path.exists());
    named("pytorch_model.bin").or_else(|| named("pytorch_model.bin.index.json"))
}

pub(crate) fn index_in(folder: &Path) -> Option<PathBuf> {
    Some(folder.join("model.safetensors.index.json")).filter(|path| path.exists())
}
