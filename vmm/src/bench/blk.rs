//! `cohort bench blk`: 4 KiB random reads and writes by the built-in guest.
//!
//! The same guest runs the same script in cohort and in QEMU, on the same file. With `O_DIRECT`,
//! fio says what the host's own kernel gives for the file: as it is, and while one processor is
//! kept busy, as a guest keeps one that looks for the answers to its requests.

pub(super) mod results;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::BenchError;
use super::child::Invocation;
use super::contender::{self, BUILTIN, Contenders, Machine, Programs, Qemu, listed};
use super::report::{Check, Figure, Report, Target, Unit};
use super::samples::{Samples, in_turns};
use super::scratch::Scratch;

/// What a run may take beyond the time it measures: firmware of the peer, a busy host.
const EXTRA_LIMIT: Duration = Duration::from_secs(60);
/// Guest memory in MiB.
const MEMORY_MIB: u32 = 128;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often each contender is run.
    pub rounds: usize,
    /// The programs to run.
    pub programs: Programs,
    /// The file or block device to use. None: an unnamed file of `size`, in memory, or with
    /// `direct` in the folder for temporary files.
    pub file: Option<PathBuf>,
    /// Size of the unnamed file in bytes.
    pub size: u64,
    /// Bypass the host's page cache.
    pub direct: bool,
    /// Seconds of each measurement.
    pub seconds: u32,
    /// Numbers of requests in flight.
    pub depths: Vec<u16>,
    /// Measure writes as well. They overwrite the file's content.
    pub write: bool,
}

/// One access pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Load {
    write: bool,
    depth: u16,
}

impl Load {
    fn command(self, seconds: u32) -> String {
        let name = if self.write { "bench.randwrite" } else { "bench.randread" };
        format!("{name} 4k qd={} secs={seconds}", self.depth)
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = if self.write { "writes" } else { "reads" };
        write!(f, "4 KiB random {name}, QD {}", self.depth)
    }
}

/// Who is measured: how to run it once, and what it got.
struct Candidate<'a> {
    who: &'static str,
    kind: Kind<'a>,
    rates: Vec<Samples>,
}

enum Kind<'a> {
    /// A monitor, one run for all loads.
    Guest { invocation: Invocation, status: i32 },
    /// fio, one run for each load; `beside_busy`, while a thread keeps one processor busy.
    Fio { program: &'a Path, beside_busy: bool },
}

/// Runs the benchmark.
///
/// # Errors
/// A contender cannot be started or does not do what is measured.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    let contenders = contender::find(&options.programs)?;
    let mut report = Report::new("blk");
    report.notes.extend(contenders.without_qemu());

    let scratch = match &options.file {
        Some(_) => None,
        None => Some(filled(options)?),
    };
    let file = match (&options.file, &scratch) {
        (Some(path), _) => path.clone(),
        (None, Some(scratch)) => scratch.path(),
        (None, None) => return Ok(report),
    };
    let loads: Vec<_> = [false, true]
        .into_iter()
        .filter(|write| options.write || !write)
        .flat_map(|write| options.depths.iter().map(move |depth| Load { write, depth: *depth }))
        .collect();
    let guest = Scratch::holding(resources::BUILTIN_GUEST)?;
    let guest_path = guest.path();

    let mut candidates = candidates(options, &contenders, &file, &guest_path, &loads);
    if options.direct {
        report.notes.extend(contenders.without_fio());
    }
    in_turns(options.rounds, candidates.len(), |index| {
        let Some(candidate) = candidates.get_mut(index) else { return Ok(()) };
        let rates = measure(candidate, options, &file, &loads)?;
        for (samples, rate) in candidate.rates.iter_mut().zip(rates) {
            samples.push(rate / 1e3);
        }
        Ok::<_, BenchError>(())
    })?;

    let place = match (&options.file, options.direct) {
        (Some(path), false) => path.display().to_string(),
        (Some(path), true) => format!("{}, O_DIRECT", path.display()),
        (None, false) => "file in RAM".to_owned(),
        (None, true) => "file on disk, O_DIRECT".to_owned(),
    };
    report_on(&mut report, options, &place, &file, &loads, &candidates);
    Ok(report)
}

/// An unnamed file with content, where the options want it.
fn filled(options: &Options) -> Result<Scratch, BenchError> {
    let scratch =
        if options.direct { Scratch::on_disk(&std::env::temp_dir())? } else { Scratch::in_ram()? };
    scratch.fill(0, options.size)?;
    Ok(scratch)
}

fn candidates<'a>(
    options: &Options,
    contenders: &'a Contenders,
    file: &Path,
    guest: &Path,
    loads: &[Load],
) -> Vec<Candidate<'a>> {
    let commands: Vec<_> = loads.iter().map(|load| load.command(options.seconds)).collect();
    let script = format!("{}; exit 0", commands.join("; "));
    let machine = Machine {
        cmdline: &script,
        memory_mib: MEMORY_MIB,
        ..Machine::with_kernel(Path::new(BUILTIN))
    };
    let candidate =
        |who, kind| Candidate { who, kind, rates: vec![Samples::default(); loads.len()] };

    let mut disk = listed(file);
    if options.direct {
        disk.push(",direct=on");
    }
    let invocation = contenders.cohort("cohort", &machine).arg("--disk").arg(disk);
    let mut all = vec![candidate("cohort", Kind::Guest { invocation, status: 0 })];
    if let Some(qemu) = contenders.qemu() {
        let cache = if options.direct { "none" } else { "writeback" };
        let mut drive = std::ffi::OsString::from("if=none,id=disk,format=raw,aio=io_uring,cache=");
        drive.push(format!("{cache},file="));
        drive.push(listed(file));
        let invocation = qemu
            .run("QEMU", "q35", &Machine { kernel: guest, ..machine })
            .words("-object iothread,id=io -device")
            .arg("virtio-blk-pci,drive=disk,iothread=io,num-queues=1,disable-legacy=on")
            .arg("-drive")
            .arg(drive);
        let status = Qemu::exit_status(0);
        all.push(candidate("QEMU", Kind::Guest { invocation, status }));
    }
    if let (Some(program), true) = (contenders.fio(), options.direct) {
        all.push(candidate("fio on the host", Kind::Fio { program, beside_busy: false }));
        all.push(candidate("fio, one CPU busy", Kind::Fio { program, beside_busy: true }));
    }
    all
}

/// One round of one candidate: operations a second, by load.
fn measure(
    candidate: &Candidate<'_>,
    options: &Options,
    file: &Path,
    loads: &[Load],
) -> Result<Vec<f64>, BenchError> {
    let of = |loads: usize| {
        let seconds = u64::from(options.seconds).saturating_mul(loads as u64);
        Duration::from_secs(seconds).saturating_add(EXTRA_LIMIT)
    };
    match &candidate.kind {
        Kind::Guest { invocation, status } => {
            let done = invocation.run(of(loads.len()))?.with_status(&[*status])?;
            results::of_guest(&done, loads.len())
        }
        Kind::Fio { program, beside_busy } => loads
            .iter()
            .map(|load| {
                let invocation = fio(program, file, *load, options);
                let run = || invocation.run(of(1));
                let done = if *beside_busy { beside_busy_thread(run) } else { run() };
                results::of_fio(&done?.with_status(&[0])?, load.write)
            })
            .collect(),
    }
}

/// Runs `work` in this thread while another one does nothing as fast as it can.
fn beside_busy_thread<T>(work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}

fn fio(program: &Path, file: &Path, load: Load, options: &Options) -> Invocation {
    let mut name = std::ffi::OsString::from("--filename=");
    name.push(file);
    Invocation::new("fio", program)
        .words("--name=host --ioengine=io_uring --direct=1 --bs=4k --time_based --norandommap")
        .words("--randrepeat=0 --output-format=json")
        .arg(format!("--rw={}", if load.write { "randwrite" } else { "randread" }))
        .arg(format!("--iodepth={}", load.depth))
        .arg(format!("--runtime={}", options.seconds))
        .arg(name)
}

fn report_on(
    report: &mut Report,
    options: &Options,
    place: &str,
    file: &Path,
    loads: &[Load],
    candidates: &[Candidate<'_>],
) {
    for (index, load) in loads.iter().enumerate() {
        let rates = |candidate: &Candidate<'_>| candidate.rates.get(index).cloned();
        for candidate in candidates {
            let command = match &candidate.kind {
                Kind::Guest { invocation, .. } => invocation.shell_line(),
                Kind::Fio { program, .. } => fio(program, file, *load, options).shell_line(),
            };
            report.figures.push(Figure {
                what: format!("{load}, {place}"),
                who: candidate.who.to_owned(),
                unit: Unit::KiloOps,
                rounds: rates(candidate).unwrap_or_default(),
                command,
            });
        }
        let Some(own) = candidates.first().and_then(rates) else { continue };
        for peer in candidates.iter().skip(1) {
            let Some(target) = target(&peer.kind, *load, options.direct) else { continue };
            report.checks.push(Check::new(
                format!("{load}, {place}, cohort over {}", peer.who),
                Unit::Times,
                own.over(&rates(peer).unwrap_or_default()),
                Target::AtLeast(target),
            ));
        }
    }
}

/// How many times a peer's rate cohort's has to be, where that is a goal.
fn target(peer: &Kind<'_>, load: Load, direct: bool) -> Option<f64> {
    match peer {
        Kind::Guest { .. } if direct => Some(1.0),
        Kind::Guest { .. } if load.depth >= 32 => Some(2.0),
        Kind::Guest { .. } => Some(1.2),
        Kind::Fio { beside_busy, .. } => (load.depth >= 32 && !beside_busy).then_some(0.95),
    }
}
