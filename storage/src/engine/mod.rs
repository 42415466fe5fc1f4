//! Engines carry transfers between files and memory.
//!
//! A [`Transfer`] is one contiguous piece of a request. An engine owns it, and with it the memory
//! that the kernel reads or writes, from [`Engine::start`] until it hands it back with the result
//! of **one system call's worth** of it. Resuming short transfers, falling back to another way and
//! counting the parts of a request is the queue's work, the same for every engine.

#![expect(unsafe_code, reason = "system calls and rings take raw addresses")]

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

use crate::disk::EngineChoice;
use crate::file::BackingFile;
use crate::transfer::Transfer;

#[cfg(test)]
pub(crate) mod fault;
#[cfg(test)]
pub(crate) mod gated;
#[cfg(test)]
mod held;
mod positional;
#[cfg(test)]
pub(crate) mod record;
pub(crate) mod sys;
mod uring;

/// A transfer that the engine is through with, and how many bytes it moved.
pub(crate) type Finished = (Box<Transfer>, io::Result<u64>);

/// Something that carries transfers. Belongs to one queue.
pub(crate) trait Engine: Send {
    /// Whether [`Engine::start`] leaves work for later.
    fn is_asynchronous(&self) -> bool;
    /// Takes a transfer; gives it back at once if it is finished.
    fn start(&mut self, files: &[BackingFile], transfer: Box<Transfer>) -> Option<Finished>;
    /// Makes sure that the kernel knows of all that was started.
    fn kick(&mut self);
    /// Appends what has finished, without waiting.
    fn reap(&mut self, files: &[BackingFile], finished: &mut Vec<Finished>);
    /// Waits until [`Engine::reap`] has something to report, if anything is under way.
    fn wait(&mut self);
    /// Readable when [`Engine::reap`] has something to report.
    fn ready_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// An engine that works on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EngineKind {
    /// [`uring`]
    Uring,
    /// [`positional`]
    Positional,
}

impl EngineKind {
    /// Decides on an engine; the error says why io_uring, if insisted upon, cannot be used.
    pub(crate) fn choose(choice: EngineChoice) -> io::Result<EngineKind> {
        match choice {
            EngineChoice::Positional => Ok(EngineKind::Positional),
            EngineChoice::IoUring => uring::probe().map(|()| EngineKind::Uring),
            EngineChoice::Auto => {
                static AUTO: OnceLock<EngineKind> = OnceLock::new();
                Ok(*AUTO.get_or_init(|| match uring::probe() {
                    Ok(()) => {
                        tracing::debug!("disk engine: io_uring");
                        EngineKind::Uring
                    }
                    Err(error) => {
                        tracing::info!(%error, "disk engine: positional, as io_uring fails");
                        EngineKind::Positional
                    }
                }))
            }
        }
    }

    /// The name in messages and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            EngineKind::Uring => "io_uring",
            EngineKind::Positional => "positional",
        }
    }

    /// An engine for one queue with about `depth` transfers under way.
    pub(crate) fn build(self, files: &[BackingFile], depth: u16) -> io::Result<Box<dyn Engine>> {
        Ok(match self {
            EngineKind::Uring => Box::new(uring::Uring::new(files, depth)?),
            EngineKind::Positional => Box::new(positional::Positional),
        })
    }
}
