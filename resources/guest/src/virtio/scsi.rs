//! virtio-scsi (virtio 1.3, 5.6): logical units of target 0, counted over all devices.
#![forbid(unsafe_code)]

pub(crate) mod adapter;
pub mod cdb;
pub mod failure;
pub mod pages;
mod unit;

pub use adapter::{Adapter, Attention};
pub use unit::{Operation, Unit};

use super::DeviceError;
use super::transport::Platform;

/// Devices whose logical units are counted.
pub const ADAPTERS_MAX: usize = 4;

/// The devices that were started.
pub type Adapters = [Option<Adapter>; ADAPTERS_MAX];

/// Logical unit `index` of all (they count from 0 in the order of the bus, then of their
/// numbers). Starts the devices up to that one that were not started yet.
pub fn unit<'a>(
    index: u64,
    adapters: &'a mut Adapters,
    platform: &mut Platform,
) -> Result<Unit<'a>, DeviceError> {
    let mut units = 0;
    for (number, place) in (0..).zip(adapters) {
        let adapter = match place {
            Some(adapter) => adapter,
            None => match Adapter::open(number, platform) {
                Ok(adapter) => place.insert(adapter),
                Err(DeviceError::Missing { .. }) if number > 0 => break,
                Err(error) => return Err(error),
            },
        };
        let own = adapter.units();
        if index < units + own {
            return adapter.unit(index - units, &mut platform.pool);
        }
        units += own;
    }
    Err(DeviceError::MissingUnit { index, units })
}
