//! Progress bars of a run.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vit_train::Progress;

use crate::output::{duration, percent, thousands};
use crate::progress::{self, Line, Shown};

/// A bar for the run and one for its epoch, until dropped.
pub(super) struct Bars {
    state: Arc<Mutex<State>>,
    _shown: Shown,
}

struct State {
    epochs: u64,
    samples_of_step: usize,
    /// Start of the run, and the steps before it.
    begun: Option<(Instant, u64)>,
    /// Start of the epoch, and the steps before it.
    epoch_begun: Option<(Instant, u64)>,
    /// Progress after the last step.
    last: Option<(Progress, Instant)>,
    /// The activity between steps.
    doing: Option<&'static str>,
}

impl Bars {
    /// For a run of `epochs` epochs with `samples_of_step` samples a step.
    pub(super) fn new(epochs: u64, samples_of_step: usize) -> Self {
        let state = State {
            epochs,
            samples_of_step,
            begun: None,
            epoch_begun: None,
            last: None,
            doing: Some("starting"),
        };
        let state = Arc::new(Mutex::new(state));
        let drawn = Arc::clone(&state);
        let shown = progress::show(move || locked(&drawn).lines());
        Self { state, _shown: shown }
    }

    pub(super) fn step(&self, progress: &Progress) {
        let now = Instant::now();
        let mut state = locked(&self.state);
        // Rates leave out the first step, which also does one-time work.
        if state.begun.is_none() {
            state.begun = Some((now, progress.step));
        }
        if state.last.is_none_or(|(last, _)| last.epoch != progress.epoch) {
            state.epoch_begun = Some((now, progress.step_of_epoch));
        }
        state.last = Some((*progress, now));
        state.doing = None;
    }

    /// Sets the activity until the next step.
    pub(super) fn doing(&self, what: &'static str) {
        locked(&self.state).doing = Some(what);
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn lines(&self) -> Vec<Line> {
        let line =
            |name: &str, done, details| Line { name: name.to_owned(), done: Some(done), details };
        let Some((last, at)) = self.last else {
            let doing = self.doing.map(str::to_owned);
            return vec![line("run  ", 0.0, doing.into_iter().collect())];
        };
        let left = |begun: Option<(Instant, u64)>, (step, steps)| {
            let (begun, first) = begun?;
            let seconds_a_step = (at - begun).as_secs_f64() / step_count(step, first)?;
            let left = seconds_a_step * (steps - step) as f64;
            Some(format!("{} left", duration(Duration::try_from_secs_f64(left).ok()?)))
        };
        let share = |(step, steps)| step as f64 / steps as f64;
        let of_run = (last.step, last.steps.max(last.step));
        let of_epoch = (last.step_of_epoch, last.steps_of_epoch);

        let mut run = vec![format!("epoch {}/{}", last.epoch, self.epochs)];
        run.extend(left(self.begun, of_run));
        let mut epoch: Vec<String> = self.doing.map(str::to_owned).into_iter().collect();
        if let Some((loss, accuracy)) = last.loss_and_accuracy {
            epoch.extend([format!("loss {loss:.4}"), percent(accuracy)]);
        }
        if self.doing.is_none() {
            epoch.extend(self.images_per_second(&last, at));
            epoch.extend(left(self.epoch_begun, of_epoch));
        }
        vec![line("run  ", share(of_run), run), line("epoch", share(of_epoch), epoch)]
    }

    /// Throughput over the epoch so far.
    fn images_per_second(&self, last: &Progress, at: Instant) -> Option<String> {
        let (begun, first) = self.epoch_begun?;
        let images = step_count(last.step_of_epoch, first)? * self.samples_of_step as f64;
        let rate = images / (at - begun).as_secs_f64();
        Some(format!("{} images/s", thousands(rate as u64)))
    }
}

/// Number of steps after the first, if any.
fn step_count(step: u64, first: u64) -> Option<f64> {
    (step > first).then(|| (step - first) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(step: u64, loss_and_accuracy: Option<(f64, f64)>) -> Progress {
        Progress {
            step,
            steps: 40,
            epoch: 1,
            step_of_epoch: step,
            steps_of_epoch: 20,
            loss_and_accuracy,
        }
    }

    #[test]
    fn lines_show_what_is_known() {
        let begun = Instant::now();
        let mut state = State {
            epochs: 2,
            samples_of_step: 64,
            begun: Some((begun, 1)),
            epoch_begun: Some((begun, 1)),
            last: Some((progress(11, Some((0.5, 0.875))), begun + Duration::from_secs(10))),
            doing: None,
        };
        let details = |state: &State| state.lines().into_iter().map(|line| line.details.join(", "));
        assert_eq!(
            details(&state).collect::<Vec<_>>(),
            ["epoch 1/2, 0:29 left", "loss 0.5000, 87.50 %, 64 images/s, 0:09 left"]
        );
        assert_eq!(state.lines()[1].done, Some(0.55));
        state.doing = Some("testing");
        assert_eq!(details(&state).next_back().as_deref(), Some("testing, loss 0.5000, 87.50 %"));
        state.last = Some((progress(1, None), begun));
        state.doing = None;
        assert_eq!(details(&state).collect::<Vec<_>>(), ["epoch 1/2", ""]);
    }
}
