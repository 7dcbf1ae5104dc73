//! Expands a leading `~` that no shell expanded: in quotes, after `=`, in a settings file.

use std::env;
use std::path::{Component, Path, PathBuf};

use crate::Error;

/// Replaces a leading `~` with the home directory. Other paths stay as they are; `./~` is a file called `~`.
///
/// # Errors
/// If there is no home directory, or the path begins with `~name`: other users' homes are not looked up.
pub fn expand_home(path: &Path) -> Result<PathBuf, Error> {
    expanded(path, env::home_dir())
}

fn expanded(path: &Path, home: Option<PathBuf>) -> Result<PathBuf, Error> {
    let refused = |expected: String| Error::Home { path: path.to_owned(), expected };
    let mut components = path.components();
    let Some(Component::Normal(first)) = components.next() else { return Ok(path.to_owned()) };
    match first.as_encoded_bytes() {
        b"~" => {
            let home = home.filter(|home| !home.as_os_str().is_empty());
            let home = home.ok_or_else(|| refused("expected HOME to be set".to_owned()))?;
            Ok(match components.as_path() {
                rest if rest.as_os_str().is_empty() => home,
                rest => home.join(rest),
            })
        }
        [b'~', ..] => Err(refused(format!(
            "expected ~/ for your own home folder; write another user's in full, and ./{} for a file of that name",
            first.display()
        ))),
        _ => Ok(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_tilde_is_the_home_directory() {
        for (path, expected) in [
            ("~", "/home/me"),
            ("~/", "/home/me"),
            ("~/runs/a", "/home/me/runs/a"),
            ("runs/~/a", "runs/~/a"),
            ("./~", "./~"),
            ("a~", "a~"),
            ("/~", "/~"),
            ("", ""),
            ("-", "-"),
        ] {
            let got = expanded(Path::new(path), Some("/home/me".into())).unwrap();
            assert_eq!(got, Path::new(expected), "{path}");
        }
    }

    #[test]
    fn tilde_without_a_known_home_is_rejected() {
        let error = |path: &str, home: Option<&str>| {
            expanded(Path::new(path), home.map(PathBuf::from)).unwrap_err().to_string()
        };
        assert!(error("~you/x", Some("/home/me")).starts_with("cannot expand ~you/x: "));
        for home in [None, Some("")] {
            assert_eq!(error("~/x", home), "cannot expand ~/x: expected HOME to be set");
        }
    }
}
