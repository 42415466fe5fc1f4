//! What happens to files while they are mapped.

#[cfg(test)]
mod tests;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::inotify;
use rustix::io::Errno;

use super::{Changed, ShareError, SharedRegion};

/// Watches files, by a thread that ends with it.
///
/// What is written through other mappings of a file is noticed when the kernel notes the file's
/// new time: at the next flush, or when the mapping ends.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Calls `on`, in another thread, with what becomes of each of these files, once for each kind
    /// of change. What has become of one already is told at once.
    ///
    /// # Errors
    /// The host has no more watches.
    pub fn new(
        regions: Vec<Arc<SharedRegion>>,
        mut on: impl FnMut(&Changed) + Send + 'static,
    ) -> Result<Watch, ShareError> {
        let cannot = |path: &std::path::Path, source: Errno| {
            ShareError::host("watch", path)(io::Error::from(source))
        };
        let nowhere = std::path::Path::new("files");
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let events = inotify::init(flags).map_err(|error| cannot(nowhere, error))?;
        for region in &regions {
            // By its descriptor: the name may be another file's by now.
            let path = format!("/proc/self/fd/{}", region.file().as_raw_fd());
            let kinds = inotify::WatchFlags::MODIFY | inotify::WatchFlags::ATTRIB;
            inotify::add_watch(&events, path, kinds)
                .map_err(|error| cannot(region.path(), error))?;
        }
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let stop = Arc::new(stop.map_err(|error| cannot(nowhere, error))?);
        let stopped = Arc::clone(&stop);
        let run = move || {
            let mut told = vec![Vec::new(); regions.len()];
            loop {
                for (region, told) in regions.iter().zip(&mut told) {
                    let Ok(Some(changed)) = region.check() else { continue };
                    let kind = std::mem::discriminant(&changed.what);
                    // Who cuts a file and lets it grow in turn is not told of again and again.
                    if !told.contains(&kind) {
                        told.push(kind);
                        on(&changed);
                    }
                }
                if !wait(&events, &stopped) {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("file-watch".into()).spawn(run);
        let thread = thread.map_err(ShareError::host("start a thread for", nowhere))?;
        Ok(Watch { stop, thread: Some(thread) })
    }
}

/// Waits until something happened to a file, and takes note of all that has; false when it is time
/// to stop.
fn wait(events: &OwnedFd, stop: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(events, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
    while let Err(error) = poll(&mut fds, None) {
        if error != Errno::INTR {
            return false;
        }
    }
    if !fds[1].revents().is_empty() {
        return false;
    }
    // What happened is looked up at the files: an event tells no more than that something did.
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let mut reader = inotify::Reader::new(events, &mut buffer);
    while reader.next().is_ok() {}
    true
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
