//! What a guest tells its machine about its own end.

/// An event that ends a guest. Devices raise it from a virtual CPU's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// The guest's program ended with this status (exit register).
    Exit(u8),
    /// The guest entered the soft-off state (ACPI S5).
    PowerOff,
    /// The guest asked for a reset (ACPI reset register, i8042, port 0xCF9).
    Reset,
    /// The guest's kernel panicked (pvpanic).
    Panicked,
}

/// Takes power events. The first one decides the guest's outcome; the machine stops.
pub trait PowerSink: Send + Sync {
    /// Takes one event; returns at once.
    fn raise(&self, event: PowerEvent);
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::sync::lock;

    /// Collects events.
    #[derive(Default)]
    pub(crate) struct Events(Mutex<Vec<PowerEvent>>);

    impl Events {
        pub(crate) fn take(&self) -> Vec<PowerEvent> {
            std::mem::take(&mut lock(&self.0))
        }
    }

    impl PowerSink for Events {
        fn raise(&self, event: PowerEvent) {
            lock(&self.0).push(event);
        }
    }
}
