//! The registers by which a guest ends itself: i8042 reset, exit register, ACPI sleep and reset.
//! (Reset control at port 0xCF9 belongs to [`crate::pci::ConfigPorts`].)

use std::fmt;
use std::sync::Arc;

use crate::bus::BusDevice;
use crate::power::{PowerEvent, PowerSink};

/// As much of a PC's keyboard controller as a reset needs: nothing attached, nothing to read,
/// always ready for a command.
pub struct I8042 {
    power: Arc<dyn PowerSink>,
}

impl I8042 {
    /// First port: the data port.
    pub const BASE: u64 = 0x60;
    /// Ports from there to the command and status port.
    pub const LEN: u64 = 5;

    const DATA: u64 = 0;
    const COMMAND: u64 = 4;
    /// Pulses the processor's reset line.
    const RESET: u8 = 0xFE;

    /// A controller that reports to `power`; it belongs at [`I8042::BASE`].
    pub fn new(power: Arc<dyn PowerSink>) -> I8042 {
        I8042 { power }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if matches!(offset, Self::DATA | Self::COMMAND) {
            data.fill(0);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == Self::COMMAND && data == [Self::RESET] {
            self.power.raise(PowerEvent::Reset);
        }
    }
}

/// A port to which a guest's program writes its exit status.
pub struct ExitRegister {
    power: Arc<dyn PowerSink>,
}

impl ExitRegister {
    /// Bytes of the register.
    pub const LEN: u64 = 4;

    /// A register that reports to `power`.
    pub fn new(power: Arc<dyn PowerSink>) -> ExitRegister {
        ExitRegister { power }
    }
}

impl BusDevice for ExitRegister {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (0, Some(&status)) = (offset, data.first()) {
            self.power.raise(PowerEvent::Exit(status));
        }
    }
}

/// The registers of hardware-reduced ACPI (ACPI 6.5, 4.8.3.6 and 4.8.3.7): sleep control, sleep
/// status and reset, one byte each, in this order.
pub struct AcpiRegisters {
    power: Arc<dyn PowerSink>,
    sleep_off: u8,
    reset_value: u8,
}

impl AcpiRegisters {
    /// Bytes of the three registers.
    pub const LEN: u64 = 3;

    const SLEEP_CONTROL: u64 = 0;
    const RESET: u64 = 2;
    const SLEEP_ENABLE: u8 = 1 << 5;
    const SLEEP_TYPE_SHIFT: u8 = 2;
    const SLEEP_TYPE_MASK: u8 = 7;

    /// Registers that report to `power`: off when `sleep_off` (the `SLP_TYP` of `\_S5`) is
    /// entered, a reset when `reset_value` is written to the reset register.
    pub fn new(power: Arc<dyn PowerSink>, sleep_off: u8, reset_value: u8) -> AcpiRegisters {
        AcpiRegisters { power, sleep_off, reset_value }
    }
}

impl BusDevice for AcpiRegisters {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let &[value] = data else { return };
        let sleep_type = (value >> Self::SLEEP_TYPE_SHIFT) & Self::SLEEP_TYPE_MASK;
        match offset {
            Self::SLEEP_CONTROL
                if value & Self::SLEEP_ENABLE != 0 && sleep_type == self.sleep_off =>
            {
                self.power.raise(PowerEvent::PowerOff);
            }
            Self::RESET if value == self.reset_value => self.power.raise(PowerEvent::Reset),
            _ => {}
        }
    }
}

macro_rules! debug_by_name {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}
debug_by_name!(I8042 ExitRegister AcpiRegisters);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::tests::Events;

    #[test]
    fn the_keyboard_controller_resets() {
        let events = Arc::new(Events::default());
        let mut device = I8042::new(events.clone());
        let mut status = [0xFF];
        device.read(I8042::COMMAND, &mut status);
        assert_eq!(status, [0], "ready for a command, nothing to read");
        device.write(I8042::DATA, &[I8042::RESET]);
        device.write(I8042::COMMAND, &[0xD1]);
        assert_eq!(events.take(), []);
        device.write(I8042::COMMAND, &[I8042::RESET]);
        assert_eq!(events.take(), [PowerEvent::Reset]);
    }

    #[test]
    fn the_exit_status_is_the_low_byte() {
        let events = Arc::new(Events::default());
        let mut device = ExitRegister::new(events.clone());
        device.write(1, &[9]);
        device.write(0, &0x1234_5642u32.to_le_bytes());
        assert_eq!(events.take(), [PowerEvent::Exit(0x42)]);
    }

    #[test]
    fn acpi_registers_switch_off_and_reset() {
        let events = Arc::new(Events::default());
        let mut device = AcpiRegisters::new(events.clone(), 5, 1);
        device.write(0, &[5 << 2]);
        device.write(0, &[1 << 5 | 3 << 2]);
        device.write(1, &[1 << 5 | 5 << 2]);
        device.write(2, &[2]);
        device.write(2, &[1, 0]);
        assert_eq!(events.take(), [], "not enabled, another state, status register, another value");
        device.write(0, &[1 << 5 | 5 << 2]);
        device.write(2, &[1]);
        assert_eq!(events.take(), [PowerEvent::PowerOff, PowerEvent::Reset]);
    }
}
