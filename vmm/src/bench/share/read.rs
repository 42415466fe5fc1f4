//! Rates of reading a file that the host has in its page cache.

use std::path::Path;
use std::time::Duration;

use super::Options;
use crate::bench::BenchError;
use crate::bench::blk::results;
use crate::bench::contender::{BUILTIN, Contenders, Machine, Qemu, listed};
use crate::bench::report::{Check, Figure, Report, Target, Unit};
use crate::bench::samples::{Samples, in_turns};
use crate::bench::scratch::Scratch;

/// What a run may take.
const LIMIT: Duration = Duration::from_secs(120);
/// Guest memory in MiB beyond as much as the file, of which the guest reads as much.
const MEMORY_MIB: u32 = 64;
/// Bytes of a request to the block device, as Linux makes them of a file that is read ahead.
const REQUEST: u32 = 128 << 10;
/// How many are in flight.
const DEPTH: u16 = 8;
/// Seconds that the block device is read for.
const SECONDS: u32 = 2;
const MEBIBYTE: f64 = 1_048_576.0;

/// How a guest's bytes are got, with the field of `bench.pmem` that has the rate.
const OWN: [(&str, &str); 3] = [
    ("pmem, first touch of every page", "first="),
    ("pmem, once mapped", "again="),
    ("the guest's own memory", "memory="),
];

/// Measures rates into `report`.
pub(super) fn measure(
    report: &mut Report,
    contenders: &Contenders,
    options: &Options,
) -> Result<(), BenchError> {
    let file = Scratch::in_ram()?;
    file.fill(0, options.size)?;
    let kernel = Scratch::holding(resources::BUILTIN_GUEST)?;
    let (path, kernel_path) = (file.path(), kernel.path());
    let machine = Machine {
        cmdline: "bench.pmem; exit 0",
        memory_mib: u32::try_from(options.size >> 20)
            .unwrap_or(u32::MAX)
            .saturating_add(MEMORY_MIB),
        ..Machine::with_kernel(Path::new(BUILTIN))
    };
    let cohort = contenders.cohort("cohort", &machine).arg("--pmem").arg(listed(&path));
    let script = format!("bench.randread {REQUEST} qd={DEPTH} secs={SECONDS}; exit 0");
    let loaded = Machine { kernel: &kernel_path, cmdline: &script, ..machine };
    let qemu = contenders.qemu().map(|qemu| with_disk(qemu, &loaded, &path));

    let mut own: [Samples; 3] = Default::default();
    let mut peer = Samples::default();
    in_turns(options.rounds, 1 + usize::from(qemu.is_some()), |index| {
        if let (1, Some(qemu)) = (index, &qemu) {
            let done = qemu.run(LIMIT)?.with_status(&[Qemu::exit_status(0)])?;
            let rate = results::of_guest(&done, 1)?;
            rate.iter().for_each(|rate| peer.push(rate * f64::from(REQUEST) / MEBIBYTE));
            return Ok(());
        }
        let done = cohort.run(LIMIT)?.with_status(&[0])?;
        for ((_, field), samples) in OWN.iter().zip(&mut own) {
            samples.push(results::field(&done, field, "rate")? / MEBIBYTE);
        }
        Ok::<_, BenchError>(())
    })?;

    let what = format!("a guest reads {} MiB that the host has cached", options.size >> 20);
    let mut figure = |who: &str, rounds: &Samples, command: String| {
        report.figures.push(Figure {
            what: what.clone(),
            who: who.to_owned(),
            unit: Unit::MebibytesPerSecond,
            rounds: rounds.clone(),
            command,
        });
    };
    for ((who, _), rounds) in OWN.iter().zip(&own) {
        figure(who, rounds, cohort.shell_line());
    }
    if let Some(qemu) = &qemu {
        figure(qemu.who(), &peer, qemu.shell_line());
    }
    let [first, again, memory] = &own;
    report.checks.push(Check::new(
        "reading pmem once mapped, over the guest's own memory",
        Unit::Times,
        again.over(memory),
        Target::AtLeast(0.9),
    ));
    if qemu.is_some() {
        report.checks.push(Check::new(
            "first touch of pmem, over reads of virtio-blk under QEMU",
            Unit::Times,
            first.over(&peer),
            Target::AtLeast(3.0),
        ));
    }
    Ok(())
}

/// `machine` in QEMU, with a virtio block device of the same file.
fn with_disk(qemu: &Qemu, machine: &Machine<'_>, file: &Path) -> crate::bench::child::Invocation {
    let mut drive =
        std::ffi::OsString::from("if=none,id=d,format=raw,cache=writeback,aio=threads,file=");
    drive.push(listed(file));
    qemu.run("virtio-blk, QEMU q35", "q35", machine)
        .words("-object iothread,id=t -device virtio-blk-pci,drive=d,iothread=t -drive")
        .arg(drive)
}
