//! Configuration space of a type 0 function (PCI 3.0, 6.1 to 6.3): bytes, and which of their
//! bits the guest may write.

/// Bytes of configuration space that a function here has. Above them PCI Express would have its
/// extended capabilities.
pub const CONFIG_SPACE_LEN: usize = 256;

/// Command register: the function answers in memory space.
pub const COMMAND_MEMORY: u16 = 1 << 1;

const VENDOR: usize = 0x00;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const CLASS: usize = 0x09;
const CACHE_LINE_SIZE: usize = 0x0C;
const BAR_0: usize = 0x10;
const SUBSYSTEM: usize = 0x2C;
const CAPABILITY_POINTER: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3C;
const FIRST_CAPABILITY: usize = 0x40;

/// Bits of a base address register.
const MEMORY_64_BIT: u64 = 0b100;
const MEMORY_PREFETCHABLE: u64 = 0b1000;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_PARITY: u16 = 1 << 6;
const COMMAND_SERR: u16 = 1 << 8;
const COMMAND_NO_INTX: u16 = 1 << 10;
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// What a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor and device number.
    pub id: (u16, u16),
    /// Revision of the device.
    pub revision: u8,
    /// Base class, subclass, programming interface.
    pub class: (u8, u8, u8),
    /// Subsystem vendor and subsystem number.
    pub subsystem: (u16, u16),
}

/// Configuration space of one function.
#[derive(Debug)]
pub struct ConfigSpace {
    bytes: [u8; CONFIG_SPACE_LEN],
    writable: [u8; CONFIG_SPACE_LEN],
    /// Where the next capability goes, and which byte will point to it.
    next_capability: (usize, usize),
}

impl ConfigSpace {
    /// A type 0 header without base address registers, capabilities or interrupt pin.
    pub fn new(identity: &Identity) -> ConfigSpace {
        let mut space = ConfigSpace {
            bytes: [0; CONFIG_SPACE_LEN],
            writable: [0; CONFIG_SPACE_LEN],
            next_capability: (FIRST_CAPABILITY, CAPABILITY_POINTER),
        };
        let (vendor, device) = identity.id;
        let (base, sub, interface) = identity.class;
        let (subsystem_vendor, subsystem) = identity.subsystem;
        space.set(VENDOR, &vendor.to_le_bytes());
        space.set(VENDOR + 2, &device.to_le_bytes());
        space.set(REVISION, &[identity.revision]);
        space.set(CLASS, &[interface, sub, base]);
        space.set(SUBSYSTEM, &subsystem_vendor.to_le_bytes());
        space.set(SUBSYSTEM + 2, &subsystem.to_le_bytes());
        let command =
            COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_PARITY | COMMAND_SERR | COMMAND_NO_INTX;
        space.permit(COMMAND, &command.to_le_bytes());
        space.permit(CACHE_LINE_SIZE, &[0xFF]);
        space.permit(INTERRUPT_LINE, &[0xFF]);
        space
    }

    /// Makes `index` and the one after it a 64-bit memory base address register for a window of
    /// `len` bytes, a power of two of 16 or more, at first at `address`.
    pub fn add_memory_bar(&mut self, index: usize, address: u64, len: u64) {
        self.add_bar(index, address | MEMORY_64_BIT, len);
    }

    /// The same for memory without side effects, which processors may read ahead and keep.
    pub fn add_prefetchable_bar(&mut self, index: usize, address: u64, len: u64) {
        self.add_bar(index, address | MEMORY_64_BIT | MEMORY_PREFETCHABLE, len);
    }

    fn add_bar(&mut self, index: usize, value: u64, len: u64) {
        let at = BAR_0 + 4 * index;
        self.set(at, &value.to_le_bytes());
        self.permit(at, &(!(len - 1)).to_le_bytes());
    }

    /// The address in the 64-bit base address register `index`.
    pub fn memory_bar(&self, index: usize) -> u64 {
        const FLAGS: u64 = 0xF;
        u64::from_le_bytes(self.get(BAR_0 + 4 * index)) & !FLAGS
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        u16::from_le_bytes(self.get(COMMAND))
    }

    /// Appends a capability. `body` is what follows its number and the pointer to the next one;
    /// `writable` are the bits of it that the guest may write. Returns where the capability is,
    /// or `None` when there is no room for it.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Option<usize> {
        let (at, pointer) = self.next_capability;
        let end = at + 2 + body.len();
        if end > CONFIG_SPACE_LEN {
            return None;
        }
        self.set(pointer, &[u8::try_from(at).ok()?]);
        self.set(at, &[id, 0]);
        self.set(at + 2, body);
        self.permit(at + 2, writable);
        self.set(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        self.next_capability = (end.next_multiple_of(4), at + 1);
        Some(at)
    }

    /// Fills `data` from `offset` on. Bytes beyond the end read as ones.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (n, byte) in data.iter_mut().enumerate() {
            *byte = self.bytes.get(offset.saturating_add(n)).copied().unwrap_or(0xFF);
        }
    }

    /// Takes a guest's write: bits that it may not write keep their value.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (n, value) in data.iter().enumerate() {
            let at = offset.saturating_add(n);
            if let (Some(byte), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *byte = *byte & !mask | value & mask;
            }
        }
    }

    /// `N` bytes from `offset` on; 0 beyond the end.
    pub fn get<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut value = [0; N];
        if let Some(bytes) = self.bytes.get(offset..offset.saturating_add(N)) {
            value.copy_from_slice(bytes);
        }
        value
    }

    fn set(&mut self, offset: usize, value: &[u8]) {
        Self::put(&mut self.bytes, offset, value);
    }

    fn permit(&mut self, offset: usize, mask: &[u8]) {
        Self::put(&mut self.writable, offset, mask);
    }

    fn put(to: &mut [u8; CONFIG_SPACE_LEN], offset: usize, from: &[u8]) {
        if let Some(to) = to.get_mut(offset..offset.saturating_add(from.len())) {
            to.copy_from_slice(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDENTITY: Identity = Identity {
        id: (0x1AF4, 0x1042),
        revision: 1,
        class: (1, 0x80, 0),
        subsystem: (0x1AF4, 0x1100),
    };

    #[test]
    fn a_bar_tells_its_size_and_keeps_its_type() {
        let mut space = ConfigSpace::new(&IDENTITY);
        space.add_memory_bar(0, 0xC000_0000, 0x8000);
        space.write(BAR_0, &[0xFF; 4]);
        space.write(BAR_0 + 4, &[0xFF; 4]);
        assert_eq!(u64::from_le_bytes(space.get(BAR_0)), !0x7FFF | 0b100);
        space.write(BAR_0, &0xD123_4567u32.to_le_bytes());
        space.write(BAR_0 + 4, &1u32.to_le_bytes());
        assert_eq!(space.memory_bar(0), 0x1_D123_0000);
        space.write(BAR_0 + 8, &[0xFF; 16]);
        assert_eq!(space.get(BAR_0 + 8), [0; 16], "bars that do not exist");
        space.add_prefetchable_bar(2, 0x8_0000_0000, 1 << 33);
        space.write(BAR_0 + 8, &[0xFF; 8]);
        assert_eq!(u64::from_le_bytes(space.get(BAR_0 + 8)), !((1 << 33) - 1) | 0b1100);
        assert_eq!(space.memory_bar(2), !((1 << 33) - 1));
    }

    #[test]
    fn capabilities_form_a_list() {
        let mut space = ConfigSpace::new(&IDENTITY);
        assert_eq!(u16::from_le_bytes(space.get(STATUS)), 0);
        let first = space.add_capability(9, &[1, 2, 3], &[]).unwrap();
        let second = space.add_capability(0x11, &[4; 10], &[0, 0xC0]).unwrap();
        assert_eq!(u16::from_le_bytes(space.get(STATUS)), STATUS_CAPABILITIES);
        assert_eq!(usize::from(space.get::<1>(CAPABILITY_POINTER)[0]), first);
        assert_eq!(space.get(first), [9, u8::try_from(second).unwrap(), 1, 2, 3]);
        assert_eq!(space.get(second), [0x11, 0, 4, 4]);
        space.write(second, &[0xFF; 12]);
        assert_eq!(space.get(second), [0x11, 0, 4, 0xC4, 4, 4]);
        assert_eq!(space.add_capability(9, &[0; 200], &[]), None);
    }

    proptest! {
        #[test]
        fn only_writable_bits_change(
            writes in proptest::collection::vec((0usize..300, proptest::array::uniform4(0u8..)), 0..50)
        ) {
            let mut space = ConfigSpace::new(&IDENTITY);
            space.add_memory_bar(0, 0xC000_0000, 0x8000);
            let before = space.bytes;
            for (offset, data) in writes {
                space.write(offset, &data);
            }
            for (at, before) in before.into_iter().enumerate() {
                prop_assert_eq!((space.bytes[at] ^ before) & !space.writable[at], 0);
            }
            let mut beyond = [0; 4];
            space.read(CONFIG_SPACE_LEN - 1, &mut beyond);
            prop_assert_eq!(beyond, [0, 0xFF, 0xFF, 0xFF]);
        }
    }
}
