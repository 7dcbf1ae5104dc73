//! Follows a run: writes metrics and checkpoints, prints epochs, and reacts to Ctrl-C.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use vit_files::Digest;
use vit_model::{ModelInfo, Tensors};
use vit_report::EventFile;
use vit_run::{EpochMetrics, MetricsFile, Record, RunFolder};
use vit_train::{AfterStep, Checkpoint, NamedVars, Observer, Progress, SavedState, TrainState};

use super::bars::Bars;
use super::live::Live;
use super::saver::{Saver, unwritable};
use super::table::Table;
use crate::chrome_trace::ChromeTrace;
use crate::failure::{Failure, Result};
use crate::interrupt::{self, Writing, writing};
use crate::settings::Settings;

/// Checkpoints record the digest of the parameters after this many steps, or after the last step of a shorter run; `vit
/// verify` repeats them.
const PREFIX: u64 = 10;

/// After a slow step, the state before the next one is kept ready for saving: the program may have to end before that
/// step does. Copying it takes little time beside such a step.
const SLOW: Duration = Duration::from_millis(500);

/// At this interval reports cost next to nothing.
const BETWEEN_REPORTS: Duration = Duration::from_secs(5);

/// A run in progress.
pub(super) struct Run<'a> {
    pub(super) folder: &'a RunFolder,
    pub(super) settings: &'a Settings,
    pub(super) info: &'a ModelInfo,
    pub(super) table: Table,
    /// The step after which settings change, unless the run ends there.
    pub(super) change: Option<u64>,
    /// The weights to evaluate and save.
    pub(super) weights: NamedVars,
    pub(super) saver: Saver,
    pub(super) metrics: MetricsFile,
    /// TensorBoard's events, if requested.
    pub(super) events: Option<EventFile>,
    /// Metadata of the run for every checkpoint.
    pub(super) about: Map<String, Value>,
    pub(super) trace: Option<ChromeTrace>,
    pub(super) bars: Bars,
    /// The report's content while the run is in progress.
    pub(super) so_far: vit_report::Report,
    /// When report and table were last written.
    pub(super) shown: Option<Instant>,
    /// The live server.
    pub(super) live: Option<Live>,
    /// When the current step began.
    pub(super) since: Instant,
    /// Whether the last step was slow.
    pub(super) is_slow: bool,
    /// Blocks the program's end between a completed step and its checkpoint.
    pub(super) step: Option<Writing>,
    /// What to do with the next state.
    pub(super) plan: Option<Plan>,
}

/// What to do with a state.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    is_prefix: bool,
    is_due: bool,
    is_held: bool,
}

impl Run<'_> {
    /// Writes report and table, after the first epoch and then at intervals.
    fn show(&mut self) {
        if self.shown.is_some_and(|shown| shown.elapsed() < BETWEEN_REPORTS) {
            return;
        }
        let write = || {
            vit_report::write_csv(self.folder.path())?;
            vit_report::write_report(self.folder.path(), &self.so_far)
        };
        // They are written again at the end, with errors reported.
        if let Err(error) = writing(write) {
            tracing::debug!("no report yet: {error}");
        }
        self.shown = Some(Instant::now());
    }

    /// Records the digest that `vit verify` checks, once enough steps are taken.
    fn note_prefix(&mut self, step: u64, state: &TrainState) -> Result<()> {
        let prefix = json!({ "steps": step, "parameters": digest(state, self.settings)? });
        self.about.insert("prefix".to_owned(), prefix);
        Ok(())
    }
}

/// Checkpoint key and current value of what determines bits: the order and rounding of sums, and dropout masks. The
/// first version has no such key.
pub(crate) const BITS: (&str, u64) = ("bits", 5);

/// Checkpoint key of the best epoch's weights, by SHA-256.
pub(crate) const BEST: &str = "best";

/// SHA-256 of the trained parameters, as in a model file.
pub(crate) fn digest(state: &TrainState, settings: &Settings) -> Result<String> {
    let bytes = vit_model::to_bytes(&state.parameters, &settings.model)?;
    Ok(Digest::of_bytes(&bytes).to_string())
}

impl Observer for Run<'_> {
    type Error = Failure;

    fn record(&mut self, record: &Record) -> Result<()> {
        // An epoch in which settings change continues afterwards.
        if matches!(record, Record::Epoch(epoch) if self.change == Some(epoch.step)) {
            return Ok(());
        }
        let unwritable = |error: Failure| unwritable(self.folder, error);
        self.metrics.append(record).map_err(|error| unwritable(error.into()))?;
        if let Some(events) = &mut self.events {
            events.append(&as_json(record)).map_err(|error| unwritable(error.into()))?;
        }
        match record {
            Record::Step(step) => {
                tracing::debug!("step {}: loss {:.4}", step.step, step.loss);
            }
            Record::Epoch(epoch) => {
                self.table.tell(epoch);
                self.show();
                if let Some(trace) = &mut self.trace {
                    writing(|| trace.write_when_over())?;
                }
            }
            Record::Other => {}
        }
        Ok(())
    }

    fn progress(&mut self, progress: &Progress) {
        self.bars.step(progress);
    }

    fn evaluating(&mut self) {
        self.step = None;
        self.bars.doing("testing");
    }

    fn best(&mut self, _epoch: &EpochMetrics) -> Result<()> {
        self.table.mark();
        let weights = self.weights.iter();
        let tensors: Tensors =
            weights.map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
        let bytes = vit_model::to_bytes_with(&tensors, &self.settings.model, self.info)?;
        let digest = Digest::of_bytes(&bytes).to_string();
        self.about.insert(BEST.to_owned(), digest.into());
        let write = || vit_files::write_atomically(&self.folder.best(), &bytes);
        writing(write).map_err(|error| unwritable(self.folder, error.into()))
    }

    fn wants_state(&mut self, at: Checkpoint) -> bool {
        let is_prefix = !self.about.contains_key("prefix")
            && (at.step() == PREFIX || (at.is_last() && at.step() < PREFIX));
        let is_due = self.saver.is_due(at);
        let is_held = self.is_slow && !is_due;
        self.plan = Some(Plan { is_prefix, is_due, is_held });
        is_prefix || is_due || is_held
    }

    fn checkpoint(
        &mut self,
        at: Checkpoint,
        state: &mut dyn FnMut() -> std::result::Result<TrainState, vit_train::Error>,
    ) -> Result<()> {
        let plan = self.plan.take().expect("wants_state was called before");
        let Plan { is_prefix, is_due, is_held } = plan;
        if !is_held {
            self.saver.hold(None);
        }
        if is_prefix || is_due || is_held {
            // The program may be asked to end during the copy, and then waits for the checkpoint.
            let is_end = interrupt::asked() && at.is_last();
            let writing = (is_end || is_held).then(Writing::begin);
            let state = state()?;
            if is_prefix {
                self.note_prefix(at.step(), &state)?;
            }
            let (metrics, about) = (self.metrics.mark(), self.about.clone());
            let saved = SavedState { state, metrics, about };
            if is_due {
                self.saver.save(saved, at.is_last())?;
            } else if is_held {
                self.saver.hold(Some(saved));
                if interrupt::asked() {
                    interrupt::save_at_once();
                }
            }
            if is_end {
                self.saver.finish()?;
                interrupt::is_safe();
                drop((writing, self.step.take()));
                interrupt::tell();
            }
        }
        self.step = None;
        self.since = Instant::now();
        Ok(())
    }

    fn ending(&self) -> Box<dyn Fn() -> bool + Send + Sync> {
        Box::new(interrupt::asked)
    }

    fn after_step(&mut self, step: &mut AfterStep<'_>) -> Result<()> {
        self.is_slow = self.since.elapsed() > SLOW;
        if let Some(live) = &mut self.live {
            live.show(&self.weights)?;
        }
        // A completed step counts only once the checkpoint before it is on disk, so at most one interval is lost. A
        // checkpoint that waits for a slow disk is still saved.
        self.step = Some(Writing::begin());
        self.saver.keep()?;
        if interrupt::asked() || self.change == Some(step.step()) {
            step.stop();
        }
        Ok(())
    }
}

pub(super) fn as_json(record: &Record) -> Value {
    serde_json::to_value(record).expect("a record is plain data")
}
