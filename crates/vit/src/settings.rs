//! The settings of a run: flags over the configuration file over the preset's defaults.

mod file;

use std::fs::File;
use std::io;
use std::path::Path;

use toml::{Table, Value};
use vit_data::Augment;
use vit_files::{open_file, text_of_at_most};
use vit_model::Preset;
use vit_train::{Decay, OptimizerConfig, OptimizerKind};

use crate::cli;
use crate::failure::{Exit, Failure, Result};
use crate::nearest;
pub(crate) use file::Settings;
use file::{Misread, one_line, parse};

impl Settings {
    /// What the command line of `vit train` and its configuration file ask for, checked.
    ///
    /// # Errors
    /// If the file cannot be read, has an unknown key, or a setting is out of range.
    pub(crate) fn resolve(args: &cli::Train) -> Result<Self> {
        let mut settings = Self::begin(&args.settings)?;
        settings.override_by(args);
        settings.check()?;
        Ok(settings)
    }

    /// The preset and what the configuration file says, checked, before any other flag.
    ///
    /// # Errors
    /// If the file cannot be read, has an unknown key, or a setting is out of range.
    pub(crate) fn begin(args: &cli::SettingsArgs) -> Result<Self> {
        let file = args
            .config
            .as_deref()
            .map(|path| read_table(path, |path| File::open(path)))
            .transpose()?
            .unwrap_or_default();
        let in_file = file.get("preset").and_then(Value::as_str);
        if let (Some(path), Some(asked), Some(in_file)) = (&args.config, &args.preset, in_file)
            && asked != in_file
            && file.contains_key("model")
        {
            let path = path.display();
            let message = format!("{path} has the model of preset {in_file}, --preset {asked}");
            return Err(Failure::new(Exit::Usage, message).hint("leave --preset out"));
        }
        let preset = args.preset.as_deref().or(in_file).unwrap_or(Preset::Shallow.name());
        let preset = Preset::named(preset).map_err(|error| match &args.config {
            Some(path) if args.preset.is_none() => {
                let message = error.to_string();
                Failure::new(Exit::Usage, message).about(path.display())
            }
            _ => error.into(),
        })?;
        let path = args.config.as_deref().unwrap_or(Path::new("the defaults"));
        let merged = Self::of_preset(preset).merged_with(file);
        let mut settings = merged.map_err(|error| bad_value(path, &error))?;
        preset.name().clone_into(&mut settings.preset);
        if let Some(path) = &args.config {
            settings.check().map_err(|failure| failure.about(path.display()))?;
        }
        Ok(settings)
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub(crate) fn check(&self) -> Result<()> {
        self.train.check()?;
        self.augment.check()?;
        if !(0.0..1.0).contains(&self.val_split) {
            let message = format!("expected val_split in [0, 1), got {}", self.val_split);
            return Err(Failure::new(Exit::Usage, message));
        }
        if let (Some(patience), true) = (self.train.patience, self.val_split == 0.0) {
            let message = format!("expected patience only with val_split above 0, got {patience}");
            return Err(Failure::new(Exit::Usage, message).hint("pass --val-split 0.1"));
        }
        Ok(self.model.check()?)
    }

    /// The settings of the run that lies in this folder.
    ///
    /// # Errors
    /// If its `config.toml` cannot be read.
    pub(crate) fn of_run(folder: &Path) -> Result<Self> {
        let path = folder.join("config.toml");
        let settings = read_table(&path, open_file).and_then(|table| {
            Value::Table(table).try_into().map_err(|error| bad_value(&path, &error))
        });
        settings.map_err(|failure| failure.exit(Exit::File))
    }

    fn override_by(&mut self, args: &cli::Train) {
        fn set<T: Clone>(field: &mut T, flag: Option<&T>) {
            if let Some(flag) = flag {
                field.clone_from(flag);
            }
        }
        set(&mut self.train.epochs, args.epochs.as_ref());
        set(&mut self.train.batch_size, args.batch_size.as_ref());
        set(&mut self.train.optimizer.lr, args.lr.as_ref());
        set(&mut self.train.seed, args.seed.as_ref());
        set(&mut self.train.log_every, args.log_every.as_ref());
        self.override_recipe_by(&args.recipe);
        self.override_augment_by(&args.augmentation);
        self.train.max_steps = args.max_steps.or(self.train.max_steps);
        self.dataset = args.data.dataset.clone().or_else(|| self.dataset.take());
        self.init = args.init.clone().or_else(|| self.init.take());
        self.shuffle &= !args.no_shuffle;
        if let Some(rate) = args.dropout {
            self.model = self.model.clone().with_dropout(rate);
        }
    }

    fn override_recipe_by(&mut self, recipe: &cli::recipe::Recipe) {
        let train = &mut self.train;
        let schedule = &mut train.schedule;
        schedule.kind = recipe.schedule.map_or(schedule.kind, Into::into);
        schedule.warmup = recipe.warmup.or(schedule.warmup);
        schedule.min_lr = recipe.min_lr.or(schedule.min_lr);
        if let Some(weight_decay) = recipe.weight_decay {
            let (kind, decay) = (OptimizerKind::AdamW, Decay::Matrices);
            train.optimizer = OptimizerConfig { kind, decay, weight_decay, ..train.optimizer };
        }
        train.clip = recipe.clip.or(train.clip);
        train.accumulate = recipe.accumulate.unwrap_or(train.accumulate);
        train.label_smoothing = recipe.label_smoothing.unwrap_or(train.label_smoothing);
        train.ema = recipe.ema.or(train.ema);
        train.patience = recipe.patience.or(train.patience);
        self.val_split = recipe.val_split.unwrap_or(self.val_split);
    }

    fn override_augment_by(&mut self, flags: &cli::augmentation::Augmentation) {
        let Augment { shift, rotation, scale, shear, elastic, erase, mixup } = self.augment;
        self.augment = Augment {
            shift: flags.augment_shift.unwrap_or(shift),
            rotation: flags.augment_rotation.unwrap_or(rotation),
            scale: flags.augment_scale.unwrap_or(scale),
            shear: flags.augment_shear.unwrap_or(shear),
            elastic: flags.augment_elastic.unwrap_or(elastic),
            erase: flags.augment_erase.unwrap_or(erase),
            mixup: flags.augment_mixup.unwrap_or(mixup),
        };
    }
}

/// Bytes, ten times those of a file that sets everything: the parser takes up to eight hundred for each.
const LONGEST: u64 = 1 << 15;

fn read_table(path: &Path, open: impl FnOnce(&Path) -> io::Result<File>) -> Result<Table> {
    // One's own may be a pipe of the shell's.
    let text = open(path).and_then(|file| text_of_at_most(LONGEST, file));
    let text = text.map_err(|error| {
        Failure::new(Exit::Usage, format!("cannot read {}: {error}", path.display()))
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

/// Where a key belongs that is unknown where it stands.
fn in_another_table(message: &str) -> Option<String> {
    let key = message.split_once("unknown field `")?.1.split('`').next()?;
    let mut settings = Settings::of_preset(Preset::Shallow);
    // Told only where there is something to tell.
    settings.augment.shift = 1.0;
    let train = &mut settings.train;
    (train.max_steps, train.patience, train.clip) = (Some(1), Some(1), Some(1.0));
    (train.evaluate_every, train.optimizer.momentum) = (2, 0.5);
    (train.ema, train.schedule.warmup, train.schedule.min_lr) = (Some(0.5), Some(1), Some(1.0));
    let place = place_of(key, &settings.to_table())?;
    Some(format!("it belongs in another table: {place}"))
}

/// Where a table, or one in it, has this key.
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
    use clap::Parser;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;
    use vit_train::ScheduleKind;

    fn train(args: &str) -> cli::Train {
        let words = ["vit", "train"].into_iter().chain(args.split_whitespace());
        match cli::Cli::parse_from(words).command {
            cli::Command::Train(train) => *train,
            _ => unreachable!("the words say train"),
        }
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_the_preset() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "preset = 'notebook'\n[train]\nepochs = 3\nseed = 5\n[train.optimizer]\nlr = 1\n[model]\ndepth = 2\n")
            .expect("a writable folder");
        let args = train(&format!("--config {} --epochs 7 --dropout 0", path.display()));
        let settings = Settings::resolve(&args).expect("sound settings");
        assert_eq!(settings.preset, "notebook");
        assert_eq!((settings.train.epochs, settings.train.seed), (7, 5));
        assert_eq!(settings.train.optimizer.lr, 1.0);
        assert_eq!((settings.model.depth, settings.model.dropout.mlp), (2, 0.0));
        assert_eq!(settings.model.output, Preset::Notebook.config().output);
    }

    #[test]
    fn a_run_s_own_file_repeats_its_settings() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let first =
            Settings::resolve(&train("--preset notebook --lr 0.01 --no-shuffle --max-steps 3"));
        let first = first.expect("sound settings");
        let path = folder.path().join("config.toml");
        std::fs::write(&path, first.to_toml()).expect("a writable folder");
        let again = Settings::resolve(&train(&format!("--config {}", path.display())));
        assert_eq!(again.expect("sound settings"), first);
        assert_eq!(Settings::of_run(folder.path()).expect("sound settings"), first);
    }

    #[test]
    fn flags_of_augmentation_go_before_the_file_one_by_one() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "[augment]\nshift = 2\nshear = 3.0\n").expect("a writable folder");
        let words = "--augment-shift 1 --augment-rotation 10 --augment-scale 0.1 --augment-elastic 0.5 \
                     --augment-erase 0.2 --augment-mixup 0.3";
        let args = train(&format!("--config {} {words}", path.display()));
        let settings = Settings::resolve(&args).expect("sound settings");
        let want = Augment {
            shift: 1.0,
            rotation: 10.0,
            scale: 0.1,
            shear: 3.0,
            elastic: 0.5,
            erase: 0.2,
            mixup: 0.3,
        };
        assert_eq!(settings.augment, want);
        let again: Settings = toml::from_str(&settings.to_toml()).expect("as written");
        assert_eq!(again, settings);
    }

    #[test]
    fn the_flags_of_a_recipe_are_in_the_file_that_repeats_it() {
        let words = "--schedule one-cycle --warmup 30 --min-lr 0.00001 --weight-decay 0.05 --clip 1 \
                     --accumulate 2 --label-smoothing 0.1 --ema 0.99";
        let settings = Settings::resolve(&train(words)).expect("sound settings");
        let train = &settings.train;
        assert_eq!(
            (train.schedule.kind, train.schedule.warmup),
            (ScheduleKind::OneCycle, Some(30))
        );
        assert_eq!(
            (train.optimizer.kind, train.optimizer.decay),
            (OptimizerKind::AdamW, Decay::Matrices)
        );
        assert_eq!((train.clip, train.accumulate, train.ema), (Some(1.0), 2, Some(0.99)));
        let again: Settings = toml::from_str(&settings.to_toml()).expect("as written");
        assert_eq!(again, settings);
    }

    /// Numbers that a file can tell, sound or not.
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
                Settings { val_split, dataset: Some(dataset), init: Some(init.into()), ..settings }
            });
        (numbered, any::<bool>()).prop_map(|(settings, shuffle)| Settings { shuffle, ..settings })
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            rng_seed: RngSeed::Fixed(0),
            failure_persistence: None,
            ..ProptestConfig::with_cases(64)
        })]

        #[test]
        fn any_settings_are_read_again(settings in any_settings()) {
            let table = parse(&settings.to_toml()).expect("as written");
            let again: Settings = Value::Table(table).try_into().expect("as written");
            // Equal numbers have the same bits but for -0, which is left out where 0 is.
            prop_assert_eq!(again, settings);
        }
    }
}
