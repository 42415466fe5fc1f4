//! Configuration space through I/O ports (PCI 3.0, 3.2.2.3.2), and the reset control register
//! that lies among them.

use std::fmt;
use std::sync::{Arc, Mutex};

use super::bus::{PciBus, Place, read_config, write_config};
use crate::bus::BusDevice;
use crate::power::{PowerEvent, PowerSink};

const ADDRESS: u64 = 0;
const RESET_CONTROL: u64 = 1;
const DATA: u64 = 4;

/// The address register selects configuration space.
const ENABLE: u32 = 1 << 31;
/// Reset control: reset the processor now.
const RESET: u8 = 1 << 2;

/// Ports 0xCF8 to 0xCFF.
pub struct ConfigPorts {
    bus: Arc<Mutex<PciBus>>,
    power: Arc<dyn PowerSink>,
    address: u32,
    reset_control: u8,
}

impl ConfigPorts {
    /// Bytes of the ports.
    pub const LEN: u64 = 8;

    /// A view of `bus`; resets are reported to `power`.
    pub fn new(bus: Arc<Mutex<PciBus>>, power: Arc<dyn PowerSink>) -> ConfigPorts {
        ConfigPorts { bus, power, address: 0, reset_control: 0 }
    }

    fn place(&self, offset: u64) -> Option<Place> {
        let [register, function, bus, _] = self.address.to_le_bytes();
        (self.address & ENABLE != 0).then(|| Place {
            bus,
            device: function >> 3,
            function: function & 7,
            register: usize::from(register & 0xFC) + usize::try_from(offset - DATA).unwrap_or(0),
        })
    }
}

impl BusDevice for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match (offset, data.len()) {
            (ADDRESS, 4) => data.copy_from_slice(&self.address.to_le_bytes()),
            (RESET_CONTROL, 1) => data.fill(self.reset_control),
            (DATA.., _) => {
                if let Some(place) = self.place(offset) {
                    read_config(&self.bus, place, data);
                }
            }
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (ADDRESS, &[a, b, c, d]) => {
                self.address = u32::from_le_bytes([a, b, c, d]) & (ENABLE | 0x00FF_FFFC);
            }
            (RESET_CONTROL, &[value]) => {
                self.reset_control = value & !RESET;
                if value & RESET != 0 {
                    self.power.raise(PowerEvent::Reset);
                }
            }
            (DATA.., _) => {
                if let Some(place) = self.place(offset) {
                    write_config(&self.bus, place, data);
                }
            }
            _ => {}
        }
    }
}

impl fmt::Debug for ConfigPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigPorts").field("address", &self.address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Bus;
    use crate::power::tests::Events;

    fn ports() -> (ConfigPorts, Arc<Events>) {
        let events = Arc::new(Events::default());
        let bus = PciBus::new(Arc::new(Bus::new("mmio")), 0..0, 0..0);
        (ConfigPorts::new(Arc::new(Mutex::new(bus)), events.clone()), events)
    }

    fn read<const N: usize>(ports: &mut ConfigPorts, offset: u64) -> [u8; N] {
        let mut data = [0xFF; N];
        ports.read(offset, &mut data);
        data
    }

    #[test]
    fn the_host_bridge_is_found_in_every_width() {
        let (mut ports, _) = ports();
        assert_eq!(read(&mut ports, DATA), [0xFF; 4], "not enabled");
        ports.write(ADDRESS, &(ENABLE | 0x3).to_le_bytes());
        assert_eq!(read(&mut ports, ADDRESS), ENABLE.to_le_bytes());
        assert_eq!(read(&mut ports, DATA), [0x36, 0x1B, 0x08, 0x00]);
        assert_eq!(read(&mut ports, DATA + 2), [0x08, 0x00]);
        assert_eq!(read(&mut ports, DATA + 1), [0x1B]);
        ports.write(ADDRESS, &(ENABLE | 1 << 11).to_le_bytes());
        assert_eq!(read(&mut ports, DATA), [0xFF; 4], "an empty slot");
        ports.write(ADDRESS, &(ENABLE | 1 << 8).to_le_bytes());
        assert_eq!(read(&mut ports, DATA), [0xFF; 4], "an absent function");
    }

    #[test]
    fn reset_control_resets_and_leaves_the_address_alone() {
        let (mut ports, events) = ports();
        ports.write(ADDRESS, &ENABLE.to_le_bytes());
        ports.write(RESET_CONTROL, &[2]);
        assert_eq!(read(&mut ports, RESET_CONTROL), [2]);
        assert_eq!(events.take(), []);
        ports.write(RESET_CONTROL, &[6]);
        assert_eq!(events.take(), [PowerEvent::Reset]);
        assert_eq!(read(&mut ports, ADDRESS), ENABLE.to_le_bytes());
    }
}
