//! The function at 00:00.0, which guests expect to find on a bus.

use super::PciFunction;
use super::config_space::{ConfigSpace, Identity};

/// QEMU's generic host bridge: a number that everyone knows and nobody has quirks for.
const IDENTITY: Identity = Identity {
    id: (0x1B36, 0x0008),
    revision: 0,
    class: (0x06, 0x00, 0x00),
    subsystem: (0x1AF4, 0x1100),
};

/// A host bridge without registers.
pub(super) struct HostBridge(ConfigSpace);

impl HostBridge {
    pub(super) fn new() -> HostBridge {
        HostBridge(ConfigSpace::new(&IDENTITY))
    }
}

impl PciFunction for HostBridge {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.0.write(offset, data);
    }

    fn stop(&mut self) {}
}
