//! What is to be sent: PDUs in order, gathered from headers made here and data where the disk put
//! it, which is not copied.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::ops::Range;

use smallvec::SmallVec;

use super::digest::Digests;
use super::pdu::{self, Header};
use crate::AlignedBuffer;

/// Pieces that one system call gets.
const PIECES_MAX: usize = 256;
/// Bytes of small PDUs that are kept together.
const GATHERED_MAX: usize = 16 << 10;

/// A part of a [`Batch`].
#[derive(Clone, Debug)]
enum Piece {
    /// Of its own bytes.
    Own(Range<usize>),
    /// Of the data.
    Data(Range<usize>),
}

impl Piece {
    fn range(&mut self) -> &mut Range<usize> {
        match self {
            Piece::Own(range) | Piece::Data(range) => range,
        }
    }
}

/// PDUs that go together, with the memory of at most one command.
#[derive(Debug, Default)]
pub(super) struct Batch {
    own: Vec<u8>,
    data: Option<AlignedBuffer>,
    pieces: SmallVec<[Piece; 6]>,
    /// Pieces before this one are sent.
    first: usize,
    /// What the session has back when all is sent.
    cost: usize,
}

impl Batch {
    /// One that sends parts of `data`, for which the session was charged `cost`.
    pub(super) fn with_data(data: AlignedBuffer, cost: usize) -> Batch {
        Batch { data: Some(data), cost, ..Batch::default() }
    }

    /// Appends a PDU whose data is its own.
    pub(super) fn push(&mut self, header: &mut Header, data: &[u8], on: Digests) {
        let start = self.own.len();
        pdu::push(&mut self.own, header, data, on);
        self.push_own(start);
    }

    /// Appends a PDU with this part of the data.
    pub(super) fn push_data(&mut self, header: &mut Header, part: Range<usize>, on: Digests) {
        let start = self.own.len();
        pdu::push_header(&mut self.own, header, part.len(), on);
        self.push_own(start);
        let start = self.own.len();
        let bytes = self.data.as_mut().and_then(|data| data.bytes().get(part.clone()));
        pdu::push_tail(&mut self.own, bytes.unwrap_or_default(), on);
        if !part.is_empty() {
            self.pieces.push(Piece::Data(part));
        }
        self.push_own(start);
    }

    /// What was appended to its own bytes since `start` is sent next.
    fn push_own(&mut self, start: usize) {
        let range = start..self.own.len();
        match self.pieces.last_mut() {
            Some(Piece::Own(last)) if last.end == range.start => last.end = range.end,
            _ if range.is_empty() => {}
            _ => self.pieces.push(Piece::Own(range)),
        }
    }

    fn len(&self) -> usize {
        let pieces = self.pieces.iter().skip(self.first);
        pieces
            .map(|piece| match piece {
                Piece::Own(range) | Piece::Data(range) => range.len(),
            })
            .sum()
    }
}

/// All that is to be sent.
#[derive(Debug, Default)]
pub(super) struct Output {
    batches: VecDeque<Batch>,
    /// Bytes in them.
    queued: usize,
    /// Bytes sent ever.
    sent: u64,
    /// Memory whose bytes are sent.
    free: Vec<AlignedBuffer>,
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Bytes that are not sent.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// Memory whose bytes are sent.
    pub(super) fn free(&mut self) -> impl Iterator<Item = AlignedBuffer> + '_ {
        self.free.drain(..)
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Appends a PDU.
    pub(super) fn push(&mut self, header: &mut Header, data: &[u8], on: Digests) {
        let open = |batch: &Batch| batch.data.is_none() && batch.own.len() < GATHERED_MAX;
        if !self.batches.back().is_some_and(open) {
            self.batches.push_back(Batch::default());
        }
        if let Some(batch) = self.batches.back_mut() {
            let before = batch.own.len();
            batch.push(header, data, on);
            self.queued += batch.own.len() - before;
        }
    }

    pub(super) fn push_batch(&mut self, batch: Batch) {
        self.queued += batch.len();
        self.batches.push_back(batch);
    }

    /// Sends what the socket takes, and gives back what the session was charged for it.
    pub(super) fn flush(&mut self, socket: &mut impl Write) -> io::Result<usize> {
        let mut freed = 0;
        while !self.batches.is_empty() {
            let count = {
                let mut slices: SmallVec<[IoSlice<'_>; 32]> = SmallVec::new();
                'all: for batch in &mut self.batches {
                    let Batch { own, data, pieces, first, .. } = batch;
                    let data: &[u8] = data.as_mut().map(|data| &*data.bytes()).unwrap_or_default();
                    for piece in pieces.iter().skip(*first) {
                        if slices.len() >= PIECES_MAX {
                            break 'all;
                        }
                        let bytes = match piece {
                            Piece::Own(range) => own.get(range.clone()),
                            Piece::Data(range) => data.get(range.clone()),
                        };
                        slices.push(IoSlice::new(bytes.unwrap_or_default()));
                    }
                }
                match socket.write_vectored(&slices) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(freed),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                }
            };
            freed += self.advance(count);
        }
        Ok(freed)
    }

    /// So many bytes are sent.
    fn advance(&mut self, mut count: usize) -> usize {
        self.queued = self.queued.saturating_sub(count);
        self.sent += count as u64;
        let mut freed = 0;
        while let Some(batch) = self.batches.front_mut() {
            while let Some(piece) = batch.pieces.get_mut(batch.first) {
                let range = piece.range();
                let part = range.len().min(count);
                range.start += part;
                count -= part;
                if range.start < range.end {
                    return freed;
                }
                batch.first += 1;
            }
            freed += batch.cost;
            self.free.extend(batch.data.take());
            self.batches.pop_front();
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::iscsi::pdu::opcode;
    use crate::testkit::cases;

    /// Takes only so many bytes at a time.
    struct Narrow(Vec<u8>, usize);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let part = bytes.len().min(self.1);
            self.0.extend_from_slice(&bytes[..part]);
            Ok(part)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(cases(64))]

        #[test]
        fn bytes_go_out_in_order_however_few_at_a_time(
            sizes in proptest::collection::vec(0usize..300, 1..20),
            width in 1usize..200,
            header in any::<bool>(),
            data in any::<bool>(),
        ) {
            let on = Digests { header, data };
            let (mut output, mut wanted) = (Output::default(), Vec::new());
            let mut cost = 0;
            for (at, &size) in sizes.iter().enumerate() {
                let mut header = Header::new(opcode::NOP_IN, 0x80);
                let bytes = vec![u8::try_from(at).unwrap(); size];
                pdu::push(&mut wanted, &mut header.clone(), &bytes, on);
                if at % 2 == 0 {
                    output.push(&mut header, &bytes, on);
                } else {
                    let mut memory = AlignedBuffer::new(size + 7);
                    memory.bytes()[7..].copy_from_slice(&bytes);
                    let mut batch = Batch::with_data(memory, size);
                    batch.push_data(&mut header, 7..7 + size, on);
                    output.push_batch(batch);
                    cost += size;
                }
            }
            prop_assert_eq!(output.queued(), wanted.len());
            let mut narrow = Narrow(Vec::new(), width);
            prop_assert_eq!(output.flush(&mut narrow).unwrap(), cost);
            prop_assert!(output.is_empty() && output.queued() == 0);
            prop_assert_eq!(narrow.0, wanted);
        }
    }
}
