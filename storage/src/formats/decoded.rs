//! What layers had to decode before it could be read: small reads come one after the other. Kept
//! for all layers of a chain together, so that a deep chain takes no more memory than one layer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::layer::FileId;

/// Pieces that are kept at most, because they are looked for one by one.
const PIECES_MAX: usize = 128;

/// A piece, by its layer's file and its number there.
type Name = (FileId, u64);

/// The pieces that were decoded last.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    /// Bytes that may be kept. The last piece is, whatever its size.
    room: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    pieces: VecDeque<(Name, Arc<[u8]>)>,
    bytes: usize,
}

impl Kept {
    fn remove(&mut self, at: usize) {
        if let Some((_, bytes)) = self.pieces.remove(at) {
            self.bytes -= bytes.len();
        }
    }

    fn place(&self, name: Name) -> Option<usize> {
        self.pieces.iter().position(|(other, _)| *other == name)
    }
}

impl Decoded {
    /// Room for so many bytes.
    pub(crate) fn new(room: usize) -> Decoded {
        Decoded { room, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A piece, if it is kept.
    pub(super) fn get(&self, file: FileId, number: u64) -> Option<Arc<[u8]>> {
        let kept = self.kept();
        let (_, bytes) = kept.pieces.get(kept.place((file, number))?)?;
        Some(Arc::clone(bytes))
    }

    /// Keeps a piece, and lets the oldest go.
    pub(super) fn put(&self, file: FileId, number: u64, bytes: &Arc<[u8]>) {
        let mut kept = self.kept();
        if let Some(at) = kept.place((file, number)) {
            kept.remove(at);
        }
        while !kept.pieces.is_empty()
            && (kept.bytes + bytes.len() > self.room || kept.pieces.len() >= PIECES_MAX)
        {
            kept.remove(0);
        }
        kept.bytes += bytes.len();
        kept.pieces.push_back(((file, number), Arc::clone(bytes)));
    }

    /// Forgets a piece, which is not what it was.
    pub(super) fn forget(&self, file: FileId, number: u64) {
        let mut kept = self.kept();
        if let Some(at) = kept.place((file, number)) {
            kept.remove(at);
        }
    }

    /// Bytes that are kept.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.kept().bytes
    }
}

#[test]
fn the_room_is_for_all_layers_together() {
    let decoded = Decoded::new(1000);
    let piece = |byte| Arc::from([byte; 300]);
    for number in 0..20 {
        decoded.put(FileId(u16::from(number)), 7, &piece(number));
        assert!(decoded.bytes() <= 1000);
    }
    assert_eq!(decoded.get(FileId(19), 7), Some(piece(19)));
    assert_eq!(decoded.get(FileId(16), 7), None);
    assert_eq!(decoded.get(FileId(19), 8), None);
    decoded.put(FileId(19), 7, &piece(1));
    assert_eq!((decoded.get(FileId(19), 7), decoded.bytes()), (Some(piece(1)), 900));
    decoded.forget(FileId(19), 7);
    assert_eq!((decoded.get(FileId(19), 7), decoded.bytes()), (None, 600));
    // What is larger than the room is kept alone.
    decoded.put(FileId(0), 0, &Arc::from([5; 2000]));
    assert_eq!(decoded.bytes(), 2000);
}
