//! The content of a settings file, and its conversion from and to text.

use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use vit_data::Augment;
use vit_model::{Preset, VitConfig};
use vit_train::{Decay, OptimizerConfig, OptimizerKind, ScheduleKind, TrainConfig};

use super::change::Change;
use super::data::DataSettings;
use super::finetune::Finetune;

/// All settings that affect a run's result: `config.toml` in its directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The preset behind the defaults, or [`CUSTOM`].
    pub(crate) preset: String,
    /// The dataset; `None` if it is not chosen yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dataset: Option<String>,
    /// Whether each epoch has its own order.
    pub(crate) shuffle: bool,
    /// Share of the training images held out for validation.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) val_split: f64,
    /// Initial and frozen parameters.
    #[serde(default, skip_serializing_if = "Finetune::is_none")]
    pub(crate) finetune: Finetune,
    /// How the dataset is read.
    #[serde(default, skip_serializing_if = "DataSettings::is_default")]
    pub(crate) data: DataSettings,
    /// Augmentation.
    #[serde(default, skip_serializing_if = "Augment::is_none")]
    pub(crate) augment: Augment,
    /// Training settings.
    pub(crate) train: TrainConfig,
    /// The model.
    pub(crate) model: VitConfig,
    /// Changes during the run, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) changes: Vec<Change>,
}

/// The preset of a model that started from another one and matches no named preset.
pub(crate) const CUSTOM: &str = "custom";

/// The default number of shards: a power of two up to 16, with at least two samples in each (docs/decisions/0008).
pub(super) fn default_shards(batch_size: usize) -> usize {
    1 << (batch_size / 2).clamp(1, 16).ilog2()
}

impl Settings {
    /// The notebook's recipe, for a preset.
    pub(super) fn of_preset(preset: Preset) -> Self {
        Self {
            preset: preset.name().to_owned(),
            dataset: None,
            shuffle: true,
            val_split: 0.0,
            finetune: Finetune::default(),
            data: DataSettings::default(),
            augment: Augment::default(),
            train: TrainConfig::new(20, OptimizerConfig::adam(3e-4)),
            model: preset.config(),
            changes: Vec::new(),
        }
        .with_recipe_of(preset)
    }

    /// For picture presets, a recipe that suits small datasets.
    fn with_recipe_of(mut self, preset: Preset) -> Self {
        if !matches!(preset, Preset::Pictures32 | Preset::Pictures64) {
            return self;
        }
        self.augment = Augment { crop_scale: 0.35, flip: 0.5, ..self.augment };
        let train = &mut self.train;
        (train.epochs, train.batch_size) = (60, 32);
        (train.label_smoothing, train.clip) = (0.1, Some(1.0));
        train.schedule.kind = ScheduleKind::OneCycle;
        train.optimizer = OptimizerConfig {
            kind: OptimizerKind::AdamW,
            decay: Decay::Matrices,
            weight_decay: 0.05,
            ..OptimizerConfig::adam(1e-3)
        };
        self
    }

    /// Overrides these settings with a file's.
    ///
    /// # Errors
    /// If a key is unknown, or a value has the wrong type.
    pub(super) fn merged_with(&self, file: Table) -> Result<Self, toml::de::Error> {
        let mut merged = self.to_table();
        merge(&mut merged, file);
        Value::Table(merged).try_into()
    }

    /// The settings as a table.
    pub(crate) fn to_table(&self) -> Table {
        Table::try_from(self).expect("settings are plain data")
    }

    /// The configuration file, which repeats the run.
    pub(crate) fn to_toml(&self) -> String {
        toml::to_string(self).expect("settings are plain data")
    }
}

/// A text that is not TOML.
#[derive(Debug)]
pub(super) struct Misread {
    /// From 1.
    pub(super) line: usize,
    pub(super) message: String,
}

/// Parses the text of a settings file.
///
/// # Errors
/// If it is not TOML.
pub(super) fn parse(text: &str) -> Result<Table, Misread> {
    let table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        Misread { line, message: one_line(error.message()) }
    })?;
    Ok(with_data_in_place(with_init_in_finetune(table)))
}

/// Moves the dataset and the image size, which `[data]` may contain, to their own places.
fn with_data_in_place(mut table: Table) -> Table {
    let Some(Value::Table(data)) = table.get_mut("data") else { return table };
    let (dataset, size) = (data.remove("dataset"), data.remove("image_size"));
    if let Some(dataset) = dataset {
        table.entry("dataset").or_insert(dataset);
    }
    let sides = match &size {
        Some(side @ Value::Integer(_)) => [side, side],
        Some(Value::Array(sides)) if sides.len() == 2 => [&sides[0], &sides[1]],
        _ => return table,
    };
    let model = table.entry("model").or_insert_with(|| Value::Table(Table::new()));
    let image = model
        .as_table_mut()
        .map(|model| model.entry("image").or_insert_with(|| Value::Table(Table::new())));
    if let Some(image) = image.and_then(Value::as_table_mut) {
        image.insert("height".to_owned(), sides[0].clone());
        image.insert("width".to_owned(), sides[1].clone());
    }
    table
}

/// Moves `init` into its table; files before version 0.2 have it outside.
fn with_init_in_finetune(mut table: Table) -> Table {
    if let Some(init @ Value::String(_)) = table.get("init").cloned() {
        let finetune = table.entry("finetune").or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(finetune) = finetune
            && !finetune.contains_key("init")
        {
            finetune.insert("init".to_owned(), init);
            table.remove("init");
        }
    }
    table
}

/// The parser's message, without the excerpt it draws.
pub(super) fn one_line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join(" ")
}

const fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// Overrides entries of `base` with entries of `over`, table by table.
fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over),
            // An integer for a float, such as `lr = 1`.
            (Some(Value::Float(base)), Value::Integer(over)) => *base = over as f64,
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}
