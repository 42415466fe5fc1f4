//! What came and is not understood yet: at most one PDU and what the socket gave beyond it.

use std::io::{self, Read};

use super::digest::{DIGEST_LEN, Digests};
use super::pdu::{self, AHS_MAX, Decoded, HEADER_LEN, Header, Malformed, Pdu};

/// Bytes to read at least where there is room for them.
const CHUNK: usize = 64 << 10;

/// What a socket gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// Bytes, and whether these were all.
    Some { all: bool },
    /// Nothing now.
    Nothing,
    /// Nothing ever.
    Closed,
}

/// Bytes received. Its memory grows with what the PDUs need, up to the longest that is taken.
#[derive(Debug)]
pub(super) struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes that the PDU at the start is known to need.
    wanted: usize,
    /// Most bytes of data of a PDU.
    limit: u32,
    /// Bytes to read at least where there is room for them.
    chunk: usize,
    received: u64,
}

impl Input {
    pub(super) fn new(limit: u32) -> Input {
        Input::with_chunk(limit, CHUNK)
    }

    /// One that reads no more than so many bytes at a time unless a PDU needs them.
    pub(super) fn with_chunk(limit: u32, chunk: usize) -> Input {
        Input { bytes: Vec::new(), start: 0, end: 0, wanted: HEADER_LEN, limit, chunk, received: 0 }
    }

    /// Takes PDUs with so much data from now on.
    pub(super) fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// Bytes received ever.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Makes room for what the PDU at the start needs, and for a chunk.
    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        // `wanted` is bounded by what `pdu::decode` believes, hence by `limit`.
        let most = HEADER_LEN + AHS_MAX + 2 * DIGEST_LEN + self.limit as usize + 3;
        let size = self.wanted.min(most).max(self.chunk.min(most));
        if self.bytes.len() < size {
            self.bytes.resize(size, 0);
        }
        if self.start > 0 && self.bytes.len() - self.start < self.wanted.max(self.chunk / 4) {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Reads what the socket has, once.
    pub(super) fn fill(&mut self, socket: &mut impl Read) -> io::Result<Filled> {
        self.make_room();
        loop {
            let Some(room) = self.bytes.get_mut(self.end..).filter(|room| !room.is_empty()) else {
                return Ok(Filled::Nothing);
            };
            let size = room.len();
            match socket.read(room) {
                Ok(0) => return Ok(Filled::Closed),
                Ok(count) => {
                    self.end += count;
                    self.received += count as u64;
                    return Ok(Filled::Some { all: count < size });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Filled::Nothing);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The first PDU and its length, for [`Input::consume`], once it is all there.
    pub(super) fn first(&mut self, on: Digests) -> Result<Option<(Pdu<'_>, usize)>, Malformed> {
        let bytes = self.bytes.get(self.start..self.end).unwrap_or_default();
        match pdu::decode(bytes, on, self.limit)? {
            Decoded::Whole(pdu, len) => Ok(Some((pdu, len))),
            Decoded::Partial(wanted) => {
                self.wanted = wanted;
                Ok(None)
            }
        }
    }

    /// Room for what follows bytes that are read to where they belong.
    pub(super) fn spare(&mut self) -> &mut [u8] {
        self.make_room();
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// Of `count` bytes read, all but the first `elsewhere` are in the room that
    /// [`Input::spare`] gave.
    pub(super) fn filled(&mut self, count: usize, elsewhere: usize) {
        self.end = (self.end + count.saturating_sub(elsewhere)).min(self.bytes.len());
        self.received += count as u64;
    }

    /// Whether all bytes are done with.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The header of the first PDU and the bytes before its data, once they are there.
    pub(super) fn head(&mut self, on: Digests) -> Result<Option<(Header, usize)>, Malformed> {
        let bytes = self.bytes.get(self.start..self.end).unwrap_or_default();
        match pdu::decode_head(bytes, on, self.limit)? {
            Ok(found) => Ok(Some(found)),
            Err(wanted) => {
                self.wanted = wanted;
                Ok(None)
            }
        }
    }

    /// The next bytes, `most` at most, which are done with.
    pub(super) fn take(&mut self, most: usize) -> &[u8] {
        let start = self.start;
        self.consume(most);
        self.bytes.get(start..self.start).unwrap_or_default()
    }

    /// So many bytes are done with.
    pub(super) fn consume(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
        self.wanted = HEADER_LEN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::pdu::{Header, opcode};

    /// Gives so many bytes at a time.
    struct Slow<'b>(&'b [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let part = self.1.min(to.len()).min(self.0.len());
            let (now, later) = self.0.split_at(part);
            to[..part].copy_from_slice(now);
            self.0 = later;
            Ok(part)
        }
    }

    #[test]
    fn pdus_are_found_however_the_bytes_come_and_memory_stays_bounded() {
        const LIMIT: u32 = 100_000;
        let on = Digests { header: true, data: true };
        let sizes = [0usize, 1, 100_000, 3, 65_536, 99_999, 0];
        let mut bytes = Vec::new();
        for size in sizes {
            pdu::push(&mut bytes, &mut Header::new(opcode::NOP_OUT, 0x80), &vec![9; size], on);
        }
        for width in [7, 1000, 65_536, 1 << 20] {
            let (mut input, mut socket) = (Input::new(LIMIT), Slow(&bytes, width));
            let mut found = Vec::new();
            while matches!(input.fill(&mut socket).unwrap(), Filled::Some { .. }) {
                while let Some((pdu, len)) = input.first(on).unwrap() {
                    found.push(pdu.data.len());
                    input.consume(len);
                }
                assert!(input.bytes.len() <= 48 + 1020 + 8 + 100_003);
            }
            assert_eq!(found, sizes, "{width} bytes at a time");
            assert_eq!(input.received(), bytes.len() as u64);
        }
    }
}
