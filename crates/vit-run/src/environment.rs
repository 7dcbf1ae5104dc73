//! `env.json`: machine, program and dataset of a run.

use std::io::ErrorKind;

use serde_json::{Map, Value};
use vit_files::{open_file, text_of_at_most, write_atomically};

use crate::names::ENVIRONMENT;
use crate::{Error, RunFolder};

/// Facts about machine, program and dataset, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Environment(pub Map<String, Value>);

/// Size limit of the file.
const MOST_BYTES: u64 = 1 << 16;

impl Environment {
    /// Reads a run's `env.json`; `None` if it is missing or not JSON.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(run: &RunFolder) -> Result<Option<Self>, Error> {
        let path = run.path().join(ENVIRONMENT);
        match open_file(&path).and_then(|file| text_of_at_most(MOST_BYTES, file)) {
            Ok(text) => Ok(serde_json::from_str(&text).ok().map(Self)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => {
                Ok(None)
            }
            Err(error) => Err(vit_files::Error::io("read", &path)(error).into()),
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, run: &RunFolder) -> Result<(), Error> {
        let path = run.path().join(ENVIRONMENT);
        Ok(write_atomically(&path, self.to_text().as_bytes())?)
    }

    /// The file's content.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{}\n", serde_json::to_string_pretty(&self.0).expect("plain data"))
    }

    /// Names and values as text, for display.
    #[must_use]
    pub fn rows(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.0.iter().map(|(name, value)| (name.clone(), text(value))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn environments_round_trip_and_show_as_text() {
        let above = tempfile::tempdir().expect("a temporary folder");
        let run = RunFolder::create(&above.path().join("run"), &[]).expect("a writable folder");
        assert_eq!(Environment::read(&run).expect("no file"), None);
        let known = [("threads".to_owned(), json!(3)), ("vit".to_owned(), json!("0.1.0"))];
        let environment = Environment(Map::from_iter(known));
        environment.write(&run).expect("a writable folder");
        assert_eq!(Environment::read(&run).expect("the file").as_ref(), Some(&environment));
        let rows = [("threads", "3"), ("vit", "0.1.0")];
        assert_eq!(environment.rows(), rows.map(|(name, value)| (name.into(), value.into())));
        std::fs::write(run.path().join(ENVIRONMENT), "{").expect("a writable folder");
        assert_eq!(Environment::read(&run).expect("no JSON"), None);
    }
}
