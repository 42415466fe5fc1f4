//! A request as a transport hands it over, and what it is told when the answer is there.

use storage::Buffers;

/// One message of a driver, and the memory that the answer goes to.
#[derive(Debug)]
pub struct Request {
    /// What the driver sent: `fuse_in_header`, arguments, data of a write. A virtio chain's
    /// device-readable part.
    pub input: Buffers,
    /// Where `fuse_out_header` and what follows it go. A virtio chain's device-writable part;
    /// empty for messages that have no answer.
    pub output: Buffers,
}

/// What becomes of an answer. Called exactly once for each request, by the thread that called
/// [`Server::handle`](super::Server::handle) or, for a lock that was waited for, by another.
pub trait Reply: Send + 'static {
    /// The first `written` bytes of the output are the answer; none when the message has none.
    /// The memory is not touched any more.
    fn done(self, written: u32);
}

impl<F: FnOnce(u32) + Send + 'static> Reply for F {
    fn done(self, written: u32) {
        self(written);
    }
}
