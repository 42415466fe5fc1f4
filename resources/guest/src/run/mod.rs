//! Runs scripts.
#![forbid(unsafe_code)]

mod bench;
mod disk;
mod pmem;
mod scsi;

use core::fmt::{self, Write};

use crate::machine::clock::Clock;
use crate::machine::serial::Serial;
use crate::machine::traps::InterruptTable;
use crate::machine::{physical, power, ring0, sleep};
use crate::pci;
use crate::script::{Command, Script};
use crate::status;
use crate::virtio::blk::Block;
use crate::virtio::scsi::{ADAPTERS_MAX, Adapters};
use crate::virtio::transport::Platform;
use crate::virtio::{DeviceError, console, fuzz, rng};

/// Disks that stay open at once; others are opened anew for each command.
const DISKS_KEPT: usize = 8;
/// Random bytes that `rng.read` shows.
const RNG_SHOWN: usize = 16;
const PAGE: u64 = 4096;

/// The guest at work.
#[derive(Debug)]
pub struct Guest<'g> {
    serial: &'g Serial,
    interrupts: &'g InterruptTable,
    platform: Platform,
    clock: Option<Clock>,
    disks: [Option<Block>; DISKS_KEPT],
    adapters: Adapters,
}

/// Why a script does not go on: the status that the guest ends with. The reason is printed.
#[derive(Clone, Copy, Debug)]
pub struct Stop(pub u8);

impl<'g> Guest<'g> {
    /// A guest that prints on `serial`.
    pub fn new(
        serial: &'g Serial,
        interrupts: &'g InterruptTable,
        platform: Platform,
    ) -> Guest<'g> {
        let (disks, adapters) = ([None; DISKS_KEPT], [None; ADAPTERS_MAX]);
        Guest { serial, interrupts, platform, clock: None, disks, adapters }
    }

    /// Runs a whole command line and ends the machine.
    pub fn run(&mut self, command_line: &[u8]) -> ! {
        let status = match self.script(command_line) {
            Ok(()) => 0,
            Err(Stop(status)) => status,
        };
        exit(self.serial, status)
    }

    fn script(&mut self, command_line: &[u8]) -> Result<(), Stop> {
        let text = str::from_utf8(command_line).map_err(|error| {
            let byte = error.valid_up_to() + 1;
            self.fail(status::SCRIPT_ERROR, format_args!("script error: byte {byte} is no UTF-8"))
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
            Command::ConsolePrint(text) => {
                let printed = console::print(format_args!("{text}"), &mut self.platform);
                printed.map_err(|error| self.device("console.print", error))?;
            }
            Command::Sleep { nanoseconds } => sleep::sleep(self.clock()?, nanoseconds),
            Command::Exit(status) => return Err(Stop(status)),
            Command::PowerOff => power::off(),
            Command::Reset => power::reset(),
            Command::Panic => power::panicked(),
            Command::TripleFault => {
                self.interrupts.clear();
                // An exception without a gate, for whose handler there is no gate either.
                ring0::halt()
            }
            Command::Hang => ring0::halt(),
            Command::Fault => physical::fault(),
            Command::PciList => self.list_functions(),
            Command::Repeat { count, body } => {
                for _ in 0..count {
                    self.commands(body)?;
                }
            }
            Command::MemoryTouch { len } => self.touch(len)?,
            Command::RngRead { len } => self.random(len)?,
            Command::Disk { disk, action, depth, queues } => {
                self.disk(disk, action, depth, queues)?;
            }
            Command::Scsi(scsi) => {
                let name = scsi.action.name();
                self.scsi(scsi).map_err(|error| self.device(name, error))?;
            }
            Command::Pmem(pmem) => self.pmem(pmem)?,
            Command::ExpectConflict { body } => self.expect_conflict(body)?,
            Command::Bench(bench) => self.bench(bench)?,
            Command::Fuzz(fuzz) => {
                // What fuzzing does to a device ends all that was agreed with it.
                self.disks = [None; DISKS_KEPT];
                self.adapters = [None; ADAPTERS_MAX];
                let serial = self.serial;
                fuzz::run(fuzz, &mut self.platform, &mut |line| say(serial, line))
                    .map_err(|error| self.device("virtio.fuzz", error))?;
            }
        }
        Ok(())
    }

    fn list_functions(&self) {
        for function in pci::functions() {
            let pci::Function { number, vendor, device } = function;
            let name = format_args!("pci.list: {}.{}", number >> 3, number & 7);
            self.say(format_args!("{name} {vendor:04x}:{device:04x}"));
            for (bar, base) in function.bases() {
                self.say(format_args!("{name} {vendor:04x}:{device:04x} bar {bar} {base:#x}"));
            }
        }
    }

    fn touch(&mut self, len: u64) -> Result<(), Stop> {
        let mark = self.platform.pool.mark();
        let memory = self.platform.pool.take(len, PAGE);
        let memory = memory.ok_or_else(|| self.device("memory.touch", DeviceError::Memory))?;
        (0..len.div_ceil(PAGE)).for_each(|page| memory.write8(page * PAGE, 1));
        self.platform.pool.release(mark);
        self.say(format_args!("memory.touch: {len} bytes"));
        Ok(())
    }

    fn random(&mut self, len: u64) -> Result<(), Stop> {
        let mut first = [0; RNG_SHOWN];
        let mut places = first.iter_mut();
        let take = |byte| {
            if let Some(place) = places.next() {
                *place = byte;
            }
        };
        let read = rng::read(len, &mut self.platform, take);
        read.map_err(|error| self.device("rng.read", error))?;
        let shown = usize::try_from(len).map_or(RNG_SHOWN, |len| len.min(RNG_SHOWN));
        let hex = Hex(first.get(..shown).unwrap_or_default());
        self.say(format_args!("rng.read: {len} bytes: {hex}"));
        Ok(())
    }

    /// The clock, compared with the machine's others at its first use.
    fn any_clock(&mut self) -> Option<Clock> {
        if self.clock.is_none() {
            self.clock = Clock::calibrate();
        }
        self.clock
    }

    fn clock(&mut self) -> Result<Clock, Stop> {
        self.any_clock().ok_or_else(|| {
            let reason = "this machine has no clock: neither kvmclock, CPUID 0x15 nor ACPI timer";
            self.fail(status::DEVICE_MISSING, format_args!("{reason}"))
        })
    }

    fn say(&self, line: fmt::Arguments<'_>) {
        say(self.serial, line);
    }

    fn fail(&self, status: u8, reason: fmt::Arguments<'_>) -> Stop {
        self.say(reason);
        Stop(status)
    }

    fn device(&self, command: &str, error: DeviceError) -> Stop {
        self.fail(error.status(), format_args!("{command}: {error}"))
    }
}

/// Ends the guest with `status`, whatever kind of machine this is.
pub fn exit(serial: &Serial, status: u8) -> ! {
    power::exit(status);
    say(serial, format_args!("exit {status}: this machine has no exit register; powering off"));
    power::off()
}

/// Prints a line.
pub fn say(mut serial: &Serial, line: fmt::Arguments<'_>) {
    // Printing on the serial port cannot fail.
    let _ = writeln!(serial, "{line}");
}

/// Bytes in hexadecimal.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
