//! Memory that a session's commands use one after the other: fresh pages cost more than a read.
//!
//! What a command left in it stays there, which is no leak: it belongs to the same initiator, and
//! only what the disk filled is ever sent.

use super::memory::Share;
use crate::AlignedBuffer;

/// Sizes that are kept, as powers of two: 4 KiB to 1 MiB.
const SMALLEST: u32 = 12;
const LARGEST: u32 = 20;
const CLASSES: usize = (LARGEST - SMALLEST + 1) as usize;

/// Most bytes that are kept.
const KEPT_MAX: usize = 8 << 20;

/// Memory that is not in use.
#[derive(Debug, Default)]
pub(super) struct Pool {
    spare: [Vec<AlignedBuffer>; CLASSES],
    kept: usize,
}

/// Which list memory for so many bytes is in; none for what is not kept.
fn class(len: usize) -> Option<usize> {
    let exponent = len.checked_next_power_of_two()?.trailing_zeros().max(SMALLEST);
    (exponent <= LARGEST).then_some((exponent - SMALLEST) as usize)
}

impl Pool {
    /// Bytes of memory that a command with so many bytes of data takes.
    pub(super) fn size(len: usize) -> usize {
        match class(len) {
            _ if len == 0 => 0,
            Some(class) => 1 << (class + SMALLEST as usize),
            None => len,
        }
    }

    /// Memory for `len` bytes or more, with anything in it.
    pub(super) fn take(&mut self, len: usize, share: &mut Share) -> AlignedBuffer {
        let spare = class(len).and_then(|class| self.spare.get_mut(class)?.pop());
        match spare {
            Some(memory) => {
                self.kept -= Pool::size(len);
                // Whoever takes it is charged for it.
                share.give(Pool::size(len));
                memory
            }
            None => AlignedBuffer::new(Pool::size(len)),
        }
    }

    /// Memory that came from here and is free again.
    pub(super) fn give(&mut self, mut memory: AlignedBuffer, share: &mut Share) {
        let len = memory.bytes().len();
        if let Some(spare) = class(len).and_then(|class| self.spare.get_mut(class))
            && self.kept + len <= KEPT_MAX
            && share.keep(len)
        {
            self.kept += len;
            spare.push(memory);
        }
    }

    /// Keeps nothing.
    pub(super) fn clear(&mut self, share: &mut Share) {
        self.spare = Default::default();
        share.give(std::mem::take(&mut self.kept));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::iscsi::limits::ServerLimits;
    use crate::iscsi::memory::Memory;

    #[test]
    fn memory_is_used_again_and_what_is_kept_is_bounded() {
        let memory = Arc::new(Memory::new(&ServerLimits::default()));
        let share = &mut memory.share().unwrap();
        let mut pool = Pool::default();
        for (len, size) in
            [(0, 0), (1, 4096), (4097, 8192), (1 << 20, 1 << 20), (1_048_577, 1_048_577)]
        {
            assert_eq!(Pool::size(len), size);
        }
        let mut memory = pool.take(5000, share);
        memory.bytes()[0] = 7;
        pool.give(memory, share);
        assert_eq!((pool.kept, pool.take(8000, share).bytes()[0], pool.kept), (8192, 7, 0));
        let sizes = std::iter::repeat_n(1 << 20, 20).chain([3 << 20]);
        let all: Vec<_> = sizes.map(|len| pool.take(len, share)).collect();
        all.into_iter().for_each(|memory| pool.give(memory, share));
        assert_eq!(pool.kept, KEPT_MAX);
    }
}
