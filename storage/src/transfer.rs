//! One contiguous piece of a request on its way between a file and memory.

use std::ffi::c_int;
use std::sync::Arc;

use crate::buffers::{AlignedBuffer, Buffers};
use crate::layer::FileId;

/// Bytes that go through a staging buffer at a time.
const STAGE: u64 = 256 << 10;

/// What to do with a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Action {
    /// Fill memory from it.
    #[default]
    Read,
    /// Store memory into it.
    Write,
    /// Make what was written to it durable.
    Sync,
    /// Change how its space is allocated.
    Space(SpaceChange),
}

impl Action {
    /// The word messages use.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Action::Read => "read",
            Action::Write => "write",
            Action::Sync => "fdatasync",
            Action::Space(SpaceChange::Punch { .. }) => "hole punching",
            Action::Space(SpaceChange::ZeroRange) => "zeroing",
        }
    }
}

/// A change of a file's allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpaceChange {
    /// Give a range back to the file system.
    Punch {
        /// Whether zeroes are wanted; if not, the content does not matter.
        for_zeroes: bool,
    },
    /// Make a range zero, keeping its space.
    ZeroRange,
}

impl SpaceChange {
    /// The mode of `fallocate(2)` that does it.
    pub(crate) fn mode(self) -> c_int {
        libc::FALLOC_FL_KEEP_SIZE
            | match self {
                SpaceChange::Punch { .. } => libc::FALLOC_FL_PUNCH_HOLE,
                SpaceChange::ZeroRange => libc::FALLOC_FL_ZERO_RANGE,
            }
    }
}

/// How the bytes get to where the kernel sees them.
#[derive(Debug, Default)]
enum Staging {
    /// The kernel works on the request's own memory.
    #[default]
    None,
    /// The kernel works on aligned memory; bytes are copied from or to the request's, of which
    /// `outer` is what is left.
    Bounce { memory: Arc<AlignedBuffer>, outer: Buffers },
    /// Zeroes are written, all from the same memory.
    Zeroes { memory: Arc<AlignedBuffer> },
}

/// A transfer and how far it has come. Boxes of it are reused, so that a request allocates
/// nothing.
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    request: usize,
    action: Action,
    file: FileId,
    at: u64,
    left: u64,
    /// The memory of the next system call.
    window: Buffers,
    /// Bytes of staging memory that the window began with.
    staged: u64,
    staging: Staging,
}

impl Transfer {
    /// Sets out to do `action` with `left` bytes of `file` at `at`, for request number `request`.
    pub(crate) fn begin(
        &mut self,
        request: usize,
        action: Action,
        file: FileId,
        at: u64,
        left: u64,
    ) {
        *self = Transfer { request, action, file, at, left, ..Transfer::default() };
    }

    /// Moves the bytes from or to `data` itself.
    pub(crate) fn directly(&mut self, data: Buffers) {
        self.window = data;
    }

    /// Moves the bytes from or to `data` through aligned memory.
    pub(crate) fn through_staging(&mut self, data: Buffers) {
        let memory = Arc::new(AlignedBuffer::new(stage(self.left)));
        self.staging = Staging::Bounce { memory, outer: data };
        self.load();
    }

    /// Goes on as a write of zeroes, for lack of a better way.
    pub(crate) fn become_zero_write(&mut self) {
        self.action = Action::Write;
        self.staging = Staging::Zeroes { memory: Arc::new(AlignedBuffer::new(stage(self.left))) };
        self.load();
    }

    /// Goes on as another change of allocation.
    pub(crate) fn become_space_change(&mut self, change: SpaceChange) {
        self.action = Action::Space(change);
    }

    /// The number of the request it is a part of.
    pub(crate) fn request(&self) -> usize {
        self.request
    }

    /// What is done.
    pub(crate) fn action(&self) -> Action {
        self.action
    }

    /// The file it is done to.
    pub(crate) fn file(&self) -> FileId {
        self.file
    }

    /// Where in the file the next system call starts.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Bytes still to do.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// The memory of the next system call.
    pub(crate) fn window(&self) -> &Buffers {
        &self.window
    }

    /// Takes note that `count` bytes were done.
    pub(crate) fn advance(&mut self, count: u64) {
        let count = count.min(self.left);
        self.at = self.at.saturating_add(count);
        self.left -= count;
        self.window.advance(count);
        if self.window.is_empty() && self.staged > 0 {
            self.unload();
            self.load();
        }
    }

    /// Lets go of the request's memory, so that the box can be kept for another request.
    pub(crate) fn clear(&mut self) {
        *self = Transfer::default();
    }

    /// Brings what was read into staging memory to where the request wants it.
    fn unload(&mut self) {
        self.window = Buffers::none();
        let staged = std::mem::take(&mut self.staged);
        if let (Action::Read, Staging::Bounce { memory, outer }) = (self.action, &mut self.staging)
            && let Some(bytes) = staged_bytes(memory, staged)
        {
            outer.copy_from(bytes);
        }
    }

    /// Makes the next part of staging memory the window.
    fn load(&mut self) {
        self.staged = self.left.min(STAGE);
        self.window = match &mut self.staging {
            Staging::None => return,
            Staging::Zeroes { memory } => Buffers::whole(memory).split_to(self.staged),
            Staging::Bounce { memory, outer } => {
                if self.action == Action::Write
                    && let Some(bytes) = staged_bytes(memory, self.staged)
                {
                    outer.copy_to(bytes);
                }
                Buffers::whole(memory).split_to(self.staged)
            }
        };
    }
}

/// The first `count` bytes of staging memory. The window, which shares it, is empty by then.
fn staged_bytes(memory: &mut Arc<AlignedBuffer>, count: u64) -> Option<&mut [u8]> {
    let bytes = Arc::get_mut(memory)?.bytes();
    bytes.get_mut(..usize::try_from(count).ok()?)
}

/// Staging memory for a transfer of `len` bytes.
fn stage(len: u64) -> usize {
    usize::try_from(len.min(STAGE)).unwrap_or_default()
}

#[cfg(test)]
impl Transfer {
    /// Calls `carry` with the first `bytes` of this transfer alone.
    pub(crate) fn torn<R>(&mut self, bytes: u64, carry: impl FnOnce(&Transfer) -> R) -> R {
        let head = self.window.duplicate().split_to(bytes);
        let whole = std::mem::replace(&mut self.window, head);
        let result = carry(self);
        self.window = whole;
        result
    }
}
