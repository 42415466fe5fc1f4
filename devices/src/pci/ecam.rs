//! Memory-mapped configuration space (PCI Express 4.0, 7.2.2).

use std::fmt;
use std::sync::{Arc, Mutex};

use super::bus::{PciBus, Place, read_config, write_config};
use crate::bus::BusDevice;

/// The ECAM range: 1 MiB for each bus.
pub struct Ecam(Arc<Mutex<PciBus>>);

impl Ecam {
    /// A view of `bus`.
    pub fn new(bus: Arc<Mutex<PciBus>>) -> Ecam {
        Ecam(bus)
    }
}

impl BusDevice for Ecam {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        read_config(&self.0, place(offset), data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        write_config(&self.0, place(offset), data);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "each field is cut out of the offset")]
fn place(offset: u64) -> Place {
    Place {
        bus: (offset >> 20) as u8,
        device: (offset >> 15) as u8 & 0x1F,
        function: (offset >> 12) as u8 & 7,
        register: offset as usize & 0xFFF,
    }
}

impl fmt::Debug for Ecam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ecam")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_names_bus_device_function_and_register() {
        let wanted = Place { bus: 2, device: 31, function: 5, register: 0xFFE };
        assert_eq!(place(2 << 20 | 31 << 15 | 5 << 12 | 0xFFE), wanted);
    }
}
