//! The register window: its parts, and the capabilities that name them.

use crate::pci::config_space::ConfigSpace;

/// The base address register of the window.
pub(super) const BAR: u8 = 0;
/// Bytes of the window.
pub(super) const LEN: u64 = 0x8000;
/// Bytes from one queue's notification address to the next one's.
pub(super) const NOTIFY_STRIDE: u64 = 4;
/// Most queues: with the vector for configuration changes they fill the MSI-X table.
pub(super) const MAX_QUEUES: usize = 255;

/// Vendor-specific capability.
const VENDOR: u8 = 0x09;
/// `cfg_type` of a region of shared memory.
const SHARED_MEMORY: u8 = 8;
/// Largest device configuration.
const PART_LEN: u64 = 0x1000;

/// A part of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Common,
    Isr,
    Device,
    Notify,
    MsixTable,
    MsixPending,
}

impl Part {
    /// Where the part is.
    pub(super) const fn start(self) -> u64 {
        match self {
            Part::Common => 0x0000,
            Part::Isr => 0x1000,
            Part::Device => 0x2000,
            Part::Notify => 0x3000,
            Part::MsixTable => 0x4000,
            Part::MsixPending => 0x5000,
        }
    }

    /// The part that an offset into the window lies in, and where in it.
    pub(super) fn at(offset: u64) -> Option<(Part, u64)> {
        let parts = [
            Part::Common,
            Part::Isr,
            Part::Device,
            Part::Notify,
            Part::MsixTable,
            Part::MsixPending,
        ];
        let part = parts
            .into_iter()
            .find(|part| (part.start()..part.start() + PART_LEN).contains(&offset))?;
        Some((part, offset - part.start()))
    }

    /// `cfg_type` of the part's capability, and its length.
    const fn capability(self, queues: u64) -> Option<(u8, u64)> {
        match self {
            Part::Common => Some((1, super::common::LEN as u64)),
            Part::Notify => Some((2, queues * NOTIFY_STRIDE)),
            Part::Isr => Some((3, 1)),
            Part::Device => Some((4, PART_LEN)),
            Part::MsixTable | Part::MsixPending => None,
        }
    }
}

/// The capability through which configuration space reaches the window: `bar`, `offset` and
/// `length` are the guest's to write, and so is the data that follows them.
pub(super) mod access {
    /// Where the fields are in the capability.
    pub(in super::super) const BAR: usize = 4;
    pub(in super::super) const OFFSET: usize = 8;
    pub(in super::super) const LENGTH: usize = 12;
    pub(in super::super) const DATA: usize = 16;
    /// `cfg_type`.
    pub(super) const TYPE: u8 = 5;
}

/// Appends the capabilities of a device with `queues` queues; returns where the one is that gives
/// access to the window.
pub(super) fn add_capabilities(config: &mut ConfigSpace, queues: usize) -> Option<usize> {
    for part in [Part::Common, Part::Notify, Part::Isr, Part::Device] {
        let Some((cfg_type, len)) = part.capability(queues as u64) else { continue };
        let mut body = body(cfg_type, part.start(), len)?;
        if part == Part::Notify {
            body.extend(u32::try_from(NOTIFY_STRIDE).ok()?.to_le_bytes());
            with_length(&mut body)?;
        }
        config.add_capability(VENDOR, &body, &[])?;
    }
    let mut body = body(access::TYPE, 0, 0)?;
    body.extend([0; 4]);
    with_length(&mut body)?;
    let mut writable = vec![0; body.len()];
    writable[access::BAR - 2] = 0xFF;
    writable[access::OFFSET - 2..].fill(0xFF);
    config.add_capability(VENDOR, &body, &writable)
}

/// Appends the capability of a region of shared memory (virtio 1.3, 4.1.4.7): the first `len`
/// bytes of base address register `bar`.
pub(super) fn add_shared_memory(config: &mut ConfigSpace, bar: u8, id: u8, len: u64) {
    // The upper halves of offset and length stand behind the lower ones.
    let [l0, l1, l2, l3, h0, h1, h2, h3] = len.to_le_bytes();
    let capability_len = 24;
    let body = [
        capability_len,
        SHARED_MEMORY,
        bar,
        id,
        0,
        0, // a padding of two bytes
        0,
        0,
        0,
        0,
        l0,
        l1,
        l2,
        l3,
        0,
        0,
        0,
        0,
        h0,
        h1,
        h2,
        h3,
    ];
    // There is room: the capabilities are the same for every device, and this is the last.
    config.add_capability(VENDOR, &body, &[]);
}

/// What follows number and next pointer: length, type, BAR, id, padding, offset, length.
fn body(cfg_type: u8, start: u64, len: u64) -> Option<Vec<u8>> {
    let mut body = vec![0, cfg_type, BAR, 0, 0, 0];
    body.extend(u32::try_from(start).ok()?.to_le_bytes());
    body.extend(u32::try_from(len).ok()?.to_le_bytes());
    with_length(&mut body)?;
    Some(body)
}

/// Sets the capability's own length.
fn with_length(body: &mut [u8]) -> Option<()> {
    let len = u8::try_from(body.len() + 2).ok()?;
    *body.first_mut()? = len;
    Some(())
}
