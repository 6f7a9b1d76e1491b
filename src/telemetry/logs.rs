//! Log output on standard error, one line per event: JSON for machines or text for people, with the ids of its context.
//!
//! The default formatter would print every field of every open span. This layer stores a few ids per span and nothing
//! else, which is also all that a span costs without a trace collector.

use std::fmt::{self, Write as _};
use std::io::{IsTerminal as _, Write as _};
use std::sync::OnceLock;

use opentelemetry::trace::TraceContextExt as _;
use serde_json::{Map, Value};
use tracing::dispatcher::WeakDispatch;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, filter_fn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{LogFormat, Telemetry as Settings};

/// Span fields that are copied to log lines, and their names there.
const COPIED_FIELDS: [(&str, &str); 5] = [
    ("request_id", "request_id"),
    ("http.route", "route"),
    ("copilotd.tenant", "tenant"),
    ("gen_ai.conversation.id", "conversation"),
    ("copilotd.turn.id", "turn"),
];

/// Filter directives before the configured ones, which may override them. ractor opens a span per actor and enters it
/// at every poll; `traces` reports exporter errors itself, once.
const BASE: &str = "ractor=warn,opentelemetry=off,opentelemetry_sdk=off,\
                    opentelemetry-otlp=off,opentelemetry-http=off";

/// Parses a filter.
pub fn filter(directives: &str) -> anyhow::Result<EnvFilter> {
    let all = format!("{BASE},{directives}");
    EnvFilter::try_new(all).map_err(|error| anyhow::anyhow!("telemetry.log_level {directives:?}: {error}"))
}

/// Builds the layer.
pub fn layer<S>(settings: &Settings) -> anyhow::Result<impl Layer<S> + use<S>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    // Our spans carry the ids and stay enabled at any log level.
    let ours = |metadata: &Metadata<'_>| metadata.is_span() && metadata.target().starts_with("copilotd");
    let spans = filter_fn(ours).with_max_level_hint(LevelFilter::INFO);
    let lines = LineLayer {
        format: settings.log_format,
        colour: settings.log_format == LogFormat::Pretty && std::io::stderr().is_terminal(),
        dispatch: OnceLock::new(),
    };
    Ok(lines.with_filter(filter(&settings.log_level)?.or(spans)))
}

struct LineLayer {
    format: LogFormat,
    colour: bool,
    /// Used to find the trace of a span.
    dispatch: OnceLock<WeakDispatch>,
}

/// The ids stored for a span.
#[derive(Debug, Default)]
struct Ids(Vec<(&'static str, String)>);

impl Visit for Ids {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if let Some((_, name)) = COPIED_FIELDS.iter().find(|(kept, _)| *kept == field.name()) {
            self.0.push((name, format!("{value:?}")));
        }
    }
}

/// The fields of one event.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Fields {
    fn set(&mut self, field: &Field, value: impl Into<Value>) {
        self.rest.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a string cannot fail.
            let _ = write!(self.message, "{value:?}");
        } else {
            self.set(field, format!("{value:?}"));
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LineLayer {
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        // Set once: a layer belongs to one subscriber.
        let _ = self.dispatch.set(dispatch.downgrade());
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut ids = Ids::default();
        attributes.record(&mut ids);
        if let Some(span) = context.span(id).filter(|_| !ids.0.is_empty()) {
            span.extensions_mut().insert(ids);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let mut more = Ids::default();
        values.record(&mut more);
        if let Some(span) = context.span(id).filter(|_| !more.0.is_empty()) {
            let mut extensions = span.extensions_mut();
            match extensions.get_mut::<Ids>() {
                Some(ids) => ids.0.append(&mut more.0),
                None => extensions.insert(more),
            }
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            // From the innermost span outwards: the nearest value wins.
            if let Some(ids) = span.extensions().get::<Ids>() {
                for (name, value) in &ids.0 {
                    if !fields.rest.contains_key(*name) {
                        fields.rest.insert((*name).to_owned(), Value::from(value.as_str()));
                    }
                }
            }
        }
        if let Some(span) = context.event_span(event) {
            self.trace(&span.id(), &mut fields.rest);
        }
        let mut time = String::new();
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        let metadata = event.metadata();
        let line = match self.format {
            LogFormat::Json => json(&time, metadata, fields),
            LogFormat::Pretty => text(&time, metadata, &fields, self.colour),
        };
        // One write per line, so that lines do not interleave. Errors are ignored: there is nowhere to report a closed
        // stderr.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

impl LineLayer {
    /// Adds the ids of the span's trace, if there is one.
    fn trace(&self, span: &Id, fields: &mut Map<String, Value>) {
        let Some(dispatch) = self.dispatch.get().and_then(WeakDispatch::upgrade) else {
            return;
        };
        if let Some(context) = tracing_opentelemetry::get_otel_context(span, &dispatch) {
            let span = context.span();
            let ids = span.span_context();
            if ids.is_valid() {
                fields.insert("trace_id".to_owned(), ids.trace_id().to_string().into());
                fields.insert("span_id".to_owned(), ids.span_id().to_string().into());
            }
        }
    }
}

fn json(time: &str, metadata: &Metadata<'_>, fields: Fields) -> String {
    let mut line = Map::new();
    line.insert("time".to_owned(), time.into());
    line.insert("level".to_owned(), metadata.level().as_str().into());
    line.insert("target".to_owned(), metadata.target().into());
    line.insert("message".to_owned(), fields.message.into());
    for (name, value) in fields.rest {
        line.entry(name).or_insert(value);
    }
    format!("{}\n", Value::Object(line))
}

fn text(time: &str, metadata: &Metadata<'_>, fields: &Fields, colour: bool) -> String {
    let level = *metadata.level();
    let (on, off) = match level {
        _ if !colour => ("", ""),
        Level::ERROR => ("\x1b[31m", "\x1b[0m"),
        Level::WARN => ("\x1b[33m", "\x1b[0m"),
        Level::INFO => ("\x1b[32m", "\x1b[0m"),
        _ => ("\x1b[2m", "\x1b[0m"),
    };
    let message = one_line(&fields.message);
    let mut line = format!("{time} {on}{level:>5}{off} {}: {message}", metadata.target());
    for (name, value) in &fields.rest {
        let _ = match value {
            Value::String(value) if value.contains(' ') || value.is_empty() => write!(line, " {name}={value:?}"),
            Value::String(value) => write!(line, " {name}={}", one_line(value)),
            value => write!(line, " {name}={value}"),
        };
    }
    line.push('\n');
    line
}

/// Escapes control characters, which could forge log lines or control a terminal.
fn one_line(text: &str) -> String {
    if text.contains(char::is_control) {
        text.escape_debug().to_string()
    } else {
        text.to_owned()
    }
}
