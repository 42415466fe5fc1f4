//! Starting: processor and wall time of a whole run whose guest exits at its first instruction.

use std::path::Path;
use std::time::Duration;

use super::START_LIMIT;
use crate::bench::BenchError;
use crate::bench::child::{Finished, Invocation};
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
const WARM_UPS: usize = 1;
/// How often a contender whose run takes milliseconds is run for one value of a round.
const RUNS: usize = 10;

/// A contender: its command, how often a round runs it, the exit status to expect of it, its
/// times.
struct Candidate {
    invocation: Invocation,
    runs: usize,
    status: i32,
    cpu: Samples,
    wall: Samples,
}

impl Candidate {
    fn new(invocation: Invocation, runs: usize, status: i32) -> Candidate {
        let (cpu, wall) = (Samples::default(), Samples::default());
        Candidate { invocation, runs, status, cpu, wall }
    }

    /// Runs the contender once.
    fn run(&self) -> Result<Finished, BenchError> {
        self.invocation.run(START_LIMIT)?.with_status(&[self.status])
    }

    /// Takes the values of one round: medians of its runs.
    fn round(&mut self) -> Result<(), BenchError> {
        let done = (0..self.runs).map(|_| self.run()).collect::<Result<Vec<_>, _>>()?;
        let milliseconds = |of: fn(&Finished) -> Duration| {
            let values: Samples = done.iter().map(|done| of(done).as_secs_f64() * 1e3).collect();
            values.median()
        };
        milliseconds(|done| done.cpu).into_iter().for_each(|value| self.cpu.push(value));
        milliseconds(|done| done.wall).into_iter().for_each(|value| self.wall.push(value));
        Ok(())
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
    let own = [
        ("cohort, exit at once", &machine),
        ("cohort, 50 MB kernel, 200 MB initrd", &loaded),
        ("cohort, built-in guest, exit 0", &builtin),
    ];
    let mut candidates =
        Vec::from(own.map(|(who, machine)| {
            Candidate::new(contenders.cohort(who, machine).brief(), RUNS, 0)
        }));
    if let Some(qemu) = contenders.qemu() {
        let invocation = qemu.run("QEMU microvm, exit at once", "microvm", &machine);
        candidates.push(Candidate::new(invocation, 1, Qemu::exit_status(0)));
    }
    if let Some(invocation) = contenders.firecracker(&machine, &config)? {
        candidates.push(Candidate::new(invocation.brief(), RUNS, 0));
    }

    for _ in 0..WARM_UPS {
        for candidate in &candidates {
            candidate.run()?;
        }
    }
    in_turns(rounds, candidates.len(), |index| {
        candidates.get_mut(index).map_or(Ok(()), Candidate::round)
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
