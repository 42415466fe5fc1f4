//! What one guest is made of: the configuration that a front end (`cohort run`, a lab) hands to
//! [`crate::machine::run`], in this process or, as JSON on a descriptor, to a guest process.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use memshare::FileIdentity;
use serde::{Deserialize, Serialize};
use storage::Format;

mod disk_option;
mod open;
mod option_error;
mod pmem_option;
mod share;
pub(crate) mod share_option;

pub use disk_option::DiskOptionError;
pub(crate) use disk_option::{engine, format, serial, split_commas, vhost_user_kind};
pub(crate) use option_error::OptionError;
pub use pmem_option::PmemOptionError;
pub(crate) use pmem_option::{mode as pmem_mode, on_change as pmem_on_change};
pub(crate) use share::{DAX_GRANULE, tag_of as share_tag_of};
pub use share::{DaxSpec, ShareCache, ShareIds, ShareSpec, ShareXattrs};
pub use share_option::ShareOptionError;

/// Most virtual CPUs that a guest can have.
pub const CPUS_MAX: u8 = 64;
/// Guest memory where nothing else is asked for.
pub const MEMORY_DEFAULT: u64 = 256 << 20;
/// Most request queues that a disk can have.
pub const QUEUES_MAX: u16 = 64;
/// Longest serial string of a disk (virtio 1.2, 5.2.6.1: `VIRTIO_BLK_T_GET_ID` returns 20 bytes).
pub const DISK_SERIAL_MAX: usize = 20;
/// Command line of a Linux guest that is given none.
pub const LINUX_CMDLINE: &str = "console=ttyS0 panic=-1";
/// Script of a built-in guest that is given none.
pub const BUILTIN_SCRIPT: &str = "print the built-in guest runs; poweroff";

/// A guest, completely described. Paths are absolute or relative to the working directory;
/// front ends resolve them before they get here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmSpec {
    /// The name by which messages, files and reports call this guest.
    pub name: String,
    /// What the guest boots.
    pub kernel: KernelSource,
    /// Initial RAM disk, Linux guests only.
    pub initrd: Option<PathBuf>,
    /// Kernel command line; for the built-in guest, its script.
    pub cmdline: String,
    /// Guest memory in bytes, a multiple of 4 KiB.
    pub memory: u64,
    /// Virtual CPUs, 1 to 64.
    pub cpus: u8,
    /// CPU features to hide from the guest, by the names `/proc/cpuinfo` gives them.
    pub cpu_mask: Vec<String>,
    /// Block devices, in the order in which the guest finds them.
    pub disks: Vec<DiskSpec>,
    /// Files in guest memory (virtio-pmem), in the order in which the guest finds them.
    #[serde(default)]
    pub pmem: Vec<PmemSpec>,
    /// Folders of the host as the guest's file systems (virtio-fs).
    #[serde(default)]
    pub shares: Vec<ShareSpec>,
    /// The guests with which this one may share pages of files; by default, none.
    #[serde(default)]
    pub share_domain: Option<String>,
    /// Where input goes when the console has any.
    pub input: ConsoleInput,
    /// The guest is stopped, with outcome `timeout`, when it has run this long.
    pub timeout: Option<Duration>,
}

/// Where a guest's kernel comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelSource {
    /// The guest that is part of this binary.
    Builtin,
    /// An ELF vmlinux or a bzImage.
    Path(PathBuf),
}

/// One virtio-blk device, or a SCSI host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// What the disk's bytes are kept in.
    pub source: DiskSource,
    /// How the file keeps its bytes, or for [`DiskSource::Child`] its parent's; by default, the
    /// name's extension tells.
    #[serde(default)]
    pub format: Option<Format>,
    /// Open the disk although a parent is not what its child records.
    #[serde(default)]
    pub allow_mismatch: bool,
    /// Bytes of memory for what is kept of the layers' maps; by default, 64 MiB.
    #[serde(default)]
    pub map_memory: Option<u64>,
    /// The guest may not write.
    pub read_only: bool,
    /// Bypass the host's page cache (`O_DIRECT`).
    pub direct: bool,
    /// The serial string the guest reads, at most 20 bytes of ASCII.
    pub serial: Option<String>,
    /// Request queues; by default one for each virtual CPU, at most 8.
    pub queues: Option<u16>,
    /// How requests reach the host.
    pub engine: EngineChoice,
}

impl DiskSpec {
    /// A disk with nothing special about it: writable, cached, as many queues as suit the guest.
    pub fn new(source: DiskSource) -> DiskSpec {
        DiskSpec {
            source,
            format: None,
            allow_mismatch: false,
            map_memory: None,
            read_only: false,
            direct: false,
            serial: None,
            queues: None,
            engine: EngineChoice::Auto,
        }
    }

    /// The file that it names, if any, and whether the guest changes that file.
    pub fn file(&self) -> Option<(&Path, bool)> {
        match &self.source {
            DiskSource::Path(path) => Some((path, !self.read_only)),
            DiskSource::Child(parent) => Some((parent, false)),
            DiskSource::Scratch(_) | DiskSource::VhostUser { .. } => None,
        }
    }
}

/// What a disk's bytes are kept in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskSource {
    /// The top layer of a disk: an image file or a block device.
    Path(PathBuf),
    /// A disk of this many bytes that starts as zeroes and is gone with the guest. It never has
    /// a name in the file system, so nothing is left behind however the guest ends.
    Scratch(u64),
    /// A new layer on top of the disk with this path, which stays as it is: what the guest writes
    /// is gone with it. The layer's file has lost its name before the guest runs.
    Child(PathBuf),
    /// What a vhost-user back end, another process, makes of the guest's requests.
    VhostUser {
        /// The Unix socket on which the back end listens.
        socket: PathBuf,
        /// The kind of device.
        kind: VhostUserKind,
    },
}

/// The kind of device that a vhost-user back end is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VhostUserKind {
    /// A disk.
    Blk,
    /// A SCSI host, with any number of disks.
    Scsi,
}

/// How requests reach the host's kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineChoice {
    /// io_uring where the host permits it, else positional reads and writes.
    #[default]
    Auto,
    /// io_uring, or an error.
    IoUring,
    /// `preadv2` and `pwritev2` in the queue's own thread.
    Positional,
}

/// Which device hands console input to the guest. Output of both goes to the console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConsoleInput {
    /// The 8250 serial port (`ttyS0`).
    #[default]
    Serial,
    /// The virtio console (`hvc0`).
    Hvc,
}

/// One virtio-pmem device: a file that is part of guest memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PmemSpec {
    /// The file.
    pub path: PathBuf,
    /// What the guest may do with its pages.
    pub mode: PmemMode,
    /// Map a copy in memory that nobody can change.
    pub seal: bool,
    /// What happens when the file is changed under the guest.
    pub on_change: OnChange,
    /// A sealed copy that the process which started this one has made.
    #[serde(default)]
    pub sealed: Option<SealedCopy>,
}

impl PmemSpec {
    /// A file that guests share, may not write, and are told of when it changes.
    pub fn new(path: PathBuf) -> PmemSpec {
        let (mode, on_change) = (PmemMode::default(), OnChange::default());
        PmemSpec { path, mode, seal: false, on_change, sealed: None }
    }
}

/// What a guest may do with the pages of a file in its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PmemMode {
    /// Read them. They are the host's, and the same for all guests.
    #[default]
    Shared,
    /// Read and write them; what it writes is its own, and gone with it.
    Private,
}

/// What happens when a file is changed while it is part of guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnChange {
    /// Nothing.
    Ignore,
    /// A warning.
    #[default]
    Warn,
    /// The guest ends with an error.
    Stop,
}

/// A sealed copy of a file that a guest process inherits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedCopy {
    /// The descriptor's number in that process.
    pub descriptor: RawFd,
    /// Of the file that it is a copy of.
    pub identity: FileIdentity,
}
