//! Runs scripts.
#![forbid(unsafe_code)]

use core::fmt::{self, Write};

use crate::machine::clock::Clock;
use crate::machine::serial::Serial;
use crate::machine::traps::InterruptTable;
use crate::machine::{power, ring0, sleep};
use crate::script::{Command, Script};
use crate::status;

/// The guest at work.
#[derive(Debug)]
pub struct Guest<'g> {
    /// Where it prints.
    pub serial: &'g Serial,
    /// Its interrupt table.
    pub interrupts: &'g InterruptTable,
    /// The clock, once something asked for it.
    pub clock: Option<Clock>,
}

/// Why a script did not go on: the status that the guest ends with, and the reason, which is
/// printed already.
#[derive(Clone, Copy, Debug)]
pub struct Stop(pub u8);

impl Guest<'_> {
    /// Runs a whole command line and ends the machine.
    pub fn run(&mut self, command_line: &[u8]) -> ! {
        let status = match self.script(command_line) {
            Ok(()) => 0,
            Err(Stop(status)) => status,
        };
        self.exit(status)
    }

    /// Ends the guest with `status`, whatever kind of machine this is.
    pub fn exit(&mut self, status: u8) -> ! {
        power::exit(status);
        self.say(format_args!("exit {status}: this machine has no exit register; powering off"));
        power::off()
    }

    fn script(&mut self, command_line: &[u8]) -> Result<(), Stop> {
        let text = str::from_utf8(command_line).map_err(|error| {
            let column = error.valid_up_to() + 1;
            self.fail(status::SCRIPT_ERROR, format_args!("script error: byte {column} is no UTF-8"))
        })?;
        let script = Script::new(text);
        script.check().map_err(|error| self.fail(status::SCRIPT_ERROR, format_args!("{error}")))?;
        self.commands(script)
    }

    fn commands(&mut self, script: Script<'_>) -> Result<(), Stop> {
        for command in script.flatten() {
            self.command(command)?;
        }
        Ok(())
    }

    fn command(&mut self, command: Command<'_>) -> Result<(), Stop> {
        match command {
            Command::Print(text) => self.say(format_args!("{text}")),
            Command::Sleep { nanoseconds } => sleep::sleep(self.clock()?, nanoseconds),
            Command::Exit(status) => return Err(Stop(status)),
            Command::PowerOff => power::off(),
            Command::Reset => power::reset(),
            Command::Panic => power::panicked(),
            Command::TripleFault => {
                self.interrupts.clear();
                // The gate is gone: a fault, whose handler is gone too, and its handler's.
                ring0::halt()
            }
            Command::Hang => ring0::halt(),
            Command::Repeat { count, body } => {
                for _ in 0..count {
                    self.commands(body)?;
                }
            }
        }
        Ok(())
    }

    fn clock(&mut self) -> Result<Clock, Stop> {
        if self.clock.is_none() {
            self.clock = Clock::calibrate();
        }
        self.clock.ok_or_else(|| {
            let reason = format_args!("this machine has no clock: neither kvmclock nor ACPI timer");
            self.fail(status::DEVICE_MISSING, reason)
        })
    }

    /// Prints a line.
    pub fn say(&self, line: fmt::Arguments<'_>) {
        // Printing on the serial port cannot fail.
        let _ = writeln!(&mut &*self.serial, "{line}");
    }

    fn fail(&self, status: u8, reason: fmt::Arguments<'_>) -> Stop {
        self.say(reason);
        Stop(status)
    }
}
