//! Values of arguments. A shell leaves `~` as it is in quotes and after `=`, so it is expanded here.

use std::path::{Path, PathBuf};

use clap::builder::{PathBufValueParser, StringValueParser, TypedValueParser};
use vit_files::{Error, expand_home};

/// Takes any path.
pub(crate) fn path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| expand_home(&path))
}

/// Takes the path of a folder, or a name.
pub(crate) fn path_or_name() -> impl TypedValueParser<Value = String> {
    StringValueParser::new().try_map(|text| expand(&text))
}

/// Text with a leading `~` replaced by the home folder.
///
/// # Errors
/// If it begins with `~` and leads to no home folder, or to one whose path is no text.
pub(crate) fn expand(text: &str) -> Result<String, Error> {
    let expanded = expand_home(Path::new(text))?;
    // What begins with no `~` is the text that it was.
    expanded.into_os_string().into_string().map_err(|_| Error::Home {
        path: text.into(),
        expected: "expected a home folder whose path is UTF-8".to_owned(),
    })
}

/// Any that a configuration file can hold, which has no larger ones.
pub(crate) fn whole_number() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(..=i64::MAX as u64)
}
