//! What a driver asks for (virtio 1.3, 5.2.6), parsed once. Nothing of it is read from guest
//! memory again.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use memshare::GuestMemory;
use storage::{Buffers, DiskRange, DiskRequest, Operation, Owner};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::limited::warn_limited;
use crate::virtio::parts::Parts;
use crate::virtio::queue::{Chain, RingError};

/// Bytes of a device's identification.
pub(super) const ID_LEN: usize = 20;
/// Bytes of a request's header: type, reserved, sector.
const HEADER_LEN: usize = 16;
/// Bytes of one range to discard or to zero: sector, number of sectors, flags.
const RANGE_LEN: usize = 16;
/// Flag of such a range: the space may be given back.
const UNMAP: u32 = 1;

/// What does not change while the device is started.
pub(super) struct Facts {
    /// Features that driver and device agreed on.
    pub(super) features: u64,
    pub(super) serial: [u8; ID_LEN],
    /// Whether a write is answered before it is durable.
    pub(super) writeback: Arc<AtomicBool>,
}

/// How a request ended, as the driver is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// Where the answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    head: u16,
    /// The last byte of the device-writable part.
    status: GuestAddress,
    /// Bytes of the device-writable part.
    writable: u64,
    /// Bytes of it that success fills, from its start.
    filled: u64,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Work {
    /// This is done already.
    Done(Status),
    /// The disk does it.
    Disk(DiskRequest),
}

impl Reply {
    /// The descriptor that the request began with.
    pub(super) fn head(&self) -> u16 {
        self.head
    }

    /// Writes the status; returns how many bytes, from the first device-writable one, the device
    /// has written without a gap (virtio 1.3, 2.7.8.2).
    pub(super) fn write(&self, status: Status, memory: &GuestMemory) -> u32 {
        // Was found to be in memory when the request was parsed.
        let _ = memory.write_obj(status as u8, self.status);
        let filled = if status == Status::Ok { self.filled } else { 0 };
        let written = if filled + 1 == self.writable { self.writable } else { filled };
        u32::try_from(written).unwrap_or(u32::MAX)
    }
}

/// Parses the request in `chain`. `owner` keeps `memory` mapped. An error means that the chain is
/// none a driver may make.
pub(super) fn parse(
    chain: &Chain,
    memory: &GuestMemory,
    owner: &Owner,
    facts: &Facts,
) -> Result<(Reply, Work), RingError> {
    let request = Parts::new(chain, memory, owner);
    let (readable, writable) = (request.readable(), request.writable());
    let Some(last) = chain.writable().last() else { return Err(request.short()) };
    // Saturated at the end of the address space, it is not in memory.
    let status = GuestAddress(last.address.0.saturating_add(u64::from(last.len) - 1));
    if !memory.address_in_range(status) {
        return Err(request.outside());
    }
    if readable < HEADER_LEN as u64 {
        return Err(request.short());
    }
    let mut header = [0; HEADER_LEN];
    request.read(0, &mut header)?;
    let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
    let kind = u32::from_le_bytes([t0, t1, t2, t3]);
    let sector = u64::from_le_bytes(sector);
    let data_out = readable - HEADER_LEN as u64;
    let data_in = writable - 1;

    let mut filled = 0;
    let work = match kind {
        VIRTIO_BLK_T_IN => {
            filled = data_in;
            let buffers = request.data_in(0, data_in)?;
            transfer(Operation::Read, sector, data_in, buffers)
        }
        VIRTIO_BLK_T_OUT => {
            let buffers = request.data_out(HEADER_LEN as u64, data_out)?;
            transfer(Operation::Write, sector, data_out, buffers)
        }
        VIRTIO_BLK_T_FLUSH => Work::Disk(DiskRequest {
            operation: Operation::Flush,
            range: DiskRange::EMPTY,
            buffers: Buffers::none(),
        }),
        VIRTIO_BLK_T_GET_ID => {
            filled = request.write(&facts.serial, data_in)?;
            Work::Done(Status::Ok)
        }
        VIRTIO_BLK_T_DISCARD if facts.features & 1 << VIRTIO_BLK_F_DISCARD != 0 => {
            range(&request, data_out, |flags| (flags == 0).then_some(Operation::Discard))?
        }
        VIRTIO_BLK_T_WRITE_ZEROES if facts.features & 1 << VIRTIO_BLK_F_WRITE_ZEROES != 0 => {
            range(&request, data_out, |flags| {
                let unmap = flags & UNMAP != 0;
                (flags & !UNMAP == 0).then_some(Operation::WriteZeroes { unmap })
            })?
        }
        _ => Work::Done(Status::Unsupported),
    };
    Ok((Reply { head: chain.head(), status, writable, filled }, work))
}

/// A request that names one range in its data; `operation` makes it from the flags, if they
/// are any that it can have.
fn range(
    request: &Parts<'_>,
    data: u64,
    operation: impl FnOnce(u32) -> Option<Operation>,
) -> Result<Work, RingError> {
    if data != RANGE_LEN as u64 {
        // More than one range: more than we said we take.
        return Ok(Work::Done(Status::IoError));
    }
    let mut range = [0; RANGE_LEN];
    request.read(HEADER_LEN as u64, &mut range)?;
    let [sector @ .., n0, n1, n2, n3, f0, f1, f2, f3] = range;
    let sectors = u64::from(u32::from_le_bytes([n0, n1, n2, n3]));
    Ok(match operation(u32::from_le_bytes([f0, f1, f2, f3])) {
        None => Work::Done(Status::Unsupported),
        Some(operation) => {
            let len = sectors * storage::SECTOR;
            transfer(operation, u64::from_le_bytes(sector), len, Buffers::none())
        }
    })
}

/// A request for `len` bytes from `sector` on. The disk checks that it has them.
fn transfer(operation: Operation, sector: u64, len: u64, buffers: Buffers) -> Work {
    let start = sector.checked_mul(storage::SECTOR);
    match start.and_then(|start| DiskRange::new(start, len)) {
        Some(range) => Work::Disk(DiskRequest { operation, range, buffers }),
        None => {
            warn_limited!(sector, len, operation = operation.word(), "request beyond any disk");
            Work::Done(Status::IoError)
        }
    }
}
