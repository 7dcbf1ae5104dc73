//! Datasets of the Hugging Face Hub: parquet files, kept in the hub's own cache.

use std::path::{Path, PathBuf};

use hf_hub::{HFClientSync, HFError, HFRepositorySync, RepoTypeDataset};

use crate::error::{Error, Result};
use crate::tables::{self, Table, is_table};

/// The branch with the hub's own conversions to parquet.
const CONVERTED: &str = "refs/convert/parquet";
const OWN: &str = "main";
/// Prefix of the names of hub datasets.
const PREFIX: &str = "hf:";

/// The name of a hub dataset: `hf:OWNER/NAME`, optionally with `/CONFIGURATION` and `@REVISION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    owner: String,
    name: String,
    configuration: Option<String>,
    revision: Option<String>,
}

impl HubName {
    /// Parses a name; `None` if it has another form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX)?;
        let (rest, revision) = match rest.rsplit_once('@') {
            Some((rest, revision)) => (rest, Some(revision)),
            None => (rest, None),
        };
        let mut parts = rest.splitn(3, '/');
        let (owner, name, configuration) = (parts.next()?, parts.next()?, parts.next());
        let are_words = [Some(owner), Some(name), configuration, revision];
        if are_words.into_iter().flatten().any(str::is_empty) {
            return None;
        }
        let own = |text: Option<&str>| text.map(str::to_owned);
        let (owner, name) = (owner.to_owned(), name.to_owned());
        Some(Self { owner, name, configuration: own(configuration), revision: own(revision) })
    }

    /// Whether the text begins like a hub name.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    fn at(&self, revision: &str) -> String {
        let configuration = self.configuration.as_deref();
        let configuration = configuration.map(|it| format!("/{it}")).unwrap_or_default();
        format!("{PREFIX}{}/{}{configuration}@{revision}", self.owner, self.name)
    }
}

/// A hub dataset's files, downloaded.
#[derive(Clone, Debug)]
pub struct HubTables {
    /// The dataset's name with the exact revision, which repeats the download.
    pub name: String,
    /// Where the files are.
    pub(crate) folder: PathBuf,
    pub(crate) tables: Vec<Table>,
}

/// Downloads a dataset's parquet files that are missing from the hub's cache (`HF_HUB_CACHE`, else `HF_HOME`, else the
/// platform's cache). Uses the dataset's own files, else the hub's conversion of it. `HF_ENDPOINT` replaces the hub's
/// address. `progress` receives the number of files present and the total.
///
/// # Errors
/// If the hub or the dataset is unreachable, or the configuration has no parquet files.
pub fn fetch_hub_tables(
    hub_name: &HubName,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<HubTables> {
    let place = format!("{PREFIX}{}/{}", hub_name.owner, hub_name.name);
    let failed = |error: HFError| Error::HubDataset { name: place.clone(), message: chain(&error) };
    let client = HFClientSync::new().map_err(failed)?;
    let repository = client.dataset(&hub_name.owner, &hub_name.name);
    let list = |revision: &str| list(&repository, revision);
    let (revision, files) = match &hub_name.revision {
        Some(revision) => list(revision).map_err(failed)?,
        None => match list(OWN).map_err(failed)? {
            own if !own.1.is_empty() => own,
            _ => list(CONVERTED).map_err(failed)?,
        },
    };
    let named = files.iter().map(|file| Table::new(PathBuf::from(file), file)).collect();
    let asked = hub_name.configuration.as_deref();
    let mut tables = tables::of_configuration(Path::new(&place), named, asked)?;
    // Splits that neither train nor test are not downloaded.
    tables.retain(|table| table.split.is_some());
    let mut folder = PathBuf::new();
    let count = tables.len();
    for (done, table) in tables.iter_mut().enumerate() {
        progress(done, count);
        let file = table.path.to_string_lossy().into_owned();
        let download = repository.download_file().filename(&*file).revision(&*revision);
        table.path = download.send().map_err(failed)?;
        let depth = Path::new(&file).components().count();
        folder = table.path.ancestors().nth(depth).unwrap_or(&table.path).to_owned();
    }
    progress(count, count);
    Ok(HubTables { name: hub_name.at(&revision), folder, tables })
}

/// The commit, and its parquet files.
fn list(
    repository: &HFRepositorySync<RepoTypeDataset>,
    revision: &str,
) -> std::result::Result<(String, Vec<String>), HFError> {
    let info = repository.info().revision(revision).send()?;
    let files = info.siblings.unwrap_or_default().into_iter().map(|file| file.rfilename);
    let mut files: Vec<String> = files.filter(|file| is_table(file)).collect();
    files.sort_unstable();
    Ok((info.sha.unwrap_or_else(|| revision.to_owned()), files))
}

fn chain(error: &dyn std::error::Error) -> String {
    let all = std::iter::successors(Some(error), |&error| error.source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_have_a_configuration_and_a_revision() {
        let parsed = |text: &str| HubName::parse(text).map(|name| name.at("SHA"));
        assert_eq!(parsed("hf:a/b").as_deref(), Some("hf:a/b@SHA"));
        assert_eq!(parsed("hf:a/b/c/d@1").as_deref(), Some("hf:a/b/c/d@SHA"));
        for other in ["mnist", "hf:a", "hf:/b", "hf:a/", "hf:a/b@", "hf:a/b/"] {
            assert_eq!(parsed(other), None, "{other}");
        }
    }
}
