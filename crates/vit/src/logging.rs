//! Logging to stderr, through tracing.

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::{FmtSpan, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::{LookupSpan, Scope};
use tracing_subscriber::util::SubscriberInitExt;
use vit_fetch::redacted;

use crate::chrome_trace;
use crate::failure::{DETAIL, HINT};
use crate::progress::{self, AboveLines};
use crate::terminal::{escaped, escaped_in_json, stderr};

/// Logging options.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Logging")]
pub(crate) struct Logging {
    /// Log only errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Log more; repeat for everything, including libraries
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Format of log lines
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

static IS_FOR_MACHINES: AtomicBool = AtomicBool::new(false);

/// Whether log lines are JSON, whose messages are sentences.
pub(crate) fn is_for_machines() -> bool {
    IS_FOR_MACHINES.load(Ordering::Relaxed)
}

/// Starts logging as requested, and progress bars in a terminal. `NO_COLOR` turns colours off.
pub(crate) fn start(options: &Logging) {
    let level = match (options.quiet, options.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::INFO,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    IS_FOR_MACHINES.store(matches!(options.log_format, LogFormat::Json), Ordering::Relaxed);
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let all = level == LevelFilter::TRACE;
    let wanted = filter_fn(move |metadata| {
        *metadata.level() <= level && (is_ours(metadata) || (all && is_fit(metadata)))
    });
    // Durations of spans are only for verbose logs.
    let spans = if level >= LevelFilter::DEBUG { FmtSpan::CLOSE } else { FmtSpan::NONE };
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(stderr::is_terminal() && !no_color)
        .with_span_events(spans)
        // Internal errors would be printed to stderr, with a panic if that is closed.
        .log_internal_errors(false);
    let lines = match options.log_format {
        LogFormat::Text => {
            lines.fmt_fields(Fields).event_format(Plain).with_writer(|| AboveLines).boxed()
        }
        LogFormat::Json => lines.json().with_writer(|| JsonLines).boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(wanted.with_max_level_hint(level)))
        .with(chrome_trace::layer())
        .init();
    if !options.quiet && matches!(options.log_format, LogFormat::Text) {
        progress::allow(progress::Style { colours: !no_color });
    }
}

/// Whether one of our crates logs the event. A library's error, such as an unreachable host, may be one we recover
/// from.
fn is_ours(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    [HINT, DETAIL].contains(&target)
        || target == "vit"
        || target.starts_with("vit_")
        || target.starts_with("vit::")
}

/// Whether a library's event may be shown: raw requests can contain secrets.
fn is_fit(metadata: &Metadata<'_>) -> bool {
    !metadata.target().starts_with("ureq_proto")
}

/// JSON lines, escaped for terminals.
struct JsonLines;

impl Write for JsonLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        AboveLines.write(escaped_in_json(&redacted(&text)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `message field=value`, unescaped: the complete line is escaped later.
struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = FieldVisitor { writer, is_first: true, written: Ok(()) };
        fields.record(&mut visitor);
        visitor.written
    }
}

struct FieldVisitor<'writer> {
    writer: Writer<'writer>,
    is_first: bool,
    written: fmt::Result,
}

impl Visit for FieldVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        // Messages have no quotes.
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let gap = if std::mem::take(&mut self.is_first) { "" } else { " " };
        self.written = self.written.and_then(|()| match field.name() {
            "message" => write!(self.writer, "{gap}{value:?}"),
            name => write!(self.writer, "{gap}{name}={value:?}"),
        });
    }
}

/// `message field=value` for people, with the level in front unless it is info.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (name, color) = match *event.metadata().level() {
            _ if event.metadata().target() == HINT => ("hint: ", "36"),
            _ if event.metadata().target() == DETAIL => ("  ", "0"),
            Level::ERROR => ("error: ", "31"),
            Level::WARN => ("warning: ", "33"),
            Level::INFO => ("", ""),
            Level::DEBUG => ("debug: ", "2"),
            Level::TRACE => ("trace: ", "2"),
        };
        if writer.has_ansi_escapes() && !name.is_empty() {
            write!(writer, "\x1b[{color}m{name}\x1b[0m")?;
        } else {
            writer.write_str(name)?;
        }
        let mut text = String::new();
        if event.metadata().is_span() {
            write_spans(context, &mut Writer::new(&mut text))?;
        }
        context.format_fields(Writer::new(&mut text), event)?;
        writeln!(writer, "{}", escaped(&redacted(&text)))
    }
}

/// The event's spans from the outermost, as `run:epoch{epoch=1}: `.
fn write_spans<S, N>(context: &FmtContext<'_, S, N>, writer: &mut Writer<'_>) -> fmt::Result
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let spans = context.event_scope().into_iter().flat_map(Scope::from_root);
    for (index, span) in spans.enumerate() {
        let between = if index == 0 { "" } else { ":" };
        write!(writer, "{between}{}", span.name())?;
        if let Some(fields) = span.extensions().get::<FormattedFields<N>>()
            && !fields.is_empty()
        {
            write!(writer, "{{{fields}}}")?;
        }
    }
    writer.write_str(": ")
}
