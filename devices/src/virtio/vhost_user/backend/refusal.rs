//! Why a front end's message is refused.

use std::io;

use vhost::vhost_user::Error;

use crate::virtio::device::ActivateError;
use crate::virtio::queue::RingError;

#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("there is no queue {0}")]
    NoQueue(u32),
    #[error("queue size {0} is not valid")]
    QueueSize(u32),
    #[error("available ring index {0} is not valid")]
    Base(u32),
    #[error("queue {0} is at work")]
    Running(usize),
    #[error("queue {0} has no addresses yet")]
    NoAddresses(usize),
    #[error("address {0:#x} is in no region of memory")]
    NoMemory(u64),
    #[error("queue {index} is not valid")]
    Queue { index: usize, source: RingError },
    #[error("features {0:#x} were not offered")]
    Features(u64),
    #[error("protocol feature {0} was not agreed on")]
    Protocol(&'static str),
    #[error("this device has no {0}")]
    Unsupported(&'static str),
    #[error("the descriptor is not an eventfd")]
    NotEventFd,
    #[error(
        "the memory file may be truncated, which would end this process; \
         use memory that is sealed against it (QEMU: memory-backend-memfd)"
    )]
    NotSealed,
    #[error("the memory file has huge pages of a pool, which may be taken away; use others")]
    HugePages,
    #[error("{len} bytes at {offset} are not in the memory file of {size} bytes")]
    BeyondFile { offset: u64, len: u64, size: u64 },
    #[error("regions of memory overlap or wrap")]
    Overlap,
    #[error("more than {0} regions of memory")]
    Regions(usize),
    #[error("more than {0} bytes of memory")]
    MemorySize(u64),
    #[error("there is no such region of memory")]
    NoRegion,
    #[error("the record of requests in flight is for {queues} queues of {size} in {len} bytes")]
    Inflight { queues: u16, size: u16, len: u64 },
    #[error("more than {0} parts of the configuration are written")]
    Config(usize),
    #[error("cannot {what}")]
    Host { what: &'static str, source: io::Error },
    #[error("the device does not start")]
    Start(#[source] ActivateError),
}

impl Refusal {
    /// Whether it is about something that is not in the front end's memory.
    pub(super) fn is_of_memory(&self) -> bool {
        let placement = |source: &RingError| matches!(source, RingError::Placement { .. });
        match self {
            Refusal::NoMemory(_) | Refusal::NoRegion => true,
            Refusal::Queue { source, .. } => placement(source),
            _ => false,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::ReqHandlerError(io::Error::other(refusal))
    }
}
