//! An open file of the host and what is known of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::buffers::Buffers;
use crate::engine::sys::{self, Patience};
use crate::image::ImageFile;
use crate::transfer::SpaceChange;
use crate::units::SECTOR;

/// Writes up to this many bytes go into the page cache in the queue's own thread even where the
/// file system cannot promise not to wait. Most of ext4's writes do not, and its kind of file
/// system makes a ring hand every buffered write to a worker thread, which takes longer than the
/// copy. Longer ones go that way, so that the queue's thread can go on.
pub(crate) const INLINE_WRITE_MAX: u64 = 256 << 10;

/// What addresses and offsets of transfers must be multiples of, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alignment {
    /// Of memory addresses.
    pub(crate) address: usize,
    /// Of file offsets and lengths.
    pub(crate) length: u32,
}

/// A file system's answer to a question that only asking it settles. Every thread may ask; the
/// answer "no" is remembered.
#[derive(Debug)]
struct Willing(AtomicBool);

impl Willing {
    fn presumed() -> Willing {
        Willing(AtomicBool::new(true))
    }

    fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn refuse(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// One of a disk's files.
#[derive(Debug)]
pub(crate) struct BackingFile {
    /// The descriptor that transfers use: the image's own, or one that bypasses the page cache.
    file: File,
    image: Arc<ImageFile>,
    /// Bypasses the page cache.
    direct: bool,
    alignment: Alignment,
    block_device: bool,
    in_memory: bool,
    /// Reads and writes that fail rather than wait (`RWF_NOWAIT`).
    nowait_read: Willing,
    nowait_write: Willing,
    punch: Willing,
    zero_range: Willing,
}

impl BackingFile {
    /// The payload's side of `image`; `direct` bypasses the page cache. An error of kind
    /// [`io::ErrorKind::Unsupported`] says that the file system refuses to work that way.
    pub(crate) fn new(image: &Arc<ImageFile>, direct: bool) -> io::Result<BackingFile> {
        let file = if direct {
            sys::reopen_direct(image.file(), image.is_writable())?
        } else {
            image.file().try_clone()?
        };
        // Nobody wants to know when a guest read last; to find out whether it is time to write that
        // down again would be one twentieth of the time of a read. Where it is not allowed, reads
        // take that long.
        let _ = sys::keep_access_time(&file);
        let block_device = file.metadata()?.file_type().is_block_device();
        let alignment = if direct {
            direct_alignment(&file, block_device)?
        } else {
            // The page cache takes everything; guests count in sectors.
            Alignment { address: 1, length: 512 }
        };
        let in_memory = sys::is_in_memory(&file)?;
        // A recorded file is taken for one that a loss of power can harm.
        #[cfg(test)]
        let in_memory = in_memory && crate::crash::Recorder::installed().is_none();
        Ok(BackingFile {
            in_memory,
            file,
            image: Arc::clone(image),
            direct,
            alignment,
            block_device,
            nowait_read: Willing::presumed(),
            nowait_write: Willing::presumed(),
            punch: Willing::presumed(),
            zero_range: Willing::presumed(),
        })
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The name by which messages call it.
    pub(crate) fn path(&self) -> &Path {
        self.image.path()
    }

    /// The image whose payload it carries.
    pub(crate) fn image(&self) -> &ImageFile {
        &self.image
    }

    /// What transfers must be aligned to.
    pub(crate) fn alignment(&self) -> Alignment {
        self.alignment
    }

    /// Whether transfers bypass the page cache, and so must be aligned.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whether a transfer bypasses the page cache and starts or ends within a block.
    pub(crate) fn cuts_blocks(&self, at: u64, len: u64) -> bool {
        let block = u64::from(self.alignment.length);
        self.direct && !(at.is_multiple_of(block) && len.is_multiple_of(block))
    }

    /// Lets the file be one on a device with blocks of this size.
    #[cfg(test)]
    pub(crate) fn pretend_blocks(&mut self, length: u32) {
        self.alignment.length = length;
    }

    /// Whether its bytes are in memory only.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// The unit in which its space is allocated.
    pub(crate) fn allocation_unit(&self) -> u64 {
        let unit = self.file.metadata().map_or(0, |facts| facts.blksize());
        unit.clamp(SECTOR, 1 << 20)
    }

    /// Fills `data` from what is in memory already, as far as that goes; says how many bytes.
    pub(crate) fn read_cached(&self, data: &mut Buffers, at: u64) -> u64 {
        if self.direct {
            return 0;
        }
        let patience = if self.nowait_read.is() {
            Patience::NoWait
        } else if self.in_memory {
            Patience::Wait
        } else {
            return 0;
        };
        self.try_now(&self.nowait_read, patience, data, |data, patience| {
            sys::read(&self.file, data, at, patience)
        })
    }

    /// Puts `data` into the page cache as far as that is quick; says how many bytes.
    pub(crate) fn write_cached(&self, data: &mut Buffers, at: u64) -> u64 {
        if self.direct {
            return 0;
        }
        let patience = if self.nowait_write.is() {
            Patience::NoWait
        } else if data.len() <= INLINE_WRITE_MAX {
            Patience::Wait
        } else {
            return 0;
        };
        self.try_now(&self.nowait_write, patience, data, |data, patience| {
            sys::write(&self.file, data, at, patience)
        })
    }

    /// Makes one call. Where the kernel refuses `RWF_NOWAIT`, that is remembered, and files in
    /// memory and short writes are served by a call without it. Other errors count as no bytes:
    /// the engine meets them again and reports them.
    fn try_now(
        &self,
        nowait: &Willing,
        patience: Patience,
        data: &mut Buffers,
        call: impl Fn(&Buffers, Patience) -> io::Result<u64>,
    ) -> u64 {
        let done = match call(data, patience) {
            Err(error) if patience == Patience::NoWait && is_refusal(&error) => {
                tracing::debug!(path = %self.path().display(), "no RWF_NOWAIT");
                nowait.refuse();
                0
            }
            result => result.unwrap_or(0),
        };
        data.advance(done);
        done
    }

    /// Whether to try this change of allocation.
    pub(crate) fn may(&self, change: SpaceChange) -> bool {
        self.willing(change).is()
    }

    /// Takes note that the file system refused this change of allocation.
    pub(crate) fn refuses(&self, change: SpaceChange) {
        tracing::debug!(path = %self.path().display(), ?change, "refused by the file system");
        self.willing(change).refuse();
    }

    fn willing(&self, change: SpaceChange) -> &Willing {
        match change {
            SpaceChange::Punch { .. } => &self.punch,
            SpaceChange::ZeroRange => &self.zero_range,
        }
    }

    /// Drops a range of a block device that cannot punch holes, if it can do that; for all other
    /// files, does nothing.
    pub(crate) fn drop_blocks(&self, at: u64, len: u64) -> io::Result<()> {
        if !self.block_device {
            return Ok(());
        }
        match sys::discard_blocks(&self.file, at, len) {
            Err(error) if is_refusal(&error) => Ok(()),
            result => result,
        }
    }
}

/// Whether the kernel says that it does not do this kind of thing to this file.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::ENODEV)
    )
}

/// What `O_DIRECT` asks for: what the kernel says, else the device's block size, else a page.
fn direct_alignment(file: &File, block_device: bool) -> io::Result<Alignment> {
    /// What suits every file system when the kernel does not say.
    const SAFE: u32 = 4096;
    let told = sys::direct_alignment(file).ok().flatten();
    let (address, length) = match told {
        Some((0, _) | (_, 0)) => return Err(io::ErrorKind::Unsupported.into()),
        Some(told) => told,
        None if block_device => {
            let block = sys::block_size(file)?;
            (block, block)
        }
        None => (SAFE, SAFE),
    };
    // Guests count in sectors, and see this as their block size: a power of two.
    let length = length.max(512);
    if !length.is_power_of_two() || length > SAFE.saturating_mul(16) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(Alignment { address: usize::try_from(address).unwrap_or(usize::MAX), length })
}
