//! The io_uring engine: one ring per queue, the disk's files registered with it.
//!
//! Transfers are put into the submission queue as they are started, and given to the kernel by one
//! `io_uring_enter` for several of them: when the kernel has little else to do, at the latest by
//! [`Engine::kick`]. Completions are read from shared memory.
//! The ring's own descriptor is readable when there are any, so nobody has to write or clear an
//! eventfd.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::thread;
use std::time::Duration;

use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};

use super::{Engine, Finished, sys};
use crate::file::BackingFile;
use crate::transfer::{Action, Transfer};

/// Bytes that one transfer asks the kernel for at most (it moves 2 GiB - 4 KiB itself).
const CALL_MAX: usize = 1 << 30;

/// Entries are left for the next kick while the kernel has more than this many times as many.
///
/// A batch costs fewer calls, but a device that gets all its work at once also finishes it at
/// once, and then has none until the next batch is there. So a device that has little to do gets
/// new work at once.
const WAITING_SHARE: usize = 8;

/// Whether a ring can be made here and knows the operations.
pub(super) fn probe() -> io::Result<()> {
    let ring = IoUring::new(2)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::Readv::CODE,
        opcode::Writev::CODE,
        opcode::Fsync::CODE,
        opcode::Fallocate::CODE,
    ];
    // Without NODROP, the kernel would lose completions when more are due than the ring holds.
    if needed.iter().all(|&code| probe.is_supported(code)) && ring.params().is_feature_nodrop() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel's io_uring is too old"))
    }
}

/// A ring and the transfers that the kernel works on.
pub(crate) struct Uring {
    ring: IoUring,
    /// By the number that entries and completions carry, each with its place among all entries.
    flying: Vec<Option<(u64, Box<Transfer>)>>,
    free: Vec<usize>,
    /// Entries made so far.
    made: u64,
    /// Entries that the kernel has not been told of, the last ones that were made.
    queued: usize,
    /// The error for which the kernel takes no entries any more.
    ///
    /// The kernel reads the submission queue in `io_uring_enter` alone (there is no SQPOLL
    /// thread), so once this is set and that call is not made again, it never sees the entries
    /// that are still queued: their transfers are given back with the error. Those it has seen,
    /// it completes as ever.
    refused: Option<i32>,
}

impl Uring {
    /// A ring with room for `depth` entries between two kicks.
    pub(super) fn new(files: &[BackingFile], depth: u16) -> io::Result<Uring> {
        let entries = u32::from(depth.clamp(8, 4096));
        // The kernel need not interrupt this thread for each completion: the thread looks itself.
        let ring = IoUring::builder()
            .dontfork()
            .setup_clamp()
            .setup_submit_all()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .build(entries)
            .or_else(|error| match error.raw_os_error() {
                Some(libc::EINVAL) => IoUring::builder().dontfork().setup_clamp().build(entries),
                _ => Err(error),
            })?;
        let fds: Vec<RawFd> = files.iter().map(|file| file.file().as_raw_fd()).collect();
        ring.submitter().register_files(&fds)?;
        Ok(Uring { ring, flying: Vec::new(), free: Vec::new(), made: 0, queued: 0, refused: None })
    }

    /// Transfers that were started and not given back.
    fn under_way(&self) -> usize {
        self.flying.len() - self.free.len()
    }

    /// Calls `io_uring_enter`, telling the kernel of queued entries; waits for `want`
    /// completions. Temporary lack of resources shows as fewer entries taken.
    fn enter(&mut self, want: usize) {
        if self.refused.is_some() {
            return;
        }
        match self.ring.submitter().submit_and_wait(want) {
            Ok(taken) => self.queued = self.queued.saturating_sub(taken),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => {}
                errno => {
                    tracing::error!(%error, "io_uring_enter failed: the queue's requests fail");
                    self.refused = Some(errno.unwrap_or(libc::EIO));
                }
            },
        }
    }

    /// Gives back the transfers that the kernel will never be told of.
    fn give_up_queued(&mut self, errno: i32, finished: &mut Vec<Finished>) {
        let seen = self.made.saturating_sub(self.queued as u64);
        for (number, place) in self.flying.iter_mut().enumerate() {
            if let Some((_, transfer)) = place.take_if(|(at, _)| *at >= seen) {
                self.free.push(number);
                finished.push((transfer, Err(lost(errno))));
            }
        }
        // They were the last ones: the queue has none that count any more.
        self.made = seen;
        self.queued = 0;
    }
}

/// What becomes of a transfer whose ring is refused with `errno`. Not that error itself, which
/// would be taken for the file's answer to what was asked of it.
fn lost(errno: i32) -> io::Error {
    let cause = io::Error::from_raw_os_error(errno);
    io::Error::other(format!("the kernel takes no entries from this ring any more: {cause}"))
}

/// The submission queue entry for one system call's worth of `transfer`.
fn entry(transfer: &Transfer) -> squeue::Entry {
    let file = types::Fixed(u32::from(transfer.file().0));
    let at = transfer.at();
    let single = match transfer.window().iovecs() {
        [piece] => Some((piece.iov_base.cast::<u8>(), piece.iov_len.min(CALL_MAX))),
        _ => None,
    };
    #[expect(clippy::cast_possible_truncation, reason = "at most CALL_MAX")]
    let single = single.map(|(start, len)| (start, len as u32));
    let (start, count) = sys::pieces(transfer.window());
    match (transfer.action(), single) {
        (Action::Read, Some((start, len))) => {
            opcode::Read::new(file, start, len).offset(at).build()
        }
        (Action::Read, None) => opcode::Readv::new(file, start, count).offset(at).build(),
        (Action::Write, Some((start, len))) => {
            opcode::Write::new(file, start, len).offset(at).build()
        }
        (Action::Write, None) => opcode::Writev::new(file, start, count).offset(at).build(),
        (Action::Sync, _) => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
        (Action::Space(change), _) => {
            opcode::Fallocate::new(file, transfer.left()).offset(at).mode(change.mode()).build()
        }
    }
}

/// What a completion says about its transfer.
fn result(completion: &cqueue::Entry, transfer: &Transfer) -> io::Result<u64> {
    let moved = u64::try_from(completion.result())
        .map_err(|_| io::Error::from_raw_os_error(completion.result().wrapping_neg()))?;
    Ok(match transfer.action() {
        Action::Read | Action::Write | Action::Sync => moved,
        Action::Space(_) => transfer.left(),
    })
}

impl Engine for Uring {
    fn is_asynchronous(&self) -> bool {
        true
    }

    fn start(&mut self, _files: &[BackingFile], transfer: Box<Transfer>) -> Option<Finished> {
        if let Some(errno) = self.refused {
            return Some((transfer, Err(lost(errno))));
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.flying.push(None);
            self.flying.len() - 1
        });
        let entry = entry(&transfer).user_data(number as u64);
        self.flying[number] = Some((self.made, transfer));
        // SAFETY: the entry points into the boxed transfer and to memory that its buffers keep
        // valid. Both stay in `flying` until the kernel has reported its completion, for which
        // `drop` waits, or can never see the entry (see `refused`).
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.enter(0);
            if self.refused.is_some() {
                // As good as queued: it is given up with the others.
                break;
            }
            if self.ring.submission().is_full() {
                thread::yield_now();
            }
        }
        self.made += 1;
        self.queued += 1;
        let given = self.under_way() - self.queued;
        if self.queued > given / WAITING_SHARE {
            self.enter(0);
        }
        None
    }

    fn kick(&mut self) {
        while self.queued > 0 && self.refused.is_none() {
            let before = self.queued;
            self.enter(0);
            if self.queued == before {
                // The kernel lacks memory or room for completions; these need reaping first.
                if !self.ring.completion().is_empty() {
                    return;
                }
                thread::yield_now();
            }
        }
        // Completions may wait for this thread to enter the kernel.
        let submission = self.ring.submission();
        let due = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if due {
            self.enter(0);
        }
    }

    fn reap(&mut self, _files: &[BackingFile], finished: &mut Vec<Finished>) {
        for completion in self.ring.completion() {
            let number = usize::try_from(completion.user_data()).unwrap_or(usize::MAX);
            let Some((_, transfer)) = self.flying.get_mut(number).and_then(Option::take) else {
                continue;
            };
            self.free.push(number);
            let result = result(&completion, &transfer);
            finished.push((transfer, result));
        }
        if let Some(errno) = self.refused
            && self.queued > 0
        {
            self.give_up_queued(errno, finished);
        }
    }

    fn wait(&mut self) {
        while self.under_way() > 0 && self.ring.completion().is_empty() {
            self.enter(1);
            if self.refused.is_some() {
                if self.queued > 0 {
                    return;
                }
                // What the kernel has seen completes without that call, while this thread sleeps.
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn ready_fd(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the ring's descriptor is open for as long as the ring, which `self` keeps.
        Some(unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) })
    }
}

impl Drop for Uring {
    /// Waits until the kernel is through with all memory that transfers keep.
    fn drop(&mut self) {
        let mut finished = Vec::new();
        while self.under_way() > 0 {
            self.wait();
            self.reap(&[], &mut finished);
            finished.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use crate::buffers::Buffers;
    use crate::image::ImageFile;
    use crate::{Bytes, Disk, DiskOptions, DiskRange, DiskRequest, IoError, Operation};

    use super::*;

    /// Makes every later call for `ring` fail: its number is another file's from now on. The ring
    /// itself lives on in its mappings.
    fn lose(ring: &IoUring) {
        let other = File::open("/dev/null").unwrap();
        // SAFETY: both descriptors are open; the ring closes its number, whatever it names.
        assert!(unsafe { libc::dup2(other.as_raw_fd(), ring.as_raw_fd()) } >= 0);
    }

    fn flush() -> DiskRequest {
        let (range, buffers) = (DiskRange::EMPTY, Buffers::none());
        DiskRequest { operation: Operation::Flush, range, buffers }
    }

    #[test]
    fn requests_that_the_kernel_refuses_to_take_are_answered_with_its_error() {
        if probe().is_err() {
            return;
        }
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = folder.path().join("disk");
        File::create(&path).unwrap().set_len(1 << 16).unwrap();
        let image = Arc::new(ImageFile::new(File::open(&path).unwrap(), &path, false));
        let file = BackingFile::new(&image, false).unwrap();
        let disk = Disk::open(&path, &DiskOptions::default()).unwrap();
        assert_eq!(disk.size(), Bytes::new(1 << 16));
        let engine = Uring::new(&[file], 8).unwrap();
        lose(&engine.ring);
        // More of them than the ring has entries.
        let mut queue = disk.queue_on(Box::new(engine), 64);
        let mut answers = Vec::new();
        for token in 0..200 {
            if let Some(answer) = queue.submit(token, flush()) {
                answers.push((token, answer));
            }
        }
        queue.drain(&mut answers);
        assert_eq!(queue.in_flight(), 0);
        let mut tokens: Vec<u64> = answers.iter().map(|(token, _)| *token).collect();
        tokens.sort_unstable();
        assert_eq!(tokens, (0..200).collect::<Vec<_>>());
        for (_, answer) in answers {
            let Err(IoError::Host { operation: "fdatasync", source, .. }) = answer else {
                panic!("{answer:?}")
            };
            assert_eq!(source.raw_os_error(), None, "the file refuses nothing");
        }
    }
}
