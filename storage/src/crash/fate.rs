//! What becomes of changes to a file that are not durable when the power fails.

use std::collections::BTreeMap;

use super::file::{BLOCK, FileState};
use super::{Change, Dice};
use crate::testkit::SECTOR_BYTES;
use crate::units::SECTOR;

/// Which of the changes reached the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// All of them.
    All,
    /// None.
    None,
    /// Each, in this many of a hundred cases.
    Some(usize),
    /// Each sector of each, in this many of a hundred cases.
    Torn(usize),
    /// All but this one.
    AllBut(usize),
    /// This one.
    Only(usize),
}

impl Fate {
    /// Some fate of so many changes, not 0.
    pub(super) fn any(dice: &mut Dice, pending: usize) -> Fate {
        match dice.below(6) {
            0 => Fate::None,
            1 => Fate::Some([15, 50, 85][dice.below(3)]),
            2 | 3 => Fate::Torn([15, 50, 85][dice.below(3)]),
            4 => Fate::AllBut(dice.below(pending)),
            _ => Fate::Only(dice.below(pending)),
        }
    }

    /// Whether it lets a change pass as a whole.
    fn keeps(self, number: usize, dice: &mut Dice) -> bool {
        match self {
            Fate::All => true,
            Fate::None => false,
            Fate::Some(parts) | Fate::Torn(parts) => dice.chance(parts),
            Fate::AllBut(other) => number != other,
            Fate::Only(other) => number == other,
        }
    }

    /// Does to the file what becomes of the changes, on a file system that promises nothing. With
    /// `allocate`, the space of what is lost is there.
    pub(super) fn befall(
        self,
        state: &mut FileState,
        pending: &[&Change],
        allocate: bool,
        dice: &mut Dice,
    ) {
        for (number, change) in pending.iter().enumerate() {
            if let Change::Write { at, bytes } = change
                && allocate
                && self != Fate::All
            {
                state.allocate(*at, bytes.len() as u64);
            }
            match (self, change) {
                (Fate::Torn(parts), Change::Write { at, bytes }) => {
                    tear(state, *at, bytes, parts, dice);
                }
                _ if self.keeps(number, dice) => state.apply(change),
                _ => {}
            }
        }
    }

    /// The same on a file system that turns a hole into a block that holds bytes when all of the
    /// block has reached the disk, with all that was written to it by then: ext4 (ordered), XFS and
    /// Btrfs do. Formats that let such file systems keep their maps rely on it.
    pub(super) fn befall_blocks(
        self,
        state: &mut FileState,
        pending: &[&Change],
        allocate: bool,
        dice: &mut Dice,
    ) {
        let mut blocks = BTreeMap::<u64, Vec<(usize, Change)>>::new();
        for (number, change) in pending.iter().enumerate() {
            match change {
                Change::SetLen(_) if self.keeps(number, dice) => state.apply(change),
                _ => split(change, |block, part| {
                    blocks.entry(block).or_default().push((number, part));
                }),
            }
        }
        for (block, changes) in blocks {
            let kept: Vec<bool> =
                changes.iter().map(|(number, _)| self.keeps(*number, dice)).collect();
            // Up to here, everything happened; in one of the two ways to read what was kept.
            let last = kept.iter().rposition(|&kept| kept).map_or(0, |last| last + 1);
            let first = kept.iter().position(|&kept| !kept).unwrap_or(kept.len());
            let count = if dice.chance(50) { first } else { last };
            changes[..count].iter().for_each(|(_, change)| state.apply(change));
            if !state.is_written(block) {
                if allocate {
                    state.allocate_within(block);
                }
                continue;
            }
            // And these are on their way to a block that is there.
            for ((_, change), kept) in changes[count..].iter().zip(&kept[count..]) {
                match (self, change) {
                    (Fate::Torn(parts), Change::Write { at, bytes }) => {
                        tear(state, *at, bytes, parts, dice);
                    }
                    (_, Change::Write { .. }) if *kept => state.apply(change),
                    (_, Change::Write { .. }) => {}
                    _ => break,
                }
            }
        }
    }
}

/// Writes some of the sectors.
fn tear(state: &mut FileState, at: u64, bytes: &[u8], parts: usize, dice: &mut Dice) {
    let mut done = 0;
    while done < bytes.len() {
        let start = at + done as u64;
        let len = SECTOR_BYTES - usize::try_from(start % SECTOR).unwrap();
        let part = &bytes[done..bytes.len().min(done + len)];
        if dice.chance(parts) {
            state.apply(&Change::Write { at: start, bytes: part.to_vec() });
        }
        done += part.len();
    }
}

/// Gives the parts of a change by the block that they are in.
fn split(change: &Change, mut each: impl FnMut(u64, Change)) {
    let (start, end) = match change {
        Change::Write { at, bytes } => (*at, at + bytes.len() as u64),
        Change::Punch { at, len } | Change::ZeroRange { at, len } => (*at, at + len),
        _ => return,
    };
    for block in start / BLOCK..end.div_ceil(BLOCK) {
        let (at, to) = (start.max(block * BLOCK), end.min((block + 1) * BLOCK));
        let part = match change {
            Change::Write { bytes, .. } => {
                let from = usize::try_from(at - start).unwrap();
                let bytes = bytes[from..from + usize::try_from(to - at).unwrap()].to_vec();
                Change::Write { at, bytes }
            }
            Change::Punch { .. } => Change::Punch { at, len: to - at },
            _ => Change::ZeroRange { at, len: to - at },
        };
        each(block, part);
    }
}
