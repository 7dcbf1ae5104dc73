//! Settings from the environment: the data directory and the user's mirror.

use std::env;
use std::path::PathBuf;

use etcetera::BaseStrategy;

use crate::{Error, Mirror};

/// The data directory, with one folder per dataset: the explicit one, else `VIT_DATA`, else `vit` in the platform's
/// cache directory. A leading `~` is the home directory.
///
/// # Errors
/// If neither is given and there is no home directory, or a leading `~` cannot be expanded.
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

/// The user's mirrors, which come before the built-in ones: the explicit one, else `VIT_MIRROR`.
///
/// # Errors
/// [`Error::Mirror`] if it is not an HTTP address.
pub fn user_mirrors(explicit: Option<&str>) -> Result<Vec<Mirror>, Error> {
    let from_environment = env::var("VIT_MIRROR").ok().filter(|mirror| !mirror.is_empty());
    explicit.or(from_environment.as_deref()).into_iter().map(str::parse).collect()
}
