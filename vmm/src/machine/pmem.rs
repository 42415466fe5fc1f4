//! Files in guest memory (virtio-pmem), from what the description says of them: where they are,
//! whose pages they are, and what happens when somebody changes them.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use devices::virtio::pmem::Pmem;
use memshare::{
    Access, Changed, Domain, Gathering, GuestRam, Mapped, PAGE_SIZE, ShareError, SharedRegion,
    Watch, Window, from_sealed, private_copy, sealed_copy,
};
use vm_memory::GuestAddress;

use super::MachineError;
use super::domain;
use super::ending::{End, Ending};
use super::memory::{self, Slots};
use crate::spec::{OnChange, PmemMode, PmemSpec, VmSpec};

/// Device memory starts and ends at multiples of this, so that a host and a guest that map it by
/// large pages can; Linux takes no smaller piece of persistent memory.
const GRANULE: u64 = 2 << 20;
/// Files of at least this size are put into large pages: others are touched soon enough.
const GATHERED: u64 = 32 << 20;
/// Files of at least this size start at a multiple of it, for pages of 1 GiB.
const HUGE: u64 = 1 << 30;

/// The files in a guest's memory.
#[derive(Debug, Default)]
pub(super) struct Files {
    files: Vec<Placed>,
    /// Dropped before the files that they watch.
    watches: Arc<Mutex<Vec<Watch>>>,
    /// Dropped before the files' windows are emptied.
    gatherings: Arc<Mutex<Vec<Gathering>>>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Placed {
    start: u64,
    window: Arc<Window>,
    region: Arc<SharedRegion>,
    mode: PmemMode,
    on_change: OnChange,
}

impl Files {
    /// Opens the files of `spec` and makes them part of guest memory, at addresses from `from` on
    /// that this processor has. `sealed` are the copies that another process made.
    pub(super) fn place(
        spec: &VmSpec,
        mut sealed: BTreeMap<usize, OwnedFd>,
        ram: &GuestRam,
        (from, address_bits): (u64, u8),
    ) -> Result<Files, MachineError> {
        let mut files = Files::default();
        if spec.pmem.is_empty() {
            return Ok(files);
        }
        let domain = domain::of(spec)?;
        let limit = 1u64.checked_shl(address_bits.into()).unwrap_or(u64::MAX);
        let mut next = from;
        for (number, pmem) in spec.pmem.iter().enumerate() {
            let fail = |source| MachineError::Pmem { number, source };
            let region = open(number, pmem, domain, sealed.remove(&number))?;
            let too_large = || MachineError::PmemTooLarge { number, bits: address_bits };
            let range = range(next, region.len(), limit).ok_or_else(too_large)?;
            let len = range.end - range.start;
            let window = Window::reserve(&format!("pmem {number}"), len, GRANULE).map_err(fail)?;
            let access = match pmem.mode {
                PmemMode::Shared => Access::Read,
                PmemMode::Private => Access::Private,
            };
            let all = window.range(0, len).ok_or_else(too_large)?;
            window.map(all, &region, 0, access).map_err(fail)?;
            ram.add_window(GuestAddress(range.start), &window)?;
            tracing::info!(
                pmem = number,
                file = %pmem.path.display(),
                size = region.len(),
                start = format_args!("{:#x}", range.start),
                mode = ?pmem.mode,
                "file placed in guest memory"
            );
            next = range.end;
            let (start, mode, on_change) = (range.start, pmem.mode, pmem.on_change);
            files.files.push(Placed { start, window, region, mode, on_change });
        }
        Ok(files)
    }

    /// The device that tells the guest of each, its addresses, and what answers for accesses that
    /// the hypervisor does not carry out.
    ///
    /// A file gets its memory slot, is watched, and put into large pages when a driver first asks
    /// where it is: some hypervisors (those with shadow page tables) take milliseconds for a large
    /// slot, and the host for the end of a watch, for which a guest without a driver need not
    /// wait.
    pub(super) fn devices(
        &self,
        slots: &Arc<Slots>,
        ending: &Arc<Ending>,
    ) -> impl Iterator<Item = (Pmem, Range<u64>, Refusals)> {
        self.files.iter().enumerate().map(|(number, placed)| {
            let range = placed.start..placed.start.saturating_add(placed.window.len());
            let refusals = Refusals {
                window: Arc::clone(&placed.window),
                region: Arc::clone(&placed.region),
                mode: placed.mode,
                ending: Arc::clone(ending),
                writes: 0,
            };
            let (window, region) = (Arc::clone(&placed.window), Arc::clone(&placed.region));
            let (start, mode, on_change) = (placed.start, placed.mode, placed.on_change);
            let (watches, gatherings) = (Arc::clone(&self.watches), Arc::clone(&self.gatherings));
            // Not kept by a device, of whose end this knows nothing.
            let (slots, ending) = (Arc::downgrade(slots), Arc::clone(ending));
            let sought = move || {
                let Some(slots) = slots.upgrade() else { return };
                let found = memory::attach_window(&slots, start, &window, mode).and_then(|()| {
                    let watch = watch(region, on_change, &ending);
                    watch.map_err(|source| MachineError::Pmem { number, source })
                });
                match found {
                    Ok(watch) => lock(&watches).extend(watch),
                    Err(error) => ending.report(End::Failure(error)),
                }
                let gathering = (window.len() >= GATHERED).then(|| Gathering::start(&window));
                match gathering.transpose() {
                    Ok(gathering) => lock(&gatherings).extend(gathering),
                    Err(error) => tracing::debug!(%error, "no large pages are made"),
                }
            };
            (Pmem::new(range.clone(), sought), range, refusals)
        })
    }

    /// Ends what makes large pages, and in a thread the watches: the host's kernel takes its time to
    /// forget these, as it does for a virtual machine.
    pub(super) fn stop_threads(&self) -> Option<JoinHandle<()>> {
        lock(&self.gatherings).clear();
        let watches = std::mem::take(&mut *lock(&self.watches));
        if watches.is_empty() {
            return None;
        }
        // Without a thread, they end here.
        thread::Builder::new().name("unwatch".into()).spawn(move || drop(watches)).ok()
    }

    /// The windows that they are in.
    pub(super) fn windows(&self) -> impl Iterator<Item = &Arc<Window>> {
        self.files.iter().map(|placed| &placed.window)
    }
}

/// Opens file `number`: itself, or a copy where pages must not be shared or not be changed.
fn open(
    number: usize,
    pmem: &PmemSpec,
    domain: Domain,
    sealed: Option<OwnedFd>,
) -> Result<Arc<SharedRegion>, MachineError> {
    let fail = |source| MachineError::Pmem { number, source };
    if let (Some(descriptor), Some(copy)) = (sealed, &pmem.sealed) {
        return from_sealed(descriptor, pmem.path.clone(), copy.identity.clone()).map_err(fail);
    }
    let cannot = |what| {
        let path = pmem.path.clone();
        move |source| fail(ShareError::Host { what, path, source })
    };
    let file = File::open(&pmem.path).map_err(cannot("open"))?;
    let found = file.metadata().map_err(cannot("look at"))?;
    if !found.is_file() {
        return Err(fail(memshare::ShareError::NotRegular(pmem.path.clone())));
    }
    if found.len() == 0 {
        return Err(fail(memshare::ShareError::Empty(pmem.path.clone())));
    }
    // Locks belong to what was opened, whose other descriptor this is.
    let lock = file.try_clone().map_err(cannot("open"))?;
    if pmem.seal {
        let region = SharedRegion::new(file, pmem.path.clone(), None).map_err(fail)?;
        return sealed_copy(&region).map_err(fail);
    }
    let claim = domain.claim(lock).map_err(cannot("lock"))?;
    let alone = claim.is_alone().map_err(cannot("look at the locks of"))?;
    if alone {
        return SharedRegion::new(file, pmem.path.clone(), Some(Box::new(claim))).map_err(fail);
    }
    tracing::info!(
        pmem = number,
        file = %pmem.path.display(),
        "guests of another share domain use the file: this one gets a copy of its own"
    );
    let region = SharedRegion::new(file, pmem.path.clone(), None).map_err(fail)?;
    private_copy(&region).map_err(fail)
}

/// Guest-physical addresses for a file of `len` bytes, from `from` on.
fn range(from: u64, len: u64, limit: u64) -> Option<Range<u64>> {
    let len = len.checked_next_multiple_of(GRANULE).filter(|len| *len > 0)?;
    let align = if len >= HUGE { HUGE } else { GRANULE };
    let start = from.checked_next_multiple_of(align)?;
    let end = start.checked_add(len)?;
    (end <= limit).then_some(start..end)
}

/// Watches a file that can change, if somebody wants to hear of that.
fn watch(
    region: Arc<SharedRegion>,
    policy: OnChange,
    ending: &Arc<Ending>,
) -> Result<Option<Watch>, ShareError> {
    if policy == OnChange::Ignore || region.identity().digest.is_some() {
        return Ok(None);
    }
    Watch::new(vec![region], on_change(policy, ending)).map(Some)
}

fn lock<T>(list: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is done when a file changes.
fn on_change(policy: OnChange, ending: &Arc<Ending>) -> impl FnMut(&Changed) + Send + 'static {
    let ending = Arc::clone(ending);
    move |changed| match policy {
        OnChange::Ignore => {}
        OnChange::Warn => tracing::warn!("{changed}"),
        OnChange::Stop => {
            ending.report(End::Failure(MachineError::FileChanged(changed.clone())));
        }
    }
}

/// Answers for accesses of virtual processors to a file's memory that the hypervisor does not
/// carry out: writes to what the guest may only read, and pages that the file has lost, where the
/// hypervisor emulates the instruction.
pub(super) struct Refusals {
    window: Arc<Window>,
    region: Arc<SharedRegion>,
    mode: PmemMode,
    ending: Arc<Ending>,
    writes: u64,
}

impl devices::bus::BusDevice for Refusals {
    fn read(&mut self, offset: u64, _data: &mut [u8]) {
        self.look_for_loss(offset);
    }

    fn write(&mut self, offset: u64, _data: &[u8]) {
        self.look_for_loss(offset);
        if self.mode == PmemMode::Shared {
            if self.writes == 0 {
                let name = self.window.name();
                tracing::warn!(
                    "{name}: the guest writes at byte {offset:#x} of memory that it may only read; \
                     this and further writes are refused"
                );
            }
            self.writes = self.writes.saturating_add(1);
        }
    }
}

impl Refusals {
    /// Ends the guest if the page at `offset` is one that the file had and has no more.
    fn look_for_loss(&self, offset: u64) {
        let Ok(now) = self.region.file().metadata() else { return };
        let had = offset < self.region.len().next_multiple_of(PAGE_SIZE);
        if had && offset >= now.len().next_multiple_of(PAGE_SIZE) {
            let window = self.window.name().to_owned();
            let lost = LostFilePage { window, path: self.region.path().into(), offset };
            self.ending.report(End::Failure(MachineError::LostFilePage(lost)));
        }
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        if self.writes > 0 {
            tracing::info!(
                "{}: {} writes of the guest were refused",
                self.window.name(),
                self.writes
            );
        }
    }
}

/// A page of a file that the file has no more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LostFilePage {
    pub(crate) window: String,
    pub(crate) path: PathBuf,
    pub(crate) offset: u64,
}

impl From<Mapped> for LostFilePage {
    fn from(mapped: Mapped) -> LostFilePage {
        let Mapped { window, path, offset } = mapped;
        LostFilePage { window, path, offset }
    }
}
