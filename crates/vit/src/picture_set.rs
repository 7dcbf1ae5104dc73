//! What a name of a dataset leads to, where it is pictures in files.

use std::path::Path;

/// Whether this names pictures in files: a folder that is none of IDX files, a CSV file, or a dataset of the hub.
pub(crate) fn is_of_pictures(name: &str) -> bool {
    let path = Path::new(name);
    vit_data::HubName::is_meant(name)
        || is_csv(path)
        || (path.is_dir() && !vit_data::holds_idx(path) && !vit_data::holds_cifar(path))
}

/// Whether this names a table of pictures.
pub(crate) fn is_csv(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"))
}
