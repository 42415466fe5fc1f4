//! Which blocks commands are changing, so that COMPARE AND WRITE and its like are atomic against
//! every writer of the unit (SBC-3 5.2).

use std::sync::Mutex;

use super::wake::{Waker, lock};

/// How a command holds a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// With others who write, as these need no order among each other.
    Shared,
    /// Alone: what it reads is what it changes.
    Alone,
}

/// The ranges that commands hold or wait for, of one unit. Who comes first is served first, among
/// those that overlap: nobody starves.
#[derive(Debug, Default)]
pub(super) struct Ranges(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    places: Vec<Option<Entry>>,
    free: Vec<usize>,
    /// Entries that hold or want a range alone. While there are none, nobody waits.
    alone: usize,
    waiting: usize,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    /// Entries are ordered by this.
    order: u64,
    start: u64,
    end: u64,
    hold: Hold,
    /// Whom to wake when it is granted; `None` when it is.
    waiting: Option<Waker>,
}

impl Entry {
    fn excludes(&self, other: &Entry) -> bool {
        let shared = self.hold == Hold::Shared && other.hold == Hold::Shared;
        !shared && self.start < other.end && other.start < self.end
    }
}

/// A place in the table; give it back with [`Ranges::release`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a range that is not released stays locked"]
pub(super) struct Held(usize);

impl Ranges {
    /// Holds blocks `start..end`, or waits for them (false): `waker` is woken when
    /// [`Ranges::is_granted`].
    pub(super) fn acquire(&self, start: u64, end: u64, hold: Hold, waker: &Waker) -> (Held, bool) {
        let mut table = lock(&self.0);
        let order = table.next;
        table.next += 1;
        let mut entry = Entry { order, start, end, hold, waiting: None };
        if hold == Hold::Alone {
            table.alone += 1;
        }
        if table.alone > 0 && table.entries().any(|other| other.excludes(&entry)) {
            entry.waiting = Some(waker.clone());
            table.waiting += 1;
        }
        let is_granted = entry.waiting.is_none();
        let place = table.free.pop().unwrap_or_else(|| {
            table.places.push(None);
            table.places.len() - 1
        });
        table.places[place] = Some(entry);
        (Held(place), is_granted)
    }

    /// Whether the range is held, and not waited for.
    pub(super) fn is_granted(&self, held: &Held) -> bool {
        let table = lock(&self.0);
        table.places[held.0].as_ref().is_none_or(|entry| entry.waiting.is_none())
    }

    /// Gives a range back, held or not, and wakes those whose turn it is.
    #[expect(clippy::needless_pass_by_value, reason = "it is over with it")]
    pub(super) fn release(&self, held: Held) {
        let mut table = lock(&self.0);
        let Some(entry) = table.places[held.0].take() else { return };
        table.free.push(held.0);
        if entry.hold == Hold::Alone {
            table.alone -= 1;
        }
        if entry.waiting.is_some() {
            table.waiting -= 1;
        }
        if table.waiting > 0 {
            table.grant();
        }
    }
}

impl Table {
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.places.iter().flatten()
    }

    /// Grants what nobody who came earlier stands in the way of any more.
    fn grant(&mut self) {
        for place in 0..self.places.len() {
            let Some(entry) = &self.places[place] else { continue };
            let in_way = |other: &Entry| other.order < entry.order && other.excludes(entry);
            if entry.waiting.is_none() || self.entries().any(in_way) {
                continue;
            }
            if let Some(waker) = self.places[place].as_mut().and_then(|entry| entry.waiting.take())
            {
                self.waiting -= 1;
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_share_and_compare_and_write_does_not() {
        let (ranges, waker) = (Ranges::default(), Waker::new().unwrap());
        let acquire = |start, end, hold| {
            let (held, is_granted) = ranges.acquire(start, end, hold, &waker);
            assert_eq!(is_granted, ranges.is_granted(&held));
            held
        };
        let first = acquire(0, 8, Hold::Shared);
        let second = acquire(4, 12, Hold::Shared);
        let alone = acquire(7, 8, Hold::Alone);
        let elsewhere = acquire(12, 13, Hold::Alone);
        let later = acquire(0, 100, Hold::Shared);
        let granted = |held: &Held| ranges.is_granted(held);
        assert!(granted(&first) && granted(&second) && granted(&elsewhere));
        assert!(!granted(&alone) && !granted(&later) && !waker.take());
        ranges.release(first);
        assert!(!granted(&alone));
        ranges.release(second);
        assert!(granted(&alone) && waker.take());
        // Who waits lets nobody past it, and is not let past by those before it.
        assert!(!granted(&later));
        ranges.release(elsewhere);
        assert!(!granted(&later));
        ranges.release(alone);
        assert!(granted(&later) && waker.take());
        ranges.release(later);
    }

    #[test]
    fn who_gives_up_waiting_is_no_obstacle() {
        let (ranges, waker) = (Ranges::default(), Waker::new().unwrap());
        let (first, _) = ranges.acquire(0, 1, Hold::Alone, &waker);
        let (second, _) = ranges.acquire(0, 2, Hold::Alone, &waker);
        let (third, _) = ranges.acquire(1, 2, Hold::Shared, &waker);
        assert!(!ranges.is_granted(&third));
        ranges.release(second);
        assert!(ranges.is_granted(&third));
        ranges.release(third);
        ranges.release(first);
        let table = lock(&ranges.0);
        assert_eq!((table.waiting, table.alone), (0, 0));
    }
}
