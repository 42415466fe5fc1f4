//! What each message of a front end does.

use std::fs::File;
use std::sync::Arc;

use memshare::GuestMemory;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Backend, GpuBackend, Result, VhostUserBackendReqHandlerMut};

use super::fds;
use super::memory::{Place, REGIONS_MAX, Regions};
use super::refusal::Refusal;
use super::ring::Addresses;
use super::session::{InflightRecords, Session};
use crate::sync::lock;
use crate::virtio::queue::Inflight;

/// Most buffers of a queue. A front end does not learn how many the device would like; QEMU has
/// no more than these.
const QUEUE_SIZE_MAX: u16 = 1024;

/// What an offset into the front end's address space of a region is given as in later messages.
type Base = u64;

pub(super) fn protocol_features() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::INFLIGHT_SHMFD
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
        | VhostUserProtocolFeatures::RESET_DEVICE
}

impl Session {
    /// Does what a message asks for; says so if it cannot.
    fn answer<T>(
        &mut self,
        work: impl FnOnce(&mut Session) -> std::result::Result<T, Refusal>,
    ) -> Result<T> {
        work(self).map_err(|refusal| self.refuse(refusal))
    }

    fn unsupported<T>(&mut self, what: &'static str) -> Result<T> {
        self.answer(|_| Err(Refusal::Unsupported(what)))
    }

    fn has(
        &self,
        feature: VhostUserProtocolFeatures,
        name: &'static str,
    ) -> std::result::Result<(), Refusal> {
        let has = self.protocol & feature.bits() != 0;
        if has { Ok(()) } else { Err(Refusal::Protocol(name)) }
    }

    /// Bytes of the records of requests in flight, if there can be such.
    fn inflight_len(&self, asked: &VhostUserInflight) -> std::result::Result<u64, Refusal> {
        let (queues, size) = (asked.num_queues, asked.queue_size);
        let stride = u64::try_from(Inflight::stride(size)).unwrap_or(u64::MAX);
        let len = stride.saturating_mul(queues.into());
        let possible = (1..=self.rings.len()).contains(&usize::from(queues))
            && (1..=QUEUE_SIZE_MAX).contains(&size);
        if possible { Ok(len) } else { Err(Refusal::Inflight { queues, size, len }) }
    }
}

fn place(region: &VhostUserMemoryRegion) -> Place {
    Place { guest: region.guest_phys_addr, user: region.user_addr, len: region.memory_size }
}

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.answer(Session::disable_all)
    }

    fn reset_device(&mut self) -> Result<()> {
        self.answer(|session| {
            session.has(VhostUserProtocolFeatures::RESET_DEVICE, "RESET_DEVICE")?;
            session.reset();
            Ok(())
        })
    }

    fn get_features(&mut self) -> Result<u64> {
        self.introduced = true;
        Ok(self.offered)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        self.answer(|session| {
            let unknown = features & !session.offered;
            if unknown != 0 {
                return Err(Refusal::Features(unknown));
            }
            session.change(features != session.features, |session| session.features = features)
        })
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<Base>>> {
        self.answer(|session| {
            let places: Vec<Place> = regions.iter().map(place).collect();
            Regions::default().permit(&places)?;
            let mut mapped = Vec::new();
            for ((region, place), file) in regions.iter().zip(places).zip(files) {
                let mapping = fds::map(file, region.mmap_offset, place.len, place.guest)?;
                mapped.push((place, Arc::new(mapping)));
            }
            let regions = Regions::new(mapped)?;
            session.change_memory(regions)?;
            Ok(None)
        })
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.answer(|session| {
            let (at, ring) = session.ring(index)?;
            let size = u16::try_from(num)
                .ok()
                .filter(|size| size.is_power_of_two() && *size <= QUEUE_SIZE_MAX)
                .ok_or(Refusal::QueueSize(num))?;
            if ring.running && ring.size != size {
                return Err(Refusal::Running(at));
            }
            ring.size = size;
            Ok(())
        })
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        self.answer(|session| {
            if !flags.is_empty() {
                return Err(Refusal::Unsupported("log of what it writes"));
            }
            let addresses = Some(Addresses { descriptors: descriptor, available, used });
            let (at, ring) = session.ring(index)?;
            let matters = ring.running && ring.addresses != addresses;
            session.change(matters, |session| {
                if let Some(ring) = session.rings.get_mut(at) {
                    ring.addresses = addresses;
                    ring.stalled = false;
                }
            })
        })
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.answer(|session| {
            let (at, ring) = session.ring(index)?;
            if ring.running {
                return Err(Refusal::Running(at));
            }
            ring.base = u16::try_from(base).map_err(|_| Refusal::Base(base))?;
            Ok(())
        })
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.answer(|session| {
            let (at, ring) = session.ring(index)?;
            ring.kick = None;
            // A fault is of another queue, which its driver learns of when it sets that up.
            if let Err(refusal) = session.apply() {
                session.refuse(refusal);
                session.refused = false;
            }
            let base = session.rings.get(at).map_or(0, |ring| ring.base);
            Ok(VhostUserVringState::new(index, base.into()))
        })
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.answer(|session| {
            let (at, _) = session.ring(index.into())?;
            let file = fd.ok_or(Refusal::Unsupported("polling of queues"))?;
            let kick = fds::eventfd(file)?;
            let matters = session.rings.get(at).is_some_and(|ring| ring.running);
            session.change(matters, |session| {
                if let Some(ring) = session.rings.get_mut(at) {
                    ring.kick = Some(kick);
                    ring.stalled = false;
                }
            })
        })
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.answer(|session| {
            let (at, _) = session.ring(index.into())?;
            session.signals.set_call(at, fd.map(fds::eventfd).transpose()?);
            Ok(())
        })
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.answer(|session| {
            let (at, _) = session.ring(index.into())?;
            session.signals.set_error(at, fd.map(fds::eventfd).transpose()?);
            Ok(())
        })
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(protocol_features())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        self.answer(|session| {
            let unknown = features & !protocol_features().bits();
            if unknown != 0 {
                return Err(Refusal::Features(unknown));
            }
            session.protocol = features;
            Ok(())
        })
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(u64::try_from(self.rings.len()).unwrap_or(u64::MAX))
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.answer(|session| {
            session.ring(index)?.1.enabled = enable;
            session.apply()
        })
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        self.answer(|session| {
            session.has(VhostUserProtocolFeatures::CONFIG, "CONFIG")?;
            // No longer than a message.
            let mut config = vec![0; usize::from(u16::try_from(size).unwrap_or(0))];
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            lock(&session.device).read_config(offset, &mut config);
            Ok(config)
        })
    }

    fn set_config(&mut self, offset: u32, buf: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        self.answer(|session| {
            session.has(VhostUserProtocolFeatures::CONFIG, "CONFIG")?;
            session.write_config(usize::try_from(offset).unwrap_or(usize::MAX), buf)
        })
    }

    fn set_backend_req_fd(&mut self, _backend: Backend) {}

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> Result<()> {
        self.unsupported("display")
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        self.unsupported("shared objects")
    }

    fn get_inflight_fd(
        &mut self,
        inflight: &VhostUserInflight,
    ) -> Result<(VhostUserInflight, File)> {
        self.answer(|session| {
            session.has(VhostUserProtocolFeatures::INFLIGHT_SHMFD, "INFLIGHT_SHMFD")?;
            let len = session.inflight_len(inflight)?;
            let file = fds::sealed_memfd("cohort-inflight", len)
                .map_err(|source| Refusal::Host { what: "make a memory file", source })?;
            let (queues, size) = (inflight.num_queues, inflight.queue_size);
            Ok((VhostUserInflight::new(len, 0, queues, size), file))
        })
    }

    fn set_inflight_fd(&mut self, inflight: &VhostUserInflight, file: File) -> Result<()> {
        self.answer(|session| {
            session.has(VhostUserProtocolFeatures::INFLIGHT_SHMFD, "INFLIGHT_SHMFD")?;
            let len = session.inflight_len(inflight)?;
            let (queues, size) = (inflight.num_queues, inflight.queue_size);
            if inflight.mmap_size < len {
                return Err(Refusal::Inflight { queues, size, len: inflight.mmap_size });
            }
            let region = fds::map(file, inflight.mmap_offset, len, 0)?;
            let memory = GuestMemory::from_regions(vec![region]).map_err(|_| Refusal::Overlap)?;
            let records = InflightRecords { memory: Arc::new(memory), queues, size };
            session.change(true, |session| session.inflight = Some(records))
        })
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(u64::try_from(REGIONS_MAX).unwrap_or(u64::MAX))
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        fd: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Base>> {
        self.answer(|session| {
            let place = place(region);
            session.regions.permit(&[place])?;
            let mapping = fds::map(fd, region.mmap_offset, place.len, place.guest)?;
            let regions = session.regions.with(place, mapping)?;
            session.change_memory(regions)?;
            Ok(None)
        })
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        self.answer(|session| {
            let regions = session.regions.without(place(region))?;
            session.change_memory(regions)
        })
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> Result<Option<File>> {
        self.unsupported("state to transfer")
    }

    fn check_device_state(&mut self) -> Result<()> {
        self.unsupported("state to transfer")
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        self.unsupported("memory of its own")
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        self.unsupported("log of what it writes")
    }
}
