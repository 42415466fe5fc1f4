//! What is wrong with a lab file, collected until all of it is known.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::tree::Origin;

/// One mistake: where it is, which key it is about, what is wrong, what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// The lab file; for a value given with `--set`, that argument.
    pub file: String,
    /// Line, from 1; absent for a value given with `--set`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Column in characters, from 1; absent for a value given with `--set`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// The key's path, as in `vm.node.memory`; empty when the file is no TOML there.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// Every mistake of a lab file.
#[derive(Debug, thiserror::Error)]
#[error("{} has {}", path.display(), count(mistakes.len()))]
pub struct Mistakes {
    /// The lab file.
    pub path: PathBuf,
    /// The mistakes, in the order of the file.
    pub mistakes: Vec<Mistake>,
}

fn count(n: usize) -> String {
    if n == 1 { "1 mistake".into() } else { format!("{n} mistakes") }
}

/// Collects mistakes while a lab file is read.
pub(super) struct Collector<'a> {
    path: &'a Path,
    source: &'a str,
    found: Vec<(usize, Mistake)>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(path: &'a Path, source: &'a str) -> Collector<'a> {
        Collector { path, source, found: Vec::new() }
    }

    /// Adds a mistake about `key` at `origin`.
    pub(super) fn add(
        &mut self,
        origin: &Origin,
        key: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let help = help.into();
        let (at, file, position) = match origin {
            Origin::File(span) => {
                let position = position(self.source, span);
                (span.start, self.path.display().to_string(), Some(position))
            }
            Origin::Set(argument) => (usize::MAX, format!("--set {argument}"), None),
        };
        let mistake = Mistake {
            file,
            line: position.map(|(line, _)| line),
            column: position.map(|(_, column)| column),
            key: key.into(),
            message: message.into(),
            help: (!help.is_empty()).then_some(help),
        };
        // The guests of one `count` share their keys, and mostly their mistakes.
        if !self.found.iter().any(|(_, known)| *known == mistake) {
            self.found.push((at, mistake));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All of them, in the order of the file.
    pub(super) fn into_mistakes(mut self) -> Mistakes {
        self.found.sort_by_key(|(at, _)| *at);
        let mistakes = self.found.into_iter().map(|(_, mistake)| mistake).collect();
        Mistakes { path: self.path.to_path_buf(), mistakes }
    }
}

/// Line and column, from 1, of where `span` starts.
fn position(source: &str, span: &Range<usize>) -> (usize, usize) {
    let mut start = span.start.min(source.len());
    while !source.is_char_boundary(start) {
        start -= 1;
    }
    let before = &source[..start];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}
