//! A run's settings: flags override the configuration file, which overrides the preset.

mod change;
mod data;
mod file;
mod finetune;
pub(crate) mod fuzzing;
mod phases;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use toml::{Table, Value};
use vit_files::{open_file, text_of_at_most};
use vit_model::Preset;

use crate::args::{self, path};
use crate::dataset_name::{is_cifar, is_of_pictures};
use crate::failure::{Exit, Failure, Result};
use crate::nearest;
use crate::terminal::is_hidden;
pub(crate) use data::DataSettings;
pub(crate) use file::{CUSTOM, Settings};
use file::{Misread, default_shards, one_line, parse};
pub(crate) use finetune::{Finetune, Freeze};

/// The preset and the configuration file.
#[derive(Debug, clap::Args)]
pub(crate) struct SettingsArgs {
    /// Model: notebook (the original PyTorch code with its quirks), shallow, pictures-32, pictures-64, vit-ti16,
    /// vit-s16, vit-b16, vit-b32 or vit-l16 [default: shallow; for pictures pictures-64]
    #[arg(long, value_name = "NAME")]
    pub(crate) preset: Option<String>,
    /// TOML file with settings, such as a run's config.toml; flags override it
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub(crate) config: Option<PathBuf>,
}

/// What the user chose; the dataset determines the rest of the model, the batch size the number of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Its shape, by a preset or directly.
    pub(crate) model: bool,
    /// The channels of its images.
    pub(crate) channels: bool,
    /// Their height and width.
    pub(crate) image: bool,
    pub(crate) patch: bool,
    pub(crate) classes: bool,
    pub(crate) shards: bool,
}

impl Asked {
    /// Everything is fixed, as for an existing model or a resumed run.
    pub(crate) const fn all() -> Self {
        Self { model: true, channels: true, image: true, patch: true, classes: true, shards: true }
    }

    /// Images and classes as before, everything else fixed by the initial model.
    pub(crate) const fn with_another_model(self) -> Self {
        Self {
            channels: false,
            image: self.image,
            classes: false,
            shards: self.shards,
            ..Self::all()
        }
    }

    fn in_file(file: &Table, is_set: bool) -> Self {
        let model = file.get("model").and_then(Value::as_table);
        let image = model.and_then(|model| model.get("image")).and_then(Value::as_table);
        let has_channels = image.is_some_and(|image| image.contains_key("channels"));
        let has = |key: &str| model.is_some_and(|model| model.contains_key(key));
        let train = file.get("train").and_then(Value::as_table);
        Self {
            model: is_set,
            channels: has_channels,
            image: has("image"),
            patch: has("patch"),
            classes: has("classes"),
            shards: train.is_some_and(|train| train.contains_key("shards")),
        }
    }
}

impl Settings {
    /// The checked settings of preset and configuration file, before other flags.
    ///
    /// # Errors
    /// If the file cannot be read or has an unknown key, or a setting is out of range.
    pub(crate) fn begin(args: &SettingsArgs) -> Result<Self> {
        Ok(Self::begin_explicitly(args, None)?.0)
    }

    /// Like [`begin`](Self::begin), with what the user chose. If this dataset or the file's consists of pictures, the
    /// default preset is another.
    ///
    /// # Errors
    /// Same as [`begin`](Self::begin).
    pub(crate) fn begin_explicitly(
        args: &SettingsArgs,
        dataset: Option<&str>,
    ) -> Result<(Self, Asked)> {
        let file = args
            .config
            .as_deref()
            .map(|path| {
                read_table(
                    path,
                    |path| File::open(path),
                    "`vit config > FILE` writes a configuration file",
                )
            })
            .transpose()?
            .unwrap_or_default();
        let in_file = file.get("preset").and_then(Value::as_str);
        if let (Some(path), Some(asked), Some(in_file)) = (&args.config, &args.preset, in_file)
            && asked != in_file
            && file.contains_key("model")
        {
            let path = path.display();
            let message = format!("{path} has preset {in_file}, but --preset is {asked}");
            return Err(Failure::new(Exit::Usage, message).hint("leave out --preset"));
        }
        let name = args.preset.as_deref().or(in_file);
        let dataset = dataset.or_else(|| file.get("dataset").and_then(Value::as_str));
        let default = match dataset {
            Some(dataset) if is_of_pictures(dataset) => Preset::Pictures64,
            Some(dataset) if is_cifar(dataset) => Preset::Pictures32,
            _ => Preset::Shallow,
        };
        let name = name.unwrap_or(default.name()).to_owned();
        let is_custom = args.preset.is_none() && name == CUSTOM && file.contains_key("model");
        let base = if is_custom { Preset::Shallow.name() } else { &name };
        let preset = Preset::named(base).map_err(|error| {
            let names = Preset::all().iter().map(|preset| preset.name());
            let mut failure = Failure::from(error);
            if let Some(hint) = nearest::of(base, names) {
                failure = failure.hint(hint);
            }
            match &args.config {
                Some(path) if args.preset.is_none() => failure.about(path.display()),
                _ => failure,
            }
        })?;
        let asked = Asked::in_file(&file, Self::sets_model(args, &file));
        let path = args.config.as_deref().unwrap_or(Path::new("the defaults"));
        let merged = Self::of_preset(preset).merged_with(file);
        let mut settings = merged.map_err(|error| bad_value(path, &error))?;
        settings.set_batch_size(settings.train.batch_size, asked);
        settings.preset = name;
        if let Some(path) = &args.config {
            settings.expand_home().map_err(|failure| failure.about(path.display()))?;
            settings.check().map_err(|failure| failure.about(path.display()))?;
        }
        Ok((settings, asked))
    }

    /// Sets the batch size, and with it the number of shards if it was not asked for.
    pub(crate) fn set_batch_size(&mut self, batch_size: usize, asked: Asked) {
        self.train.batch_size = batch_size;
        if !asked.shards {
            self.train.shards = default_shards(batch_size);
        }
    }

    /// Expands a leading `~` in the file's paths.
    fn expand_home(&mut self) -> Result<()> {
        self.dataset = self.dataset.as_deref().map(args::expand).transpose()?;
        let init = &mut self.finetune.init;
        *init = init.as_deref().map(vit_files::expand_home).transpose()?;
        Ok(())
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub(crate) fn check(&self) -> Result<()> {
        self.train.check()?;
        self.augment.check()?;
        self.finetune.check(&self.model)?;
        self.data.check()?;
        if !(0.0..1.0).contains(&self.val_split) {
            let message = format!("expected val_split in [0, 1), got {}", self.val_split);
            return Err(Failure::new(Exit::Usage, message));
        }
        if let (Some(patience), true) = (self.train.patience, self.val_split == 0.0) {
            let message = format!("expected patience only with val_split above 0, got {patience}");
            return Err(Failure::new(Exit::Usage, message).hint("pass --val-split 0.1"));
        }
        self.model.check()?;
        self.check_changes()
    }

    /// Settings that [`to_toml`](Self::to_toml) wrote in another process.
    ///
    /// # Errors
    /// If another version wrote them.
    pub(crate) fn of_text(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| bad_value(Path::new("the settings of rank 0"), &error))
    }

    /// The settings of the run in this directory.
    ///
    /// # Errors
    /// If its `config.toml` cannot be read.
    pub(crate) fn of_run(folder: &Path) -> Result<Self> {
        let path = folder.join(vit_run::CONFIG);
        let settings =
            read_table(&path, open_file, "`ls runs` lists your runs").and_then(|table| {
                Value::Table(table).try_into().map_err(|error| bad_value(&path, &error))
            });
        settings.map_err(|failure| failure.exit(Exit::File))
    }

    /// The configuration file for display in a terminal: hidden characters become TOML escapes.
    pub(crate) fn to_visible_toml(&self) -> String {
        let mut settings = self.clone();
        let dataset = settings.dataset.take_if(|name| name.contains(is_hidden));
        let is_hidden_path = |path: &mut PathBuf| path.to_string_lossy().contains(is_hidden);
        let init = settings.finetune.init.take_if(is_hidden_path);
        // Keys come before tables in TOML.
        let dataset = dataset.map(|text| format!("dataset = {}\n", basic(&text)));
        let mut text = dataset.unwrap_or_default() + &settings.to_toml();
        if let Some(init) = init {
            let init = format!("init = {}\n", basic(&init.to_string_lossy()));
            match text.find(FINETUNE) {
                Some(at) => text.insert_str(at + FINETUNE.len(), &init),
                None => text += &format!("\n{FINETUNE}{init}"),
            }
        }
        text
    }

    /// Whether the file or a flag sets the model.
    fn sets_model(args: &SettingsArgs, file: &Table) -> bool {
        args.preset.is_some()
            || file.contains_key("preset")
            || file
                .get("model")
                .and_then(Value::as_table)
                .is_some_and(|model| model.keys().any(|key| key != "image"))
    }
}

/// Header of the fine-tuning table.
const FINETUNE: &str = "[finetune]\n";

/// A TOML basic string with hidden characters escaped.
fn basic(text: &str) -> String {
    let escaped = text.chars().map(|character| match character {
        '"' | '\\' => format!("\\{character}"),
        character if is_hidden(character) => format!("\\U{:08X}", character as u32),
        character => character.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// Size limit in bytes, ten times a file with every setting: the parser takes up to 800 bytes for each.
const LONGEST: u64 = 1 << 15;

fn read_table(
    path: &Path,
    open: impl FnOnce(&Path) -> io::Result<File>,
    if_absent: &str,
) -> Result<Table> {
    // The user's file may be a pipe of the shell.
    let text = open(path).and_then(|file| text_of_at_most(LONGEST, file));
    let text = text.map_err(|error| {
        let failure = Failure::new(Exit::Usage, format!("cannot read {}: {error}", path.display()));
        match error.kind() {
            io::ErrorKind::NotFound => failure.hint(format!("check the path; {if_absent}")),
            _ => failure,
        }
    })?;
    parse(&text).map_err(|Misread { line, message }| {
        Failure::new(Exit::Usage, format!("{}:{line}: {message}", path.display()))
    })
}

fn bad_value(path: &Path, error: &toml::de::Error) -> Failure {
    let message = one_line(&error.to_string());
    let hint = in_another_table(&message).or_else(|| nearest::hint(&message));
    let failure = Failure::new(Exit::Usage, message).about(path.display());
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// The table where an unknown key belongs.
fn in_another_table(message: &str) -> Option<String> {
    let key = message.split_once("unknown field `")?.1.split('`').next()?;
    let mut settings = Settings::of_preset(Preset::Shallow);
    // Optional tables appear only when set.
    settings.augment.shift = 1.0;
    let train = &mut settings.train;
    (train.max_steps, train.patience, train.clip) = (Some(1), Some(1), Some(1.0));
    (train.evaluate_every, train.optimizer.momentum) = (2, 0.5);
    (train.ema, train.schedule.warmup, train.schedule.min_lr) = (Some(0.5), Some(1), Some(1.0));
    let place = place_of(key, &settings.to_table())?;
    Some(format!("it belongs in another table: {place}"))
}

/// The table, or subtable, that has this key.
fn place_of(key: &str, table: &Table) -> Option<String> {
    if table.contains_key(key) {
        return Some(key.to_owned());
    }
    let mut tables = table.iter().filter_map(|(name, value)| Some((name, value.as_table()?)));
    tables.find_map(|(name, table)| Some(format!("{name}.{}", place_of(key, table)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    /// Values that a file can express, valid or not.
    fn any_settings() -> impl Strategy<Value = Settings> {
        let counts = [(); 5].map(|()| 0..=i64::MAX as u64);
        let sizes = [(); 4].map(|()| 0..=i64::MAX as usize);
        let numbers = [(); 8].map(|()| any::<f64>());
        let texts = ["\\PC*", "[a-z\"'\\\\\n]*"];
        let numbered =
            (counts, sizes, numbers, texts).prop_map(|(counts, sizes, numbers, texts)| {
                let mut settings = Settings::of_preset(Preset::Notebook);
                let Settings { train, augment, model, .. } = &mut settings;
                [train.epochs, train.seed, train.log_every, train.accumulate] =
                    [counts[0], counts[1], counts[2], counts[3]];
                train.patience = Some(counts[4]);
                [train.batch_size, train.shards, model.dim, model.registers] = sizes;
                let [lr, smoothing, clip, shift, erase, mlp, drop_path, val_split] = numbers;
                (train.optimizer.lr, train.label_smoothing, train.clip) =
                    (lr, smoothing, Some(clip));
                (augment.shift, augment.erase) = (shift, erase);
                (model.dropout.mlp, model.drop_path) = (mlp, drop_path);
                let [dataset, init] = texts;
                let finetune = Finetune { init: Some(init.into()), ..Finetune::default() };
                Settings { val_split, dataset: Some(dataset), finetune, ..settings }
            });
        (numbered, any::<bool>()).prop_map(|(settings, shuffle)| Settings { shuffle, ..settings })
    }

    #[test]
    fn displayed_settings_parse_to_the_same_settings() {
        let mut settings = Settings::of_preset(Preset::Shallow);
        for text in ["mnist", "a'\"\\b", "\u{1b}]0;x\u{7}\n'\"\\\u{202e}\u{e0041}\u{7f}"] {
            settings.dataset = Some(text.to_owned());
            settings.finetune.init = Some(text.into());
            let visible = settings.to_visible_toml();
            assert!(!visible.replace('\n', "").contains(is_hidden), "{visible:?}");
            let again: Settings = toml::from_str(&visible).expect("TOML");
            assert_eq!(again, settings);
        }
        settings.dataset = Some("\u{202e}".to_owned());
        settings.finetune.init = None;
        assert!(settings.to_visible_toml().starts_with("dataset = \"\\U0000202E\"\npreset = "));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            rng_seed: RngSeed::Fixed(0),
            failure_persistence: None,
            ..ProptestConfig::with_cases(64)
        })]

        #[test]
        fn any_settings_round_trip(settings in any_settings()) {
            let table = parse(&settings.to_toml()).expect("as written");
            let again: Settings = Value::Table(table).try_into().expect("as written");
            // Equal floats have equal bits except -0, which is omitted like 0.
            prop_assert_eq!(again, settings);
        }
    }
}
