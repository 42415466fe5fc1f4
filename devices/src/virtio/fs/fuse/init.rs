//! INIT: what this server and the guest's driver both can.

use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::Caching;
use super::messages::{Body, Fields, MAJOR, MINOR, Result};
use super::server::Server;

/// What is agreed on (`FUSE_…` of INIT, `flags2` being the upper half).
pub(super) struct Feature;

impl Feature {
    pub(super) const ASYNC_READ: u64 = 1 << 0;
    pub(super) const POSIX_LOCKS: u64 = 1 << 1;
    pub(super) const BIG_WRITES: u64 = 1 << 5;
    pub(super) const FLOCK_LOCKS: u64 = 1 << 10;
    pub(super) const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub(super) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(super) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(super) const ASYNC_DIO: u64 = 1 << 15;
    pub(super) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(super) const MAX_PAGES: u64 = 1 << 22;
    pub(super) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(super) const MAP_ALIGNMENT: u64 = 1 << 26;
    pub(super) const INIT_EXT: u64 = 1 << 30;
    pub(super) const INODE_DAX: u64 = 1 << 33;
}

/// The oldest minor version that is spoken: later ones do not change what this server uses.
const MINOR_MIN: u32 = 27;
/// Bytes of a WRITE at most.
pub(super) const WRITE_MAX: u32 = 1 << 20;
/// Pages of a request at most.
const PAGES_MAX: u16 = 256;
/// Requests in the background, and from when on the guest holds back.
const BACKGROUND: u16 = 64;
const CONGESTION: u16 = 48;
/// The logarithm of what mappings are aligned to.
const MAP_ALIGNMENT: u16 = 12;

impl Server {
    /// What this server offers. Not `HANDLE_KILLPRIV_V2`: the guest's kernel takes set-user bits
    /// away by itself then, by SETATTR, as its own rules say. Not `ATOMIC_O_TRUNC`, for the same
    /// reason. Locks of a read-only share stay in the guest, for they would stop those who write.
    fn offer(&self) -> u64 {
        let mut offer = Feature::ASYNC_READ
            | Feature::BIG_WRITES
            | Feature::DO_READDIRPLUS
            | Feature::READDIRPLUS_AUTO
            | Feature::ASYNC_DIO
            | Feature::PARALLEL_DIROPS
            | Feature::MAX_PAGES
            | Feature::INIT_EXT;
        if self.options.writable {
            offer |= Feature::POSIX_LOCKS | Feature::FLOCK_LOCKS;
        }
        offer |= match self.options.caching {
            Caching::Always => Feature::CACHE_SYMLINKS,
            Caching::Auto | Caching::Never => Feature::AUTO_INVAL_DATA,
        };
        if self.options.window.is_some() {
            offer |= Feature::MAP_ALIGNMENT | Feature::INODE_DAX;
        }
        offer
    }

    /// INIT. A guest that starts anew has forgotten all it knew.
    pub(super) fn init(&self, mut fields: Fields<'_>) -> Result<Body> {
        let (major, minor) = (fields.u32()?, fields.u32()?);
        if major < MAJOR || (major == MAJOR && minor < MINOR_MIN) {
            return Err(Errno::PROTO);
        }
        let mut body = Body::default();
        if major > MAJOR {
            // The driver is to say again what it wants, in this version.
            body.u32(MAJOR).u32(MINOR).bytes(&[0; 56]);
            return Ok(body);
        }
        let (read_ahead, low) = (fields.u32()?, fields.u32()?);
        let mut wanted = u64::from(low);
        if wanted & Feature::INIT_EXT != 0 {
            wanted |= u64::from(fields.u32()?) << 32;
        }
        let agreed = wanted & self.offer();
        self.reset();
        self.features.store(agreed | INITIALISED, Ordering::Release);
        let [low, high] = [agreed & u64::from(u32::MAX), agreed >> 32].map(|half| {
            // Each has 32 bits at most.
            u32::try_from(half).unwrap_or_default()
        });
        let dax = agreed & Feature::MAP_ALIGNMENT != 0;
        body.u32(MAJOR).u32(MINOR).u32(read_ahead).u32(low).u16(BACKGROUND).u16(CONGESTION);
        body.u32(WRITE_MAX).u32(1).u16(PAGES_MAX).u16(if dax { MAP_ALIGNMENT } else { 0 });
        body.u32(high).bytes(&[0; 28]);
        Ok(body)
    }

    /// Whether something was agreed on.
    pub(super) fn has(&self, feature: u64) -> bool {
        self.features.load(Ordering::Acquire) & feature != 0
    }

    /// Forgets all that the guest knows and has.
    pub(super) fn reset(&self) {
        self.features.store(0, Ordering::Release);
        self.waiting.end();
        self.locks.clear();
        self.handles.clear();
        self.inodes.clear();
        if let Some(window) = &self.options.window
            && !window.is_empty()
            && let Err(error) = window.unmap(0, window.len())
        {
            crate::limited::warn_limited!("cannot empty the window of a shared folder: {error}");
        }
    }
}

/// The guest has said INIT. No feature has this bit.
pub(super) const INITIALISED: u64 = 1 << 63;
