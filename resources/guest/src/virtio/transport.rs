//! The PCI transport: finding a device's structures, and its life from reset to running
//! (virtio 1.2, 3.1 and 4.1).
#![forbid(unsafe_code)]

use super::layout::Layout;
use super::queue::Queue;
use super::{DeviceError, Kind};
use crate::machine::clock;
use crate::machine::memory::Pool;
use crate::machine::paging::PageTables;
use crate::machine::physical::{self, Registers};
use crate::pci::capability::{self, Structure};
use crate::pci::{self, Function, Window};

const VENDOR: u16 = 0x1AF4;
/// Identifiers of modern devices are this plus their type.
const MODERN: u16 = 0x1040;
/// Identifiers of transitional devices, whose type is their subsystem's identifier.
const TRANSITIONAL: core::ops::Range<u16> = 0x1000..0x1040;

/// Counts of the time-stamp counter that a device may take for anything: some seconds.
pub const PATIENCE: u64 = 30_000_000_000;

/// Feature bit: interrupts and notifications by event index.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// Feature bit: the modern interface.
pub const F_VERSION_1: u64 = 1 << 32;

/// Registers of the common configuration structure (virtio 1.2, 4.1.4.3).
pub mod common {
    #![allow(missing_docs, reason = "the specification's names")]
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DEVICE_FEATURE: u64 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0C;
    pub const NUM_QUEUES: u64 = 0x12;
    pub const DEVICE_STATUS: u64 = 0x14;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_ENABLE: u64 = 0x1C;
    pub const QUEUE_NOTIFY_OFF: u64 = 0x1E;
    pub const QUEUE_DESC: u64 = 0x20;
    pub const QUEUE_DRIVER: u64 = 0x28;
    pub const QUEUE_DEVICE: u64 = 0x30;
}

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;

/// What is needed to reach devices.
#[derive(Debug)]
pub struct Platform {
    /// Memory for queues and buffers.
    pub pool: Pool,
    /// Where device memory is mapped.
    pub tables: PageTables,
    /// Where it is put if firmware did not.
    pub window: Window,
}

/// A virtio device on PCI.
#[derive(Clone, Copy, Debug)]
pub struct Transport {
    /// Common configuration.
    pub common: Registers,
    /// Notifications.
    pub notify: Registers,
    /// Interrupt status.
    pub isr: Registers,
    /// Device-specific configuration, where the device has one.
    pub device: Option<Registers>,
    multiplier: u32,
}

/// The virtio functions of a type, or of every type, in the order of the bus.
pub fn functions(kind: Option<Kind>) -> impl Iterator<Item = Function> {
    pci::functions().filter(move |function| {
        if function.vendor != VENDOR {
            return false;
        }
        let is = |id| kind.is_none_or(|kind| kind.id() == id);
        match function.device.checked_sub(MODERN) {
            Some(id) => is(id),
            None => TRANSITIONAL.contains(&function.device) && is(function.subsystem()),
        }
    })
}

impl Transport {
    /// Device `index` of a type.
    pub fn find(kind: Kind, index: u64, platform: &mut Platform) -> Result<Transport, DeviceError> {
        let missing = DeviceError::Missing { kind, index };
        let nth = usize::try_from(index).map_err(|_| missing)?;
        Transport::new(functions(Some(kind)).nth(nth).ok_or(missing)?, platform)
    }

    /// The device that `function` is.
    pub fn new(function: Function, platform: &mut Platform) -> Result<Transport, DeviceError> {
        let (mut common, mut notify, mut isr, mut device) = (None, None, None, None);
        for location in capability::virtio(|offset| function.read(offset)) {
            let place = match location.structure {
                Structure::Common => &mut common,
                Structure::Notify { .. } => &mut notify,
                Structure::Isr => &mut isr,
                Structure::Device => &mut device,
            };
            // The first one that the driver can use is the device's first choice.
            if place.is_none() {
                let Platform { pool, tables, window } = platform;
                *place = function
                    .memory(location.bar, location.offset, location.len, window, (tables, pool))
                    .map(|registers| (registers, location.structure));
            }
        }
        function.enable();
        let missing = DeviceError::Unreachable;
        let (notify, structure) = notify.ok_or(missing("notification structure"))?;
        let Structure::Notify { multiplier } = structure else {
            return Err(missing("notification structure"));
        };
        Ok(Transport {
            common: common.ok_or(missing("common configuration"))?.0,
            notify,
            isr: isr.ok_or(missing("interrupt status"))?.0,
            device: device.map(|(registers, _)| registers),
            multiplier,
        })
    }

    /// Resets the device and waits until it has forgotten everything.
    pub fn reset(&self) -> Result<(), DeviceError> {
        self.common.write8(common::DEVICE_STATUS, 0);
        let start = clock::now();
        while self.common.read8(common::DEVICE_STATUS) != 0 {
            if clock::now().wrapping_sub(start) > PATIENCE {
                return Err(DeviceError::Silent("reset"));
            }
        }
        Ok(())
    }

    /// Resets the device and agrees with it on those of the `wanted` features that it offers.
    pub fn negotiate(&self, wanted: u64) -> Result<u64, DeviceError> {
        self.reset()?;
        let common = &self.common;
        common.write8(common::DEVICE_STATUS, ACKNOWLEDGE);
        common.write8(common::DEVICE_STATUS, ACKNOWLEDGE | DRIVER);
        let half = |select| {
            common.write32(common::DEVICE_FEATURE_SELECT, select);
            u64::from(common.read32(common::DEVICE_FEATURE))
        };
        let offered = half(0) | half(1) << 32;
        let chosen = offered & (wanted | F_VERSION_1 | F_EVENT_IDX);
        if chosen & F_VERSION_1 == 0 {
            return Err(DeviceError::Lacks("modern interface (VIRTIO_F_VERSION_1)"));
        }
        for (select, half) in (0..).zip(physical::halves(chosen)) {
            common.write32(common::DRIVER_FEATURE_SELECT, select);
            common.write32(common::DRIVER_FEATURE, half);
        }
        common.write8(common::DEVICE_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if common.read8(common::DEVICE_STATUS) & FEATURES_OK == 0 {
            return Err(DeviceError::Features);
        }
        Ok(chosen)
    }

    /// Sets up queue `index` with at most `limit` descriptors.
    pub fn queue(
        &self,
        index: u16,
        limit: u16,
        features: u64,
        pool: &mut Pool,
    ) -> Result<Queue, DeviceError> {
        let common = &self.common;
        common.write16(common::QUEUE_SELECT, index);
        let offered = common.read16(common::QUEUE_SIZE);
        if offered == 0 {
            return Err(DeviceError::Lacks("such queue"));
        }
        // A size that is a power of two, as split queues must have.
        let size = 1 << offered.min(limit.max(1)).ilog2();
        let layout = Layout::new(size).ok_or(DeviceError::Lacks("queue of a valid size"))?;
        let memory = pool.take_zeroed(layout.len, Layout::ALIGN).ok_or(DeviceError::Memory)?;
        if size != offered {
            common.write16(common::QUEUE_SIZE, size);
        }
        let address = |register, offset: u64| {
            common.write64_halves(register, memory.address() + offset);
        };
        address(common::QUEUE_DESC, 0);
        address(common::QUEUE_DRIVER, layout.available);
        address(common::QUEUE_DEVICE, layout.used);
        let doorbell = self.doorbell(index);
        common.write16(common::QUEUE_ENABLE, 1);
        Ok(Queue::new(index, layout, memory, doorbell, features & F_EVENT_IDX != 0))
    }

    /// Where notifications of queue `index` go, which is the selected one from now on.
    pub fn doorbell(&self, index: u16) -> (Registers, u64) {
        self.common.write16(common::QUEUE_SELECT, index);
        let notify_off = u64::from(self.common.read16(common::QUEUE_NOTIFY_OFF));
        (self.notify, notify_off * u64::from(self.multiplier))
    }

    /// Tells the device that it may start.
    pub fn start(&self) {
        let status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
        self.common.write8(common::DEVICE_STATUS, status);
    }

    /// The reason why a device that was given [`PATIENCE`] did not answer.
    pub fn silence(&self, what: &'static str) -> DeviceError {
        if self.common.read8(common::DEVICE_STATUS) & NEEDS_RESET != 0 {
            DeviceError::NeedsReset
        } else {
            DeviceError::Silent(what)
        }
    }
}
