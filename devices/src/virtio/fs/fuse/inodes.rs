//! The files that a guest knows: its node numbers, and the descriptors behind them.
//!
//! A node is an inode of the host, known by mount, device, number and, where the file system has
//! file handles, generation. It is pinned by a descriptor (`O_PATH`). Where this process may open
//! by handle, the descriptors used least are closed when there are too many, and opened again by
//! handle when they are needed.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use memshare::SharedRegion;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags, makedev, openat, statx};
use rustix::io::Errno;

use super::Limits;
use super::messages::{ROOT, Result};
use super::sys::FileHandle;
use crate::sync::lock;

/// A file that the guest knows.
pub(super) struct Inode {
    /// The guest's number of it.
    pub(super) node: u64,
    /// What it is, which never changes.
    pub(super) kind: FileType,
    /// Inode number as the guest sees it.
    pub(super) number: u64,
    key: Key,
    descriptor: Mutex<Option<Arc<OwnedFd>>>,
    /// Used since eviction last looked at it.
    used: AtomicBool,
    /// What is mapped of it: read-only, and writable.
    pub(super) regions: Mutex<[Weak<SharedRegion>; 2]>,
}

/// What makes two files the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    mount: u64,
    device: u64,
    inode: u64,
    /// Only where the file can be opened by it. Elsewhere the descriptor keeps the inode number
    /// from being used again.
    handle: Option<FileHandle>,
}

struct Known {
    inode: Arc<Inode>,
    /// How often the guest was told of it, less what it has forgotten.
    lookups: u64,
}

#[derive(Default)]
struct Table {
    nodes: HashMap<u64, Known>,
    keys: HashMap<Key, u64>,
    last: u64,
    /// Those whose descriptor may be closed, in the order in which eviction looks at them. Some
    /// are forgotten already.
    ring: VecDeque<Weak<Inode>>,
    /// Descriptors of all nodes.
    pinned: usize,
}

/// All of them.
pub(super) struct Inodes {
    limits: Limits,
    root: Arc<Inode>,
    table: Mutex<Table>,
    /// A folder of each mount, to open files by handle there; none where that does not work.
    mounts: Mutex<HashMap<u64, Option<Arc<OwnedFd>>>>,
    /// Devices in the order in which they were met, the share's own first.
    devices: Mutex<Vec<u64>>,
}

/// What a file is.
pub(super) fn look(file: impl AsFd) -> Result<Statx> {
    statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)
}

impl Inodes {
    /// The share's folder, open with `O_PATH`.
    pub(super) fn new(root: OwnedFd, limits: Limits) -> Result<Inodes> {
        let status = look(&root)?;
        let device = makedev(status.stx_dev_major, status.stx_dev_minor);
        let key = Key { mount: status.stx_mnt_id, device, inode: status.stx_ino, handle: None };
        let root = Inode::new(ROOT, status.stx_ino, FileType::Directory, key, root);
        let inodes = Inodes {
            limits,
            root: Arc::new(root),
            table: Mutex::default(),
            mounts: Mutex::default(),
            devices: Mutex::new(vec![device]),
        };
        inodes.clear();
        Ok(inodes)
    }

    /// Forgets all but the share's folder.
    pub(super) fn clear(&self) {
        let mut table = Table { last: ROOT, ..Table::default() };
        table.keys.insert(self.root.key.clone(), ROOT);
        table.nodes.insert(ROOT, Known { inode: Arc::clone(&self.root), lookups: 1 });
        // Node numbers are not used again: the guest may have old ones in flight.
        let old = {
            let mut current = lock(&self.table);
            table.last = table.last.max(current.last);
            std::mem::replace(&mut *current, table)
        };
        drop(old);
    }

    /// The file of a node number.
    pub(super) fn get(&self, node: u64) -> Result<Arc<Inode>> {
        let table = lock(&self.table);
        table.nodes.get(&node).map(|known| Arc::clone(&known.inode)).ok_or(Errno::STALE)
    }

    /// The node of a file that was just opened (`O_PATH`), which the guest is told of once more.
    pub(super) fn enter(&self, file: OwnedFd, status: &Statx) -> Result<Arc<Inode>> {
        let device = makedev(status.stx_dev_major, status.stx_dev_minor);
        let (mount, inode) = (status.stx_mnt_id, status.stx_ino);
        let root = &self.root.key;
        if (mount, device, inode) == (root.mount, root.device, root.inode) {
            // A folder inside the share that is the share: by a bind mount alone.
            return Ok(Arc::clone(&self.root));
        }
        let kind = FileType::from_raw_mode(status.stx_mode.into());
        let handle = self.mount(mount, &file, kind).and_then(|_| FileHandle::of(file.as_fd()));
        let key = Key { mount, device, inode, handle };
        let number = self.number(device, inode);
        let mut dropped = Vec::new();
        let mut table = lock(&self.table);
        if let Some(known) =
            table.keys.get(&key).copied().and_then(|node| table.nodes.get_mut(&node))
        {
            known.lookups = known.lookups.saturating_add(1);
            let inode = Arc::clone(&known.inode);
            self.pin(&mut table, &inode, Arc::new(file), &mut dropped);
            drop(table);
            return Ok(inode);
        }
        if table.nodes.len() >= self.limits.inodes
            || (key.handle.is_none() && table.pinned >= self.limits.descriptors)
        {
            return Err(Errno::NFILE);
        }
        table.last += 1;
        let node = table.last;
        let inode = Arc::new(Inode::unpinned(node, number, kind, key.clone()));
        table.keys.insert(key, node);
        table.nodes.insert(node, Known { inode: Arc::clone(&inode), lookups: 1 });
        self.pin(&mut table, &inode, Arc::new(file), &mut dropped);
        drop(table);
        Ok(inode)
    }

    /// The guest has forgotten `count` of the times that it was told of a node.
    pub(super) fn forget(&self, node: u64, count: u64) {
        if node == ROOT {
            return;
        }
        let mut table = lock(&self.table);
        let Some(known) = table.nodes.get_mut(&node) else { return };
        known.lookups = known.lookups.saturating_sub(count);
        if known.lookups > 0 {
            return;
        }
        let known = table.nodes.remove(&node);
        let Some(Known { inode, .. }) = known else { return };
        table.keys.remove(&inode.key);
        let descriptor = lock(&inode.descriptor).take();
        if descriptor.is_some() {
            table.pinned -= 1;
        }
        drop(table);
    }

    /// A descriptor (`O_PATH`) of a node's file.
    pub(super) fn descriptor(&self, inode: &Arc<Inode>) -> Result<Arc<OwnedFd>> {
        inode.used.store(true, Ordering::Relaxed);
        if let Some(descriptor) = lock(&inode.descriptor).as_ref() {
            return Ok(Arc::clone(descriptor));
        }
        let mount = lock(&self.mounts).get(&inode.key.mount).cloned().flatten();
        let (Some(mount), Some(handle)) = (mount, &inode.key.handle) else {
            return Err(Errno::STALE);
        };
        let file = Arc::new(handle.open(mount.as_fd())?);
        let mut dropped = Vec::new();
        let mut table = lock(&self.table);
        if table.nodes.contains_key(&inode.node) {
            self.pin(&mut table, inode, Arc::clone(&file), &mut dropped);
        }
        drop(table);
        Ok(file)
    }

    /// Gives a node that has none its descriptor. Others may have to be closed for it, which is
    /// left to whoever drops `dropped`, without the lock.
    fn pin(
        &self,
        table: &mut Table,
        inode: &Arc<Inode>,
        file: Arc<OwnedFd>,
        dropped: &mut Vec<Arc<OwnedFd>>,
    ) {
        {
            let mut descriptor = lock(&inode.descriptor);
            if descriptor.is_some() {
                dropped.push(file);
                return;
            }
            *descriptor = Some(file);
        }
        table.pinned += 1;
        if inode.key.handle.is_none() {
            return;
        }
        table.ring.push_back(Arc::downgrade(inode));
        let mut looks = table.ring.len().saturating_mul(2);
        while table.pinned > self.limits.descriptors && looks > 0 {
            looks -= 1;
            let Some(next) = table.ring.pop_front() else { return };
            let Some(next) = next.upgrade() else { continue };
            if next.used.swap(false, Ordering::Relaxed) {
                table.ring.push_back(Arc::downgrade(&next));
                continue;
            }
            if let Some(file) = lock(&next.descriptor).take() {
                table.pinned -= 1;
                dropped.push(file);
            }
        }
        if table.ring.len() > table.pinned.saturating_mul(2).max(64) {
            table.ring.retain(|inode| inode.strong_count() > 0);
        }
    }

    /// A folder of the mount that `file` is on, if its files can be opened by handle.
    fn mount(&self, mount: u64, file: &OwnedFd, kind: FileType) -> Option<Arc<OwnedFd>> {
        if let Some(known) = lock(&self.mounts).get(&mount) {
            return known.clone();
        }
        // The share's own folder stands for its mount, whatever is met first.
        let folder = if mount == self.root.key.mount {
            lock(&self.root.descriptor).clone()?
        } else if kind == FileType::Directory {
            Arc::new(file.try_clone().ok()?)
        } else {
            return None;
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(&folder, c".", flags, Mode::empty()).ok();
        let works = opened.filter(|opened| {
            FileHandle::of(opened.as_fd()).is_some_and(|handle| handle.open(opened.as_fd()).is_ok())
        });
        let works = works.map(Arc::new);
        lock(&self.mounts).entry(mount).or_insert(works).clone()
    }

    /// The inode number that the guest sees. It sees one device alone, so that numbers of others
    /// are made different in their upper bits.
    pub(super) fn number(&self, device: u64, inode: u64) -> u64 {
        let mut devices = lock(&self.devices);
        let index = devices.iter().position(|known| *known == device).unwrap_or_else(|| {
            devices.push(device);
            devices.len() - 1
        });
        inode ^ (index as u64).rotate_right(16)
    }

    /// Nodes, and descriptors of nodes.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        let table = lock(&self.table);
        (table.nodes.len(), table.pinned)
    }
}

impl Inode {
    fn new(node: u64, number: u64, kind: FileType, key: Key, file: OwnedFd) -> Inode {
        let inode = Inode::unpinned(node, number, kind, key);
        *lock(&inode.descriptor) = Some(Arc::new(file));
        inode
    }

    fn unpinned(node: u64, number: u64, kind: FileType, key: Key) -> Inode {
        Inode {
            node,
            kind,
            number,
            key,
            descriptor: Mutex::new(None),
            used: AtomicBool::new(true),
            regions: Mutex::default(),
        }
    }
}
