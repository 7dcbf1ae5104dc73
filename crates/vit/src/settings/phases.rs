//! The settings at each step of a run, with its changes applied.

use super::change::Change;
use super::file::Settings;
use crate::failure::{Exit, Failure, Result};

impl Change {
    /// The change between two settings, in the fields that may change.
    fn between(from_step: u64, now: &Settings, new: &Settings) -> Self {
        let (old, train) = (&now.train, &new.train);
        let is_new = |is_new: bool| is_new.then_some(());
        Self {
            from_step,
            epochs: is_new(old.epochs != train.epochs).map(|()| train.epochs),
            max_steps: train.max_steps.filter(|_| old.max_steps != train.max_steps),
            patience: train.patience.filter(|_| old.patience != train.patience),
            lr: is_new(old.optimizer.lr != train.optimizer.lr).map(|()| train.optimizer.lr),
            schedule: is_new(old.schedule != train.schedule).map(|()| train.schedule),
            augment: is_new(now.augment != new.augment).map(|()| new.augment),
        }
    }

    fn apply(&self, settings: &mut Settings) {
        let train = &mut settings.train;
        train.epochs = self.epochs.unwrap_or(train.epochs);
        train.max_steps = self.max_steps.or(train.max_steps);
        train.patience = self.patience.or(train.patience);
        train.optimizer.lr = self.lr.unwrap_or(train.optimizer.lr);
        train.schedule = self.schedule.unwrap_or(train.schedule);
        settings.augment = self.augment.unwrap_or(settings.augment);
    }
}

impl Settings {
    /// The settings of the step after `steps` steps.
    pub(crate) fn after(&self, steps: u64) -> Self {
        let mut settings = Self { changes: Vec::new(), ..self.clone() };
        let changes = self.changes.iter().filter(|change| change.from_step <= steps);
        changes.for_each(|change| change.apply(&mut settings));
        settings
    }

    /// The settings without changes after `steps` steps or later.
    pub(crate) fn before(&self, steps: u64) -> Self {
        let mut settings = self.clone();
        settings.changes.retain(|change| change.from_step < steps);
        settings
    }

    /// Whether training images are augmented at any step.
    pub(crate) fn augments(&self) -> bool {
        let changed = self.changes.iter().filter_map(|change| change.augment.as_ref());
        changed.chain([&self.augment]).any(|augment| !augment.is_none())
    }

    /// The step of the next change after `steps` steps.
    pub(crate) fn next_change(&self, steps: u64) -> Option<u64> {
        self.changes.iter().map(|change| change.from_step).find(|&from| from > steps)
    }

    /// The settings with a change to `new` after `from_step` steps.
    ///
    /// # Errors
    /// If the change is not allowed.
    pub(crate) fn changed(&self, from_step: u64, new: &Self) -> Result<Self> {
        let mut changed = self.before(from_step);
        let change = Change::between(from_step, &changed.after(from_step), new);
        if change != (Change { from_step, ..Change::default() }) {
            changed.changes.push(change);
        }
        changed.check()?;
        Ok(changed)
    }

    /// Checks all changes.
    ///
    /// # Errors
    /// If they are out of order, or a setting is out of range.
    pub(super) fn check_changes(&self) -> Result<()> {
        let usage = |message| Err(Failure::new(Exit::Usage, message));
        if let Some(pair) = self.changes.windows(2).find(|two| two[0].from_step >= two[1].from_step)
        {
            let [before, after] = [pair[0].from_step, pair[1].from_step];
            return usage(format!(
                "expected changes in ascending order, with a from_step above {before}, got {after}"
            ));
        }
        for change in &self.changes {
            let from = change.from_step;
            let (before, after) = (self.before(from).after(from), self.after(from));
            after.check().map_err(|failure| failure.about(format!("from step {from} on")))?;
            if before.augment.mixes() != after.augment.mixes() {
                return usage(format!(
                    "from step {from} on: mixup cannot be turned on or off during a run, because it changes the loss"
                ));
            }
            let warmup = change.schedule.and_then(|schedule| schedule.warmup);
            if let Some(warmup) = warmup.filter(|&warmup| warmup <= from)
                && before.train.schedule.warmup != Some(warmup)
            {
                return usage(format!(
                    "expected a warm-up of more than the {from} steps that were taken, got {warmup}"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vit_model::Preset;

    #[test]
    fn changes_apply_from_their_step_on() {
        let base = Settings::of_preset(Preset::Shallow);
        let mut new = base.clone();
        new.train.epochs = 30;
        let longer = base.changed(100, &new).expect("sound settings");
        new.train.optimizer.lr = 1e-4;
        let slower = longer.changed(200, &new).expect("sound settings");
        let of = |steps| {
            let settings = slower.after(steps);
            (settings.train.epochs, settings.train.optimizer.lr)
        };
        assert_eq!([99, 100, 199, 200].map(of), [(20, 3e-4), (30, 3e-4), (30, 3e-4), (30, 1e-4)]);
        assert_eq!(slower.next_change(0), Some(100));
        assert_eq!(slower.next_change(100), Some(200));
        assert_eq!(slower.next_change(200), None);
        assert_eq!(slower.before(200), longer);
        let again: Settings = toml::from_str(&slower.to_toml()).expect("as written");
        assert_eq!(again, slower);
    }

    #[test]
    fn the_same_settings_are_no_change() {
        let base = Settings::of_preset(Preset::Shallow);
        assert_eq!(base.changed(5, &base).expect("sound settings"), base);
    }

    #[test]
    fn past_and_unordered_changes_are_rejected() {
        let base = Settings::of_preset(Preset::Shallow);
        let refused = |settings: &Settings| settings.check().expect_err("a fault").message();
        let mut new = base.clone();
        new.train.schedule.warmup = Some(100);
        let past = base.changed(100, &new).expect_err("past").message();
        assert_eq!(past, "expected a warm-up of more than the 100 steps that were taken, got 100");
        let mut twice = base.clone();
        twice.changes = [5, 5].map(|from_step| Change { from_step, ..Change::default() }).to_vec();
        assert!(refused(&twice).contains("a from_step above 5, got 5"));
        let mut mixed = base.clone();
        mixed.augment.mixup = 0.2;
        let mixup = base.changed(5, &mixed).expect_err("another loss").message();
        assert!(mixup.contains("mixup cannot be turned on or off"), "{mixup}");
    }
}
