//! What the user's environment says: where data lies, and which mirror to ask first.

use std::env;
use std::path::PathBuf;

use etcetera::BaseStrategy;

use crate::{Error, Mirror};

/// The folder that holds a folder for each dataset: the explicit one, else the environment's
/// `VIT_DATA`, else `vit` in the platform's cache folder. A leading `~` is the home folder.
///
/// # Errors
/// When nothing is said and the platform names no home folder, or a path begins with `~` that cannot be expanded.
pub fn data_root(explicit: Option<PathBuf>) -> Result<PathBuf, Error> {
    let from_environment = || env::var_os("VIT_DATA").filter(|root| !root.is_empty());
    match explicit.or_else(|| from_environment().map(PathBuf::from)) {
        Some(root) => Ok(vit_files::expand_home(&root)?),
        None => match etcetera::base_strategy::choose_native_strategy() {
            Ok(folders) => Ok(folders.cache_dir().join("vit")),
            Err(_) => Err(Error::NoHome),
        },
    }
}

/// The mirrors that the user wants asked before the built-in ones: the explicit one, else the
/// environment's `VIT_MIRROR`.
///
/// # Errors
/// [`Error::Mirror`] if it is no address of the web.
pub fn user_mirrors(explicit: Option<&str>) -> Result<Vec<Mirror>, Error> {
    let from_environment = env::var("VIT_MIRROR").ok().filter(|mirror| !mirror.is_empty());
    explicit.or(from_environment.as_deref()).into_iter().map(str::parse).collect()
}
