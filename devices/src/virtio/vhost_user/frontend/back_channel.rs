//! The socket on which a back end makes requests of its own: that the configuration of its device
//! has changed. Others have not been agreed on.
//!
//! Messages are read as they come, never waited for: the thread that reads has other duties, and a
//! back end may stop in the middle of one.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Bytes of a message's header: request, flags, size of what follows.
const HEADER_LEN: usize = 12;
const CONFIG_CHANGE: u32 = 2;
const VERSION: u32 = 1;
const FLAG_REPLY: u32 = 4;
const FLAG_NEED_REPLY: u32 = 8;
/// Most messages that are read in one go.
const BURST: usize = 64;

/// What the socket told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing, as far as anyone can see.
    Nothing,
    /// The configuration has changed.
    ConfigChanged,
    /// Something that is not in the protocol, or the end: the socket is of no more use.
    Broken,
}

/// Our end of the socket.
#[derive(Debug)]
pub(super) struct BackChannel {
    socket: UnixStream,
    header: [u8; HEADER_LEN],
    have: usize,
}

impl BackChannel {
    pub(super) fn new(socket: UnixStream) -> io::Result<BackChannel> {
        socket.set_nonblocking(true)?;
        Ok(BackChannel { socket, header: [0; HEADER_LEN], have: 0 })
    }

    /// Reads what has come.
    pub(super) fn read(&mut self) -> Told {
        let mut told = Told::Nothing;
        for _ in 0..BURST {
            let Some(rest) = self.header.get_mut(self.have..) else { return Told::Broken };
            // Descriptors that come along are closed by the kernel: nobody asks for them.
            match self.socket.read(rest) {
                Ok(0) => return Told::Broken,
                Ok(read) => self.have += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return Told::Broken,
            }
            if self.have == HEADER_LEN {
                self.have = 0;
                if !self.take() {
                    return Told::Broken;
                }
                told = Told::ConfigChanged;
            }
        }
        told
    }

    /// Takes the message in `header`, which is one that changes the configuration or an error.
    fn take(&mut self) -> bool {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = self.header;
        let request = u32::from_ne_bytes([a, b, c, d]);
        let flags = u32::from_ne_bytes([e, f, g, h]);
        let size = u32::from_ne_bytes([i, j, k, l]);
        if (request, flags & !FLAG_NEED_REPLY, size) != (CONFIG_CHANGE, VERSION, 0) {
            return false;
        }
        if flags & FLAG_NEED_REPLY == 0 {
            return true;
        }
        let mut reply = Vec::with_capacity(HEADER_LEN + 8);
        for word in [CONFIG_CHANGE, VERSION | FLAG_REPLY, 8] {
            reply.extend(word.to_ne_bytes());
        }
        reply.extend(0u64.to_ne_bytes());
        // One that does not read its replies has the socket fill up, and loses it.
        self.socket.write(&reply).is_ok_and(|written| written == reply.len())
    }
}

impl AsFd for BackChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (BackChannel, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (BackChannel::new(ours).unwrap(), theirs)
    }

    fn message(request: u32, flags: u32, size: u32) -> Vec<u8> {
        [request, flags, size].into_iter().flat_map(u32::to_ne_bytes).collect()
    }

    #[test]
    fn a_change_is_told_once_and_answered_if_asked_for() {
        let (mut channel, mut theirs) = pair();
        assert_eq!(channel.read(), Told::Nothing);
        let change = message(CONFIG_CHANGE, VERSION | FLAG_NEED_REPLY, 0);
        theirs.write_all(&change[..5]).unwrap();
        assert_eq!(channel.read(), Told::Nothing);
        theirs.write_all(&change[5..]).unwrap();
        assert_eq!(channel.read(), Told::ConfigChanged);
        assert_eq!(channel.read(), Told::Nothing);
        let mut reply = [0xFF; HEADER_LEN + 8];
        theirs.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..12], message(CONFIG_CHANGE, VERSION | FLAG_REPLY, 8));
        assert_eq!(reply[12..], [0; 8]);
    }

    #[test]
    fn anything_else_ends_it() {
        for bytes in [message(3, VERSION, 0), message(2, VERSION, 1), message(2, 2, 0)] {
            let (mut channel, mut theirs) = pair();
            theirs.write_all(&bytes).unwrap();
            assert_eq!(channel.read(), Told::Broken);
        }
        let (mut channel, theirs) = pair();
        drop(theirs);
        assert_eq!(channel.read(), Told::Broken);
    }
}
