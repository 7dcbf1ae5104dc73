//! Recognising datasets of picture files.

use std::path::Path;

/// Whether the name means picture files: a folder without IDX files, a CSV file, or a hub dataset.
pub(crate) fn is_of_pictures(name: &str) -> bool {
    let path = Path::new(name);
    vit_data::HubName::is_meant(name)
        || is_csv(path)
        || (path.is_dir() && !vit_data::holds_idx(path) && !vit_data::holds_cifar(path))
}

/// Whether the path is a CSV file.
pub(crate) fn is_csv(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"))
}
