//! Decompressed kernels, kept by content, so that a bzImage is decompressed once and all its
//! guests map the same file.
//!
//! ```text
//! $XDG_CACHE_HOME/cohort/kernels/
//!   DIGEST.vmlinux        the kernel; DIGEST is the BLAKE3 of the bzImage
//!   DIGEST.json           its BLAKE3 and identity, noted when it was last verified
//!   image-DEV-INODE.json  a bzImage's identity and DIGEST, to spare hashing it again
//!   lock                  held by whoever builds, verifies or removes
//! ```
//!
//! **A file is trusted if nothing touched it since it was verified** ([`Identity`]); otherwise it
//! is hashed again, and rebuilt unless it is what was written. Files are written without a name
//! (`O_TMPFILE`) and linked when complete: readers need no lock, and a build that is killed leaves
//! nothing behind. Starts at the same moment build once: the others wait for the lock and find the
//! result. Whatever fails here only costs time, for kernels can always be decompressed to memory.

mod identity;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use blake3::{Hash, Hasher};
use rustix::fs::{AtFlags, CWD};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(super) use identity::Identity;

use super::payload::PayloadError;

/// At most so many kernels are kept, and at most so many bytes of them.
const KERNELS_MAX: usize = 8;
const BYTES_MAX: u64 = 1 << 30;
/// At most so many bzImages are remembered.
const IMAGES_MAX: usize = 64;
/// No note is longer.
const NOTE_MAX: u64 = 4096;
/// How long a start waits for another one's build before it decompresses for itself.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// The cache of one user.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    dir: PathBuf,
}

/// What was true of a cached kernel when it was last verified.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    vmlinux: String,
    identity: Identity,
}

/// Which content a bzImage had when it was last read.
#[derive(Debug, Serialize, Deserialize)]
struct Image {
    digest: String,
    identity: Identity,
}

impl Cache {
    /// The cache of the user who runs cohort, if they have a place for one.
    pub(super) fn of_user() -> Option<Cache> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        let dir = base.join("cohort/kernels");
        Cache::at(&dir)
            .inspect_err(|error| tracing::debug!(dir = %dir.display(), %error, "no kernel cache"))
            .ok()
    }

    /// A cache in this folder, which is made if need be and must be the user's own.
    pub(super) fn at(dir: &Path) -> io::Result<Cache> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let metadata = fs::metadata(dir)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "other users can write to the folder",
            ));
        }
        Ok(Cache { dir: dir.to_owned() })
    }

    /// The content of a bzImage that was [remembered](Cache::remember) and is unchanged.
    pub(super) fn digest_of(&self, image: &Identity) -> Option<Hash> {
        let known: Image = self.read_note(&image.file_name())?;
        if known.identity.holds(image) { Hash::from_hex(known.digest).ok() } else { None }
    }

    /// Remembers the content of a bzImage that has not changed since `image` was taken.
    pub(super) fn remember(&self, image: &Identity, digest: &Hash) {
        if image.settled() {
            let note = Image { digest: digest.to_string(), identity: image.clone() };
            self.try_write_note(&image.file_name(), &note);
        }
    }

    /// The kernel for a bzImage with this content, if it is there and untouched.
    pub(super) fn get(&self, digest: &Hash) -> Option<File> {
        let record: Record = self.read_note(&record_name(digest))?;
        let vmlinux = self.open(&vmlinux_name(digest)).ok()?;
        record.identity.holds(&Identity::of(&vmlinux).ok()?).then_some(vmlinux)
    }

    /// The kernel for a bzImage with this content, built if it is not there or damaged.
    ///
    /// # Errors
    /// Those of `build`, and [`PayloadError::Write`] if the cache cannot be used.
    pub(super) fn get_or_build(
        &self,
        digest: &Hash,
        build: impl FnOnce(&mut dyn Write) -> Result<u64, PayloadError>,
    ) -> Result<File, PayloadError> {
        if let Some(vmlinux) = self.get(digest) {
            return Ok(vmlinux);
        }
        let _lock = self.lock().map_err(PayloadError::Write)?;
        if let Some(vmlinux) = self.get(digest).or_else(|| self.verify(digest)) {
            return Ok(vmlinux);
        }
        let file = self.unnamed(0o400).map_err(PayloadError::Write)?;
        let mut out = HashedFile { file, hasher: Hasher::new() };
        build(&mut out)?;
        let vmlinux = self.publish(digest, &out).map_err(PayloadError::Write)?;
        if let Err(error) = self.evict(digest) {
            tracing::debug!(%error, "cannot limit the kernel cache");
        }
        Ok(vmlinux)
    }

    /// Reads a kernel that something touched and trusts it again if it is what was written.
    /// The caller holds the lock.
    fn verify(&self, digest: &Hash) -> Option<File> {
        let record: Record = self.read_note(&record_name(digest))?;
        let mut vmlinux = self.open(&vmlinux_name(digest)).ok()?;
        let identity = Identity::of(&vmlinux).ok()?;
        if identity.size() != record.identity.size() {
            return None;
        }
        let mut hasher = Hasher::new();
        hasher.update_reader(&mut vmlinux).ok()?;
        let same = Hash::from_hex(&record.vmlinux).ok()? == hasher.finalize();
        if !same || Identity::of(&vmlinux).ok()? != identity {
            return None;
        }
        self.try_write_note(&record_name(digest), &Record { identity, ..record });
        Some(vmlinux)
    }

    /// Gives a complete kernel its name, then notes its identity, which the name is part of.
    fn publish(&self, digest: &Hash, built: &HashedFile) -> io::Result<File> {
        self.remove(&record_name(digest))?;
        self.link(&built.file, &vmlinux_name(digest))?;
        let vmlinux = self.open(&vmlinux_name(digest))?;
        let identity = Identity::of(&vmlinux)?;
        let vmlinux_digest = built.hasher.finalize().to_string();
        self.write_note(&record_name(digest), &Record { vmlinux: vmlinux_digest, identity })?;
        Ok(vmlinux)
    }

    /// Removes the kernels that were verified longest ago, down to the limits, but not this one.
    /// Guests that run from a removed kernel keep it until they end.
    fn evict(&self, keep: &Hash) -> io::Result<()> {
        let mut kernels = Vec::new();
        let mut images = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let metadata = entry.metadata()?;
            if let Some(stem) = name.strip_suffix(".vmlinux") {
                let record = fs::metadata(self.dir.join(format!("{stem}.json")));
                let verified = record.and_then(|record| record.modified());
                let verified = verified.unwrap_or(SystemTime::UNIX_EPOCH);
                let first = stem == keep.to_hex().as_str();
                kernels.push((first, verified, stem.to_owned(), metadata.len()));
            } else if name.starts_with("image-") {
                images.push((metadata.modified()?, name));
            }
        }
        kernels.sort();
        let mut bytes = 0u64;
        for (place, (_, _, stem, len)) in kernels.iter().rev().enumerate() {
            bytes = bytes.saturating_add(*len);
            if place > 0 && (place >= KERNELS_MAX || bytes > BYTES_MAX) {
                self.remove(&format!("{stem}.json"))?;
                self.remove(&format!("{stem}.vmlinux"))?;
            }
        }
        images.sort();
        images.iter().rev().skip(IMAGES_MAX).try_for_each(|(_, name)| self.remove(name))
    }

    /// Waits for whoever else builds or verifies. The lock ends with the file that is returned.
    fn lock(&self) -> io::Result<File> {
        let path = self.dir.join("lock");
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if started.elapsed() > LOCK_PATIENCE => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        OpenOptions::new().read(true).custom_flags(flags).open(self.dir.join(name))
    }

    /// A file in the cache's file system that is gone when closed, unless it is linked.
    fn unnamed(&self, mode: u32) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_TMPFILE).mode(mode);
        options.open(&self.dir)
    }

    /// Gives an unnamed file its name, in place of what had it before.
    fn link(&self, file: &File, name: &str) -> io::Result<()> {
        self.remove(name)?;
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = AtFlags::SYMLINK_FOLLOW;
        Ok(rustix::fs::linkat(CWD, source, CWD, self.dir.join(name), flags)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// A note, unless it is missing or damaged.
    fn read_note<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let mut text = String::new();
        self.open(name).ok()?.take(NOTE_MAX).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn write_note(&self, name: &str, note: &impl Serialize) -> io::Result<()> {
        let mut file = self.unnamed(0o600)?;
        file.write_all(&serde_json::to_vec(note)?)?;
        self.link(&file, name)
    }

    /// Writes a note that can be missing.
    fn try_write_note(&self, name: &str, note: &impl Serialize) {
        if let Err(error) = self.write_note(name, note) {
            tracing::debug!(dir = %self.dir.display(), name, %error, "cannot note in the kernel cache");
        }
    }
}

fn vmlinux_name(digest: &Hash) -> String {
    format!("{digest}.vmlinux")
}

fn record_name(digest: &Hash) -> String {
    format!("{digest}.json")
}

/// A file that is written once, from its start, and hashed on the way.
struct HashedFile {
    file: File,
    hasher: Hasher,
}

impl Write for HashedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.file.write(bytes)?;
        self.hasher.update(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "lengths of small test data")]
mod tests;
