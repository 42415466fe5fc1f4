//! Bytes between socket and guest memory, which is not copied on the way.

#![expect(unsafe_code, reason = "requests carry addresses in guest memory to the kernel")]

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use smallvec::SmallVec;

use crate::Buffers;
use crate::iscsi::digest::{Digests, digest};
use crate::iscsi::pdu::{self, Header};

/// Pieces that one system call gets.
const PIECES_MAX: usize = 256;
/// Bytes of small PDUs that are kept together.
const GATHERED_MAX: usize = 16 << 10;

type Pieces = SmallVec<[libc::iovec; 64]>;

/// What a system call moved; nothing when it would have to wait.
fn moved(result: isize) -> io::Result<Option<usize>> {
    match usize::try_from(result) {
        Ok(count) => Ok(Some(count)),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            error if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            error => Err(error),
        },
    }
}

/// Reads into the memory, and what comes behind into `spare`; says how many bytes in all. `None`
/// says that there are none now.
pub(super) fn read(
    socket: &TcpStream,
    memory: &Buffers,
    spare: &mut [u8],
) -> io::Result<Option<usize>> {
    let mut pieces: Pieces = memory.iovecs().iter().take(PIECES_MAX).copied().collect();
    if pieces.len() < PIECES_MAX {
        pieces.push(libc::iovec { iov_base: spare.as_mut_ptr().cast(), iov_len: spare.len() });
    }
    let count = libc::c_int::try_from(pieces.len()).unwrap_or_default();
    // SAFETY: the pieces are valid for as long as `memory` and `spare`, which outlive the call.
    moved(unsafe { libc::readv(socket.as_raw_fd(), pieces.as_ptr(), count) })
}

#[derive(Debug)]
enum Piece {
    /// Bytes made here, the first so many of which are sent.
    Own(Vec<u8>, usize),
    /// A guest's.
    Memory(Buffers),
}

impl Piece {
    /// So many bytes are sent; says how many of them were not of this piece, if it is over.
    fn advance(&mut self, count: usize) -> Option<usize> {
        match self {
            Piece::Own(bytes, sent) => {
                let left = bytes.len() - *sent;
                *sent += count.min(left);
                (count >= left).then(|| count - left)
            }
            Piece::Memory(memory) => {
                let left = usize::try_from(memory.len()).unwrap_or(usize::MAX);
                memory.advance(count as u64);
                (count >= left).then(|| count - left)
            }
        }
    }
}

/// What is to be sent, in order.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pieces: VecDeque<Piece>,
    /// Bytes put in ever, and bytes sent of them.
    put: u64,
    sent: u64,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes put in ever: the place of the next PDU.
    pub(super) fn put(&self) -> u64 {
        self.put
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes that are not sent.
    pub(super) fn queued(&self) -> u64 {
        self.put - self.sent
    }

    fn own(&mut self) -> &mut Vec<u8> {
        let open = |piece: &Piece| matches!(piece, Piece::Own(own, _) if own.len() < GATHERED_MAX);
        if !self.pieces.back().is_some_and(open) {
            self.pieces.push_back(Piece::Own(Vec::with_capacity(256), 0));
        }
        match self.pieces.back_mut() {
            Some(Piece::Own(own, _)) => own,
            _ => unreachable!("a piece of this kind was just put there"),
        }
    }

    /// Appends a PDU with additional header segments and these bytes.
    pub(super) fn push(&mut self, header: &mut Header, ahs: &[u8], data: &[u8], on: Digests) {
        let own = self.own();
        let before = own.len();
        push_head(own, header, ahs, data.len(), on);
        own.extend_from_slice(data);
        pdu::push_tail(own, data, on);
        let count = own.len() - before;
        self.put += count as u64;
    }

    /// Appends a PDU with data of a guest. With a digest it is copied: a guest that changes its
    /// memory meanwhile must not break the connection that others use as well.
    pub(super) fn push_memory(
        &mut self,
        header: &mut Header,
        ahs: &[u8],
        mut memory: Buffers,
        on: Digests,
    ) {
        let len = usize::try_from(memory.len()).unwrap_or(usize::MAX);
        if on.data || len <= 512 {
            let mut bytes = vec![0; len];
            memory.copy_to(&mut bytes);
            return self.push(header, ahs, &bytes, on);
        }
        let own = self.own();
        let before = own.len();
        push_head(own, header, ahs, len, on);
        let count = own.len() - before;
        self.put += (count + len) as u64;
        self.pieces.push_back(Piece::Memory(memory));
        let pad = pdu::padding(len);
        if pad > 0 {
            self.own().extend_from_slice([0; 3].get(..pad).unwrap_or_default());
            self.put += pad as u64;
        }
    }

    /// Sends what the socket takes; says whether it took anything.
    pub(super) fn flush(&mut self, socket: &TcpStream) -> io::Result<bool> {
        let before = self.sent;
        while !self.pieces.is_empty() {
            let mut list = Pieces::new();
            for piece in &self.pieces {
                match piece {
                    Piece::Own(bytes, sent) => {
                        let left = bytes.get(*sent..).unwrap_or_default();
                        let start = left.as_ptr().cast_mut().cast();
                        list.push(libc::iovec { iov_base: start, iov_len: left.len() });
                    }
                    Piece::Memory(memory) => list.extend(memory.iovecs().iter().copied()),
                }
                if list.len() >= PIECES_MAX {
                    list.truncate(PIECES_MAX);
                    break;
                }
            }
            // SAFETY: all zeroes are a message without address, pieces and control data.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_iov = list.as_mut_ptr();
            message.msg_iovlen = list.len() as _;
            // SAFETY: the pieces are valid for as long as what is in `self.pieces`, which the call
            // only reads from, and the message for as long as the call.
            let result = unsafe {
                libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
            };
            let Some(mut count) = moved(result)? else { break };
            self.sent += count as u64;
            while let Some(piece) = self.pieces.front_mut() {
                let Some(rest) = piece.advance(count) else { break };
                count = rest;
                self.pieces.pop_front();
            }
        }
        Ok(self.sent > before)
    }
}

/// Appends header, additional header segments and their digest.
fn push_head(out: &mut Vec<u8>, header: &mut Header, ahs: &[u8], data_len: usize, on: Digests) {
    let words = u8::try_from(ahs.len() / 4).unwrap_or_default();
    header.set(4, &[words]).set_data_len(data_len);
    out.extend_from_slice(header.bytes());
    out.extend_from_slice(ahs);
    if on.header {
        out.extend_from_slice(&digest(&[header.bytes(), ahs]));
    }
}
