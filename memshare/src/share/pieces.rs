//! What is mapped where in a window, as a plain value.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Access, SharedRegion};

/// A range of a window that is mapped from one run of bytes of one file.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// Bytes, whole pages.
    pub(super) len: u64,
    pub(super) region: Arc<SharedRegion>,
    /// Where in the file it begins.
    pub(super) from: u64,
    pub(super) access: Access,
    pub(super) since: SystemTime,
}

impl Piece {
    /// Whether `next`, which lies behind it in the window, goes on where it ends.
    fn continues_with(&self, next: &Piece) -> bool {
        Arc::ptr_eq(&self.region, &next.region)
            && self.access == next.access
            && self.from + self.len == next.from
    }

    /// Without its first `count` bytes.
    fn tail(&self, count: u64) -> Piece {
        Piece { len: self.len - count, from: self.from + count, ..self.clone() }
    }
}

/// The pieces of a window, by their offset in it. They do not overlap, and those that continue
/// each other are one.
#[derive(Debug, Default)]
pub(super) struct Pieces(BTreeMap<u64, Piece>);

impl Pieces {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// All, with their offsets in the window, in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Piece)> {
        self.0.iter().map(|(at, piece)| (*at, piece))
    }

    /// The piece that holds a byte of the window, and the offset of the byte in the file.
    pub(super) fn at(&self, offset: u64) -> Option<(&Piece, u64)> {
        let (start, piece) = self.0.range(..=offset).next_back()?;
        let skip = offset - start;
        (skip < piece.len).then_some((piece, piece.from + skip))
    }

    /// How many there are once a range is taken out, and `added` are put there. Neighbours that
    /// may then be one count as two.
    pub(super) fn len_without(&self, range: &Range<u64>, added: usize) -> usize {
        let inside = self.0.range(range.clone());
        let cut_behind =
            inside.clone().next_back().is_some_and(|(at, one)| at + one.len > range.end);
        // One that begins before the range stays, and is two if it also ends behind it.
        let before = self.0.range(..range.start).next_back();
        let is_two = before.is_some_and(|(at, one)| at + one.len > range.end);
        self.len() - inside.count() + usize::from(cut_behind) + usize::from(is_two) + added
    }

    /// Takes what is in a range away; pieces that reach beyond it keep the rest.
    pub(super) fn remove(&mut self, range: Range<u64>) {
        if let Some((&start, piece)) = self.0.range_mut(..range.start).next_back()
            && start + piece.len > range.start
        {
            let rest = (start + piece.len > range.end).then(|| piece.tail(range.end - start));
            piece.len = range.start - start;
            self.0.extend(rest.map(|rest| (range.end, rest)));
        }
        let inside: Vec<u64> = self.0.range(range.clone()).map(|(at, _)| *at).collect();
        for at in inside {
            let Some(piece) = self.0.remove(&at) else { continue };
            if at + piece.len > range.end {
                self.0.insert(range.end, piece.tail(range.end - at));
            }
        }
    }

    /// Puts a piece in the place of what is there.
    pub(super) fn put(&mut self, mut at: u64, mut piece: Piece) {
        self.remove(at..at + piece.len);
        if let Some((&start, before)) = self.0.range(..at).next_back()
            && start + before.len == at
            && before.continues_with(&piece)
        {
            (piece.len, piece.from) = (piece.len + before.len, before.from);
            piece.since = before.since;
            at = start;
        }
        if let Some(after) = self.0.get(&(at + piece.len))
            && piece.continues_with(after)
        {
            let end = at + piece.len;
            piece.len += after.len;
            self.0.remove(&end);
        }
        self.0.insert(at, piece);
    }
}
