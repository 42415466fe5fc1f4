//! Output on the first serial port, a 16550.

use core::cell::Cell;
use core::fmt;

use super::ports;

const DATA: u16 = 0x3F8;
const FIFO_CONTROL: u16 = DATA + 2;
const LINE_STATUS: u16 = DATA + 5;
const FIFO_ENABLE: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Bytes that the FIFO takes once it is empty.
const FIFO_LEN: u8 = 16;
/// Looks at the line status before a transmitter that never empties counts as absent.
const PATIENCE: u32 = 100_000;

/// The port. Each access is an exit to the VMM, so the transmitter is looked at once for as many
/// bytes as its FIFO takes.
#[derive(Debug, Default)]
pub struct Serial {
    started: Cell<bool>,
    room: Cell<u8>,
}

impl Serial {
    /// The port as firmware or the VMM left it.
    pub const fn new() -> Serial {
        Serial { started: Cell::new(false), room: Cell::new(0) }
    }

    /// Sends `bytes` as they are.
    pub fn send(&self, bytes: &[u8]) {
        if !self.started.replace(true) {
            ports::write8(FIFO_CONTROL, FIFO_ENABLE);
        }
        for byte in bytes {
            if self.room.get() == 0 {
                let empty = |_: &u32| ports::read8(LINE_STATUS) & TRANSMITTER_EMPTY != 0;
                let _ = (0..PATIENCE).find(empty);
                self.room.set(FIFO_LEN);
            }
            self.room.set(self.room.get() - 1);
            ports::write8(DATA, *byte);
        }
    }
}

impl fmt::Write for &Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.send(text.as_bytes());
        Ok(())
    }
}
