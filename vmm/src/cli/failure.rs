//! Why a command could not do its work, in the form that users see.

use std::fmt::Write;

use super::{shown, tell};

/// An error on its way to stderr and to the exit status.
#[derive(Debug)]
pub(super) struct Failure {
    error: anyhow::Error,
    help: Option<String>,
    status: u8,
}

impl Failure {
    /// The command line or a file it names is wrong: status 2.
    pub(super) fn usage(error: impl Into<anyhow::Error>) -> Failure {
        Failure { error: error.into(), help: None, status: 2 }
    }

    /// cohort or the host failed: status 125.
    pub(super) fn host(error: impl Into<anyhow::Error>) -> Failure {
        Failure { error: error.into(), help: None, status: 125 }
    }

    /// The same, with what to do about it.
    pub(super) fn help(mut self, help: impl Into<Option<String>>) -> Failure {
        self.help = help.into();
        self
    }

    /// The same with another exit status.
    pub(super) fn with_status(mut self, status: u8) -> Failure {
        self.status = status;
        self
    }

    pub(super) fn status(&self) -> u8 {
        self.status
    }

    /// What to do about it, where known.
    pub(super) fn advice(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The error and its causes in one sentence.
    pub(super) fn sentence(&self) -> String {
        format!("{:#}", self.error)
    }

    /// Writes the failure to stderr.
    pub(super) fn print(&self) {
        // Further lines, as names can hold, stand back from the words at the beginning of ours.
        let indented = |text: &dyn std::fmt::Display| text.to_string().replace('\n', "\n         ");
        let mut text = format!("error: {}\n", indented(&self.error));
        for cause in self.error.chain().skip(1) {
            let _ = writeln!(text, "  cause: {}", indented(&cause));
        }
        if let Some(help) = &self.help {
            let _ = writeln!(text, "  help:  {}", indented(help));
        }
        tell(&text);
    }
}

/// Writes an error that is told in one sentence to stderr, in the same form.
pub(super) fn print_error(error: &str, help: Option<&str>) {
    tell(&error_text(error, help));
}

/// The text of such an error.
pub(super) fn error_text(error: &str, help: Option<&str>) -> String {
    let help = help.map(|help| format!("  help:  {help}\n")).unwrap_or_default();
    shown(&format!("error: {error}\n{help}"))
}
