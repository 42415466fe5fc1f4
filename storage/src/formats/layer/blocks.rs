//! The states of blocks: from the file system and the zero map when they are needed, and from
//! memory after that.
//!
//! A file system does not count a block as written while its bytes are in the page cache only. So
//! what a writable layer changes stays in memory until the file has been synced.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::geometry::{Geometry, MAP_OFFSET};
use super::seal;
use crate::formats::FormatError;
use crate::image::ImageFile;
use crate::numbered::Numbered;

/// What a block's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// They are in the body.
    Data,
    /// They are zero.
    Zero,
    /// They are the parent's.
    Transparent,
}

/// Blocks that are looked up together: one cache line of the zero map.
const WINDOW: u64 = WORDS as u64 * 64;
const WORDS: usize = 8;
/// Bytes of the zero map for a window.
const WINDOW_MAP: usize = WORDS * 8;
/// Bytes of memory that a window takes, with its share of the table it is in.
const WINDOW_COST: usize = 256;
/// Independent parts of the memory, so that threads do not wait for each other.
const SHARDS: usize = 16;

/// One bit per block of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bits([u64; WORDS]);

impl Bits {
    fn has(&self, block: u64) -> bool {
        let word = usize::try_from(block / 64).ok().and_then(|word| self.0.get(word));
        word.is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    /// Calls `each` with every word that `blocks` touches and the bits of it that they are.
    fn words(&mut self, blocks: &Range<u64>, mut each: impl FnMut(&mut u64, u64)) {
        for (word, first) in self.0.iter_mut().zip((0u64..).step_by(64)) {
            let (from, to) = (blocks.start.max(first), blocks.end.min(first + 64));
            if from < to {
                each(word, (u64::MAX >> (64 - (to - from))) << (from - first));
            }
        }
    }

    fn set(&mut self, blocks: &Range<u64>) {
        self.words(blocks, |word, mask| *word |= mask);
    }

    fn clear(&mut self, blocks: &Range<u64>) {
        self.words(blocks, |word, mask| *word &= !mask);
    }

    fn has_all(mut self, blocks: &Range<u64>) -> bool {
        let mut all = true;
        self.words(blocks, |word, mask| all &= *word & mask == mask);
        all
    }
}

/// The states of a window's blocks.
#[derive(Clone, Debug, Default)]
struct Window {
    data: Bits,
    zero: Bits,
    /// Changed since the file was last known to be synced.
    dirty: bool,
    /// Requests under way that change it.
    held: u32,
}

impl Window {
    fn state(&self, block: u64) -> State {
        if self.data.has(block) {
            State::Data
        } else if self.zero.has(block) {
            State::Zero
        } else {
            State::Transparent
        }
    }
}

type Shard = Numbered<Window>;

/// The states of all blocks.
pub(super) struct Blocks {
    image: Arc<ImageFile>,
    geometry: Geometry,
    /// Whether there is a parent, which is when the zero map means something.
    parent: bool,
    shards: [Mutex<Shard>; SHARDS],
    /// Windows that a shard may have; 0: nothing is kept.
    room: usize,
    /// Held while bits of the zero map are written and made durable.
    map: Mutex<()>,
}

/// `blocks` cut along windows: each window's number, and its blocks counted from its first.
fn windows(blocks: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
    (blocks.start / WINDOW..blocks.end.div_ceil(WINDOW)).map(move |number| {
        let first = number * WINDOW;
        let end = blocks.end.min(first + WINDOW);
        (number, blocks.start.max(first) - first..end - first)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Blocks {
    /// The blocks of `image`; `memory` bounds what a writable layer remembers. A layer that
    /// nobody changes remembers nothing: the chain does that for all of its parents.
    pub(super) fn new(
        image: &Arc<ImageFile>,
        geometry: Geometry,
        parent: bool,
        memory: usize,
    ) -> Blocks {
        let room = (memory / SHARDS / WINDOW_COST).max(1);
        Blocks {
            image: Arc::clone(image),
            geometry,
            parent,
            shards: Default::default(),
            room: if image.is_writable() { room } else { 0 },
            map: Mutex::default(),
        }
    }

    /// Asks the file for the states of some blocks of a window.
    fn load(&self, number: u64, blocks: &Range<u64>) -> Result<Window, FormatError> {
        let mut window = Window::default();
        let first = number * WINDOW;
        if self.parent {
            let at = MAP_OFFSET + number * WINDOW_MAP as u64;
            let mut map = [0; WINDOW_MAP];
            self.image.read_at(&mut map, at).map_err(FormatError::host("read", at))?;
            for (word, bytes) in window.zero.0.iter_mut().zip(map.as_chunks().0) {
                *word = u64::from_le_bytes(*bytes);
            }
        }
        let asked = first + blocks.start..(first + blocks.end).min(self.geometry.blocks());
        let mut ranges = Vec::new();
        seal::written_blocks(&self.image, &self.geometry, &asked, &mut ranges, |run| {
            window.data.set(&(run.start.saturating_sub(first)..run.end.saturating_sub(first)));
        })?;
        Ok(window)
    }

    fn shard(&self, number: u64) -> MutexGuard<'_, Shard> {
        lock(&self.shards[usize::try_from(number % SHARDS as u64).unwrap_or_default()])
    }

    /// Calls `with` with a window that is remembered from now on.
    fn with<T>(&self, number: u64, with: impl FnOnce(&mut Window) -> T) -> Result<T, FormatError> {
        let mut shard = self.shard(number);
        if let Some(window) = shard.get_mut(&number) {
            return Ok(with(window));
        }
        if shard.len() >= self.room {
            self.make_room(&mut shard)?;
        }
        // Under the lock, so that what is remembered is never older than a change.
        let window = self.load(number, &(0..WINDOW))?;
        Ok(with(shard.entry(number).or_insert(window)))
    }

    /// Forgets what can be asked for again.
    fn make_room(&self, shard: &mut Shard) -> Result<(), FormatError> {
        let dirty = shard.values().filter(|window| window.dirty).count();
        if dirty * 2 > self.room {
            // Nobody changes this shard's windows meanwhile, so none of them is dirty after that.
            self.image.sync().map_err(FormatError::host("sync", 0))?;
            shard.values_mut().for_each(|window| window.dirty = false);
        }
        shard.retain(|_, window| window.dirty || window.held > 0);
        Ok(())
    }

    /// Calls `each` with the runs of blocks of the same state that make up `blocks`, in order.
    /// Runs of the same state may follow each other.
    pub(super) fn runs(
        &self,
        blocks: Range<u64>,
        mut each: impl FnMut(Range<u64>, State),
    ) -> Result<(), FormatError> {
        for (number, within) in windows(blocks) {
            let first = number * WINDOW;
            let mut tell = |window: &Window| {
                let mut at = within.start;
                while at < within.end {
                    let state = window.state(at);
                    let start = at;
                    while at < within.end && window.state(at) == state {
                        at += 1;
                    }
                    each(first + start..first + at, state);
                }
            };
            if self.room == 0 {
                tell(&self.load(number, &within)?);
            } else {
                self.with(number, |window| tell(window))?;
            }
        }
        Ok(())
    }

    /// The state of one block.
    pub(super) fn state(&self, block: u64) -> Result<State, FormatError> {
        self.with(block / WINDOW, |window| window.state(block % WINDOW))
    }

    /// Whether all of `blocks` are data.
    pub(super) fn are_data(&self, blocks: Range<u64>) -> Result<bool, FormatError> {
        for (number, within) in windows(blocks) {
            if !self.with(number, |window| window.data.has_all(&within))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Keeps what is remembered of `blocks`, which a request is about to change, until
    /// [`Blocks::let_go`].
    pub(super) fn hold(&self, blocks: Range<u64>) -> Result<(), FormatError> {
        let mut held = blocks.start..blocks.start;
        for (number, within) in windows(blocks) {
            let result = self.with(number, |window| window.held += 1);
            if let Err(error) = result {
                self.let_go(held);
                return Err(error);
            }
            held.end = number * WINDOW + within.end;
        }
        Ok(())
    }

    /// Ends what [`Blocks::hold`] began.
    pub(super) fn let_go(&self, blocks: Range<u64>) {
        self.change(blocks, |window, _| window.held = window.held.saturating_sub(1));
    }

    /// Publishes that `blocks`, which are held, are data.
    pub(super) fn now_data(&self, blocks: Range<u64>) {
        self.change(blocks, |window, blocks| {
            window.data.set(blocks);
            window.dirty = true;
        });
    }

    /// Publishes that `blocks`, which are held, are no data any more.
    pub(super) fn now_empty(&self, blocks: Range<u64>) {
        self.change(blocks, |window, blocks| {
            window.data.clear(blocks);
            window.dirty = true;
        });
    }

    /// Publishes which of `blocks`, which are held, are data as the file has it.
    pub(super) fn ask_again(&self, blocks: Range<u64>) -> Result<(), FormatError> {
        self.image.sync().map_err(FormatError::host("sync", 0))?;
        for (number, within) in windows(blocks) {
            let first = number * WINDOW;
            let found = self.load(number, &within)?;
            self.now_empty(first + within.start..first + within.end);
            for block in within.filter(|&block| found.data.has(block)) {
                self.now_data(first + block..first + block + 1);
            }
        }
        Ok(())
    }

    fn change(&self, blocks: Range<u64>, change: impl Fn(&mut Window, &Range<u64>)) {
        for (number, within) in windows(blocks) {
            let mut shard = self.shard(number);
            if let Some(window) = shard.get_mut(&number) {
                change(window, &within);
            }
        }
    }

    /// Makes sure that `blocks`, which are held, read as zero when they are no data: durably,
    /// because what they were is about to be taken away.
    pub(super) fn mark_zero(&self, blocks: Range<u64>) -> Result<(), FormatError> {
        if !self.parent || blocks.is_empty() {
            return Ok(());
        }
        // Two that mark blocks of the same window would undo each other's bits.
        let _map = lock(&self.map);
        let (mut start, mut bytes, mut new) = (0, Vec::new(), false);
        for (number, within) in windows(blocks.clone()) {
            let zero = self.with(number, |window| window.zero)?;
            if bytes.is_empty() {
                start = MAP_OFFSET + number * WINDOW_MAP as u64;
            }
            let mut wanted = zero;
            wanted.set(&within);
            new |= wanted != zero;
            bytes.extend(wanted.0.iter().flat_map(|word| word.to_le_bytes()));
        }
        if !new {
            return Ok(());
        }
        self.image.write_at(&bytes, start).map_err(FormatError::host("write", start))?;
        self.image.sync().map_err(FormatError::host("sync", start))?;
        self.change(blocks, |window, blocks| window.zero.set(blocks));
        Ok(())
    }
}

#[cfg(test)]
impl Blocks {
    /// Windows that are remembered.
    pub(super) fn remembered(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_of_the_range() {
        for range in [0..0, 0..1, 63..64, 63..65, 0..512, 5..400, 511..512] {
            let mut bits = Bits::default();
            bits.set(&range);
            assert!((0..512).all(|block| bits.has(block) == range.contains(&block)), "{range:?}");
            assert!(bits.has_all(&range));
            let mut rest = Bits([u64::MAX; WORDS]);
            rest.clear(&range);
            assert!((0..512).all(|block| rest.has(block) != range.contains(&block)), "{range:?}");
            assert_eq!(rest.has_all(&range), range.is_empty());
        }
    }

    #[test]
    fn windows_make_up_the_range() {
        let cut: Vec<_> = windows(510..1025).collect();
        assert_eq!(cut, [(0, 510..512), (1, 0..512), (2, 0..1)]);
    }
}
