//! Where log events go: with `COHORT_LOG` set, what it asks for, in full; without, warnings and
//! errors alone, in the form that cohort's other messages have, at next to no cost.

use std::fmt::{Debug, Write};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::tell;

/// Starts logging, once for the process.
pub(super) fn start() {
    match std::env::var("COHORT_LOG") {
        Ok(filter) if !filter.is_empty() => {
            let filter = match tracing_subscriber::EnvFilter::try_new(&filter) {
                Ok(filter) => filter,
                Err(error) => {
                    tell(&format!("warning: COHORT_LOG={filter} is no filter: {error}\n"));
                    return;
                }
            };
            let _ = tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_writer(std::io::stderr)
                .with_ansi(false)
                .log_internal_errors(false)
                .try_init();
        }
        _ => {
            let _ = tracing::subscriber::set_global_default(Warnings);
        }
    }
}

/// Writes warnings and errors to stderr, a line each.
struct Warnings;

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.is_event()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let level = if *event.metadata().level() == Level::ERROR { "error" } else { "warning" };
        tell(&format!("{level}: {}{}\n", line.message, line.fields));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}
