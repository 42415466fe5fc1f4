//! Where the parts of a split virtqueue are (virtio 1.2, 2.7), and its arithmetic.
#![forbid(unsafe_code)]

/// Offsets of a queue's parts from the start of its memory, in bytes.
///
/// ```text
/// 0            descriptors: 16 bytes each (address 64, length 32, flags 16, next 16)
/// available    flags 16, index 16, ring: 16 bits each, used_event 16
/// used         flags 16, index 16, ring: 64 bits each (id 32, length 32), avail_event 16
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Descriptors, and entries of each ring: a power of two.
    pub size: u16,
    /// The available ring.
    pub available: u64,
    /// The used ring.
    pub used: u64,
    /// End of the used ring: the memory that a queue takes.
    pub len: u64,
}

impl Layout {
    /// Alignment of the whole, which that of the parts follows from. Page size, so that a queue
    /// shares no page with another.
    pub const ALIGN: u64 = 4096;

    /// The layout of a queue of `size` descriptors. `None` if that is no size of a queue.
    pub fn new(size: u16) -> Option<Layout> {
        if !size.is_power_of_two() || size > 32768 {
            return None;
        }
        let entries = u64::from(size);
        let available = 16 * entries;
        // The used ring on cache lines of its own: the device writes it, the driver the others.
        let used = (available + 6 + 2 * entries).next_multiple_of(64);
        Some(Layout { size, available, used, len: used + 6 + 8 * entries })
    }

    /// Offset of descriptor `index`.
    pub fn descriptor(self, index: u16) -> u64 {
        16 * u64::from(index % self.size)
    }

    /// Offset of the available ring's index.
    pub fn available_index(self) -> u64 {
        self.available + 2
    }

    /// Offset of the available ring's entry for the running index `index`.
    pub fn available_entry(self, index: u16) -> u64 {
        self.available + 4 + 2 * u64::from(index % self.size)
    }

    /// Offset of `used_event`: the driver wants an interrupt once the used index passes it.
    pub fn used_event(self) -> u64 {
        self.available + 4 + 2 * u64::from(self.size)
    }

    /// Offset of the used ring's index.
    pub fn used_index(self) -> u64 {
        self.used + 2
    }

    /// Offset of the used ring's entry for the running index `index`.
    pub fn used_entry(self, index: u16) -> u64 {
        self.used + 4 + 8 * u64::from(index % self.size)
    }

    /// Offset of `avail_event`: the device wants a notification once the available index passes
    /// it.
    pub fn available_event(self) -> u64 {
        self.used + 4 + 8 * u64::from(self.size)
    }
}

/// Whether a running index that went from `old` to `new` passed `event` (virtio 1.2, 2.7.7.1).
pub fn passed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_queue_of_eight() {
        let layout = Layout::new(8).expect("a power of two");
        assert_eq!(layout, Layout { size: 8, available: 128, used: 192, len: 262 });
        assert_eq!(layout.descriptor(9), 16);
        assert_eq!((layout.available_entry(9), layout.used_event()), (134, 148));
        assert_eq!((layout.used_entry(15), layout.available_event()), (252, 260));
    }

    #[test]
    fn sizes_that_are_none() {
        for size in [0, 3, 12, 65535] {
            assert_eq!(Layout::new(size), None);
        }
    }

    proptest! {
        #[test]
        fn parts_are_aligned_and_do_not_overlap(shift in 0u32..16, index: u16) {
            let layout = Layout::new(1 << shift).expect("a power of two");
            prop_assert!(layout.descriptor(index) + 16 <= layout.available);
            prop_assert!(layout.available_entry(index) + 2 <= layout.used_event());
            prop_assert!(layout.used_event() + 2 <= layout.used);
            prop_assert!(layout.used_entry(index) + 8 <= layout.available_event());
            prop_assert_eq!(layout.available_event() + 2, layout.len);
            prop_assert_eq!(layout.available % 2, 0);
            prop_assert_eq!(layout.used % 4, 0);
        }

        #[test]
        fn an_event_is_passed_by_steps_over_it(event: u16, before in 0u16..0x4000, after in 0u16..0x4000) {
            let (old, new) = (event.wrapping_sub(before), event.wrapping_add(after).wrapping_add(1));
            prop_assert!(passed(event, new, old));
            prop_assert!(!passed(event, old, old.wrapping_sub(after)));
        }

        #[test]
        fn an_event_just_behind_never_comes(start: u16, done in 0u16..0x4000, more in 0u16..0x4000) {
            // How the driver's interrupts are kept off: see `Queue::pop`.
            let old = start.wrapping_add(done);
            prop_assert!(!passed(start.wrapping_sub(1), old.wrapping_add(more), old));
        }
    }
}
