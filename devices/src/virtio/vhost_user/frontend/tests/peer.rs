//! A back end for tests: it answers every request with the length of its first buffer, and can be
//! killed with requests that it has taken.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use memshare::GuestMemory;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost::vhost_user::message::*;
use vhost::vhost_user::{
    BackendReqHandler, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut,
};
use vm_memory::{Bytes, GuestAddress, GuestRegionMmap};
use vmm_sys_util::eventfd::EventFd;

use crate::sync::lock;

/// What a back end is like.
#[derive(Clone)]
pub(super) struct Character {
    pub(super) features: u64,
    pub(super) protocol: VhostUserProtocolFeatures,
    pub(super) queues: u64,
    pub(super) config: Vec<u8>,
    /// Takes requests, and answers none.
    pub(super) holds: bool,
}

/// A back end that runs.
pub(super) struct Peer {
    stop: Arc<AtomicBool>,
    pub(super) state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

pub(super) struct State {
    character: Character,
    /// Features of the driver.
    pub(super) accepted: u64,
    memory: Option<GuestMemory>,
    /// Address in the front end, length and guest address of each region.
    regions: Vec<(u64, u64, u64)>,
    rings: Vec<Ring>,
    /// The heads of requests that were taken and not answered, with how many there are.
    record: Option<File>,
    pub(super) taken: Vec<u16>,
}

#[derive(Default)]
struct Ring {
    size: u16,
    /// Descriptor table, available ring, used ring.
    at: (u64, u64, u64),
    next: u16,
    kick: Option<File>,
    call: Option<EventFd>,
    enabled: bool,
    resumed: bool,
}

impl Peer {
    /// Listens, then serves whoever comes, one at a time.
    pub(super) fn start(path: &Path, character: Character) -> Peer {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let state = Arc::new(Mutex::new(State::new(character)));
        let (stopped, shared) = (stop.clone(), state.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((socket, _)) => {
                        socket.set_nonblocking(false).unwrap();
                        serve(socket, &shared, &stopped);
                        let character = lock(&shared).character.clone();
                        *lock(&shared) = State::new(character);
                    }
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Peer { stop, state, thread: Some(thread) }
    }

    /// Ends it as if it were killed.
    pub(super) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// Waits until this many requests are taken and not answered.
    pub(super) fn await_taken(&self, count: usize) {
        super::eventually("requests are taken", || lock(&self.state).taken.len() == count);
    }

    /// Changes the configuration, and tells nobody.
    pub(super) fn set_config(&self, config: Vec<u8>) {
        lock(&self.state).character.config = config;
    }

    pub(super) fn config(&self) -> Vec<u8> {
        lock(&self.state).character.config.clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.end();
    }
}

fn serve(socket: UnixStream, state: &Arc<Mutex<State>>, stop: &AtomicBool) {
    let watched = socket.try_clone().unwrap();
    let mut handler = BackendReqHandler::from_stream(socket, state.clone());
    while !stop.load(Ordering::SeqCst) {
        let mut sockets = [PollFd::new(&watched, PollFlags::IN)];
        let wait = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        let _ = poll(&mut sockets, Some(&wait));
        if !sockets[0].revents().is_empty()
            && let Err(Error::Disconnected | Error::SocketBroken(_) | Error::PartialMessage) =
                handler.handle_request()
        {
            return;
        }
        lock(state).work();
    }
}

impl State {
    fn new(character: Character) -> State {
        State {
            character,
            accepted: 0,
            memory: None,
            regions: Vec::new(),
            rings: Vec::new(),
            record: None,
            taken: Vec::new(),
        }
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring> {
        let index = usize::try_from(index).unwrap();
        if index >= usize::try_from(self.character.queues).unwrap() {
            return Err(Error::InvalidParam);
        }
        while self.rings.len() <= index {
            self.rings.push(Ring::default());
        }
        Ok(&mut self.rings[index])
    }

    fn guest(&self, address: u64) -> Result<u64> {
        let found = self
            .regions
            .iter()
            .find(|(user, len, _)| address.checked_sub(*user).is_some_and(|offset| offset < *len));
        found.map(|(user, _, guest)| address - user + guest).ok_or(Error::InvalidParam)
    }

    fn work(&mut self) {
        let Some(memory) = &self.memory else { return };
        let load = |at| memory.load::<u16>(GuestAddress(at), Ordering::SeqCst).unwrap();
        for ring in &mut self.rings {
            if !ring.enabled || ring.kick.is_none() {
                continue;
            }
            let (descriptors, available, used) = ring.at;
            if let (false, Some(record)) = (ring.resumed, &self.record) {
                let mut heads = [0; 512];
                let read = record.read_at(&mut heads, 0).unwrap();
                let heads = heads[..read].chunks_exact(2);
                let heads: Vec<u16> =
                    heads.map(|head| u16::from_ne_bytes(head.try_into().unwrap())).collect();
                let count = usize::from(heads.first().copied().unwrap_or(0));
                self.taken = heads.into_iter().skip(1).take(count).collect();
                ring.next = ring.next.wrapping_add(u16::try_from(count).unwrap());
            }
            ring.resumed = true;
            while load(available + 2) != ring.next {
                self.taken.push(load(available + 4 + 2 * u64::from(ring.next % ring.size)));
                ring.next = ring.next.wrapping_add(1);
            }
            if let Some(record) = &self.record {
                let count = u16::try_from(self.taken.len()).unwrap();
                let heads = std::iter::once(&count).chain(&self.taken);
                let heads: Vec<u8> = heads.flat_map(|head| head.to_ne_bytes()).collect();
                record.write_all_at(&heads, 0).unwrap();
            }
            if self.character.holds || self.taken.is_empty() {
                continue;
            }
            for head in self.taken.drain(..) {
                let at = GuestAddress(descriptors + 16 * u64::from(head) + 8);
                let len: u32 = memory.read_obj(at).unwrap();
                let index = load(used + 2);
                let slot = used + 4 + 8 * u64::from(index % ring.size);
                memory.write_obj([u32::from(head), len], GuestAddress(slot)).unwrap();
                memory
                    .store(index.wrapping_add(1), GuestAddress(used + 2), Ordering::SeqCst)
                    .unwrap();
            }
            if let Some(record) = &self.record {
                record.write_all_at(&[0; 2], 0).unwrap();
            }
            ring.call.as_ref().unwrap().write(1).unwrap();
        }
    }
}

impl VhostUserBackendReqHandlerMut for State {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }
    fn reset_owner(&mut self) -> Result<()> {
        Ok(())
    }
    fn reset_device(&mut self) -> Result<()> {
        Ok(())
    }
    fn get_features(&mut self) -> Result<u64> {
        Ok(self.character.features)
    }
    fn set_features(&mut self, features: u64) -> Result<()> {
        self.accepted = features;
        if features & !self.character.features != 0 { Err(Error::InvalidParam) } else { Ok(()) }
    }
    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        let mapped = regions.iter().zip(files).map(|(region, file)| {
            let mapping = region.mmap_region(file).unwrap();
            GuestRegionMmap::new(mapping, GuestAddress(region.guest_phys_addr)).unwrap()
        });
        self.memory = Some(GuestMemory::from_regions(mapped.collect()).unwrap());
        let place = |region: &VhostUserMemoryRegion| {
            (region.user_addr, region.memory_size, region.guest_phys_addr)
        };
        self.regions = regions.iter().map(place).collect();
        Ok(None)
    }
    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.ring(index)?.size = u16::try_from(num).unwrap();
        Ok(())
    }
    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let at = (self.guest(descriptor)?, self.guest(available)?, self.guest(used)?);
        self.ring(index)?.at = at;
        Ok(())
    }
    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.ring(index)?.next = u16::try_from(base).unwrap();
        Ok(())
    }
    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let ring = self.ring(index)?;
        (ring.kick, ring.resumed) = (None, false);
        Ok(VhostUserVringState::new(index, ring.next.into()))
    }
    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.ring(index.into())?.kick = fd;
        Ok(())
    }
    #[expect(unsafe_code, reason = "the descriptor of an event comes as that of a file")]
    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        // SAFETY: the descriptor is given up by its owner.
        let call = fd.map(|file| unsafe { EventFd::from_raw_fd(file.into_raw_fd()) });
        self.ring(index.into())?.call = call;
        Ok(())
    }
    fn set_vring_err(&mut self, _index: u8, _fd: Option<File>) -> Result<()> {
        Ok(())
    }
    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(self.character.protocol)
    }
    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }
    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.character.queues)
    }
    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.ring(index)?.enabled = enable;
        Ok(())
    }
    fn get_config(&mut self, offset: u32, size: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let (offset, size) = (usize::try_from(offset).unwrap(), usize::try_from(size).unwrap());
        let config = self.character.config.get(offset..offset + size);
        config.map(<[u8]>::to_vec).ok_or_else(|| Error::ReqHandlerError(io::Error::other("short")))
    }
    fn set_config(&mut self, offset: u32, data: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        let offset = usize::try_from(offset).unwrap();
        self.character.config[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }
    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        Err(Error::InvalidParam)
    }
    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        Err(Error::InvalidParam)
    }
    fn get_inflight_fd(&mut self, wanted: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let file = tempfile::tempfile().unwrap();
        Ok((VhostUserInflight { mmap_size: 4096, ..*wanted }, file))
    }
    fn set_inflight_fd(&mut self, _: &VhostUserInflight, file: File) -> Result<()> {
        self.record = Some(file);
        Ok(())
    }
    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Err(Error::InvalidParam)
    }
    fn add_mem_region(
        &mut self,
        _: &VhostUserSingleMemoryRegion,
        _: File,
        _: Option<bool>,
    ) -> Result<Option<u64>> {
        Err(Error::InvalidParam)
    }
    fn remove_mem_region(&mut self, _: &VhostUserSingleMemoryRegion) -> Result<()> {
        Err(Error::InvalidParam)
    }
    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        Err(Error::InvalidParam)
    }
    fn check_device_state(&mut self) -> Result<()> {
        Err(Error::InvalidParam)
    }
    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(Error::InvalidParam)
    }
    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        Err(Error::InvalidParam)
    }
}
