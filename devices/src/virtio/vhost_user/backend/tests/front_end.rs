//! A front end with a driver for each queue, and a server with a disk.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memshare::GuestMemory;
use storage::{Disk, DiskOptions};
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag};
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::super::fds::{map, sealed_memfd};
use super::super::handler::protocol_features;
use super::super::session::PROTOCOL_FEATURES;
use crate::virtio::blk::Block;
use crate::virtio::driver::{Driver, MEMORY};
use crate::virtio::vhost_user::backend::BackEnd;
use crate::virtio::{VirtioDevice, device};

const RINGS: u64 = 0x1_0000;
const SCRATCH: u64 = 0x80_0000;
const SECTOR: usize = 512;

pub(super) struct Server {
    pub(super) back_end: BackEnd,
    pub(super) lost: Arc<AtomicU64>,
    _folder: tempfile::TempDir,
}

impl Server {
    /// A server of a disk with this many queues.
    pub(super) fn new(queues: u16) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let device = disk(&folder, queues);
        Server::of(device, folder)
    }

    pub(super) fn of(device: Box<dyn VirtioDevice>, folder: tempfile::TempDir) -> Server {
        let lost = Arc::new(AtomicU64::new(0));
        let count = lost.clone();
        let on_lost = Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let back_end = BackEnd::listen(&folder.path().join("socket"), device, on_lost).unwrap();
        Server { back_end, lost, _folder: folder }
    }
}

pub(super) fn disk(folder: &tempfile::TempDir, queues: u16) -> Box<dyn VirtioDevice> {
    let path = folder.path().join("disk");
    if !path.exists() {
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    }
    let disk = Disk::open(&path, &DiskOptions::default()).unwrap();
    Box::new(Block::new(disk, queues, "serial"))
}

/// Waits for what happens in another thread.
pub(super) fn eventually(mut happened: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if happened() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("it did not happen");
}

/// A guest's memory and its drivers, which outlive a server.
pub(super) struct FrontEnd {
    pub(super) connection: Frontend,
    pub(super) memory: Arc<GuestMemory>,
    pub(super) drivers: Vec<Driver>,
    pub(super) calls: Vec<EventFd>,
    pub(super) features: u64,
}

impl FrontEnd {
    /// Connected, with queues of `size` set up and not started.
    pub(super) fn new(server: &Server, queues: u16, size: u16) -> FrontEnd {
        let file = sealed_memfd("guest", MEMORY).unwrap();
        let memory = GuestMemory::from_regions(vec![map(file, 0, MEMORY, 0).unwrap()]).unwrap();
        let memory = Arc::new(memory);
        let driver = |n: u16| Driver::new(memory.clone(), RINGS * (1 + u64::from(n)), size, true);
        let drivers = (0..queues).map(driver).collect();
        let calls = (0..queues).map(|_| EventFd::new(EFD_NONBLOCK).unwrap()).collect();
        let (connection, features) = FrontEnd::connect(server, queues);
        let front = FrontEnd { connection, memory, drivers, calls, features };
        front.set_memory().unwrap();
        front
    }

    fn connect(server: &Server, queues: u16) -> (Frontend, u64) {
        let mut connection = Frontend::connect(server.back_end.path(), queues.into()).unwrap();
        connection.set_owner().unwrap();
        let features = connection.get_features().unwrap();
        assert_ne!(features & PROTOCOL_FEATURES, 0);
        connection.set_features(features).unwrap();
        let offered = connection.get_protocol_features().unwrap();
        assert_eq!(offered, protocol_features());
        connection.set_protocol_features(offered & protocol_features()).unwrap();
        connection.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        assert!(offered.contains(VhostUserProtocolFeatures::MQ));
        assert_eq!(connection.get_queue_num().unwrap(), u64::from(queues));
        (connection, features)
    }

    /// The same guest, with another server.
    pub(super) fn reconnect(&mut self, server: &Server) {
        let queues = u16::try_from(self.drivers.len()).unwrap();
        (self.connection, self.features) = FrontEnd::connect(server, queues);
        self.set_memory().unwrap();
    }

    pub(super) fn region(&self) -> VhostUserMemoryRegionInfo {
        let region = self.memory.iter().next().unwrap();
        VhostUserMemoryRegionInfo::from_guest_region(region).unwrap()
    }

    pub(super) fn set_memory(&self) -> vhost::Result<()> {
        self.connection.set_mem_table(&[self.region()]).map(|_| ())
    }

    pub(super) fn add_and_remove_memory(&mut self) {
        let file = sealed_memfd("more", 1 << 20).unwrap();
        let more = VhostUserMemoryRegionInfo {
            guest_phys_addr: MEMORY,
            memory_size: 1 << 20,
            userspace_addr: 0x1000,
            mmap_offset: 0,
            mmap_handle: file.as_raw_fd(),
        };
        assert!(self.connection.get_max_mem_slots().unwrap() > 1);
        self.connection.add_mem_region(&more).unwrap();
        self.connection.add_mem_region(&more).unwrap_err();
        self.connection.remove_mem_region(&more).unwrap();
        self.connection.remove_mem_region(&more).unwrap_err();
    }

    pub(super) fn start_all(&mut self) {
        for queue in 0..self.drivers.len() {
            self.start(queue, 0);
        }
    }

    pub(super) fn start(&mut self, queue: usize, base: u16) {
        let layout = self.drivers[queue].layout;
        let user = self.region().userspace_addr;
        let connection = &mut self.connection;
        connection.set_vring_num(queue, layout.size).unwrap();
        connection.set_vring_base(queue, base).unwrap();
        let addresses = VringConfigData {
            queue_max_size: layout.size,
            queue_size: layout.size,
            flags: 0,
            desc_table_addr: user + layout.descriptors,
            used_ring_addr: user + layout.used,
            avail_ring_addr: user + layout.available,
            log_addr: None,
        };
        connection.set_vring_addr(queue, &addresses).unwrap();
        connection.set_vring_call(queue, &self.calls[queue]).unwrap();
        connection.set_vring_kick(queue, &self.drivers[queue].doorbell).unwrap();
        connection.set_vring_enable(queue, true).unwrap();
    }

    pub(super) fn enable(&mut self, queue: usize, enable: bool) {
        self.connection.set_vring_enable(queue, enable).unwrap();
    }

    pub(super) fn stop(&mut self, queue: usize) -> u32 {
        self.connection.get_vring_base(queue).unwrap()
    }

    /// Resets the device as a driver does, which begins anew.
    pub(super) fn reset(&mut self) {
        self.connection.reset_device().unwrap();
        // Answered in order: the reset is done when this is.
        self.connection.get_features().unwrap();
    }

    /// Sets another eventfd for notifications; returns the one before.
    pub(super) fn replace_call(&mut self, queue: usize) -> EventFd {
        let new = EventFd::new(EFD_NONBLOCK).unwrap();
        self.connection.set_vring_call(queue, &new).unwrap();
        std::mem::replace(&mut self.calls[queue], new)
    }

    fn scratch(queue: usize) -> u64 {
        SCRATCH + 0x1_0000 * u64::try_from(queue).unwrap()
    }

    fn send(&mut self, queue: usize, kind: u32, sector: usize) -> u16 {
        let at = FrontEnd::scratch(queue);
        let driver = &mut self.drivers[queue];
        driver.write(at, [kind, 0]);
        driver.write(at + 8, u64::try_from(sector).unwrap());
        driver.write(at + 0x2000, 0xEEu8);
        let to_guest = kind == VIRTIO_BLK_T_IN;
        let old = driver.position();
        let buffers = [(at, 16, false), (at + 0x1000, 512, to_guest), (at + 0x2000, 1, true)];
        let head = driver.add(&buffers).unwrap();
        driver.notify_since(old);
        head
    }

    /// Asks for a sector, without waiting.
    pub(super) fn send_read(&mut self, queue: usize, sector: usize) -> u16 {
        self.send(queue, VIRTIO_BLK_T_IN, sector)
    }

    fn finish(&mut self, queue: usize, head: u16) -> u8 {
        assert_eq!(self.drivers[queue].await_used().0, head);
        self.memory.read_obj(GuestAddress(FrontEnd::scratch(queue) + 0x2000)).unwrap()
    }

    /// Fills a sector; the status.
    pub(super) fn write(&mut self, queue: usize, sector: usize, byte: u8) -> u8 {
        let data = GuestAddress(FrontEnd::scratch(queue) + 0x1000);
        self.memory.write_slice(&[byte; SECTOR], data).unwrap();
        let head = self.send(queue, VIRTIO_BLK_T_OUT, sector);
        self.finish(queue, head)
    }

    /// Reads a sector that is filled with one byte; the status and the byte.
    pub(super) fn read(&mut self, queue: usize, sector: usize) -> (u8, u8) {
        let head = self.send_read(queue, sector);
        let status = self.finish(queue, head);
        let mut data = [0; SECTOR];
        let at = GuestAddress(FrontEnd::scratch(queue) + 0x1000);
        self.memory.read_slice(&mut data, at).unwrap();
        assert!(data.iter().all(|byte| *byte == data[0]));
        (status, data[0])
    }
}

pub(super) fn config_byte(front: &mut FrontEnd, offset: u32) -> u8 {
    let flags = VhostUserConfigFlags::WRITABLE;
    front.connection.get_config(offset, 1, flags, &[0]).unwrap().1[0]
}

pub(super) fn set_config_byte(front: &mut FrontEnd, offset: u32, value: u8) {
    front.connection.set_config(offset, VhostUserConfigFlags::WRITABLE, &[value]).unwrap();
}

/// A device that takes requests and never answers them, as one that dies.
pub(super) struct Hold {
    info: device::DeviceInfo,
    pub(super) taken: Arc<std::sync::Mutex<Vec<u16>>>,
}

impl Hold {
    pub(super) fn new() -> Hold {
        let info = device::DeviceInfo {
            id: device::DeviceType::Block,
            queue_sizes: vec![256],
            features: 0,
            external_backend: false,
        };
        Hold { info, taken: Arc::default() }
    }
}

impl VirtioDevice for Hold {
    fn info(&self) -> &device::DeviceInfo {
        &self.info
    }
    fn read_config(&self, _offset: usize, out: &mut [u8]) {
        out.fill(0);
    }
    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}
    fn start(&mut self, with: device::Activation) -> Result<(), device::ActivateError> {
        for mut queue in with.queues {
            let mut chain = crate::virtio::queue::Chain::default();
            while queue.queue.pop(&mut chain).unwrap() {
                self.taken.lock().unwrap().push(chain.head());
            }
        }
        Ok(())
    }
    fn stop(&mut self) -> Vec<crate::virtio::QueueState> {
        Vec::new()
    }
}
