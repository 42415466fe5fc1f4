//! What can be wrong with a script.
#![forbid(unsafe_code)]

use core::fmt;

/// A mistake in a script, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScriptError<'a> {
    /// Which command, counted from 1.
    pub command: u32,
    /// Which character of the command line, counted from 1.
    pub column: usize,
    /// What is wrong there.
    pub problem: Problem<'a>,
}

/// What is wrong at one place of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem<'a> {
    /// No command has this name.
    UnknownCommand(&'a str),
    /// A positional argument is missing.
    Missing {
        /// Its name.
        name: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// An argument's value is not what it must be.
    BadValue {
        /// The argument's name.
        name: &'static str,
        /// Its value.
        found: &'a str,
        /// What it must be.
        expected: &'static str,
    },
    /// One argument too many.
    Surplus(&'a str),
    /// The command has no such key.
    UnknownKey {
        /// The key.
        found: &'a str,
        /// The keys it has.
        known: &'static [&'static str],
    },
    /// A key given twice.
    Twice(&'a str),
    /// A quotation mark without its partner.
    OpenQuote,
    /// An opening brace without its partner.
    OpenBlock,
    /// A brace where no block can start or end.
    StrayBrace,
    /// More than `;` after a block.
    AfterBlock,
    /// Blocks nested too deeply.
    TooDeep,
    /// A block that may have `scsi.` commands only has others.
    OnlyScsi,
    /// A block after a command that takes none, or none after one that does.
    Block {
        /// The command takes a block.
        wanted: bool,
    },
}

impl fmt::Display for ScriptError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ScriptError { command, column, problem } = self;
        write!(f, "script error: command {command}, column {column}: {problem}")
    }
}

impl fmt::Display for Problem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::UnknownCommand(name) => write!(f, "there is no command \"{name}\""),
            Problem::Missing { name, expected } => write!(f, "{name} is missing: {expected}"),
            Problem::BadValue { name, found, expected } => {
                write!(f, "{name} is \"{found}\", must be {expected}")
            }
            Problem::Surplus(word) => write!(f, "\"{word}\" is one argument too many"),
            Problem::UnknownKey { found, known } => {
                write!(f, "there is no {found}= here")?;
                for (index, key) in known.iter().enumerate() {
                    write!(f, "{} {key}=", if index == 0 { ", only" } else { "," })?;
                }
                Ok(())
            }
            Problem::Twice(key) => write!(f, "{key}= is given twice"),
            Problem::OpenQuote => f.write_str("this quotation mark is never closed"),
            Problem::OpenBlock => f.write_str("this block is never closed with }"),
            Problem::StrayBrace => f.write_str("a brace has no place here; in text, quote it"),
            Problem::AfterBlock => f.write_str("after a block comes ; or the end"),
            Problem::TooDeep => f.write_str("blocks are nested too deeply"),
            Problem::OnlyScsi => f.write_str("this block takes scsi. commands only"),
            Problem::Block { wanted: true } => f.write_str("a block in braces must follow"),
            Problem::Block { wanted: false } => f.write_str("this command takes no block"),
        }
    }
}
