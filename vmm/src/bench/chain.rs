//! `cohort bench chain`: what it costs that a disk is a chain of layers.
//!
//! Reading: the same disk, cut into 1, 16, 64 and 256 layers, each holding its share of it in runs of
//! 1 MiB; beside QEMU with qcow2 layers. With runs of 64 KiB, the host's page cache itself takes longer
//! for 256 files than for one, so these reads are also made straight from the files. Writing: 4 KiB at random places of a fresh layer on a full parent, beside
//! fio, which writes into a sparse file of the same file system, and QEMU with a fresh qcow2 layer.
//! Opening: a chain of 256 layers, and a disk of 1 TiB with many extents.

mod files;
mod stack;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use storage::{Disk, DiskOptions};

use self::files::Files;
use self::stack::{QCOW2_CLUSTER, Stacks};
use super::BenchError;
use super::blk::results;
use super::child::Invocation;
use super::contender::{self, BUILTIN, Contenders, Machine, Programs, Qemu, listed};
use super::footprint::Footprint;
use super::report::{Check, Figure, Report, Target, Unit};
use super::samples::{Samples, in_turns};
use super::scratch::Scratch;

/// Depths of cohort's chains, and of QEMU's.
const DEPTHS: [u64; 4] = [1, 16, 64, 256];
const QEMU_DEPTHS: [u64; 3] = [1, 16, 64];
/// Bytes that belong to one layer before those of the next one begin.
const RUN: u64 = 1 << 20;
/// What a run may take beyond the time it measures.
const EXTRA_LIMIT: Duration = Duration::from_secs(60);
/// Size of the disk with many extents, and the distance of these.
const HUGE: u64 = 1 << 40;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often each contender is run.
    pub rounds: usize,
    /// The programs to run.
    pub programs: Programs,
    /// Size of the disks in bytes.
    pub size: u64,
    /// Seconds of each measurement.
    pub seconds: u32,
    /// Extents of the disk of 1 TiB; none: it is left out. Each takes 4 KiB of the host's disk.
    pub extents: u64,
}

/// Runs the benchmark. Its files are in the folder for temporary files.
///
/// # Errors
/// A contender cannot be started or does not do what is measured.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    let contenders = contender::find(&options.programs)?;
    let mut report = Report::new("chain");
    report.notes.extend(contenders.without_qemu());
    report.notes.extend(contenders.without_fio());
    let guest = Scratch::holding(resources::BUILTIN_GUEST)?;
    let stacks = Stacks::new(options.size)?;
    let bench = Bench { options, contenders: &contenders, stacks: &stacks, guest: guest.path() };
    let deepest = bench.reads(&mut report)?;
    bench.writes(&mut report)?;
    bench.opening(&mut report, &deepest)?;
    Ok(report)
}

struct Bench<'a> {
    options: &'a Options,
    contenders: &'a Contenders,
    stacks: &'a Stacks,
    guest: PathBuf,
}

/// One contender and its rates, in thousands a second.
struct Candidate<'a> {
    who: String,
    what: String,
    run: Box<dyn Fn() -> Result<(f64, String), BenchError> + 'a>,
    rates: Samples,
    command: String,
}

impl<'a> Candidate<'a> {
    fn new(
        who: impl Into<String>,
        what: impl Into<String>,
        run: impl Fn() -> Result<(f64, String), BenchError> + 'a,
    ) -> Candidate<'a> {
        Candidate {
            who: who.into(),
            what: what.into(),
            run: Box::new(run),
            rates: Samples::default(),
            command: String::new(),
        }
    }
}

fn reads_of(depth: u64, how: &str) -> String {
    format!("4 KiB random reads, QD 32, {depth} layers{how}")
}

/// MiB of memory of its own that this process has.
fn own_memory() -> Result<f64, BenchError> {
    let footprint = Footprint::of_tree(std::process::id())?;
    let own = |name: &str| name == "[heap]" || name == "[anonymous]";
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok(footprint.of_mappings(own).1 as f64 / 1024.0)
}

/// Lets the candidates take turns, and reports each one's rates.
fn measure(
    rounds: usize,
    report: &mut Report,
    candidates: &mut [Candidate<'_>],
) -> Result<(), BenchError> {
    in_turns(rounds, candidates.len(), |index| {
        let Some(candidate) = candidates.get_mut(index) else { return Ok(()) };
        let (rate, command) = (candidate.run)()?;
        candidate.rates.push(rate / 1e3);
        candidate.command = command;
        Ok::<_, BenchError>(())
    })?;
    for candidate in candidates {
        report.figures.push(Figure {
            what: candidate.what.clone(),
            who: candidate.who.clone(),
            unit: Unit::KiloOps,
            rounds: candidate.rates.clone(),
            command: candidate.command.clone(),
        });
    }
    Ok(())
}

impl Bench<'_> {
    fn machine<'s>(&self, kernel: &'s Path, script: &'s str) -> Machine<'s> {
        Machine { cmdline: script, ..Machine::with_kernel(kernel) }
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.options.seconds.into()).saturating_add(EXTRA_LIMIT)
    }

    /// The rate of the built-in guest's `script` in cohort on the disk at `path`.
    fn cohort(&self, path: &Path, script: &str) -> Result<(f64, String), BenchError> {
        let invocation = self
            .contenders
            .cohort("cohort", &self.machine(Path::new(BUILTIN), script))
            .arg("--disk")
            .arg(listed(path));
        let done = invocation.run(self.limit())?.with_status(&[0])?;
        Ok((results::of_guest(&done, 1)?.iter().sum(), invocation.shell_line()))
    }

    /// The same in QEMU.
    fn qemu(&self, qemu: &Qemu, path: &Path, script: &str) -> Result<(f64, String), BenchError> {
        let mut drive = std::ffi::OsString::from(
            "if=none,id=disk,format=qcow2,aio=io_uring,cache=writeback,file=",
        );
        drive.push(listed(path));
        let invocation = qemu
            .run("QEMU", "q35", &self.machine(&self.guest, script))
            .words("-object iothread,id=io -device")
            .arg("virtio-blk-pci,drive=disk,iothread=io,num-queues=1,disable-legacy=on")
            .arg("-drive")
            .arg(drive);
        let done = invocation.run(self.limit())?.with_status(&[Qemu::exit_status(0)])?;
        Ok((results::of_guest(&done, 1)?.iter().sum(), invocation.shell_line()))
    }

    /// Reads through chains of each depth; the deepest chain of cohort's.
    fn reads(&self, report: &mut Report) -> Result<PathBuf, BenchError> {
        // The first pass brings disk and map into memory.
        let script = format!(
            "blk.sum 0 {}K; bench.randread 4k qd=32 secs={}; exit 0",
            self.options.size >> 10,
            self.options.seconds
        );
        self.scattered_reads(report, &script)?;
        let (mut candidates, mut deepest) = (Vec::new(), PathBuf::new());
        for depth in DEPTHS {
            let top = self.stacks.layers(self.contenders.program(), depth, RUN)?;
            deepest.clone_from(&top);
            candidates.push(self.reader(top, depth, &script, ""));
        }
        if let Some(qemu) = self.contenders.qemu() {
            for depth in QEMU_DEPTHS {
                let top = self.stacks.qcow2(depth, RUN)?;
                let script = &script;
                candidates.push(Candidate::new("QEMU qcow2", reads_of(depth, ""), move || {
                    self.qemu(qemu, &top, script)
                }));
            }
        }
        measure(self.options.rounds, report, &mut candidates)?;
        let Some((first, deeper)) = candidates.split_first() else { return Ok(deepest) };
        // QEMU's come behind, and are there to be seen.
        for (candidate, depth) in deeper.iter().zip(&DEPTHS[1..]) {
            report.checks.push(Check::new(
                format!("random reads, {depth} layers over 1 layer"),
                Unit::Times,
                candidate.rates.over(&first.rates),
                Target::AtLeast(0.95),
            ));
        }
        Ok(deepest)
    }

    /// Reads where each layer's bytes lie apart from each other, beside what the page cache takes.
    fn scattered_reads(&self, report: &mut Report, script: &str) -> Result<(), BenchError> {
        const HOW: &str = ", runs of 64 KiB";
        let mut candidates = Vec::new();
        for depth in [DEPTHS[0], DEPTHS[3]] {
            let top = self.stacks.layers(self.contenders.program(), depth, QCOW2_CLUSTER)?;
            let files = Files::of(&top)?;
            let time = Duration::from_secs(self.options.seconds.into());
            candidates.push(self.reader(top.clone(), depth, script, HOW));
            candidates.push(Candidate::new("page cache", reads_of(depth, HOW), move || {
                let rate = files.rate(time).map_err(|error| stack::failed(&top, error.into()))?;
                Ok((rate, "pread of the layers' files, QD 1, no guest".to_owned()))
            }));
        }
        measure(self.options.rounds, report, &mut candidates)?;
        if let [one, one_alone, deep, deep_alone] = &*candidates {
            let (cohort, alone) =
                (deep.rates.over(&one.rates), deep_alone.rates.over(&one_alone.rates));
            report.checks.push(Check::new(
                "random reads in runs of 64 KiB, 256 layers over 1 layer, over the page cache's own",
                Unit::Times,
                cohort.over(&alone),
                Target::AtLeast(0.95),
            ));
        }
        Ok(())
    }

    /// A guest that reads through a chain of cohort's.
    fn reader<'s>(&'s self, top: PathBuf, depth: u64, script: &'s str, how: &str) -> Candidate<'s> {
        Candidate::new("cohort", reads_of(depth, how), move || self.cohort(&top, script))
    }

    /// Writes into fresh layers.
    fn writes(&self, report: &mut Report) -> Result<(), BenchError> {
        let Options { seconds, rounds, size, .. } = *self.options;
        let parent = self.stacks.path("full.raw");
        std::fs::File::create(&parent)
            .and_then(|file| file.set_len(size))
            .map_err(|source| BenchError::File { what: "create", path: parent.clone(), source })?;
        stack::write(&parent, (0..size >> 20).map(|mib| mib << 20), 1 << 20, 0xA5)?;
        let script = format!("bench.randwrite 4k qd=32 secs={seconds}; blk.flush; exit 0");
        let script = script.as_str();
        let what = "4 KiB random writes, QD 32, fresh layer on a full parent";
        let parent = parent.as_path();
        let mut candidates = vec![Candidate::new("cohort", what, || {
            let child = self.stacks.child(self.contenders.program(), parent, "fresh.layer")?;
            self.cohort(&child, script)
        })];
        if let Some(qemu) = self.contenders.qemu() {
            candidates.push(Candidate::new("QEMU qcow2", what, move || {
                let child = self.stacks.qcow2_child(parent, "raw", "fresh.qcow2")?;
                self.qemu(qemu, &child, script)
            }));
        }
        if let Some(fio) = self.contenders.fio() {
            candidates.push(Candidate::new("fio, sparse file", what, move || {
                let file = self.stacks.path("sparse");
                let created = std::fs::File::create(&file).and_then(|file| file.set_len(size));
                created.map_err(|source| BenchError::File {
                    what: "create",
                    path: file.clone(),
                    source,
                })?;
                let invocation = Invocation::new("fio", fio)
                    .words("--name=host --ioengine=io_uring --bs=4k --time_based --norandommap")
                    .words("--randrepeat=0 --output-format=json --rw=randwrite --iodepth=32")
                    .words("--fallocate=none --overwrite=0 --end_fsync=1")
                    .arg(format!("--runtime={seconds}"))
                    .arg(format!("--size={size}"))
                    .arg(format!("--filename={}", file.display()));
                let done = invocation.run(self.limit())?.with_status(&[0])?;
                Ok((results::of_fio(&done, true)?, invocation.shell_line()))
            }));
        }
        measure(rounds, report, &mut candidates)?;
        let Some((own, peers)) = candidates.split_first() else { return Ok(()) };
        for peer in peers {
            let target = if peer.who == "QEMU qcow2" { 2.5 } else { 0.9 };
            report.checks.push(Check::new(
                format!("random writes into a fresh layer, cohort over {}", peer.who),
                Unit::Times,
                own.rates.over(&peer.rates),
                Target::AtLeast(target),
            ));
        }
        Ok(())
    }

    /// Opening a deep chain, and a large disk.
    fn opening(&self, report: &mut Report, deepest: &Path) -> Result<(), BenchError> {
        self.open(report, "opening and checking a chain of 256 layers", deepest, 20.0)?;
        let extents = self.options.extents;
        if extents == 0 {
            report.notes.push("the disk of 1 TiB was left out: --extents 1000000".to_owned());
            return Ok(());
        }
        let stacks = Stacks::new(HUGE)?;
        let path = stacks.empty(self.contenders.program(), "huge.layer")?;
        let step = (HUGE / extents) & !4095;
        let places = || (0..extents).map(|number| number * step);
        stack::write(&path, places(), 4096, 0x5A)?;
        let what = format!("opening a layer of 1 TiB with {extents} extents");
        self.open(report, &what, &path, 100.0)?;
        // On top, so that both the layer that changes and the one that does not are asked.
        let child = stacks.child(self.contenders.program(), &path, "child.layer")?;
        let before = own_memory()?;
        let mut after = before;
        stack::read(&child, places(), || {
            after = own_memory()?;
            Ok(())
        })?;
        report.checks.push(Check::new(
            format!("memory for the maps of both layers, {extents} extents read"),
            Unit::Mebibytes,
            [after - before].into_iter().collect(),
            Target::AtMost(64.0),
        ));
        Ok(())
    }

    fn open(
        &self,
        report: &mut Report,
        what: &str,
        path: &Path,
        limit: f64,
    ) -> Result<(), BenchError> {
        let options = DiskOptions { read_only: true, ..DiskOptions::default() };
        let mut times = Samples::default();
        for _ in 0..self.options.rounds {
            let start = Instant::now();
            let opened = Disk::open(path, &options);
            times.push(start.elapsed().as_secs_f64() * 1e3);
            opened.map_err(|error| BenchError::File {
                what: "open",
                path: path.to_owned(),
                source: std::io::Error::other(error),
            })?;
        }
        report.checks.push(Check::new(what, Unit::Milliseconds, times, Target::AtMost(limit)));
        Ok(())
    }
}
