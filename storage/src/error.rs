//! What can go wrong: [`DiskError`] when a disk is opened, [`IoError`] when a request is answered.

use std::io;
use std::path::{Path, PathBuf};

use crate::chain::ChainError;
use crate::formats::FormatError;
use crate::layer::LayerError;
use crate::lock::Holder;
use crate::quoted::Quoted;
use crate::reservation::SenseCode;
use crate::scsi::Status;
use crate::units::DiskRange;

/// Why a disk cannot be opened or used. [`DiskError::help`] says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// There is no such file.
    #[error("disk {} does not exist", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The path names something that holds no disk.
    #[error("disk {} is a {kind}, not a file or block device", path.display())]
    NotADisk {
        /// What was opened.
        path: PathBuf,
        /// What it is: `directory`, `pipe`, …
        kind: &'static str,
    },
    /// The host's permissions do not allow it.
    #[error("no permission to open disk {} for {wanted}", path.display())]
    Permission {
        /// The file.
        path: PathBuf,
        /// `reading` or `reading and writing`.
        wanted: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file system is mounted read-only.
    #[error("disk {} is on a read-only file system", path.display())]
    ReadOnlyFileSystem {
        /// The file.
        path: PathBuf,
    },
    /// A system call failed in some other way.
    #[error("cannot {action} disk {}", path.display())]
    Host {
        /// The file.
        path: PathBuf,
        /// What cohort tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The disk's size is not a whole number of blocks.
    #[error("disk {} has {size} bytes, which is not a multiple of {unit}", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// What its size must be a multiple of.
        unit: u64,
    },
    /// The disk has no bytes.
    #[error("disk {} is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Someone else uses the disk in a way that excludes this use.
    #[error("disk {} is locked by {}: it {conflict}", path.display(), Holder::describe(holder.as_ref()))]
    Locked {
        /// The file.
        path: PathBuf,
        /// What stands in the way.
        conflict: &'static str,
        /// Who it is, where the host tells.
        holder: Option<Holder>,
    },
    /// The file system does not allow the page cache to be bypassed.
    #[error("disk {} cannot bypass the page cache: its file system refuses O_DIRECT", path.display())]
    NoDirect {
        /// The file.
        path: PathBuf,
    },
    /// The image's clusters are too small to bypass the page cache.
    #[error(
        "disk {} cannot bypass the page cache: its clusters of {cluster} bytes share pages with \
         its tables",
        path.display()
    )]
    SmallClusters {
        /// The file.
        path: PathBuf,
        /// Bytes of a cluster.
        cluster: u32,
    },
    /// The engine that was asked for does not work here.
    #[error("the io_uring engine cannot be used on this host")]
    NoRing {
        /// Why.
        source: io::Error,
    },
    /// The file cannot be used as a layer of its format.
    #[error("disk {} cannot be used", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: FormatError,
    },
    /// The layers do not make up a chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The map of the disk does not fit its files, or cannot be read or written.
    #[error("disk {} {}", path.display(), describe_map(source))]
    Layer {
        /// The file.
        path: PathBuf,
        /// How.
        source: LayerError,
    },
}

/// What an error of a layer makes of its disk: a format has more to say than that.
fn describe_map(error: &LayerError) -> &'static str {
    match error {
        LayerError::Format(_) => "cannot be used",
        _ => "is inconsistent",
    }
}

impl DiskError {
    /// A system call that failed.
    pub(crate) fn host(path: &Path, action: &'static str, source: io::Error) -> DiskError {
        DiskError::Host { path: path.to_owned(), action, source }
    }

    /// The same error of a disk that is, or is to be, the parent of the layer at `child`.
    pub(crate) fn of_parent(self, child: &Path) -> DiskError {
        let child = child.to_owned();
        match self {
            DiskError::Locked { path: parent, conflict, holder } => {
                ChainError::ParentInUse { parent, child, conflict, holder }.into()
            }
            DiskError::Missing { path: parent } => {
                ChainError::NoSuchParent { parent, child }.into()
            }
            error => error,
        }
    }

    /// What to do about it, where cohort knows.
    pub fn help(&self) -> Option<String> {
        match self {
            DiskError::Missing { path } => Some(format!(
                "check the path, or make the disk: cohort disk create {} --size 1G",
                Quoted(path)
            )),
            DiskError::NotADisk { kind: "directory", .. } => {
                Some("name an image file in it, or a block device".to_owned())
            }
            DiskError::NotADisk { .. } => Some("name an image file or a block device".to_owned()),
            DiskError::Permission { path, wanted, .. } => {
                let more = match *wanted {
                    "reading" => "",
                    _ => {
                        " (`cohort disk create --protect` takes the write permission of a parent \
                         away, because a change of it damages its children), or use the disk \
                         read-only (ro)"
                    }
                };
                Some(format!("see `ls -l {}` and `id`; change one of them{more}", Quoted(path)))
            }
            DiskError::ReadOnlyFileSystem { .. } => {
                Some("give the disk to the guest read-only (ro), or copy it".to_owned())
            }
            DiskError::Host { .. } => None,
            DiskError::Size { path, size, unit } => Some(if *unit > crate::units::SECTOR {
                format!(
                    "without direct=on the disk needs only a multiple of 512 bytes; or extend it: \
                     truncate -s %{unit} {}",
                    Quoted(path)
                )
            } else {
                format!(
                    "is this a raw disk image? if so, extend it by {} bytes: truncate -s %{unit} {}",
                    unit - size % unit,
                    Quoted(path)
                )
            }),
            DiskError::Empty { path } => {
                Some(format!("give it a size: truncate -s 1G {}", Quoted(path)))
            }
            DiskError::Locked { holder, .. } => Some(format!(
                "{}; a disk can be shared when everyone opens it read-only (ro)",
                Holder::help(holder.as_ref(), "the other user")
            )),
            DiskError::NoDirect { .. } => {
                Some("leave out direct=on, or move the disk to another file system".to_owned())
            }
            DiskError::SmallClusters { .. } => Some(
                "leave out direct=on, or copy the disk with `cohort disk convert`: clusters of 4 \
                 KiB and more will do"
                    .to_owned(),
            ),
            DiskError::NoRing { .. } => Some(
                "use engine=auto or engine=positional, or allow io_uring: see \
                 /proc/sys/kernel/io_uring_disabled and the seccomp profile of the container"
                    .to_owned(),
            ),
            DiskError::Format { path, source: FormatError::NotThis { .. } } => Some(format!(
                "say what it is: --format NAME, or in --disk format=NAME, as in --disk {},format=raw",
                Quoted(path)
            )),
            DiskError::Chain(error) => Some(error.help()),
            DiskError::Format { .. } | DiskError::Layer { .. } => None,
        }
    }
}

/// Why a request was answered with an error. Nothing is known then about the content of a range
/// that was to be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// The range reaches beyond the disk's end.
    #[error("range {range} is not within the disk's {size} bytes")]
    OutOfRange {
        /// What was asked for.
        range: DiskRange,
        /// The disk's size.
        size: u64,
    },
    /// The range is not a whole number of logical blocks.
    #[error("range {range} is not a multiple of {unit} bytes")]
    Misaligned {
        /// What was asked for.
        range: DiskRange,
        /// The logical block size.
        unit: u32,
    },
    /// The buffers and the range differ in length.
    #[error("{buffers} bytes of buffers do not fit a range of {range} bytes")]
    BufferLength {
        /// Bytes in the buffers.
        buffers: u64,
        /// Bytes in the range.
        range: u64,
    },
    /// The range is longer than [`Limits`](crate::Limits) allow for this operation.
    #[error("{operation} of {len} bytes is longer than the limit of {limit}")]
    TooLong {
        /// What was asked for.
        operation: &'static str,
        /// How many bytes of it.
        len: u64,
        /// How many are allowed.
        limit: u64,
    },
    /// The disk was opened read-only.
    #[error("{operation} on a read-only disk")]
    ReadOnly {
        /// What was asked for.
        operation: &'static str,
    },
    /// The host's kernel answered with an error.
    #[error("host {operation} at file offset {offset:#x} failed")]
    Host {
        /// What cohort asked the kernel for.
        operation: &'static str,
        /// Where in the file.
        offset: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file ended before the disk did: someone has shortened it.
    #[error("the file ends at or before offset {offset:#x}, within the disk")]
    UnexpectedEnd {
        /// Where bytes were missing.
        offset: u64,
    },
    /// The kernel took none of the bytes, without an error.
    #[error("the host wrote nothing at file offset {offset:#x}")]
    NothingWritten {
        /// Where in the file.
        offset: u64,
    },
    /// Another initiator has reserved the medium.
    #[error("{operation} is against another initiator's reservation")]
    ReservationConflict {
        /// What was asked for.
        operation: &'static str,
    },
    /// A shared target did not carry the request out. It has logged why, where its host is at
    /// fault.
    #[error(
        "the target ended {operation} with status {:#04x}, sense {:x}/{:02x}/{:02x}",
        *status as u8, code.key, code.asc, code.ascq
    )]
    Target {
        /// What was asked for.
        operation: &'static str,
        /// How the command ended.
        status: Status,
        /// Why, with CHECK CONDITION; zeroes otherwise.
        code: SenseCode,
    },
    /// A layer could not say where the bytes are, or could not publish where they went.
    #[error("the disk's map failed")]
    Layer(#[from] LayerError),
}

impl IoError {
    /// Whether the host ran out of space, which guests are told differently by some devices.
    pub fn is_no_space(&self) -> bool {
        if let IoError::Target { code, .. } = self {
            return *code == SenseCode::NO_SPACE;
        }
        let (IoError::Host { source, .. }
        | IoError::Layer(LayerError::Format(FormatError::Host { source, .. }))) = self
        else {
            return false;
        };
        matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
    }
}
