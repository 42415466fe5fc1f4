//! Guest memory as a front end describes it: regions of files, each with an address in the guest
//! and one in the front end.

use std::sync::Arc;

use memshare::{GuestMemory, MemoryHandle};
use vm_memory::GuestRegionMmap;

use super::refusal::Refusal;

/// Most regions of a front end.
pub(super) const REGIONS_MAX: usize = 64;
/// Most bytes of a front end's memory. What one maps is address space that others cannot have.
const BYTES_MAX: u64 = 4 << 40;

/// Where a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Address in the guest.
    pub(super) guest: u64,
    /// Address in the front end.
    pub(super) user: u64,
    /// Bytes.
    pub(super) len: u64,
}

impl Place {
    /// The address in the guest of the front end's `user`.
    fn translate(&self, user: u64) -> Option<u64> {
        let offset = user.checked_sub(self.user).filter(|&offset| offset < self.len)?;
        self.guest.checked_add(offset)
    }

    fn overlaps(&self, other: &Place) -> bool {
        let meet =
            |a: u64, b: u64| a < b.saturating_add(other.len) && b < a.saturating_add(self.len);
        meet(self.guest, other.guest) || meet(self.user, other.user)
    }
}

/// All regions.
#[derive(Clone, Debug, Default)]
pub(super) struct Regions {
    regions: Vec<(Place, Arc<GuestRegionMmap<()>>)>,
    memory: Option<MemoryHandle>,
}

impl Regions {
    /// Whether there may be regions at `places` besides those of `self`, to know before they are
    /// mapped.
    pub(super) fn permit(&self, places: &[Place]) -> Result<(), Refusal> {
        if self.regions.len() + places.len() > REGIONS_MAX {
            return Err(Refusal::Regions(REGIONS_MAX));
        }
        let old = self.regions.iter().map(|(place, _)| place.len);
        let bytes = old.chain(places.iter().map(|place| place.len)).fold(0, u64::saturating_add);
        if bytes > BYTES_MAX { Err(Refusal::MemorySize(BYTES_MAX)) } else { Ok(()) }
    }

    /// These regions, and what is mapped for each.
    pub(super) fn new(
        mut regions: Vec<(Place, Arc<GuestRegionMmap<()>>)>,
    ) -> Result<Regions, Refusal> {
        regions.sort_by_key(|(place, _)| place.guest);
        for (at, (place, _)) in regions.iter().enumerate() {
            let wraps = place.user.checked_add(place.len).is_none();
            if wraps || regions.iter().skip(at + 1).any(|(other, _)| place.overlaps(other)) {
                return Err(Refusal::Overlap);
            }
        }
        let memory = if regions.is_empty() {
            None
        } else {
            let mapped = regions.iter().map(|(_, region)| Arc::clone(region)).collect();
            let memory = GuestMemory::from_arc_regions(mapped).map_err(|_| Refusal::Overlap)?;
            Some(MemoryHandle::new(memory))
        };
        Ok(Regions { regions, memory })
    }

    /// These and one more.
    pub(super) fn with(
        &self,
        place: Place,
        region: GuestRegionMmap<()>,
    ) -> Result<Regions, Refusal> {
        let mut regions = self.regions.clone();
        regions.push((place, Arc::new(region)));
        Regions::new(regions)
    }

    /// These without the one at `place`.
    pub(super) fn without(&self, place: Place) -> Result<Regions, Refusal> {
        let mut regions = self.regions.clone();
        regions.retain(|(other, _)| *other != place);
        if regions.len() == self.regions.len() {
            return Err(Refusal::NoRegion);
        }
        Regions::new(regions)
    }

    /// All of it, unless there is none.
    pub(super) fn memory(&self) -> Option<&MemoryHandle> {
        self.memory.as_ref()
    }

    /// Where the front end's address `user` is in the guest.
    pub(super) fn translate(&self, user: u64) -> Result<u64, Refusal> {
        let found = self.regions.iter().find_map(|(place, _)| place.translate(user));
        found.ok_or(Refusal::NoMemory(user))
    }
}
