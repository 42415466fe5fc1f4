//! Capability lists, and the virtio capabilities in them.
#![forbid(unsafe_code)]

/// Where the first capability is named (PCI 3.0, 6.7).
const FIRST: u8 = 0x34;
/// Capabilities that fit behind the header without overlap: a longer list is a loop.
const COUNT_MAX: usize = 48;
/// Vendor-specific capability; virtio's are these.
const VENDOR: u8 = 0x09;

/// The capability list of one function: identifiers and their offsets in configuration space.
/// `read` gives the aligned 32 bits at an offset. Ends at the first thing that is no capability.
pub fn list(read: impl Fn(u8) -> u32) -> impl Iterator<Item = (u8, u8)> {
    let mut next = byte(read(FIRST), 0);
    core::iter::from_fn(move || {
        let at = next & !3;
        if at < 0x40 {
            return None;
        }
        let header = read(at);
        next = byte(header, 1);
        Some((byte(header, 0), at))
    })
    .take(COUNT_MAX)
}

/// What a virtio structure is (virtio 1.2, 4.1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structure {
    /// Common configuration.
    Common,
    /// Notifications, with the multiplier of queue offsets.
    Notify {
        /// Bytes between the notification addresses of neighbouring offsets.
        multiplier: u32,
    },
    /// Interrupt status.
    Isr,
    /// Device-specific configuration.
    Device,
}

/// Where a virtio structure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// What it is.
    pub structure: Structure,
    /// Base address register.
    pub bar: u8,
    /// Offset from there.
    pub offset: u32,
    /// Length in bytes.
    pub len: u32,
}

/// The virtio structures that a function names, in its own order of preference.
pub fn virtio(read: impl Fn(u8) -> u32 + Copy) -> impl Iterator<Item = Location> {
    list(read).filter_map(move |(id, at)| {
        let word = |offset: u8| at.checked_add(offset).map_or(0, read);
        if id != VENDOR {
            return None;
        }
        let structure = match byte(word(0), 3) {
            1 => Structure::Common,
            2 => Structure::Notify { multiplier: word(16) },
            3 => Structure::Isr,
            4 => Structure::Device,
            _ => return None,
        };
        let bar = byte(word(4), 0);
        (bar < 6).then(|| Location { structure, bar, offset: word(8), len: word(12) })
    })
}

fn byte(word: u32, index: usize) -> u8 {
    word.to_le_bytes().get(index).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn read(space: &[u8; 256], at: u8) -> u32 {
        let at = usize::from(at & !3);
        u32::from_le_bytes([space[at], space[at + 1], space[at + 2], space[at + 3]])
    }

    #[test]
    fn virtio_structures_are_found_among_others() {
        let mut space = [0; 256];
        space[0x34] = 0x40;
        space[0x40..0x4c].copy_from_slice(&[0x11, 0x50, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        space[0x50..0x60].copy_from_slice(&[9, 0x64, 16, 1, 4, 0, 0, 0, 0, 1, 0, 0, 56, 0, 0, 0]);
        let notify = [9, 0, 20, 2, 2, 0, 0, 0, 0, 0, 3, 0, 0, 16, 0, 0, 4, 0, 0, 0];
        space[0x64..0x78].copy_from_slice(&notify);
        let found: Vec<_> = virtio(|at| read(&space, at)).collect();
        let common = Location { structure: Structure::Common, bar: 4, offset: 0x100, len: 56 };
        let structure = Structure::Notify { multiplier: 4 };
        let notify = Location { structure, bar: 2, offset: 0x3_0000, len: 0x1000 };
        assert_eq!(found, [common, notify]);
    }

    #[test]
    fn a_loop_ends() {
        let mut space = [0; 256];
        space[0x34] = 0x40;
        space[0x40..0x42].copy_from_slice(&[9, 0x40]);
        assert_eq!(list(|at| read(&space, at)).count(), COUNT_MAX);
    }

    proptest! {
        #[test]
        fn no_configuration_space_makes_it_panic(space in prop::array::uniform32(any::<[u8; 8]>())) {
            let space: Vec<u8> = space.concat();
            let space: [u8; 256] = space.try_into().expect("32 times 8");
            for location in virtio(|at| read(&space, at)) {
                prop_assert!(location.bar < 6);
            }
        }
    }
}
