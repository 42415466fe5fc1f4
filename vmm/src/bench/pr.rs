//! `cohort bench pr`: what fencing and reservations cost.
//!
//! Fencing: a victim keeps 32 writes under way (O_DIRECT, in the folder for temporary files) and
//! another initiator removes it by PREEMPT AND ABORT, which may not be answered before the last of
//! these writes has ended. Checking: every command is held against the reservations; 4 KiB reads of a
//! file in memory are counted with and without a reservation, as are checks alone.

mod initiator;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use storage::reservation::{InitiatorPort, Reservations};
use storage::scsi::{Status, Target, UnitOptions};
use storage::{Disk, DiskOptions};

use self::initiator::Initiator;
use super::BenchError;
use super::report::{Check, Figure, Report, Target as Goal, Unit};
use super::samples::{Samples, in_turns};
use super::scratch::Scratch;

/// Writes that the victim has under way.
const WRITES: u16 = 32;
/// Bytes of each.
const WRITE_LEN: usize = 64 << 10;
/// Size of the disks.
const SIZE: u64 = 64 << 20;
/// How long the victim writes before it is fenced.
const WARM_UP: Duration = Duration::from_millis(50);
/// Initiators that are registered while checks are counted.
const REGISTRANTS: u64 = 64;
/// Checks that are counted between two looks at the clock.
const CHECKS: u32 = 100_000;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often.
    pub rounds: usize,
    /// Seconds of each measurement of reads.
    pub seconds: u32,
}

/// Runs the benchmark.
///
/// # Errors
/// The host lacks what it needs, or a command does not do what it should.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    let mut report = Report::new("pr");
    fencing(options, &mut report)?;
    checking(options, &mut report)?;
    Ok(report)
}

/// One fencing, seen from both sides.
struct Fencing {
    /// From the command to its answer.
    took: Duration,
    /// The longest of the writes that were under way when it was given.
    slowest: Duration,
}

/// A write of the victim's.
struct Written {
    begun: Instant,
    ended: Instant,
    status: Status,
}

fn fencing(options: &Options, report: &mut Report) -> Result<(), BenchError> {
    let scratch = Scratch::on_disk(&std::env::temp_dir())?;
    scratch.fill(0, SIZE)?;
    let target = target(&scratch.path(), true)?;
    let (mut took, mut slowest) = (Samples::default(), Samples::default());
    for _ in 0..options.rounds {
        let fencing = fence(&target)?;
        took.push(fencing.took.as_secs_f64() * 1e3);
        slowest.push(fencing.slowest.as_secs_f64() * 1e3);
    }
    let what = format!("PREEMPT AND ABORT, {WRITES} writes of 64 KiB under way");
    let beyond = took.paired(&slowest, |took, slowest| (took - slowest).max(0.0));
    for (who, rounds) in [("its answer", took), ("slowest write", slowest)] {
        report.figures.push(Figure {
            what: what.clone(),
            who: who.to_owned(),
            unit: Unit::Milliseconds,
            rounds,
            command: String::new(),
        });
    }
    let what = format!("{what}, beyond the slowest of them");
    report.checks.push(Check::new(what, Unit::Milliseconds, beyond, Goal::AtMost(5.0)));
    Ok(())
}

/// Lets a victim write and fences it.
fn fence(target: &Target) -> Result<Fencing, BenchError> {
    let mut fencer = Initiator::new(target, "iqn.2026-11.cohort.bench:fencer", WRITES)?;
    let mut victim = Initiator::new(target, "iqn.2026-11.cohort.bench:victim", WRITES)?;
    victim.register(0x22)?;
    fencer.register(0x11)?;
    fencer.reserve(0x11)?;
    let stop = AtomicBool::new(false);
    let (sender, ended): (Sender<Written>, Receiver<Written>) = channel();
    let (given, answered) = thread::scope(|scope| {
        let stop = &stop;
        let writer = scope.spawn(move || victim.write(WRITE_LEN, SIZE, stop, &sender));
        thread::sleep(WARM_UP);
        let given = Instant::now();
        let answer = fencer.preempt_and_abort(0x11, 0x22);
        let answered = Instant::now();
        // Whatever the victim tries now has to be refused.
        thread::sleep(Duration::from_millis(2));
        stop.store(true, Ordering::Relaxed);
        let _ = writer.join();
        answer.map(|()| (given, answered))
    })?;
    let writes: Vec<Written> = ended.into_iter().collect();
    // One that began before may have ended before as well, and been seen to later.
    let late = |write: &&Written| write.status == Status::Good && write.begun > answered;
    if let Some(write) = writes.iter().find(late) {
        let after = write.begun - answered;
        let what = format!("a write that began {after:?} after the fence was carried out");
        return Err(BenchError::Scsi { what });
    }
    let under_way = writes.iter().filter(|write| write.begun <= given && write.ended >= given);
    let slowest = under_way.map(|write| write.ended - write.begun).max().unwrap_or_default();
    fencer.clear(0x11)?;
    Ok(Fencing { took: answered - given, slowest })
}

fn checking(options: &Options, report: &mut Report) -> Result<(), BenchError> {
    let scratch = Scratch::in_ram()?;
    scratch.fill(0, SIZE)?;
    let target = target(&scratch.path(), false)?;
    let mut reader = Initiator::new(&target, "iqn.2026-11.cohort.bench:reader", WRITES)?;
    let mut rates = [Samples::default(), Samples::default()];
    let mut checks = Samples::default();
    in_turns(options.rounds, 2, |turn| {
        let reserved = turn == 1;
        if reserved {
            for key in 1..=REGISTRANTS {
                let name = format!("iqn.2026-11.cohort.bench:node-{key}");
                Initiator::new(&target, &name, 1)?.register(key)?;
            }
            reader.register(0x11)?;
            reader.reserve(0x11)?;
            checks.push(checks_each_millisecond(&reader));
        }
        let time = Duration::from_secs(options.seconds.into());
        rates[turn].push(reader.reads(SIZE, time)? / 1e3);
        if reserved {
            reader.clear(0x11)?;
        }
        Ok::<_, BenchError>(())
    })?;
    let what = "4 KiB random reads through the SCSI target, QD 32";
    let over = rates[1].over(&rates[0]);
    let [without, with] = rates;
    for (who, rounds) in [("nothing reserved", without), ("64 registrants, reserved", with)] {
        report.figures.push(Figure {
            what: what.to_owned(),
            who: who.to_owned(),
            unit: Unit::KiloOps,
            rounds,
            command: String::new(),
        });
    }
    report.figures.push(Figure {
        what: "reservation checks alone".to_owned(),
        who: "64 registrants, reserved".to_owned(),
        unit: Unit::KiloOps,
        rounds: checks.clone(),
        command: String::new(),
    });
    let what = format!("{what}, reserved over not reserved");
    report.checks.push(Check::new(what, Unit::Times, over, Goal::AtLeast(0.97)));
    // Thousands a second are as many a millisecond.
    let what = "reservation checks alone (20,000 a millisecond)";
    report.checks.push(Check::new(what, Unit::KiloOps, checks, Goal::AtLeast(20_000.0)));
    Ok(())
}

/// Thousands of checks a second.
fn checks_each_millisecond(reader: &Initiator) -> f64 {
    let begun = Instant::now();
    let mut allowed = 0u32;
    for _ in 0..CHECKS {
        allowed += u32::from(std::hint::black_box(reader).may_write());
    }
    let seconds = begun.elapsed().as_secs_f64();
    f64::from(allowed) / seconds / 1e3
}

fn target(path: &Path, direct: bool) -> Result<Target, BenchError> {
    let options = DiskOptions { direct, ..DiskOptions::default() };
    let disk = Disk::open(path, &options).map_err(BenchError::scsi)?;
    let identity = "bench".to_owned();
    let unit = UnitOptions { disk, identity, reservations: Reservations::default() };
    Target::new(vec![unit], None).map_err(BenchError::scsi)
}

/// The port of this name.
fn port(name: &str) -> Result<InitiatorPort, BenchError> {
    InitiatorPort::new(name).map_err(BenchError::scsi)
}
