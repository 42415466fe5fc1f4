//! Why a machine could not be built or could not go on, and what to do about it.

#[cfg(test)]
mod tests;

use std::io;

use thiserror::Error;

use super::layout;
use super::pmem::LostFilePage;
use crate::kernel::KernelError;

/// Why a machine could not be built, or failed without fault of the guest.
#[derive(Debug, Error)]
pub(crate) enum MachineError {
    #[error("cannot open /dev/kvm")]
    Open(#[source] io::Error),
    #[error("/dev/kvm speaks version {0} of the KVM interface, not 12")]
    Version(i32),
    #[error("the host's KVM lacks {0}")]
    Capability(&'static str),
    #[error("KVM: {step}")]
    Kvm {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{0} bytes of guest memory are too few: the machine needs 2 MiB at least")]
    MemoryTooSmall(u64),
    #[error("{0} bytes of guest memory are not a multiple of 4 KiB")]
    MemoryUneven(u64),
    #[error(
        "{memory} bytes of guest memory are too many for this host's processor, whose physical \
         addresses have {bits} bits"
    )]
    MemoryTooLarge { memory: u64, bits: u8 },
    #[error("{cpus} virtual CPUs: this host's KVM runs 1 to {most}")]
    Cpus { cpus: u8, most: usize },
    #[error("unknown CPU features to hide: {}", .0.join(", "))]
    UnknownFeatures(Vec<String>),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("disk {number}")]
    Disk {
        number: usize,
        #[source]
        source: storage::tools::ToolError,
    },
    #[error("disk {number}")]
    BackEnd {
        number: usize,
        #[source]
        source: devices::virtio::vhost_user::frontend::FrontEndError,
    },
    #[error("cannot add the {what}")]
    Device {
        what: &'static str,
        #[source]
        source: devices::bus::BusError,
    },
    #[error("cannot add the {what}")]
    Pci {
        what: &'static str,
        #[source]
        source: devices::pci::PciError,
    },
    #[error("cannot make guest memory")]
    Memory(#[from] memshare::RamError),
    #[error("cannot write {what} to guest memory")]
    Write {
        what: &'static str,
        #[source]
        source: vm_memory::GuestMemoryError,
    },
    #[error("the ACPI tables take {0} bytes, more than there is room for")]
    AcpiTooLarge(usize),
    #[error("the host refused {what}")]
    Host {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("virtual CPU {cpu} stopped with {exit}, which no guest can cause on a sound host")]
    UnexpectedExit { cpu: u8, exit: String },
    #[error("KVM cannot run virtual CPU {cpu}")]
    Run {
        cpu: u8,
        #[source]
        source: io::Error,
    },
    #[error("a file that is part of guest memory, kernel or initrd, was shortened")]
    LostPage,
    #[error(
        "{}: byte {} of {} is gone: the file was shortened while the guest has it in memory",
        .0.window, .0.offset, .0.path.display()
    )]
    LostFilePage(LostFilePage),
    #[error("pmem {number}")]
    Pmem {
        number: usize,
        #[source]
        source: memshare::ShareError,
    },
    #[error(
        "pmem {number} does not fit behind the guest's memory: this host's processor has physical \
         addresses of {bits} bits"
    )]
    PmemTooLarge { number: usize, bits: u8 },
    #[error("share {number}")]
    Share {
        number: usize,
        #[source]
        source: devices::virtio::fs::fuse::ServerError,
    },
    #[error("share {number}")]
    ShareWindow {
        number: usize,
        #[source]
        source: memshare::ShareError,
    },
    #[error("no guest can mount a share by the tag {0:?}")]
    ShareTag(String),
    #[error("{0}, and on-change=stop")]
    FileChanged(memshare::Changed),
}

impl MachineError {
    /// A failed KVM call.
    pub(super) fn kvm(step: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> MachineError {
        move |error| MachineError::Kvm { step, source: error.into() }
    }

    /// The exit status by which scripts can tell what is wrong, where it is not that of all
    /// failures.
    pub(crate) fn exit_status(&self) -> Option<u8> {
        match self {
            MachineError::Disk { source, .. } => source.chain().map(storage::ChainError::status),
            // The command line names what is not there, or is something else.
            MachineError::BackEnd { source, .. } if source.is_mistake() => Some(2),
            _ => None,
        }
    }

    /// What mends it, where that is known.
    pub(crate) fn help(&self) -> Option<String> {
        match self {
            MachineError::Open(error) => Some(open_help(error)),
            MachineError::Kernel(error) => error.help(),
            MachineError::Disk { source, .. } => source.help(),
            MachineError::BackEnd { source, .. } => source.help(),
            MachineError::Pci { source, .. } => source.help(),
            MachineError::Version(_) | MachineError::Capability(_) => {
                Some("run a host kernel of version 5.10 or later with its own KVM modules".into())
            }
            MachineError::MemoryTooSmall(_) => {
                Some(format!("give it more: `-m {}M`", (layout::MEMORY_MIN >> 20).max(64)))
            }
            MachineError::UnknownFeatures(_) => Some(super::features::help()),
            MachineError::LostFilePage(_) | MachineError::FileChanged(_) => Some(
                "replace such files by renaming, do not rewrite them in place while a guest runs, \
                 or give guests a copy that nobody can change: seal=on"
                    .into(),
            ),
            MachineError::LostPage => Some(
                "replace such files by renaming, do not rewrite them in place while a guest runs"
                    .into(),
            ),
            MachineError::Run { source, .. } if source.raw_os_error() == Some(libc::EFAULT) => {
                Some(
                    "a kernel or initrd file was probably truncated while the guest had it \
                     mapped: replace such files by renaming, do not rewrite them in place"
                        .into(),
                )
            }
            MachineError::Memory(memshare::RamError::Create { .. })
            | MachineError::Memory(memshare::RamError::Map { .. }) => Some(
                "give the guest less memory, or raise the limits that `ulimit -a` shows".into(),
            ),
            _ => None,
        }
    }
}

fn open_help(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "load the host's KVM module: `sudo modprobe kvm_intel` or `sudo modprobe kvm_amd` \
             (virtualization must be on in the firmware; a container needs `--device /dev/kvm`)"
        }
        io::ErrorKind::PermissionDenied => return super::permission_mend(),
        _ => "`cohort doctor` says what this host can do",
    }
    .into()
}
