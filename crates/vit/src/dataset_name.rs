//! What the name of a dataset means: a named dataset, pictures, or CIFAR.

use std::path::Path;

use vit_fetch::Source;

/// Name of the built-in dataset.
pub(crate) const DIGITS: &str = "digits";

/// Whether this names a built-in or downloadable dataset, and so is not a path even if one exists.
pub(crate) fn is_named(name: &str) -> bool {
    name == DIGITS || Source::named(name).is_some()
}

/// Whether the name means picture files: a folder without IDX files, a CSV file, or a hub dataset.
pub(crate) fn is_of_pictures(name: &str) -> bool {
    let path = Path::new(name);
    !is_named(name)
        && (vit_data::HubName::is_meant(name)
            || is_csv(path)
            || (path.is_dir() && !vit_data::holds_idx(path) && !vit_data::holds_cifar(path)))
}

/// Whether the name means CIFAR-10 or CIFAR-100, or a folder of one.
pub(crate) fn is_cifar(name: &str) -> bool {
    let names = [vit_fetch::CIFAR_10.name, vit_fetch::CIFAR_100.name];
    names.contains(&name) || (!is_named(name) && vit_data::holds_cifar(Path::new(name)))
}

/// Whether the path is a CSV file.
pub(crate) fn is_csv(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"))
}
