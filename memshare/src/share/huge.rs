//! Large pages for what guests map: one step for the hypervisor where there would be 512.
#![expect(unsafe_code, reason = "advice on mappings of a window, and which of its pages are there")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::Window;
use crate::PAGE_SIZE;

/// Bytes of a large page.
const LARGE: u64 = 2 << 20;
/// Linux 6.1 and later; the C library's header does not have it everywhere.
const MADV_COLLAPSE: libc::c_int = 25;
/// Small pages in it.
const PAGES: usize = (LARGE / PAGE_SIZE) as usize;
/// Large pages that the host may refuse one after the other, for want of memory, before no more are
/// asked for.
const REFUSALS_MAX: u32 = 8;

/// Has the host's kernel put what it holds of a window's files into large pages, in a thread that
/// ends with this. Nothing is read from files for that.
///
/// A virtual processor that touches a page for the first time takes a fault for each page of the
/// host's. Pages of the page cache are shared, so that the work is done once for all guests that
/// map a file, and lasts for as long as the file stays in memory.
#[derive(Debug)]
pub struct Gathering {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Gathering {
    /// Begins with what is mapped now.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn start(window: &Arc<Window>) -> io::Result<Gathering> {
        let stop = Arc::new(AtomicBool::new(false));
        let (window, stopped) = (Arc::clone(window), Arc::clone(&stop));
        let work = move || gather(&window, &stopped);
        let thread = thread::Builder::new().name("large-pages".into()).spawn(work)?;
        Ok(Gathering { stop, thread: Some(thread) })
    }

    /// Waits until all is done that can be.
    #[cfg(test)]
    fn wait(mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn gather(window: &Window, stop: &AtomicBool) {
    let mut refusals = 0;
    for piece in window.record(0) {
        // Where offset in the file and address agree; windows begin at a large page.
        if !window.is_large_at(piece.guest, piece.offset) {
            continue;
        }
        let end = piece.guest + piece.len;
        let mut at = piece.guest.next_multiple_of(LARGE);
        while at + LARGE <= end {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            match window.gather(at) {
                Ok(_) => refusals = 0,
                // The file system, or the kernel, has no large pages of files.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
                Err(_) if refusals < REFUSALS_MAX => refusals += 1,
                Err(_) => return,
            }
            at += LARGE;
        }
    }
}

impl Window {
    /// Whether a byte of the window and one of a file have the same place in a large page.
    fn is_large_at(&self, offset: u64, from: u64) -> bool {
        (self.host() as u64).wrapping_add(offset) % LARGE == from % LARGE
    }

    /// Puts the pages from `at` on into a large one, if all of them are in memory; whether they
    /// are.
    fn gather(&self, at: u64) -> io::Result<bool> {
        self.range(at, LARGE).ok_or(io::ErrorKind::InvalidInput)?;
        let (start, bytes) = self.place(at, LARGE)?;
        let mut there = [0u8; PAGES];
        // SAFETY: a range of the window, and room for a byte for each of its pages.
        if unsafe { libc::mincore(start.cast(), bytes, there.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        if there.iter().any(|page| page & 1 == 0) {
            return Ok(false);
        }
        // SAFETY: the call changes which pages hold the content, not the content.
        match unsafe { libc::madvise(start.cast(), bytes, MADV_COLLAPSE) } {
            0 => Ok(true),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::{Access, SharedRegion};
    use std::io::Write;

    /// Kibibytes of this process' mappings in the window that are large pages of files.
    fn large(window: &Window) -> u64 {
        let (start, end) = (window.host() as u64, window.host() as u64 + window.len());
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut inside, mut sum) = (false, 0);
        for line in smaps.lines() {
            let first = line.split(['-', ' ']).next().unwrap();
            if let Ok(at) = u64::from_str_radix(first, 16) {
                inside = (start..end).contains(&at);
            } else if inside && (line.starts_with("ShmemPmdMapped") || line.starts_with("FilePmd"))
            {
                sum += line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
            }
        }
        sum
    }

    fn window(content: &[u8], from: u64) -> (Arc<Window>, Arc<SharedRegion>) {
        let mut file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.write_all(content).unwrap();
        let region = SharedRegion::new(file, "content".into(), None).unwrap();
        let window = Window::reserve("test", 6 * LARGE, LARGE).unwrap();
        let all = window.range(0, 6 * LARGE).unwrap();
        window.map(all, &region, from, Access::Read).unwrap();
        (window, region)
    }

    fn bytes(window: &Window, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        // SAFETY: inside the window, which is readable.
        unsafe { window.host().copy_to_nonoverlapping(bytes.as_mut_ptr(), len) };
        bytes
    }

    #[test]
    fn what_is_in_memory_is_gathered_and_stays_what_it_was() {
        let content: Vec<u8> = (0..5_000_000u32).map(|at| (at % 251) as u8).collect();
        let (window, region) = window(&content, 0);
        Gathering::start(&window).unwrap().wait();
        let gathered = large(&window);
        if gathered == 0 {
            println!("this host has no large pages for files in memory");
        } else {
            // The last page of the file is no whole large one.
            assert_eq!(gathered, 2 * LARGE / 1024);
        }
        assert!(bytes(&window, content.len()) == content);
        // A copy of the guest's own of one page leaves the others, and the file.
        // SAFETY: inside the window, which is writable.
        unsafe { window.host().write(1) };
        assert_eq!(bytes(&window, 2), [1, 1]);
        let mut first = [9; 2];
        std::os::unix::fs::FileExt::read_exact_at(region.file(), &mut first, 0).unwrap();
        assert_eq!(first, [0, 1]);
        assert!(bytes(&window, content.len())[1..] == content[1..]);
    }

    #[test]
    fn holes_are_not_filled_and_what_is_not_aligned_is_left_alone() {
        let (sparse, region) = window(&[1; 4096], 0);
        region.file().set_len(4 * LARGE).unwrap();
        sparse.map(sparse.range(0, 4 * LARGE).unwrap(), &region, 0, Access::Read).unwrap();
        Gathering::start(&sparse).unwrap().wait();
        assert_eq!(large(&sparse), 0);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&region.file().metadata().unwrap());
        assert_eq!(blocks * 512, 4096);
        let (uneven, _region) = window(&vec![1; 6 << 20], 4096);
        Gathering::start(&uneven).unwrap().wait();
        assert_eq!(large(&uneven), 0);
    }

    #[test]
    fn it_ends_when_it_is_dropped() {
        let (window, _region) = window(&vec![1; 12 << 20], 0);
        for _ in 0..20 {
            drop(Gathering::start(&window).unwrap());
        }
        assert_eq!(bytes(&window, 4096), [1; 4096]);
    }
}
