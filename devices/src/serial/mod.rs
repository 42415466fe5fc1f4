//! 8250 (16550A) serial port, both ways, around vm-superio's model of the registers.

#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use vm_superio::Trigger;
use vm_superio::serial::SerialEvents;
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;
use crate::input::{ConsoleInput, Room};
use crate::limited::warn_limited;
use crate::sync::lock;

/// The register with the loopback bit.
const MODEM_CONTROL: u8 = 4;

type Uart = vm_superio::Serial<Interrupt, RoomEvents, Box<dyn Write + Send>>;

/// A serial port, eight registers.
pub struct Serial {
    uart: Arc<Mutex<Uart>>,
}

impl Serial {
    /// Bytes of the registers.
    pub const LEN: u64 = 8;

    /// A port that interrupts through `irq` and sends to `output`, byte by byte: it is for the
    /// output to gather them. Fails when the host has no event descriptor left.
    pub fn new(irq: EventFd, output: Box<dyn Write + Send>) -> io::Result<Serial> {
        let room = Arc::new(Room::new()?);
        let uart = vm_superio::Serial::with_events(Interrupt(irq), RoomEvents(room), output);
        Ok(Serial { uart: Arc::new(Mutex::new(uart)) })
    }

    /// The host's end of the port's input.
    pub fn input(&self) -> SerialInput {
        let room = Arc::clone(&lock(&self.uart).events().0);
        SerialInput { uart: Arc::clone(&self.uart), room }
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        // Registers are one byte wide; the ports of a wider access are not driven.
        if let ([value], Ok(offset)) = (data, u8::try_from(offset)) {
            *value = lock(&self.uart).read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let (&[value], Ok(offset)) = (data, u8::try_from(offset)) else { return };
        let mut uart = lock(&self.uart);
        if let Err(error) = uart.write(offset, value) {
            warn_limited!(%error, "serial port");
        }
        if offset == MODEM_CONTROL {
            // In loopback mode the port takes no input, and may have been left now.
            uart.events().0.taken();
        }
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Serial")
    }
}

/// The host's end of a serial port's input. The port's FIFO has 64 bytes.
#[derive(Clone)]
pub struct SerialInput {
    uart: Arc<Mutex<Uart>>,
    room: Arc<Room>,
}

impl ConsoleInput for SerialInput {
    fn push(&self, bytes: &[u8]) -> usize {
        let mut uart = lock(&self.uart);
        let wanted = &bytes[..bytes.len().min(uart.fifo_capacity())];
        let taken = match uart.enqueue_raw_bytes(wanted) {
            Ok(taken) => taken,
            // The bytes are in the FIFO, the guest sees them when it next looks.
            Err(vm_superio::serial::Error::Trigger(error)) => {
                warn_limited!(%error, "serial port cannot interrupt");
                wanted.len()
            }
            Err(_) => 0,
        };
        self.room.pushed(taken == bytes.len());
        taken
    }

    fn room(&self) -> &EventFd {
        self.room.event()
    }
}

impl fmt::Debug for SerialInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SerialInput")
    }
}

/// The port's interrupt line.
struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Watches the guest empty the FIFO.
struct RoomEvents(Arc<Room>);

impl SerialEvents for RoomEvents {
    fn buffer_read(&self) {
        self.0.taken();
    }
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {}
}
