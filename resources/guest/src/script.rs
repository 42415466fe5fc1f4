//! Scripts: the language of the guest's command line.
//!
//! A script is commands separated by `;`. A command is a name and its arguments, separated by
//! blanks: positional ones first, then `key=value`. Text may be quoted with `"`, which hides `;`
//! and braces. `repeat N { … }` and `expect-conflict { … }` run a script inside a script.
//!
//! There is no memory to keep a parsed script in, and no need: a [`Script`] is an iterator that
//! parses command by command. [`Script::check`] goes through all of it before anything runs.
#![forbid(unsafe_code)]

mod command;
mod error;
mod pmem;
mod scsi;
mod words;

pub use command::{Bench, Bus, Command, DiskAction, Fuzz, RangeAction, SectorRange};
pub use error::{Problem, ScriptError};
pub use pmem::{Pmem, PmemAction};
pub use scsi::{Scsi, ScsiAction};
pub use words::Text;

use words::Words;

/// How deep blocks may be nested.
const DEPTH_MAX: u8 = 8;

/// A script, or what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script<'a> {
    /// The whole command line, by which errors count columns.
    whole: &'a str,
    /// The part of it that is left.
    at: usize,
    end: usize,
    /// Number of the last command that was parsed, counted from 1 in the order of the text.
    number: u32,
    depth: u8,
}

impl<'a> Script<'a> {
    /// The script that `command_line` is.
    pub fn new(command_line: &'a str) -> Script<'a> {
        Script { whole: command_line, at: 0, end: command_line.len(), number: 0, depth: 0 }
    }

    /// Parses everything, nested scripts too; the first mistake is the answer.
    pub fn check(mut self) -> Result<(), ScriptError<'a>> {
        self.try_for_each(|command| command.map(|_| ()))
    }

    /// Finds the extent of the command at the front: its words and, for a block, the script in
    /// braces. Leaves the position behind it.
    fn split(&mut self) -> Result<(Words<'a>, Option<Script<'a>>), ScriptError<'a>> {
        let start = self.at;
        let mut quote = None;
        let mut open: Option<(usize, u32)> = None;
        let mut body = None;
        let mut head_end = self.end;
        let mut position = self.end;
        for (offset, byte) in self.rest().bytes().enumerate() {
            let at = start + offset;
            match (byte, open) {
                (b'"', _) => quote = if quote.is_some() { None } else { Some(at) },
                _ if quote.is_some() => {}
                (b'{', None) if body.is_none() => {
                    head_end = at;
                    open = Some((at, 1));
                }
                (b'{', Some((brace, depth))) => open = Some((brace, depth + 1)),
                (b'}', Some((brace, 1))) => {
                    body = Some(self.body(brace + 1, at)?);
                    open = None;
                }
                (b'}', Some((brace, depth))) => open = Some((brace, depth - 1)),
                (b'{' | b'}', None) => return Err(self.error(at, Problem::StrayBrace)),
                (b';', None) => {
                    position = at;
                    break;
                }
                (_, None) if body.is_some() && !byte.is_ascii_whitespace() => {
                    return Err(self.error(at, Problem::AfterBlock));
                }
                _ => {}
            }
        }
        if let Some(at) = quote {
            return Err(self.error(at, Problem::OpenQuote));
        }
        if let Some((at, _)) = open {
            return Err(self.error(at, Problem::OpenBlock));
        }
        self.at = position;
        let head = self.whole.get(start..head_end.min(position)).unwrap_or_default();
        Ok((Words::new(head, start), body))
    }

    fn body(&self, start: usize, end: usize) -> Result<Script<'a>, ScriptError<'a>> {
        if self.depth >= DEPTH_MAX {
            return Err(self.error(start - 1, Problem::TooDeep));
        }
        Ok(Script { at: start, end, depth: self.depth + 1, ..*self })
    }

    fn rest(&self) -> &'a str {
        self.whole.get(self.at..self.end).unwrap_or_default()
    }

    fn error(&self, at: usize, problem: Problem<'a>) -> ScriptError<'a> {
        let before = self.whole.get(..at).unwrap_or(self.whole);
        ScriptError { command: self.number, column: before.chars().count() + 1, problem }
    }
}

impl<'a> Iterator for Script<'a> {
    type Item = Result<Command<'a>, ScriptError<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let skipped = |byte: u8| byte == b';' || byte.is_ascii_whitespace();
        self.at += self.rest().bytes().take_while(|byte| skipped(*byte)).count();
        if self.at >= self.end {
            return None;
        }
        self.number += 1;
        let command = self.split().and_then(|(words, body)| {
            let command =
                Command::parse(words, body).map_err(|(at, problem)| self.error(at, problem))?;
            if let Some(mut body) = body {
                // Later commands are numbered after those in the block.
                body.try_for_each(|nested| nested.map(|_| ()))?;
                self.number = body.number;
            }
            Ok(command)
        });
        if command.is_err() {
            self.at = self.end;
        }
        Some(command)
    }
}

#[cfg(test)]
mod tests;
