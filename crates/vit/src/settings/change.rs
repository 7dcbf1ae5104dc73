//! Settings that change during a run: the tables `[[changes]]`.

use std::fmt;

use serde::{Deserialize, Serialize};
use vit_data::Augment;
use vit_train::Schedule;

/// A change of settings when a run is resumed. The schedule remains a function of the step over the whole run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    /// Steps completed before the change.
    pub(crate) from_step: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) epochs: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_steps: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) patience: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lr: Option<f64>,
    /// Replaces the whole table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) schedule: Option<Schedule>,
    /// Replaces the whole table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) augment: Option<Augment>,
}

impl fmt::Display for Change {
    /// A sentence for the report.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = toml::Table::try_from(self).expect("settings are plain data");
        table.remove("from_step");
        let settings = table.iter().map(|(name, value)| format!("{name} = {value}"));
        let settings = settings.collect::<Vec<_>>().join(", ");
        write!(f, "Trained with {settings} after step {}.", self.from_step)
    }
}
