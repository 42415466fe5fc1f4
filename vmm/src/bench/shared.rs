//! `cohort bench shared`: what it costs that a disk is shared.
//!
//! On this host: 4 KiB random reads and writes by the built-in guest, on one file, as an unshared
//! virtio-blk disk and through a server's vhost-user sockets. Across hosts: the same over iSCSI on
//! the loopback interface, from one initiator (cohort's) to cohort's server and to tgt, on one file.

mod remote;
mod server;

use std::path::Path;
use std::time::Duration;

use self::server::Server;
use super::BenchError;
use super::blk::results;
use super::contender::{self, BUILTIN, Contenders, Machine, Programs, listed};
use super::report::{Check, Figure, Report, Target, Unit};
use super::samples::{Samples, in_turns};
use super::scratch::Scratch;

/// Requests in flight.
const DEPTH: u16 = 32;
/// What a run may take beyond the time it measures.
const EXTRA_LIMIT: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often each contender is run.
    pub rounds: usize,
    /// The programs to run.
    pub programs: Programs,
    /// Size of the file in bytes.
    pub size: u64,
    /// Seconds of each measurement.
    pub seconds: u32,
}

/// Runs the benchmark.
///
/// # Errors
/// A contender cannot be started or does not do what is measured.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    let contenders = contender::find(&options.programs)?;
    let mut report = Report::new("shared");
    let scratch = Scratch::in_ram()?;
    scratch.fill(0, options.size)?;
    let bench = Bench { options, contenders: &contenders, file: &scratch.path() };
    bench.on_this_host(&mut report)?;
    bench.across_hosts(&mut report)?;
    Ok(report)
}

struct Bench<'a> {
    options: &'a Options,
    contenders: &'a Contenders,
    file: &'a Path,
}

/// A way to the disk, and thousands of reads and of writes a second over it.
struct Way {
    who: &'static str,
    rates: [Samples; 2],
    command: String,
}

impl Way {
    fn new(who: &'static str) -> Way {
        Way { who, rates: Default::default(), command: String::new() }
    }
}

/// What the guest's disk is.
#[derive(Clone, Copy, PartialEq)]
enum Disk {
    Unshared,
    Scsi,
    Blk,
}

impl Bench<'_> {
    fn on_this_host(&self, report: &mut Report) -> Result<(), BenchError> {
        let disks = [
            (Disk::Unshared, "virtio-blk, unshared"),
            (Disk::Scsi, "vhost-user-scsi"),
            (Disk::Blk, "vhost-user-blk"),
        ];
        let mut ways = disks.map(|(_, who)| Way::new(who));
        in_turns(self.options.rounds, disks.len(), |index| {
            let (disk, who) = disks[index];
            let way = &mut ways[index];
            let (rates, command) = self.guest(disk, who)?;
            for (samples, rate) in way.rates.iter_mut().zip(rates) {
                samples.push(rate / 1e3);
            }
            way.command = command;
            Ok::<_, BenchError>(())
        })?;
        self.tell(report, "by a guest, file in RAM", &ways, &[(1, 0, Some(0.85)), (2, 0, None)]);
        Ok(())
    }

    /// Rates of a guest that uses the disk in one way.
    fn guest(&self, disk: Disk, who: &str) -> Result<(Vec<f64>, String), BenchError> {
        let on = if disk == Disk::Scsi { " on=scsi" } else { "" };
        let secs = self.options.seconds;
        let load = |name: &str| format!("bench.{name} 4k qd={DEPTH} secs={secs}{on}");
        let script = format!("{}; {}; exit 0", load("randread"), load("randwrite"));
        let machine = Machine { cmdline: &script, ..Machine::with_kernel(Path::new(BUILTIN)) };
        let server = match disk {
            Disk::Unshared => None,
            Disk::Scsi => Some(Server::for_guest(self.contenders.program(), self.file, "scsi")?),
            Disk::Blk => Some(Server::for_guest(self.contenders.program(), self.file, "blk")?),
        };
        let named = match &server {
            None => listed(self.file),
            Some(server) => server.disk_option(),
        };
        let invocation = self.contenders.cohort(who, &machine).arg("--disk").arg(named);
        let limit = Duration::from_secs(u64::from(secs) * 2) + EXTRA_LIMIT;
        let done = invocation.run(limit)?.with_status(&[0])?;
        Ok((results::of_guest(&done, 2)?, invocation.shell_line()))
    }

    fn across_hosts(&self, report: &mut Report) -> Result<(), BenchError> {
        let tgt = server::tgt_program();
        if tgt.is_none() {
            let missing = "tgt is not installed, so iSCSI has nothing to compare with: `cargo xtask \
                           setup`, or `apt-get install tgt`, installs it (and needs root)";
            report.notes.push(missing.to_owned());
        }
        let mut ways = vec![Way::new("cohort")];
        ways.extend(tgt.as_ref().map(|_| Way::new("tgt")));
        in_turns(self.options.rounds, ways.len(), |index| {
            let server = match (&tgt, index) {
                (Some(tgt), 1) => Server::tgt(tgt, self.file)?,
                _ => Server::iscsi(self.contenders.program(), self.file)?,
            };
            let time = Duration::from_secs(self.options.seconds.into());
            for (write, samples) in [false, true].into_iter().zip(&mut ways[index].rates) {
                samples.push(remote::rate(server.url(), self.options.size, write, time)? / 1e3);
            }
            ways[index].command = server.shell_line();
            Ok::<_, BenchError>(())
        })?;
        let pairs: &[_] = if tgt.is_some() { &[(0, 1, Some(1.5))] } else { &[] };
        self.tell(report, "over iSCSI on loopback", &ways, pairs);
        Ok(())
    }

    /// Reports the rates of all ways, and how many times those of others some are.
    fn tell(
        &self,
        report: &mut Report,
        place: &str,
        ways: &[Way],
        compared: &[(usize, usize, Option<f64>)],
    ) {
        for (index, load) in ["reads", "writes"].into_iter().enumerate() {
            let what = format!("4 KiB random {load}, QD {DEPTH}, {place}");
            for way in ways {
                report.figures.push(Figure {
                    what: what.clone(),
                    who: way.who.to_owned(),
                    unit: Unit::KiloOps,
                    rounds: way.rates[index].clone(),
                    command: way.command.clone(),
                });
            }
            for (one, other, target) in compared {
                let (one, other) = (&ways[*one], &ways[*other]);
                let Some(target) = target else { continue };
                report.checks.push(Check::new(
                    format!("{what}, {} over {}", one.who, other.who),
                    Unit::Times,
                    one.rates[index].over(&other.rates[index]),
                    Target::AtLeast(*target),
                ));
            }
        }
    }
}
