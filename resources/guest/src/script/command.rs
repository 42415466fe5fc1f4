//! The commands.
#![forbid(unsafe_code)]

use super::words::{Mistake, Words};
use super::{Problem, Script, Text};
use crate::units;

/// One command with its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `print TEXT`: a line on the serial console.
    Print(Text<'a>),
    /// `sleep DURATION`.
    Sleep {
        /// How long.
        nanoseconds: u64,
    },
    /// `exit STATUS`: ends the guest with a status.
    Exit(u8),
    /// `poweroff`.
    PowerOff,
    /// `reset`.
    Reset,
    /// `panic`: reports a kernel panic through pvpanic.
    Panic,
    /// `triple-fault`: an exception that cannot be delivered.
    TripleFault,
    /// `hang`: halts for ever with interrupts off.
    Hang,
    /// `repeat N { SCRIPT }`.
    Repeat {
        /// How many times.
        count: u64,
        /// What.
        body: Script<'a>,
    },
}

impl<'a> Command<'a> {
    /// Parses one command; `body` is the script in braces behind it.
    pub(super) fn parse(
        words: Words<'a>,
        body: Option<Script<'a>>,
    ) -> Result<Command<'a>, Mistake<'a>> {
        let (at, name) = words.name();
        let plain = |command| words.only(0, &[]).map(|()| command);
        let command = match name {
            "print" => Command::Print(words.text()),
            "sleep" => {
                words.only(1, &[])?;
                let expected = "a duration such as 500ms or 2s";
                let nanoseconds = words.positional(0, "DURATION", expected, units::duration)?;
                Command::Sleep { nanoseconds }
            }
            "exit" => {
                words.only(1, &[])?;
                let status = |text| u8::try_from(units::number(text)?).ok();
                Command::Exit(words.positional(0, "STATUS", "a number from 0 to 255", status)?)
            }
            "poweroff" => plain(Command::PowerOff)?,
            "reset" => plain(Command::Reset)?,
            "panic" => plain(Command::Panic)?,
            "triple-fault" => plain(Command::TripleFault)?,
            "hang" => plain(Command::Hang)?,
            "repeat" => {
                words.only(1, &[])?;
                let count = words.positional(0, "COUNT", "a number", units::number)?;
                let body = body.ok_or((at, Problem::Block { wanted: true }))?;
                return Ok(Command::Repeat { count, body });
            }
            _ => return Err((at, Problem::UnknownCommand(name))),
        };
        match body {
            Some(_) => Err((at, Problem::Block { wanted: false })),
            None => Ok(command),
        }
    }
}
