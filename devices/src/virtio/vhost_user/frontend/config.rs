//! Device configuration of a device whose queues another process works on: what a back end says of
//! it is checked, and what cannot be true of this device is changed.

use std::path::Path;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_SECURE_ERASE,
    VIRTIO_BLK_F_ZONED,
};

use super::{FrontEndError, Kind};

/// Bytes of a block device's configuration, up to `write_zeroes_may_unmap` and its padding (virtio
/// 1.3, 5.2.4). Back ends refuse to read more than they know, and all know these.
const BLOCK_LEN: u32 = 0x3C;
/// Bytes of a SCSI host's configuration (virtio 1.3, 5.6.4).
const SCSI_LEN: u32 = 36;

/// Where a block device says how many sectors it has.
const CAPACITY: std::ops::Range<usize> = 0..8;
const BLOCK_SIZE: usize = 0x14;
const WRITEBACK: usize = 0x20;
const BLOCK_QUEUES: usize = 0x22;

const SCSI_QUEUES: usize = 0;
const SENSE_SIZE: usize = 20;
const CDB_SIZE: usize = 24;
/// What `sense_size` and `cdb_size` are after a reset (virtio 1.3, 5.6.4).
const SENSE_SIZE_DEFAULT: u32 = 96;
const CDB_SIZE_DEFAULT: u32 = 32;

/// Features of a kind of device are bits 0 to 23 (virtio 1.3, 2.2).
const DEVICE_FEATURES: u64 = 0xFF_FFFF;
/// `VIRTIO_SCSI_F_INOUT`, `_HOTPLUG`, `_CHANGE` and `_T10_PI`: there are no others.
const SCSI_FEATURES: u64 = 0xF;
/// What is said of these lies behind the part of the configuration that all back ends know.
const BLOCK_FEATURES_WITHOUT: u64 = 1 << VIRTIO_BLK_F_SECURE_ERASE | 1 << VIRTIO_BLK_F_ZONED;

impl Kind {
    /// Bytes of the configuration.
    pub(super) fn config_len(self) -> u32 {
        match self {
            Kind::Block => BLOCK_LEN,
            Kind::Scsi => SCSI_LEN,
        }
    }

    /// What a driver may have of the features that a back end offers.
    pub(super) fn device_features(self, offered: u64) -> u64 {
        match self {
            Kind::Block => offered & DEVICE_FEATURES & !BLOCK_FEATURES_WITHOUT,
            Kind::Scsi => offered & SCSI_FEATURES,
        }
    }

    /// Where configuration tells the number of request queues, and in how many bytes.
    fn queues_field(self) -> (usize, usize) {
        match self {
            Kind::Block => (BLOCK_QUEUES, 2),
            Kind::Scsi => (SCSI_QUEUES, 4),
        }
    }

    /// Whether a driver that agreed on `features` may write the byte at `at`.
    pub(super) fn writable(self, at: usize, features: u64) -> bool {
        match self {
            Kind::Block => at == WRITEBACK && features & 1 << VIRTIO_BLK_F_CONFIG_WCE != 0,
            Kind::Scsi => (SENSE_SIZE..CDB_SIZE + 4).contains(&at),
        }
    }
}

/// The configuration of a SCSI host whose back end keeps none, as is usual for them: QEMU and
/// those made for it have the machine's side make it up.
pub(super) fn scsi_default() -> Vec<u8> {
    let fields: [u32; 7] = [
        // num_queues is set for every back end.
        1,
        // seg_max: the longest chain that fits queues of 128, less request and response.
        126,
        // max_sectors, as QEMU has it: no limit but that of segments.
        0xFFFF,
        // cmd_per_lun
        128,
        // event_info_size
        16,
        SENSE_SIZE_DEFAULT,
        CDB_SIZE_DEFAULT,
    ];
    let mut config: Vec<u8> = fields.into_iter().flat_map(u32::to_le_bytes).collect();
    // max_channel, max_target, max_lun
    config.extend(0u16.to_le_bytes());
    config.extend(255u16.to_le_bytes());
    config.extend(16383u32.to_le_bytes());
    config
}

/// Tells whether a back end that offers `features` is of this kind: the protocol has no question
/// for that. `config` is what it says of its device, if anything.
pub(super) fn check_kind(
    path: &Path,
    kind: Kind,
    features: u64,
    config: Option<&[u8]>,
) -> Result<(), FrontEndError> {
    let wrong = |found| Err(FrontEndError::WrongKind { path: path.into(), kind, found });
    let scsi_sizes = config.map(|config| {
        (word(config, SENSE_SIZE), word(config, CDB_SIZE)) == (SENSE_SIZE_DEFAULT, CDB_SIZE_DEFAULT)
    });
    match kind {
        Kind::Scsi if features & DEVICE_FEATURES & !SCSI_FEATURES != 0 => {
            wrong("it offers features of other devices")
        }
        Kind::Scsi if scsi_sizes == Some(false) => wrong("its configuration is of another device"),
        Kind::Block if scsi_sizes == Some(true) => wrong("its configuration is of a SCSI host"),
        Kind::Block => {
            let size = config.map_or(512, |config| word(config, BLOCK_SIZE));
            let valid = size.is_power_of_two() && (512..=1 << 20).contains(&size);
            if features & 1 << VIRTIO_BLK_F_BLK_SIZE != 0 && !valid {
                return wrong("its block size is not one of a disk");
            }
            Ok(())
        }
        Kind::Scsi => Ok(()),
    }
}

/// The number of request queues that a configuration tells of.
pub(super) fn request_queues(kind: Kind, features: u64, config: &[u8]) -> u16 {
    if kind == Kind::Block && features & 1 << VIRTIO_BLK_F_MQ == 0 {
        return 1;
    }
    let (at, len) = kind.queues_field();
    let field = config.get(at..at + len).unwrap_or_default();
    let value = field.iter().rev().fold(0u32, |value, &byte| value << 8 | u32::from(byte));
    u16::try_from(value).unwrap_or(u16::MAX)
}

/// Makes a configuration tell of `queues` request queues.
pub(super) fn set_request_queues(kind: Kind, config: &mut [u8], queues: u16) {
    let (at, len) = kind.queues_field();
    let bytes = u32::from(queues).to_le_bytes();
    for (to, from) in config.iter_mut().skip(at).zip(bytes.iter().take(len)) {
        *to = *from;
    }
}

/// What keeps a driver that knows the configuration `old` from going on with `new`. A disk that
/// has grown is none, nor is what drivers write.
pub(super) fn conflict(kind: Kind, old: &[u8], new: &[u8]) -> Option<&'static str> {
    let capacity = |config: &[u8]| {
        let field = config.get(CAPACITY).and_then(|field| field.try_into().ok());
        field.map_or(0, u64::from_le_bytes)
    };
    if kind == Kind::Block && capacity(new) < capacity(old) {
        return Some("a smaller disk");
    }
    let counts = |at: usize| match kind {
        Kind::Block => !CAPACITY.contains(&at) && at != WRITEBACK,
        Kind::Scsi => !(SENSE_SIZE..CDB_SIZE + 4).contains(&at),
    };
    let same = old.len() == new.len()
        && old.iter().zip(new).enumerate().all(|(at, (old, new))| !counts(at) || old == new);
    (!same).then_some("another configuration")
}

fn word(config: &[u8], at: usize) -> u32 {
    let field = config.get(at..at + 4).and_then(|field| field.try_into().ok());
    field.map_or(0, u32::from_le_bytes)
}
