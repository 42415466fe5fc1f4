//! pvpanic: one port by which a guest's kernel says that it panicked
//! (QEMU `docs/specs/pvpanic.rst`).

use std::fmt;
use std::sync::Arc;

use crate::bus::BusDevice;
use crate::power::{PowerEvent, PowerSink};

/// The guest panicked and cannot go on.
const PANICKED: u8 = 1 << 0;

/// The event port, one byte.
pub struct Pvpanic {
    power: Arc<dyn PowerSink>,
}

impl Pvpanic {
    /// A port that reports to `power`.
    pub fn new(power: Arc<dyn PowerSink>) -> Pvpanic {
        Pvpanic { power }
    }
}

impl BusDevice for Pvpanic {
    /// The events that the guest may report.
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(first) = data.first_mut() {
            *first = PANICKED;
        }
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if data.first().is_some_and(|events| events & PANICKED != 0) {
            self.power.raise(PowerEvent::Panicked);
        }
    }
}

impl fmt::Debug for Pvpanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pvpanic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::tests::Events;

    #[test]
    fn only_a_panic_is_reported() {
        let events = Arc::new(Events::default());
        let mut port = Pvpanic::new(events.clone());
        let mut data = [0xFF];
        port.read(0, &mut data);
        assert_eq!(data, [PANICKED]);
        port.write(0, &[2]);
        assert_eq!(events.take(), []);
        port.write(0, &[3]);
        assert_eq!(events.take(), [PowerEvent::Panicked]);
    }
}
