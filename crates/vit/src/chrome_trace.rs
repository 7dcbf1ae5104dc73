//! `--trace`: records the first steps of a run in Chrome's trace format, which Perfetto reads too.
//!
//! The trace is small, so it is kept in memory and written at once: the file is valid at any time
//! (docs/decisions/0032-our-own-trace.md).

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Instant;

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;

use crate::failure::Result;
use crate::outputs::Output;

/// Number of traced steps: enough to get past one-time work in the first ones.
pub(crate) const STEPS: usize = 50;

/// A trace in progress. On drop, after a failed run, it writes what was recorded.
pub(crate) struct ChromeTrace {
    output: Output,
    is_written: bool,
}

impl ChromeTrace {
    /// Starts tracing, and creates the file at once.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn begin(mut output: Output) -> Result<Self> {
        // A pipe gets the trace only once.
        if output.is_file() {
            output.write(Recorder::begun_now().to_json().as_bytes())?;
        }
        *recorder() = Some(Recorder::begun_now());
        enter(Stage::Steps);
        Ok(Self { output, is_written: false })
    }

    /// Ends the trace and writes it, unless that is done already.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn finish(mut self) -> Result<()> {
        enter(Stage::Over);
        self.write_when_over()
    }

    /// Writes the trace once it is complete.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write_when_over(&mut self) -> Result<()> {
        if self.is_written || stage() != Stage::Over {
            return Ok(());
        }
        self.is_written = true;
        let text = recorder().take().map(|recorder| recorder.to_json());
        self.output.write(text.unwrap_or_default().as_bytes())
    }
}

impl Drop for ChromeTrace {
    fn drop(&mut self) {
        enter(Stage::Over);
        if let Err(failure) = self.write_when_over() {
            // The run's own failure decides the exit code.
            failure.report();
        }
    }
}

/// The traced phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing: not started, or complete.
    Over,
    /// Steps, and evaluations between them.
    Steps,
    /// The first evaluation after the steps.
    Evaluation,
}

static STAGE: AtomicU8 = AtomicU8::new(Stage::Over as u8);

fn stage() -> Stage {
    let now = STAGE.load(Ordering::Relaxed);
    [Stage::Steps, Stage::Evaluation]
        .into_iter()
        .find(|&stage| stage as u8 == now)
        .unwrap_or(Stage::Over)
}

/// Spans of other stages cost nothing from now on.
fn enter(stage: Stage) {
    STAGE.store(stage as u8, Ordering::Relaxed);
    tracing::callsite::rebuild_interest_cache();
}

/// The trace recorded so far.
static RECORDER: Mutex<Option<Recorder>> = Mutex::new(None);

fn recorder() -> MutexGuard<'static, Option<Recorder>> {
    RECORDER.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Recorder {
    begun: Instant,
    steps: usize,
    /// A thread's index here is its id in the trace.
    threads: Vec<(ThreadId, String)>,
    events: Vec<Value>,
}

impl Recorder {
    fn begun_now() -> Self {
        Self { begun: Instant::now(), steps: 0, threads: Vec::new(), events: Vec::new() }
    }

    /// The current thread's index.
    fn thread(&mut self) -> usize {
        let current = thread::current();
        let known = self.threads.iter().position(|(id, _)| *id == current.id());
        known.unwrap_or_else(|| {
            let name = current.name().unwrap_or("unnamed").to_owned();
            self.threads.push((current.id(), name));
            self.threads.len() - 1
        })
    }

    fn add(&mut self, name: &str, (from, to): (Instant, Instant), fields: &Map<String, Value>) {
        let microseconds = |from: Instant, to: Instant| (to - from).as_nanos() as f64 / 1e3;
        let event = json!({
            "name": name,
            "ph": "X",
            "pid": 1,
            "tid": self.thread(),
            "ts": microseconds(self.begun, from),
            "dur": microseconds(from, to),
            "args": fields,
        });
        self.events.push(event);
    }

    fn to_json(&self) -> String {
        let names = self.threads.iter().enumerate().map(|(index, (_, name))| {
            json!({
                "name": "thread_name", "ph": "M", "pid": 1, "tid": index, "args": {"name": name},
            })
        });
        let events: Vec<Value> = names.chain(self.events.iter().cloned()).collect();
        format!("{}\n", json!({"displayTimeUnit": "ms", "traceEvents": events}))
    }
}

/// The tracing layer that records the trace; it costs nothing until tracing starts.
pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    Recording.with_filter(OfStage)
}

/// The trainer's spans of the current stage.
struct OfStage;

impl OfStage {
    fn wants(metadata: &Metadata<'_>) -> bool {
        if !metadata.is_span() || !metadata.target().starts_with("vit_train") {
            return false;
        }
        match stage() {
            Stage::Over => false,
            Stage::Steps => true,
            Stage::Evaluation => {
                *metadata.level() <= Level::DEBUG || metadata.target().ends_with("::evaluation")
            }
        }
    }
}

impl<S> Filter<S> for OfStage {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        Self::wants(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if Self::wants(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(if stage() == Stage::Over { LevelFilter::OFF } else { LevelFilter::TRACE })
    }
}

struct Recording;

/// The fields of a span.
struct Fields(Map<String, Value>);
/// When the thread entered the span.
struct Since(Instant);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recording {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields(Map::new());
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            span.extensions_mut().replace(Since(Instant::now()));
        }
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        let now = Instant::now();
        let Some(span) = context.span(id) else { return };
        let mut extensions = span.extensions_mut();
        let Some(Since(begun)) = extensions.remove() else { return };
        let fields = extensions.get_mut::<Fields>().map(|fields| fields.0.clone());
        let mut recorder = recorder();
        let Some(recorder) = recorder.as_mut() else { return };
        recorder.add(span.name(), (begun, now), &fields.unwrap_or_default());
        if span.name() == "step" {
            recorder.steps += 1;
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        match (stage(), span.name()) {
            (Stage::Steps, "step") => {
                let steps = recorder().as_ref().map_or(0, |recorder| recorder.steps);
                if steps >= STEPS {
                    enter(Stage::Evaluation);
                }
            }
            // If the first epoch has fewer steps, continue with the next one's.
            (Stage::Evaluation, "evaluation") => enter(Stage::Over),
            _ => {}
        }
    }
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }
}
