//! Booting Linux: time to its init, or to its power-off, beside QEMU's microvm.

use std::path::PathBuf;
use std::time::Duration;

use crate::bench::BenchError;
use crate::bench::child::Invocation;
use crate::bench::contender::{Contenders, Machine};
use crate::bench::report::{Check, Figure, Report, Target, Unit};
use crate::bench::samples::{Samples, in_turns};

/// The longest a boot may take, several levels of emulation included.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// cohort's exit statuses for a guest that powered off or asked for a reset.
const COHORT_ENDINGS: [i32; 2] = [0, 32];
/// QEMU's, run with `-no-reboot`.
const QEMU_ENDINGS: [i32; 1] = [0];

/// A Linux to boot.
#[derive(Clone, Debug)]
pub struct Linux {
    /// Its kernel, for everybody.
    pub kernel: PathBuf,
    /// The same kernel as an ELF vmlinux, as one more start of QEMU's.
    pub vmlinux: Option<PathBuf>,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub cmdline: String,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Virtual processors.
    pub cpus: u8,
    /// The text on its console up to which the time counts; else it counts to the power-off.
    pub until: Option<String>,
}

/// Measures boots into `report`.
pub(super) fn measure(
    report: &mut Report,
    contenders: &Contenders,
    linux: &Linux,
    rounds: usize,
) -> Result<(), BenchError> {
    let machine = Machine {
        kernel: &linux.kernel,
        initrd: linux.initrd.as_deref(),
        cmdline: &linux.cmdline,
        memory_mib: linux.memory_mib,
        cpus: linux.cpus,
    };
    let mut candidates: Vec<(Invocation, &[i32])> =
        vec![(contenders.cohort("cohort", &machine), &COHORT_ENDINGS)];
    if let Some(qemu) = contenders.qemu() {
        candidates.push((qemu.run("QEMU microvm", "microvm", &machine), &QEMU_ENDINGS));
        if let Some(vmlinux) = &linux.vmlinux {
            let machine = Machine { kernel: vmlinux, ..machine };
            let invocation = qemu.run("QEMU microvm, vmlinux", "microvm", &machine);
            candidates.push((invocation, &QEMU_ENDINGS));
        }
    }

    let mut times = vec![Samples::default(); candidates.len()];
    // One more round than asked for, not counted, fills page caches and cohort's kernel cache.
    in_turns(rounds.saturating_add(1), candidates.len(), |index| {
        let (Some((invocation, endings)), Some(times)) =
            (candidates.get(index), times.get_mut(index))
        else {
            return Ok(());
        };
        let time = match &linux.until {
            Some(text) => invocation.start()?.printed(text, BOOT_LIMIT)?,
            None => invocation.run(BOOT_LIMIT)?.with_status(endings)?.wall,
        };
        times.push(time.as_secs_f64() * 1e3);
        Ok::<_, BenchError>(())
    })?;
    for times in &mut times {
        *times = times.values().iter().skip(1).copied().collect();
    }

    let what = match &linux.until {
        Some(text) => format!("Linux, wall time until {text:?}"),
        None => "Linux, wall time until power-off".to_owned(),
    };
    for ((invocation, _), times) in candidates.iter().zip(&times) {
        report.figures.push(Figure {
            what: what.clone(),
            who: invocation.who().to_owned(),
            unit: Unit::Milliseconds,
            rounds: times.clone(),
            command: invocation.shell_line(),
        });
    }
    for ((invocation, _), peer) in candidates.iter().zip(&times).skip(1) {
        report.checks.push(Check::new(
            format!("{what}, cohort over {}", invocation.who()),
            Unit::Times,
            times.first().map_or_else(Samples::default, |own| own.over(peer)),
            Target::AtMost(1.0),
        ));
    }
    Ok(())
}
