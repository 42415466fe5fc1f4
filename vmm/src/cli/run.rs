//! `cohort run`: one guest, in this process.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use cohort::machine::{self, Console, Control, layout};
use cohort::mem::Guest;
use cohort::mem::registry::Registry;
use cohort::outcome::{Ending, Outcome, json_text, write_json};
use cohort::signals::StopSignals;
use cohort::spec::{
    BUILTIN_SCRIPT, CPUS_MAX, ConsoleInput, DiskSpec, KernelSource, LINUX_CMDLINE, PmemSpec,
    ShareSpec, VmSpec,
};
use cohort::units::{parse_duration, parse_memory};

use super::failure::{Failure, print_error};
use super::terminal::Input;
use super::{Done, STATUSES};

/// Runs one guest until it ends, and exits with its status
#[derive(Debug, clap::Args)]
#[command(after_help = STATUSES)]
pub(super) struct Args {
    /// Kernel: an ELF vmlinux, a bzImage, or the guest that is part of cohort
    #[arg(short, long, value_name = "FILE|builtin", default_value = "builtin")]
    kernel: PathBuf,
    /// Initial RAM disk of a Linux guest
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Kernel command line [default for Linux: "console=ttyS0 panic=-1"]
    #[arg(short = 'a', long, value_name = "TEXT", conflicts_with = "script")]
    cmdline: Option<String>,
    /// Script of the built-in guest: commands separated by ';', as in
    /// "blk.write 0 1M seed=7; blk.flush; blk.verify 0 1M seed=7; poweroff"
    #[arg(long, value_name = "TEXT")]
    script: Option<String>,
    /// Guest memory, with a unit
    #[arg(short, long, value_name = "SIZE", default_value = "256M", value_parser = memory)]
    memory: u64,
    /// Virtual CPUs, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = cpus())]
    cpus: u8,
    /// CPU features to hide from the guest, by their names in /proc/cpuinfo
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    cpu_mask: Vec<String>,
    /// A block device; can be given several times
    #[arg(long = "disk", value_name = "PATH|parent=PATH|scratch=SIZE|vhost-user=SOCKET[,OPTION]...", long_help = DISK_HELP)]
    disks: Vec<DiskSpec>,
    /// A file in guest memory (virtio-pmem); can be given several times
    #[arg(long, value_name = "FILE[,OPTION]...", long_help = PMEM_HELP)]
    pmem: Vec<PmemSpec>,
    /// A folder of the host as a file system of the guest (virtio-fs); can be given several times
    #[arg(long = "share", value_name = "DIR[:TAG][,OPTION]...", long_help = SHARE_HELP)]
    shares: Vec<ShareSpec>,
    /// Share pages of files with guests that are given the same name [default: with none]
    #[arg(long, value_name = "NAME")]
    share_domain: Option<String>,
    /// Stop the guest when it has run this long, as in 500ms, 60s or 5m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// Write the guest's console to this file [default: stderr]
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,
    /// Connect standard input to the guest: to its serial port, or with =hvc to its virtio
    /// console. A terminal is set raw; Ctrl-A x stops the guest
    #[arg(
        short, long, value_name = "serial|hvc", num_args = 0..=1, require_equals = true,
        default_missing_value = "serial", value_parser = console_input
    )]
    interactive: Option<ConsoleInput>,
    /// Write the outcome to this file as JSON, however the run ends
    #[arg(long, value_name = "FILE")]
    outcome: Option<PathBuf>,
    /// The name by which messages and the outcome call the guest
    #[arg(long, value_name = "NAME", default_value = "guest")]
    name: String,
}

const DISK_HELP: &str = "\
A block device; can be given several times, in the order in which the guest finds them.

PATH is an image file (the top layer, if it is made of several: see cohort disk) or a block \
device; a comma in it is written twice. parent=PATH is a disk that reads as PATH at first and \
leaves it as it is; what the guest writes goes to the folder for temporary files (TMPDIR), and is \
gone with the guest, as is scratch=SIZE, a disk of zeroes. vhost-user=SOCKET is a disk, or a SCSI \
host with disks, of another process that listens on that Unix socket; it takes kind and queues \
alone. Options:
  format=NAME         raw, layer, qcow2 or vhdx [default: what the name's extension tells]
  allow-mismatch      open the disk although a parent has changed since its child was made
  map-memory=SIZE     most memory for what is kept of the layers' maps [default: 64M]
  ro                  the guest may not write
  direct=on           bypass the host's page cache (O_DIRECT)
  queues=N            request queues [default: one for each CPU, at most 8]
  serial=TEXT         the serial string that the guest reads, at most 20 characters
  kind=blk, kind=scsi what a vhost-user socket is for (no default)
  engine=io_uring     fail where the host has no io_uring
  engine=positional   preadv2 and pwritev2 [default: io_uring where the host permits it]";

const PMEM_HELP: &str = "\
A file in guest memory (virtio-pmem); can be given several times, in the order in which the guest \
finds them.

Its pages are the host's page cache: guests with one --share-domain, or of one lab, hold them once. \
A comma in the path is written twice. Options:
  mode=shared       the guest may not write; writes are refused [default]
  mode=private      the guest may write; what it writes is its own, and gone with it
  seal=on           map a copy in memory that nobody can change
  on-change=ignore, on-change=warn, on-change=stop
                    what a change of the file does while the guest runs [default: warn]";

const SHARE_HELP: &str = "\
A folder of the host as a file system of the guest (virtio-fs); can be given several times. The \
guest mounts it by its tag: mount -t virtiofs TAG /mnt, and with -o dax=always to have files' pages \
mapped instead of copied.

TAG is the folder's name if nothing else is given; a folder with a colon in its name needs one. A \
comma in the path is written twice. Options:
  ro, rw              whether the guest may change what is in the folder [default: ro]
  dax=SIZE, dax=off   address space in which the guest has files mapped: the host's page cache, held
                      once for guests with one --share-domain, or of one lab
                      [default: a quarter of the guest's memory, 64M to 4G]
  ids=same            numbers of users and groups are those of the host [default]
  ids=squash          files of cohort's user belong to the guest's root, all others to nobody
  ids=GUEST:HOST:COUNT
                      so many numbers, from GUEST on, are the host's from HOST on
  cache=never, cache=auto, cache=always
                      whether the guest may rely on what it was told: not at all, for a second, or
                      as long as it runs [default: auto]
  mounts=cross        file systems mounted inside of the folder are part of it [default: refuse]
  xattrs=none, xattrs=user, xattrs=all
                      extended attributes that the guest sees [default: user]";

pub(super) fn main(args: Args) -> Done {
    let name = args.name.clone();
    let outcome_file = args.outcome.clone().map(OutcomeFile::prepare).transpose()?;
    let console = open_console(args.console.as_deref());
    // From here on a signal is an outcome, not a sudden death. Not before: who waits for the
    // other end of a named pipe to be opened can be interrupted.
    let signals = StopSignals::block().map_err(Failure::host)?;
    let done = console.and_then(|output| run(args, output, signals));
    let outcome = match &done {
        Ok(outcome) => outcome,
        Err(failure) => {
            let help = failure.advice().map(str::to_owned);
            &Outcome::vmm_error(&name, failure.sentence(), help)
        }
    };
    let written = outcome_file.map_or(Ok(()), |file| file.write(outcome));
    let outcome = done?;
    explain(&outcome);
    written?;
    Ok(outcome.exit_status())
}

fn run(args: Args, output: File, signals: StopSignals) -> Result<Outcome, Failure> {
    let interactive = args.interactive;
    let spec = spec(args)?;
    let (input, terminal) = match interactive {
        Some(_) => {
            let (terminal, input) = Input::connect()
                .context("cannot connect standard input to the guest")
                .map_err(Failure::host)?;
            (Some(input), Some(terminal))
        }
        None => (None, None),
    };
    let console = Console { output, input };
    Registry::of_user().sweep();
    let entry = Guest::of_this_process(&spec, None).and_then(|guest| guest.announce());
    let outcome = machine::run(
        &spec,
        console,
        Control { signals: Some(signals.into()), ..Control::default() },
    );
    drop(entry);
    drop(terminal);
    Ok(outcome)
}

/// The description of the guest that the arguments ask for.
fn spec(args: Args) -> Result<VmSpec, Failure> {
    let kernel = match args.kernel.to_str() {
        Some("builtin") => KernelSource::Builtin,
        _ => KernelSource::Path(args.kernel),
    };
    let builtin = kernel == KernelSource::Builtin;
    let refuse =
        |what: &str, help: &str| Err(Failure::usage(anyhow!("{what}")).help(help.to_owned()));
    if !builtin && args.script.is_some() {
        return refuse(
            "--script is for the built-in guest, and --kernel names another",
            "give a Linux kernel its command line with -a",
        );
    }
    if builtin && args.initrd.is_some() {
        return refuse("the built-in guest takes no initrd", "name a Linux kernel with --kernel");
    }
    refuse_disks_given_twice(&args.disks)?;
    refuse_tags_given_twice(&args.shares)?;
    let default = if builtin { BUILTIN_SCRIPT } else { LINUX_CMDLINE };
    Ok(VmSpec {
        name: args.name,
        kernel,
        initrd: args.initrd,
        cmdline: args.cmdline.or(args.script).unwrap_or_else(|| default.into()),
        memory: args.memory,
        cpus: args.cpus,
        cpu_mask: args.cpu_mask,
        disks: args.disks,
        pmem: args.pmem,
        shares: args.shares,
        share_domain: args.share_domain,
        input: args.interactive.unwrap_or_default(),
        timeout: args.timeout,
    })
}

/// Refuses a file that is two disks of the guest, one of them writable: the second would find the
/// image locked, by the very process that says so.
fn refuse_disks_given_twice(disks: &[DiskSpec]) -> Result<(), Failure> {
    let mut seen: HashMap<(u64, u64), bool> = HashMap::new();
    for disk in disks {
        let Some((path, writes)) = disk.file() else { continue };
        // Whatever is wrong with the file is told when it is opened.
        let Ok(file) = fs::metadata(path) else { continue };
        let before = seen.insert((file.dev(), file.ino()), writes);
        if before.is_some_and(|written| written || writes) {
            let what = anyhow!("disk {} is given twice, and not read-only", path.display());
            return Err(
                Failure::usage(what).help("add ,ro to both, or give each its own file".to_owned())
            );
        }
    }
    Ok(())
}

/// Refuses two shares that the guest could not tell apart.
fn refuse_tags_given_twice(shares: &[ShareSpec]) -> Result<(), Failure> {
    for (number, share) in shares.iter().enumerate() {
        if shares.iter().take(number).any(|other| other.tag == share.tag) {
            let what = anyhow!("two shares have the tag {:?}", share.tag);
            return Err(Failure::usage(what).help("give one another tag: DIR:TAG".to_owned()));
        }
    }
    Ok(())
}

/// The file that the console goes to, by default stderr.
fn open_console(path: Option<&Path>) -> Result<File, Failure> {
    match path {
        Some(path) => File::create(path)
            .with_context(|| format!("cannot write the console to {}", path.display()))
            .map_err(Failure::host),
        None => {
            let stderr: io::Result<OwnedFd> = io::stderr().as_fd().try_clone_to_owned();
            Ok(stderr.map_err(Failure::host)?.into())
        }
    }
}

/// Where `--outcome` goes.
struct OutcomeFile {
    path: PathBuf,
    /// Something that is written to, never replaced: a pipe, a terminal.
    stream: Option<File>,
}

impl OutcomeFile {
    /// Finds out before the guest runs that its outcome could not be kept.
    fn prepare(path: PathBuf) -> Result<OutcomeFile, Failure> {
        match OutcomeFile::open_stream(&path) {
            Ok(stream) => Ok(OutcomeFile { path, stream }),
            Err(error) => {
                let what = format!("the outcome cannot be written to {}", path.display());
                Err(Failure::host(anyhow::Error::new(error).context(what)))
            }
        }
    }

    fn open_stream(path: &Path) -> io::Result<Option<File>> {
        use rustix::fs::{Access, access};
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(found) if !found.is_file() => {
                return File::options().write(true).open(path).map(Some);
            }
            _ => {}
        }
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let dir = match target.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        access(dir, Access::WRITE_OK)?;
        Ok(None)
    }

    fn write(self, outcome: &Outcome) -> Result<(), Failure> {
        let written = match self.stream {
            Some(mut stream) => json_text(outcome).and_then(|text| stream.write_all(&text)),
            None => write_json(&self.path, outcome),
        };
        written
            .with_context(|| format!("cannot write the outcome to {}", self.path.display()))
            .map_err(Failure::host)
    }
}

/// Says on stderr how the guest ended, unless it ended as guests should.
fn explain(outcome: &Outcome) {
    let word = outcome.ending.word();
    let name = &outcome.name;
    let text = match (&outcome.detail, outcome.ending) {
        (None, Ending::Exited { .. } | Ending::Poweroff) => return,
        (None, Ending::Reset) => {
            format!("{name}: reset: the guest asked for one, which ends it here")
        }
        (None, _) => format!("{name}: {word}"),
        (Some(detail), Ending::VmmError) => detail.clone(),
        (Some(detail), _) => format!("{name}: {word}: {detail}"),
    };
    print_error(&text, outcome.help.as_deref());
}

fn memory(text: &str) -> Result<u64, String> {
    parse_memory(text, layout::MEMORY_MIN).map_err(|error| format!("{error}: {}", error.help()))
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| format!("{error}: {}", error.help()))
}

fn console_input(text: &str) -> Result<ConsoleInput, String> {
    match text {
        "serial" => Ok(ConsoleInput::Serial),
        "hvc" => Ok(ConsoleInput::Hvc),
        _ => Err("expected serial or hvc".into()),
    }
}

fn cpus() -> clap::builder::RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(1..=i64::from(CPUS_MAX))
}
