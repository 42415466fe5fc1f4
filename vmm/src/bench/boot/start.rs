//! Starting: processor and wall time of a whole run whose guest exits at its first instruction.

use std::path::Path;

use super::START_LIMIT;
use crate::bench::BenchError;
use crate::bench::child::Invocation;
use crate::bench::contender::{BUILTIN, Contenders, Machine, Qemu};
use crate::bench::image::{self, Program};
use crate::bench::report::{Check, Figure, Report, Target, Unit};
use crate::bench::samples::{Samples, in_turns};
use crate::bench::scratch::Scratch;

/// Size of the large kernel.
const KERNEL: u32 = 50_000_000;
/// Size of the large initial RAM disk.
const INITRD: u64 = 200_000_000;
/// Guest memory in MiB; the large files must fit.
const MEMORY_MIB: u32 = 512;
/// Processor time in milliseconds that a start may take.
const START_TARGET: f64 = 4.0;
/// Milliseconds that large files may add.
const GROWTH_TARGET: f64 = 1.0;
/// Runs before the rounds that are not counted: they bring the programs into memory.
const WARM_UPS: usize = 2;

/// A contender: its command, the exit status to expect of it, its times.
struct Candidate {
    invocation: Invocation,
    status: i32,
    cpu: Samples,
    wall: Samples,
}

impl Candidate {
    fn new(invocation: Invocation, status: i32) -> Candidate {
        let invocation = invocation.brief();
        Candidate { invocation, status, cpu: Samples::default(), wall: Samples::default() }
    }
}

/// Measures starts into `report`.
pub(super) fn measure(
    report: &mut Report,
    contenders: &Contenders,
    rounds: usize,
) -> Result<(), BenchError> {
    let tiny = image::kernel(Program::Exit, 0)?;
    let large = image::kernel(Program::Exit, KERNEL)?;
    let initrd = Scratch::in_ram()?;
    initrd.fill(0, INITRD)?;
    let (tiny_path, large_path, initrd_path) = (tiny.path(), large.path(), initrd.path());
    let config = Scratch::in_ram()?;

    let machine = Machine { memory_mib: MEMORY_MIB, ..Machine::with_kernel(&tiny_path) };
    let builtin = Machine { kernel: Path::new(BUILTIN), cmdline: "exit 0", ..machine };
    let loaded = Machine { kernel: &large_path, initrd: Some(&initrd_path), ..machine };
    let mut candidates = vec![
        Candidate::new(contenders.cohort("cohort, exit at once", &machine), 0),
        Candidate::new(contenders.cohort("cohort, 50 MB kernel, 200 MB initrd", &loaded), 0),
        Candidate::new(contenders.cohort("cohort, built-in guest, exit 0", &builtin), 0),
    ];
    if let Some(qemu) = contenders.qemu() {
        let invocation = qemu.run("QEMU microvm, exit at once", "microvm", &machine);
        candidates.push(Candidate::new(invocation, Qemu::exit_status(0)));
    }
    if let Some(invocation) = contenders.firecracker(&machine, &config)? {
        candidates.push(Candidate::new(invocation, 0));
    }

    for _ in 0..WARM_UPS {
        for candidate in &candidates {
            candidate.invocation.run(START_LIMIT)?.with_status(&[candidate.status])?;
        }
    }
    in_turns(rounds, candidates.len(), |index| {
        let Some(candidate) = candidates.get_mut(index) else { return Ok(()) };
        let done = candidate.invocation.run(START_LIMIT)?.with_status(&[candidate.status])?;
        candidate.cpu.push(done.cpu.as_secs_f64() * 1e3);
        candidate.wall.push(done.wall.as_secs_f64() * 1e3);
        Ok::<_, BenchError>(())
    })?;

    if let [tiny, loaded, ..] = candidates.as_slice() {
        report.checks.push(Check::new(
            "processor time of a guest that exits at once",
            Unit::Milliseconds,
            tiny.cpu.clone(),
            Target::AtMost(START_TARGET),
        ));
        report.checks.push(Check::new(
            "what a 50 MB kernel and a 200 MB initrd add to it",
            Unit::Milliseconds,
            loaded.cpu.paired(&tiny.cpu, |large, small| large - small),
            Target::AtMost(GROWTH_TARGET),
        ));
    }
    for (what, samples) in
        [("processor time", (|c| &c.cpu) as fn(&Candidate) -> &Samples), ("wall time", |c| &c.wall)]
    {
        report.figures.extend(candidates.iter().map(|candidate| Figure {
            what: what.to_owned(),
            who: candidate.invocation.who().to_owned(),
            unit: Unit::Milliseconds,
            rounds: samples(candidate).clone(),
            command: candidate.invocation.shell_line(),
        }));
    }
    Ok(())
}
