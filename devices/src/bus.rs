//! Address spaces: which device answers at which address.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::sync::lock;

/// A device on a [`Bus`].
pub trait BusDevice: Send {
    /// Fills `data` (1, 2, 4 or 8 bytes, all ones beforehand) with what the device holds at
    /// `offset` bytes from where it was inserted. The access lies within the device's range.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes `data`, written at `offset`; otherwise as [`BusDevice::read`].
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Why a device cannot be put on a [`Bus`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The range is empty or reaches beyond the end of the address space.
    #[error("{bus}: {len:#x} bytes at {base:#x} are no valid range")]
    Range {
        /// The bus.
        bus: &'static str,
        /// First address.
        base: u64,
        /// Bytes.
        len: u64,
    },
    /// Another device has some of the range.
    #[error("{bus}: {len:#x} bytes at {base:#x} overlap the device at {other:#x}")]
    Overlap {
        /// The bus.
        bus: &'static str,
        /// First address.
        base: u64,
        /// Bytes.
        len: u64,
        /// First address of the device in the way.
        other: u64,
    },
}

/// An address space. Shared by all virtual CPUs; devices come, go and move while it is used.
///
/// No lock of the bus is held while a device handles an access, so a device may itself change
/// the bus. A device that has just been removed may still see accesses that were under way.
pub struct Bus {
    name: &'static str,
    /// Sorted by address, without overlaps.
    claims: RwLock<Vec<Claim>>,
}

struct Claim {
    first: u64,
    last: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

impl Bus {
    /// A bus without devices; `name` is for messages.
    pub fn new(name: &'static str) -> Bus {
        Bus { name, claims: RwLock::default() }
    }

    /// Lets `device` answer for `len` bytes from `base` on.
    pub fn insert(
        &self,
        base: u64,
        len: u64,
        device: Arc<Mutex<dyn BusDevice>>,
    ) -> Result<(), BusError> {
        let range = BusError::Range { bus: self.name, base, len };
        let Some(last) = len.checked_sub(1).and_then(|len| base.checked_add(len)) else {
            return Err(range);
        };
        let mut claims = self.claims_mut();
        let at = claims.partition_point(|claim| claim.last < base);
        if let Some(next) = claims.get(at).filter(|next| next.first <= last) {
            return Err(BusError::Overlap { bus: self.name, base, len, other: next.first });
        }
        claims.insert(at, Claim { first: base, last, device });
        Ok(())
    }

    /// Takes the device that was inserted at `base` off the bus.
    pub fn remove(&self, base: u64) -> Option<Arc<Mutex<dyn BusDevice>>> {
        let mut claims = self.claims_mut();
        let at = claims.binary_search_by_key(&base, |claim| claim.first).ok()?;
        Some(claims.remove(at).device)
    }

    /// Takes all devices off the bus.
    pub fn clear(&self) {
        // Dropped when the bus is free again: a device may take its own windows off it.
        let gone = std::mem::take(&mut *self.claims_mut());
        drop(gone);
    }

    /// Reads from the device that answers for all of the access. Where there is none, or the
    /// width is not 1, 2, 4 or 8, `data` is all ones and the result `false`.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        data.fill(0xFF);
        let Some((device, offset)) = self.find(address, data.len()) else { return false };
        lock(&device).read(offset, data);
        true
    }

    /// Writes to the device that answers for all of the access. Where there is none, or the
    /// width is not 1, 2, 4 or 8, nothing happens and the result is `false`.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        let Some((device, offset)) = self.find(address, data.len()) else { return false };
        lock(&device).write(offset, data);
        true
    }

    fn find(&self, address: u64, width: usize) -> Option<(Arc<Mutex<dyn BusDevice>>, u64)> {
        if !matches!(width, 1 | 2 | 4 | 8) {
            return None;
        }
        let last = address.checked_add(width as u64 - 1)?;
        let claims = self.claims();
        let claim = claims.get(claims.partition_point(|claim| claim.last < address))?;
        (claim.first <= address && last <= claim.last)
            .then(|| (Arc::clone(&claim.device), address - claim.first))
    }

    fn claims(&self) -> RwLockReadGuard<'_, Vec<Claim>> {
        self.claims.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn claims_mut(&self) -> RwLockWriteGuard<'_, Vec<Claim>> {
        self.claims.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let claims = self.claims();
        let ranges = claims.iter().map(|claim| format!("{:#x}..={:#x}", claim.first, claim.last));
        f.debug_struct("Bus")
            .field("name", &self.name)
            .field("claims", &ranges.collect::<Vec<_>>())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads as its own number, remembers the last write.
    struct Probe(u8, Option<(u64, Vec<u8>)>);

    impl BusDevice for Probe {
        fn read(&mut self, _: u64, data: &mut [u8]) {
            data.fill(self.0);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.1 = Some((offset, data.to_vec()));
        }
    }

    fn probe(number: u8) -> Arc<Mutex<Probe>> {
        Arc::new(Mutex::new(Probe(number, None)))
    }

    #[test]
    fn an_access_reaches_its_device_with_its_offset() {
        let bus = Bus::new("test");
        let device = probe(7);
        bus.insert(0x100, 0x10, device.clone()).unwrap();
        assert!(bus.write(0x10c, &[1, 2, 3, 4]));
        assert_eq!(lock(&device).1, Some((0xc, vec![1, 2, 3, 4])));
    }

    #[test]
    fn what_no_device_owns_reads_as_ones() {
        let bus = Bus::new("test");
        bus.insert(0x100, 0x10, probe(1)).unwrap();
        bus.insert(0x110, 0x10, probe(2)).unwrap();
        let mut data = [0; 4];
        assert!(!bus.read(0x10e, &mut data), "an access of two devices");
        assert_eq!(data, [0xFF; 4]);
        assert!(!bus.read(0x120, &mut data));
        assert!(!bus.read(u64::MAX, &mut data));
        assert!(!bus.read(0x100, &mut [0; 3]), "an odd width");
        assert!(!bus.write(0xFF, &[0; 2]));
        assert!(bus.read(0x11c, &mut data));
        assert_eq!(data, [2; 4]);
    }

    #[test]
    fn a_device_can_change_the_bus_that_calls_it() {
        struct Mover(Arc<Bus>);
        impl BusDevice for Mover {
            fn read(&mut self, _: u64, _: &mut [u8]) {}
            fn write(&mut self, _: u64, _: &[u8]) {
                if let Some(me) = self.0.remove(0) {
                    self.0.insert(0x1000, 4, me).unwrap();
                }
            }
        }
        let bus = Arc::new(Bus::new("test"));
        bus.insert(0, 4, Arc::new(Mutex::new(Mover(bus.clone())))).unwrap();
        assert!(bus.write(0, &[0]));
        assert!(!bus.write(0, &[0]));
        assert!(bus.write(0x1000, &[0]));
    }

    proptest! {
        #[test]
        fn lookups_agree_with_a_list_of_ranges(
            ranges in proptest::collection::vec((0u64..200, 0u64..20), 0..20),
            gone in proptest::collection::vec(0u64..200, 0..6),
            accesses in proptest::collection::vec((0u64..240, 0usize..10), 0..60),
        ) {
            let bus = Bus::new("test");
            let mut model: Vec<(u64, u64, u8)> = Vec::new();
            for (number, &(base, len)) in (0u8..).zip(&ranges) {
                let free = len > 0 && model.iter().all(|m| base + len <= m.0 || m.0 + m.1 <= base);
                prop_assert_eq!(bus.insert(base, len, probe(number)).is_ok(), free);
                if free {
                    model.push((base, len, number));
                }
            }
            for base in gone {
                prop_assert_eq!(bus.remove(base).is_some(), model.iter().any(|m| m.0 == base));
                model.retain(|m| m.0 != base);
            }
            for (address, width) in accesses {
                let end = address + width as u64;
                let owner = model.iter().find(|m| m.0 <= address && end <= m.0 + m.1);
                let owner = owner.filter(|_| matches!(width, 1 | 2 | 4 | 8));
                let mut data = vec![0; width];
                prop_assert_eq!(bus.read(address, &mut data), owner.is_some());
                let wanted = owner.map_or(0xFF, |m| m.2);
                prop_assert!(data.iter().all(|&byte| byte == wanted));
            }
        }
    }
}
