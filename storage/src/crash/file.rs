//! A file as its file system keeps it: blocks that hold bytes, blocks that are only allocated, and
//! holes. Changes are applied here as file systems with blocks of 4 KiB do it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::Change;
use crate::engine::sys;
use crate::transfer::SpaceChange;

/// Bytes in a block.
pub(super) const BLOCK: u64 = 4096;
const BLOCK_BYTES: usize = 4096;

#[derive(Clone, Debug)]
enum Block {
    /// Allocated, and zero since nothing was ever written to it.
    Unwritten,
    Written(Arc<[u8; BLOCK_BYTES]>),
}

/// What is in a file.
#[derive(Clone, Debug, Default)]
pub(super) struct FileState {
    len: u64,
    blocks: BTreeMap<u64, Block>,
}

impl FileState {
    /// Does to the file what `change` says.
    pub(super) fn apply(&mut self, change: &Change) {
        match *change {
            Change::Write { at, ref bytes } => self.write(at, bytes),
            Change::Punch { at, len } => self.erase(at, len, false),
            Change::ZeroRange { at, len } => self.erase(at, len, true),
            Change::SetLen(len) => self.set_len(len),
            _ => {}
        }
    }

    /// The file at `path`; blocks of zeroes are holes.
    pub(super) fn load(path: &Path) -> io::Result<FileState> {
        let bytes = std::fs::read(path)?;
        let mut state = FileState::default();
        for (at, block) in (0..).step_by(BLOCK_BYTES).zip(bytes.chunks(BLOCK_BYTES)) {
            if block.iter().any(|byte| *byte != 0) {
                state.write(at, block);
            }
        }
        state.len = bytes.len() as u64;
        Ok(state)
    }

    /// Whether a block holds bytes, by its number.
    pub(super) fn is_written(&self, number: u64) -> bool {
        matches!(self.blocks.get(&number), Some(Block::Written(_)))
    }

    /// Allocates the blocks of a range that are holes, as a write does that got no further.
    pub(super) fn allocate(&mut self, at: u64, len: u64) {
        for number in at / BLOCK..(at + len).div_ceil(BLOCK) {
            self.blocks.entry(number).or_insert(Block::Unwritten);
        }
        self.len = self.len.max(at + len);
    }

    /// Allocates a block that is a hole, if it is in the file.
    pub(super) fn allocate_within(&mut self, number: u64) {
        if number * BLOCK < self.len {
            self.blocks.entry(number).or_insert(Block::Unwritten);
        }
    }

    fn write(&mut self, mut at: u64, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let inside = usize::try_from(at % BLOCK).unwrap();
            let (part, more) = rest.split_at(rest.len().min(BLOCK_BYTES - inside));
            self.bytes(at / BLOCK)[inside..inside + part.len()].copy_from_slice(part);
            at += part.len() as u64;
            rest = more;
        }
        self.len = self.len.max(at);
    }

    /// The bytes of a block, which becomes a written one.
    fn bytes(&mut self, number: u64) -> &mut [u8; BLOCK_BYTES] {
        let block = self.blocks.entry(number).or_insert(Block::Unwritten);
        if let Block::Unwritten = block {
            *block = Block::Written(Arc::new([0; BLOCK_BYTES]));
        }
        match block {
            Block::Written(bytes) => Arc::make_mut(bytes),
            Block::Unwritten => unreachable!("just made"),
        }
    }

    /// Zeroes a range: whole blocks become holes, or unwritten ones if they keep their space.
    fn erase(&mut self, at: u64, len: u64, keep: bool) {
        let end = at + len;
        for number in at / BLOCK..end.div_ceil(BLOCK) {
            let start = number * BLOCK;
            let (from, to) = (at.max(start) - start, end.min(start + BLOCK) - start);
            if from == 0 && to == BLOCK {
                match keep {
                    true => self.blocks.insert(number, Block::Unwritten),
                    false => self.blocks.remove(&number),
                };
            } else if let Some(Block::Written(_)) = self.blocks.get(&number) {
                let range = usize::try_from(from).unwrap()..usize::try_from(to).unwrap();
                self.bytes(number)[range].fill(0);
            } else if keep {
                self.blocks.insert(number, Block::Unwritten);
            }
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.blocks.split_off(&len.div_ceil(BLOCK));
            let inside = usize::try_from(len % BLOCK).unwrap();
            if inside > 0
                && let Some(Block::Written(_)) = self.blocks.get(&(len / BLOCK))
            {
                self.bytes(len / BLOCK)[inside..].fill(0);
            }
        }
        self.len = len;
    }

    /// Makes the file at `path` one like this. Its inode stays. It is punched, not cut, because ext4
    /// writes a file that was emptied and filled again to the device when it is closed.
    pub(super) fn store(&self, path: &Path) -> io::Result<()> {
        let file = File::options().write(true).create(true).truncate(false).open(path)?;
        let len = file.metadata()?.len();
        if len > 0 {
            sys::fallocate(&file, SpaceChange::Punch { for_zeroes: true }.mode(), 0, len)?;
        }
        file.set_len(self.len)?;
        let mut run: (u64, Vec<u8>) = (0, Vec::new());
        let put = |(at, bytes): &(u64, Vec<u8>)| match bytes.is_empty() {
            true => Ok(()),
            false => file.write_all_at(bytes, *at),
        };
        for (&number, block) in &self.blocks {
            match block {
                Block::Unwritten => match sys::fallocate(&file, 0, number * BLOCK, BLOCK) {
                    Err(error) if crate::file::is_refusal(&error) => {}
                    result => result?,
                },
                Block::Written(bytes) => {
                    if run.0 + run.1.len() as u64 != number * BLOCK {
                        put(&run)?;
                        run = (number * BLOCK, Vec::new());
                    }
                    run.1.extend_from_slice(&bytes[..]);
                }
            }
        }
        put(&run)?;
        // Blocks are whole, files need not be.
        file.set_len(self.len)
    }
}

#[test]
fn a_file_is_what_the_host_makes_of_the_same_changes() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let (mut dice, mut state) = (super::Dice::new(5), FileState::default());
    let [real, copy] = ["real", "copy"].map(|name| folder.path().join(name));
    let file = File::create(&real).unwrap();
    let punch = SpaceChange::Punch { for_zeroes: true }.mode();
    for round in 1..=200 {
        let (at, len) = (dice.roll() % 60_000, 1 + dice.roll() % 20_000);
        let change = match dice.below(6) {
            0 => Change::SetLen(at),
            // Up to the end of a file, file systems do more than they are asked for.
            1 | 2 if at + len < state.len => Change::Punch { at, len },
            _ => Change::Write { at, bytes: vec![round; usize::try_from(len).unwrap()] },
        };
        match &change {
            Change::SetLen(len) => file.set_len(*len).unwrap(),
            Change::Write { at, bytes } => file.write_all_at(bytes, *at).unwrap(),
            _ => sys::fallocate(&file, punch, at, len).unwrap(),
        }
        state.apply(&change);
        state.store(&copy).unwrap();
        assert!(std::fs::read(&real).unwrap() == std::fs::read(&copy).unwrap(), "{change:?}");
        let holes = [&real, &copy].map(|path| {
            let (file, mut written) = (File::open(path).unwrap(), Vec::new());
            file.sync_all().unwrap();
            sys::written_ranges(&file, 0, 1 << 20, &mut written).unwrap();
            written
        });
        assert_eq!(holes[0], holes[1], "holes after {change:?}");
    }
}
