//! `cohort bench`: measures cohort beside its peers on this host.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Subcommand;
use cohort::bench::contender::Programs;
use cohort::bench::{BenchError, blk, boot, chain, pr, share, shared};
use cohort::machine::layout;
use cohort::units::{UnitError, parse_disk_size, parse_memory};

use super::{Done, Failure};

/// Measures cohort beside its peers on this host
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    bench: Bench,
}

pub(super) fn main(args: &Args) -> Done {
    let (report, json) = match &args.bench {
        Bench::Boot(args) => (boot::run(&args.options()), args.common.json),
        Bench::Blk(args) => (blk::run(&args.options()), args.common.json),
        Bench::Chain(args) => (chain::run(&args.options()), args.common.json),
        Bench::Pr(args) => (pr::run(&args.options()), args.json),
        Bench::Share(args) => (share::run(&args.options()), args.common.json),
        Bench::Shared(args) => (shared::run(&args.options()), args.common.json),
    };
    let report = report.map_err(|error: BenchError| {
        let help = error.help();
        Failure::host(error).help(help)
    })?;
    let text = if json { report.json() + "\n" } else { report.to_string() };
    io::stdout().write_all(text.as_bytes()).map_err(Failure::host)?;
    Ok(0)
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// What it costs to start a guest, to keep an idle one, and with --linux to boot Linux
    Boot(BootArgs),
    /// 4 KiB random reads and writes by the built-in guest
    Blk(BlkArgs),
    /// What it costs that a disk is a chain of layers
    Chain(ChainArgs),
    /// What fencing by persistent reservations takes, and what checking them costs
    Pr(PrArgs),
    /// What it brings that guests map a file's pages: rates, starts, memory of many guests
    Share(ShareArgs),
    /// What it costs that a disk is shared: by vhost-user on this host, over iSCSI beside tgt
    Shared(SharedArgs),
}

#[derive(Debug, clap::Args)]
struct Common {
    /// How often each contender is measured; they take turns
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Write every value of every round as JSON
    #[arg(long)]
    json: bool,
    /// QEMU to compare with [default: qemu-system-x86_64 on PATH]
    #[arg(long, value_name = "PROGRAM", env = "COHORT_BENCH_QEMU")]
    qemu: Option<PathBuf>,
    /// Folder of QEMU's firmware, where its own default is wrong
    #[arg(long, value_name = "FOLDER", env = "COHORT_BENCH_QEMU_DATA")]
    qemu_data: Option<PathBuf>,
    /// Processor model for QEMU [default: host; EPYC on kvm-pvm]
    #[arg(long, value_name = "MODEL")]
    qemu_cpu: Option<String>,
    /// cohort to measure [default: this program]
    #[arg(long, value_name = "PROGRAM")]
    cohort: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct BootArgs {
    #[command(flatten)]
    common: Common,
    /// List what the memory of an idle guest's process consists of
    #[arg(long)]
    smaps: bool,
    /// Boot this kernel (bzImage or vmlinux) beside QEMU's microvm, and measure nothing else
    #[arg(long, value_name = "KERNEL")]
    linux: Option<PathBuf>,
    /// The same kernel as an ELF vmlinux, which QEMU's microvm is measured with as well
    #[arg(long, value_name = "FILE", requires = "linux")]
    vmlinux: Option<PathBuf>,
    /// Initial RAM disk for --linux; its init should power off or reboot at once
    #[arg(long, value_name = "FILE", requires = "linux")]
    initrd: Option<PathBuf>,
    /// Command line for --linux
    #[arg(long, value_name = "TEXT", default_value = "console=ttyS0 quiet panic=-1")]
    cmdline: String,
    /// Guest memory for --linux
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = memory)]
    memory: u64,
    /// Virtual processors for --linux
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    cpus: u8,
    /// Time --linux until this text is on its console instead of until it powers off
    #[arg(long, value_name = "TEXT", requires = "linux")]
    until: Option<String>,
}

#[derive(Debug, clap::Args)]
struct BlkArgs {
    #[command(flatten)]
    common: Common,
    /// File or block device to use [default: an unnamed file in memory, or with --direct in TMPDIR]
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Size of the unnamed file
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = disk_size)]
    size: u64,
    /// Seconds of each measurement
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    secs: u32,
    /// Bypass the host's page cache (O_DIRECT), and compare with fio on the host as well
    #[arg(long)]
    direct: bool,
    /// Numbers of requests in flight
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 32])]
    qd: Vec<u16>,
    /// Measure writes as well; they overwrite the file
    #[arg(long)]
    write: bool,
}

#[derive(Debug, clap::Args)]
struct ChainArgs {
    #[command(flatten)]
    common: Common,
    /// Size of the disks
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = disk_size)]
    size: u64,
    /// Seconds of each measurement
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    secs: u32,
    /// Open a layer of 1 TiB with this many extents as well, 4 KiB each; 1000000 take 4 GiB
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1 << 26))]
    extents: u64,
}

#[derive(Debug, clap::Args)]
struct SharedArgs {
    #[command(flatten)]
    common: Common,
    /// Size of the file in memory that is shared
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = disk_size)]
    size: u64,
    /// Seconds of each measurement
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    secs: u32,
}

#[derive(Debug, clap::Args)]
struct ShareArgs {
    #[command(flatten)]
    common: Common,
    /// Size of the file in memory that is read for its rate
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = disk_size)]
    size: u64,
    /// Size of the file in memory that many guests read
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = disk_size)]
    shared: u64,
    /// Numbers of guests that read it
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,8,32", value_parser = clap::value_parser!(u16).range(1..=1024))]
    guests: Vec<u16>,
}

#[derive(Debug, clap::Args)]
struct PrArgs {
    /// How often each figure is taken
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Seconds of each measurement of reads
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3600))]
    secs: u32,
    /// Write every value of every round as JSON
    #[arg(long)]
    json: bool,
}

fn memory(text: &str) -> Result<u64, String> {
    parse_memory(text, layout::MEMORY_MIN).map_err(told)
}

fn disk_size(text: &str) -> Result<u64, String> {
    parse_disk_size(text).map_err(told)
}

fn told(error: UnitError) -> String {
    format!("{error}: {}", error.help())
}

impl Common {
    fn programs(&self) -> Programs {
        Programs {
            cohort: self.cohort.clone(),
            qemu: self.qemu.clone(),
            qemu_data: self.qemu_data.clone(),
            qemu_cpu: self.qemu_cpu.clone(),
        }
    }
}

impl BootArgs {
    fn options(&self) -> boot::Options {
        let linux = self.linux.as_ref().map(|kernel| boot::Linux {
            kernel: kernel.clone(),
            vmlinux: self.vmlinux.clone(),
            initrd: self.initrd.clone(),
            cmdline: self.cmdline.clone(),
            memory_mib: u32::try_from(self.memory >> 20).unwrap_or(u32::MAX),
            cpus: self.cpus,
            until: self.until.clone(),
        });
        let rounds = usize::from(self.common.rounds);
        boot::Options { rounds, programs: self.common.programs(), smaps: self.smaps, linux }
    }
}

impl BlkArgs {
    fn options(&self) -> blk::Options {
        blk::Options {
            rounds: usize::from(self.common.rounds),
            programs: self.common.programs(),
            file: self.file.clone(),
            size: self.size,
            direct: self.direct,
            seconds: self.secs,
            depths: self.qd.clone(),
            write: self.write,
        }
    }
}

impl ChainArgs {
    fn options(&self) -> chain::Options {
        chain::Options {
            rounds: usize::from(self.common.rounds),
            programs: self.common.programs(),
            size: self.size,
            seconds: self.secs,
            extents: self.extents,
        }
    }
}

impl ShareArgs {
    fn options(&self) -> share::Options {
        let mut guests = self.guests.clone();
        guests.sort_unstable();
        guests.dedup();
        share::Options {
            rounds: usize::from(self.common.rounds),
            programs: self.common.programs(),
            size: self.size,
            shared: self.shared,
            guests,
        }
    }
}

impl PrArgs {
    fn options(&self) -> pr::Options {
        pr::Options { rounds: usize::from(self.rounds), seconds: self.secs }
    }
}

impl SharedArgs {
    fn options(&self) -> shared::Options {
        shared::Options {
            rounds: usize::from(self.common.rounds),
            programs: self.common.programs(),
            size: self.size,
            seconds: self.secs,
        }
    }
}
