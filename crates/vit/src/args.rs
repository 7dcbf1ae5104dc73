//! Argument values. A shell does not expand `~` in quotes or after `=`, so it is expanded here.

use std::path::{Path, PathBuf};

use clap::builder::{PathBufValueParser, StringValueParser, TypedValueParser};
use vit_files::{Error, expand_home};

/// Accepts any path.
pub(crate) fn path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| expand_home(&path))
}

/// Accepts the path of a folder, or a name.
pub(crate) fn path_or_name() -> impl TypedValueParser<Value = String> {
    StringValueParser::new().try_map(|text| expand(&text))
}

/// Replaces a leading `~` with the home directory.
///
/// # Errors
/// If there is no home directory, its path is not UTF-8, or the text names another user's home.
pub(crate) fn expand(text: &str) -> Result<String, Error> {
    let expanded = expand_home(Path::new(text))?;
    // Text without a `~` is unchanged, so still UTF-8.
    expanded.into_os_string().into_string().map_err(|_| Error::Home {
        path: text.into(),
        expected: "expected a home folder whose path is UTF-8".to_owned(),
    })
}

/// Accepts the integers that a configuration file can hold.
pub(crate) fn whole_number() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(..=i64::MAX as u64)
}
