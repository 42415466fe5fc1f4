//! Device configuration of a SCSI host (virtio 1.3, 5.6.4).

use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_scsi::{VIRTIO_SCSI_CDB_DEFAULT_SIZE, VIRTIO_SCSI_SENSE_DEFAULT_SIZE};

/// Bytes of the structure.
const LEN: usize = 0x24;
const SENSE_SIZE: usize = 0x14;
const CDB_SIZE: usize = 0x18;
/// Most buffers in the data of one request. Chains can be longer than the queue is large, by an
/// indirect table.
const SEGMENTS_MAX: u32 = 254;
/// A hint to what one command may transfer, in sectors. The block limits page (SBC-3 6.5.3) has
/// what the unit says.
const SECTORS_MAX: u32 = 0xFFFF;
/// Bytes of an event.
const EVENT_LEN: u32 = 16;
/// Logical units of a target by single level addressing.
const LUN_MAX: u32 = 16383;

/// Larger sizes than these are taken for nonsense, and not taken over.
const SENSE_SIZE_MAX: u32 = 0xFFFF;
const CDB_SIZE_MAX: u32 = 0xFF;

/// The fields that a driver may change. Shared with the queues' threads.
pub(super) struct Sizes {
    sense: AtomicU32,
    cdb: AtomicU32,
}

impl Sizes {
    pub(super) fn new() -> Sizes {
        Sizes {
            sense: AtomicU32::new(VIRTIO_SCSI_SENSE_DEFAULT_SIZE),
            cdb: AtomicU32::new(VIRTIO_SCSI_CDB_DEFAULT_SIZE),
        }
    }

    /// Bytes of the sense field of responses.
    pub(super) fn sense(&self) -> u32 {
        self.sense.load(Ordering::Relaxed)
    }

    /// Bytes of the CDB field of requests.
    pub(super) fn cdb(&self) -> u32 {
        self.cdb.load(Ordering::Relaxed)
    }

    /// As after a reset.
    pub(super) fn reset(&self) {
        self.sense.store(VIRTIO_SCSI_SENSE_DEFAULT_SIZE, Ordering::Relaxed);
        self.cdb.store(VIRTIO_SCSI_CDB_DEFAULT_SIZE, Ordering::Relaxed);
    }

    /// Takes a driver's write. Fields are written whole (virtio 1.3, 4.1.3.1).
    pub(super) fn write(&self, offset: usize, data: &[u8]) {
        let Ok(data) = <[u8; 4]>::try_from(data) else { return };
        let value = u32::from_le_bytes(data);
        match offset {
            SENSE_SIZE if value <= SENSE_SIZE_MAX => self.sense.store(value, Ordering::Relaxed),
            CDB_SIZE if value <= CDB_SIZE_MAX => self.cdb.store(value, Ordering::Relaxed),
            _ => {}
        }
    }

    /// The whole structure of a device with so many request queues of so many buffers.
    pub(super) fn structure(&self, queues: u16, queue_size: u16) -> [u8; LEN] {
        // The zero is two numbers of 16 bits: the highest channel and the highest target.
        let fields = [
            queues.into(),
            SEGMENTS_MAX,
            SECTORS_MAX,
            queue_size.into(),
            EVENT_LEN,
            self.sense(),
            self.cdb(),
            0,
            LUN_MAX,
        ];
        let mut structure = [0; LEN];
        for (to, field) in structure.chunks_exact_mut(4).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        structure
    }
}
