//! Common configuration: features, status, and where the queues are (virtio 1.3, 4.1.4.3).

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

use super::shared::Shared;
use crate::virtio::queue::QueueLayout;

/// Bytes of the structure.
pub(super) const LEN: usize = 0x38;

/// Device status (virtio 1.3, 2.1).
pub(super) mod status {
    pub(in super::super) const FEATURES_OK: u8 = 8;
    pub(in super::super) const DRIVER_OK: u8 = 4;
    pub(in super::super) const NEEDS_RESET: u8 = 64;
}
use status::{DRIVER_OK, FEATURES_OK, NEEDS_RESET};

/// What a write asks the function to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    /// The driver is ready: start the device.
    Start,
    /// Stop the device, then [`CommonConfig::reset`].
    Reset,
}

/// The registers.
#[derive(Debug)]
pub(super) struct CommonConfig {
    offered: u64,
    accepted: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    status: u8,
    queue_select: u16,
    queues: Box<[QueueRegisters]>,
}

/// The registers of one queue.
#[derive(Clone, Copy, Debug)]
struct QueueRegisters {
    max_size: u16,
    layout: QueueLayout,
    enabled: bool,
}

impl QueueRegisters {
    fn new(max_size: u16) -> QueueRegisters {
        let layout = QueueLayout { size: max_size, ..QueueLayout::default() };
        QueueRegisters { max_size, layout, enabled: false }
    }
}

impl CommonConfig {
    /// The registers of a device that offers these features and queues.
    pub(super) fn new(offered: u64, queue_sizes: &[u16]) -> CommonConfig {
        CommonConfig {
            offered,
            accepted: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            status: 0,
            queue_select: 0,
            queues: queue_sizes.iter().map(|&size| QueueRegisters::new(size)).collect(),
        }
    }

    /// Features that driver and device agreed on.
    pub(super) fn features(&self) -> u64 {
        self.accepted
    }

    /// The queues that the driver enabled, with their numbers.
    pub(super) fn enabled_queues(&self) -> impl Iterator<Item = (u16, QueueLayout)> {
        let queues = (0..).zip(&self.queues).filter(|(_, queue)| queue.enabled);
        queues.map(|(index, queue)| (index, queue.layout))
    }

    /// Back to how it was when the machine started.
    pub(super) fn reset(&mut self) {
        let sizes: Vec<u16> = self.queues.iter().map(|queue| queue.max_size).collect();
        *self = CommonConfig::new(self.offered, &sizes);
    }

    /// Fills `data` from `offset` on; bytes beyond the structure are 0.
    pub(super) fn read(&self, offset: u64, data: &mut [u8], shared: &Shared) {
        let registers = self.registers(shared);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for (n, byte) in data.iter_mut().enumerate() {
            let at = offset.saturating_add(n);
            *byte = registers.get(at).copied().unwrap_or(0);
        }
    }

    /// The structure as it reads now. Reading has no effect, so accesses of any width can be cut
    /// out of it.
    fn registers(&self, shared: &Shared) -> [u8; LEN] {
        let queue = self.queues.get(usize::from(self.queue_select));
        let layout = queue.map(|queue| queue.layout).unwrap_or_default();
        let enabled = queue.is_some_and(|queue| queue.enabled);
        let broken = if shared.is_broken() { NEEDS_RESET } else { 0 };
        let notify_offset = if queue.is_some() { self.queue_select } else { 0 };

        let mut registers = [0; LEN];
        let mut put = |at: usize, value: &[u8]| {
            if let Some(to) = registers.get_mut(at..at + value.len()) {
                to.copy_from_slice(value);
            }
        };
        put(0x00, &self.device_feature_select.to_le_bytes());
        put(0x04, &half(self.offered, self.device_feature_select).to_le_bytes());
        put(0x08, &self.driver_feature_select.to_le_bytes());
        put(0x0C, &half(self.accepted, self.driver_feature_select).to_le_bytes());
        put(0x10, &shared.config_vector().to_le_bytes());
        put(0x12, &u16::try_from(self.queues.len()).unwrap_or(u16::MAX).to_le_bytes());
        put(0x14, &[self.status | broken]);
        put(0x15, &[shared.generation()]);
        put(0x16, &self.queue_select.to_le_bytes());
        put(0x18, &layout.size.to_le_bytes());
        put(0x1A, &shared.queue_vector(self.queue_select).to_le_bytes());
        put(0x1C, &u16::from(enabled).to_le_bytes());
        put(0x1E, &notify_offset.to_le_bytes());
        put(0x20, &layout.descriptors.to_le_bytes());
        put(0x28, &layout.available.to_le_bytes());
        put(0x30, &layout.used.to_le_bytes());
        registers
    }

    /// Takes a write of exactly one register, or of half or all of a 64-bit one. Others do
    /// nothing, as do writes at the wrong time.
    pub(super) fn write(&mut self, offset: u64, data: &[u8], shared: &Shared) -> Effect {
        match (offset, data) {
            (_, &[a, b, c, d, e, f, g, h]) => {
                self.write32(offset, u32::from_le_bytes([a, b, c, d]), true);
                self.write32(offset + 4, u32::from_le_bytes([e, f, g, h]), true);
            }
            (_, &[a, b, c, d]) => self.write32(offset, u32::from_le_bytes([a, b, c, d]), false),
            (_, &[a, b]) => self.write16(offset, u16::from_le_bytes([a, b]), shared),
            (0x14, &[value]) => return self.write_status(value, shared),
            _ => {}
        }
        Effect::Nothing
    }

    /// `of_64` says that the write is half of a 64-bit one, which only queue addresses take.
    fn write32(&mut self, offset: u64, value: u32, of_64: bool) {
        match offset {
            0x00 if !of_64 => self.device_feature_select = value,
            0x08 if !of_64 => self.driver_feature_select = value,
            0x0C if !of_64 && self.status & FEATURES_OK == 0 => {
                let shift = match self.driver_feature_select {
                    0 => 0,
                    1 => 32,
                    _ => return,
                };
                self.accepted &= !(0xFFFF_FFFF << shift);
                self.accepted |= u64::from(value) << shift;
            }
            0x20..0x38 => {
                let Some(queue) = self.queue_to_configure() else { return };
                let address = match offset & !7 {
                    0x20 => &mut queue.layout.descriptors,
                    0x28 => &mut queue.layout.available,
                    _ => &mut queue.layout.used,
                };
                match offset & 7 {
                    0 => *address = *address & !0xFFFF_FFFF | u64::from(value),
                    4 => *address = *address & 0xFFFF_FFFF | u64::from(value) << 32,
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn write16(&mut self, offset: u64, value: u16, shared: &Shared) {
        match offset {
            0x10 => shared.set_config_vector(value),
            0x16 => self.queue_select = value,
            0x18 => {
                if let Some(queue) = self.queue_to_configure()
                    && value.is_power_of_two()
                    && value <= queue.max_size
                {
                    queue.layout.size = value;
                }
            }
            0x1A => shared.set_queue_vector(self.queue_select, value),
            0x1C if value == 1 => {
                if let Some(queue) = self.queue_to_configure() {
                    queue.enabled = true;
                }
            }
            _ => {}
        }
    }

    /// The selected queue, if it may still be configured: it is not enabled, and the driver has
    /// not said that it is ready.
    fn queue_to_configure(&mut self) -> Option<&mut QueueRegisters> {
        let queue = self.queues.get_mut(usize::from(self.queue_select))?;
        (self.status & DRIVER_OK == 0 && !queue.enabled).then_some(queue)
    }

    fn write_status(&mut self, value: u8, shared: &Shared) -> Effect {
        if value == 0 {
            return Effect::Reset;
        }
        // A driver may not clear a bit but by a reset, nor set this one.
        let mut added = value & !self.status & !NEEDS_RESET;
        let version_1 = 1 << VIRTIO_F_VERSION_1;
        let supported = self.accepted & !self.offered == 0 && self.accepted & version_1 != 0;
        if added & FEATURES_OK != 0 && !supported {
            added &= !FEATURES_OK;
        }
        if added & DRIVER_OK != 0 && (self.status | added) & FEATURES_OK == 0 {
            added &= !DRIVER_OK;
        }
        self.status |= added;
        if added & DRIVER_OK != 0 && !shared.is_broken() { Effect::Start } else { Effect::Nothing }
    }
}

/// The lower (0) or upper (1) half of the features; there are no others.
#[expect(clippy::cast_possible_truncation, reason = "half of the bits are meant")]
fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}
