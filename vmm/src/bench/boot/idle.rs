//! Idling: host memory of processes whose guests are halted.

use std::thread;
use std::time::Duration;

use super::START_LIMIT;
use crate::bench::BenchError;
use crate::bench::child::{Invocation, Running};
use crate::bench::contender::{Contenders, Machine};
use crate::bench::footprint::Footprint;
use crate::bench::image::{self, IDLE_MARKER, Program};
use crate::bench::report::{Check, Figure, Report, Target, Unit};
use crate::bench::samples::{Samples, in_turns};
use crate::bench::scratch::Scratch;

/// Guest memory in MiB; nothing of it is touched.
const MEMORY_MIB: u32 = 128;
/// Mebibytes that the process of an idle guest may take, its program included.
const IDLE_TARGET: f64 = 3.0;
/// Size of the kernel that several guests share.
const SHARED_KERNEL: u32 = 48 << 20;
/// How many guests share it.
const GUESTS: usize = 8;
/// How many times its size the shared kernel may take.
const SHARED_TARGET: f64 = 1.05;
/// Memory settles at once; footprints need no more rounds than this.
const ROUNDS_MAX: usize = 3;
/// How long a halted guest is left alone before its memory is looked at.
const SETTLE: Duration = Duration::from_millis(200);
/// How many mappings the list of a footprint has.
const LISTED: usize = 12;

/// Measures idle guests into `report`.
pub(super) fn measure(
    report: &mut Report,
    contenders: &Contenders,
    rounds: usize,
    smaps: bool,
) -> Result<(), BenchError> {
    one_guest(report, contenders, rounds.min(ROUNDS_MAX), smaps)?;
    many_guests(report, contenders)
}

/// One idle guest of each contender.
fn one_guest(
    report: &mut Report,
    contenders: &Contenders,
    rounds: usize,
    smaps: bool,
) -> Result<(), BenchError> {
    let kernel = image::kernel(Program::Idle, 0)?;
    let path = kernel.path();
    let machine = Machine { memory_mib: MEMORY_MIB, ..Machine::with_kernel(&path) };
    let config = Scratch::in_ram()?;

    let mut candidates = vec![contenders.cohort("cohort", &machine)];
    if let Some(qemu) = contenders.qemu() {
        candidates.push(qemu.run("QEMU microvm", "microvm", &machine));
        candidates.push(qemu.run("QEMU q35", "q35", &machine));
    }
    candidates.extend(contenders.firecracker(&machine, &config)?);
    candidates.extend(contenders.cloud_hypervisor(&machine));

    let mut found = vec![Vec::new(); candidates.len()];
    in_turns(rounds, candidates.len(), |index| {
        let (Some(candidate), Some(found)) = (candidates.get(index), found.get_mut(index)) else {
            return Ok(());
        };
        let guest = idle(candidate)?;
        thread::sleep(SETTLE);
        found.push(Footprint::of_tree(guest.pid())?);
        Ok::<_, BenchError>(())
    })?;

    for (candidate, found) in candidates.iter().zip(&found) {
        let figure = |what: &str, rounds| Figure {
            what: what.to_owned(),
            who: candidate.who().to_owned(),
            unit: Unit::Mebibytes,
            rounds,
            command: candidate.shell_line(),
        };
        report.figures.push(figure("idle guest, PSS", mebibytes(found, |f| f.pss_kib)));
        report.figures.push(figure(
            "idle guest, PSS with the whole program",
            mebibytes(found, |f| f.alone_kib),
        ));
        if let (true, Some(last)) = (smaps, found.last()) {
            report.notes.push(list(candidate.who(), last));
        }
    }
    report.checks.push(Check::new(
        "memory of an idle guest's process, its program's pages counted whole",
        Unit::Mebibytes,
        found.first().map_or_else(Samples::default, |found| mebibytes(found, |f| f.alone_kib)),
        Target::AtMost(IDLE_TARGET),
    ));
    Ok(())
}

/// Several idle guests whose kernels have all read a large kernel file: it is in memory once.
fn many_guests(report: &mut Report, contenders: &Contenders) -> Result<(), BenchError> {
    let kernel = image::kernel(Program::ReadAndIdle, SHARED_KERNEL)?;
    let path = kernel.path();
    let machine = Machine { memory_mib: MEMORY_MIB, ..Machine::with_kernel(&path) };
    let invocation = contenders.cohort(&format!("cohort, {GUESTS} guests"), &machine);
    let guests = (0..GUESTS).map(|_| idle(&invocation)).collect::<Result<Vec<_>, _>>()?;
    thread::sleep(SETTLE);

    let name = kernel.mapped_name();
    let mut all = Samples::default();
    let mut of_kernel = (0, 0);
    for guest in &guests {
        let footprint = Footprint::of_tree(guest.pid())?;
        all.push(kib(footprint.pss_kib));
        let (pss, rss) = footprint.of_mappings(|mapping| mapping == name);
        of_kernel = (of_kernel.0 + pss, of_kernel.1 + rss);
    }
    let (held, mapped) = (kib(of_kernel.0), kib(of_kernel.1));
    let size = f64::from(SHARED_KERNEL) / f64::from(1 << 20);
    report.figures.push(Figure {
        what: format!("each of {GUESTS} guests on one {size} MiB kernel, all of it read, PSS"),
        who: "cohort".to_owned(),
        unit: Unit::Mebibytes,
        rounds: all,
        command: invocation.shell_line(),
    });
    for (what, value) in [("mapped by", mapped), ("held for", held)] {
        report.figures.push(Figure {
            what: format!("that kernel, {what} all {GUESTS}"),
            who: "cohort".to_owned(),
            unit: Unit::Mebibytes,
            rounds: [value].into_iter().collect(),
            command: invocation.shell_line(),
        });
    }
    // Guests that hold copies of their own have nothing of the file mapped.
    let times = if mapped < size { GUESTS as f64 } else { held / size };
    report.checks.push(Check::new(
        format!("copies of one kernel that {GUESTS} guests hold"),
        Unit::Times,
        [times].into_iter().collect(),
        Target::AtMost(SHARED_TARGET),
    ));
    Ok(())
}

/// Starts a guest and waits until it is about to halt.
fn idle(invocation: &Invocation) -> Result<Running, BenchError> {
    let mut guest = invocation.start()?;
    guest.printed(IDLE_MARKER, START_LIMIT)?;
    Ok(guest)
}

fn mebibytes(found: &[Footprint], of: impl Fn(&Footprint) -> u64) -> Samples {
    found.iter().map(|footprint| kib(of(footprint))).collect()
}

fn kib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// The largest mappings of a footprint.
fn list(who: &str, footprint: &Footprint) -> String {
    let mut text = format!("memory of {who}, KiB: PSS, of it written, resident, mapping");
    for mapping in footprint.mappings.iter().take(LISTED) {
        text.push_str(&format!(
            "\n  {:>7} {:>7} {:>7}  {}",
            mapping.pss_kib, mapping.private_dirty_kib, mapping.rss_kib, mapping.name
        ));
    }
    text
}
