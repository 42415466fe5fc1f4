//! Which blocks of a layer requests are working on, so that none is changed under another.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// How a request uses blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// It reads or writes bytes where they are. Others may do so too.
    Shared,
    /// It changes where bytes are. Nobody else may use the blocks.
    Exclusive,
}

/// Blocks in use.
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By number; `None` where the number is free. As many as there are requests under way.
    held: Vec<Option<(Range<u64>, Hold)>>,
    free: Vec<usize>,
}

impl Pins {
    /// Takes blocks for a request, unless another one's use excludes that. The number gives them
    /// back.
    pub(super) fn try_hold(&self, blocks: Range<u64>, hold: Hold) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let excluded = state.held.iter().flatten().any(|(other, how)| {
            (hold == Hold::Exclusive || *how == Hold::Exclusive)
                && other.start < blocks.end
                && blocks.start < other.end
        });
        if excluded {
            return None;
        }
        let number = state.free.pop().unwrap_or_else(|| {
            state.held.push(None);
            state.held.len() - 1
        });
        state.held[number] = Some((blocks, hold));
        Some(number as u64)
    }

    /// Which blocks a request holds.
    pub(super) fn held(&self, number: u64) -> Option<(Range<u64>, Hold)> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.held.get(usize::try_from(number).ok()?)?.clone()
    }

    /// Gives blocks back, and says which they were.
    pub(super) fn release(&self, number: u64) -> Option<(Range<u64>, Hold)> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = usize::try_from(number).ok()?;
        let held = state.held.get_mut(number)?.take();
        if held.is_some() {
            state.free.push(number);
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sharers_overlap() {
        let pins = Pins::default();
        let first = pins.try_hold(0..4, Hold::Shared).unwrap();
        let second = pins.try_hold(2..6, Hold::Shared).unwrap();
        assert_eq!(pins.try_hold(5..9, Hold::Exclusive), None);
        assert_eq!(pins.held(second), Some((2..6, Hold::Shared)));
        assert_eq!(pins.release(second), Some((2..6, Hold::Shared)));
        assert_eq!(pins.held(second), None);
        let third = pins.try_hold(5..9, Hold::Exclusive).unwrap();
        assert_eq!(pins.try_hold(8..9, Hold::Shared), None);
        pins.try_hold(9..12, Hold::Shared).unwrap();
        pins.release(first);
        pins.release(third);
        assert_eq!(pins.release(third), None);
        pins.try_hold(0..9, Hold::Exclusive).unwrap();
    }
}
