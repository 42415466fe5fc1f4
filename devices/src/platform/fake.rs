//! A platform that remembers what devices ask of it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::{MsiMessage, MsiVector, Platform};
use crate::sync::lock;

#[derive(Debug, Default)]
pub(crate) struct FakePlatform {
    vectors: Mutex<Vec<Arc<FakeVector>>>,
    /// Doorbells by address.
    doorbells: Mutex<BTreeMap<u64, EventFd>>,
    /// Called before a doorbell is detached.
    on_detach: Mutex<Option<OnDetach>>,
}

/// Sees the address of a doorbell.
pub(crate) struct OnDetach(pub(crate) Box<dyn Fn(u64) + Send>);

impl std::fmt::Debug for OnDetach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnDetach")
    }
}

impl FakePlatform {
    pub(crate) fn vector(&self, index: usize) -> Arc<FakeVector> {
        lock(&self.vectors)[index].clone()
    }

    /// Calls `see` whenever a doorbell is about to be detached.
    pub(crate) fn on_detach(&self, see: impl Fn(u64) + Send + 'static) {
        *lock(&self.on_detach) = Some(OnDetach(Box::new(see)));
    }

    /// Where doorbells are.
    pub(crate) fn doorbells(&self) -> Vec<u64> {
        lock(&self.doorbells).keys().copied().collect()
    }

    /// What the hypervisor does when a guest writes to an address: rings the doorbell there.
    pub(crate) fn write(&self, address: u64) -> bool {
        let doorbells = lock(&self.doorbells);
        doorbells.get(&address).is_some_and(|doorbell| doorbell.write(1).is_ok())
    }
}

impl Platform for FakePlatform {
    fn msi_vectors(&self, count: u16) -> io::Result<Vec<Arc<dyn MsiVector>>> {
        let mut vectors = lock(&self.vectors);
        let new = vectors.len()..vectors.len() + usize::from(count);
        vectors.extend((0..count).map(|_| Arc::new(FakeVector::default())));
        Ok(vectors[new].iter().map(|vector| vector.clone() as Arc<dyn MsiVector>).collect())
    }

    fn attach_doorbell(&self, address: u64, doorbell: &EventFd) -> io::Result<()> {
        let before = lock(&self.doorbells).insert(address, doorbell.try_clone()?);
        assert!(before.is_none(), "two doorbells at {address:#x}");
        Ok(())
    }

    fn detach_doorbell(&self, address: u64, doorbell: &EventFd) -> io::Result<()> {
        assert!(doorbell.as_raw_fd() >= 0);
        if let Some(OnDetach(see)) = &*lock(&self.on_detach) {
            see(address);
        }
        let before = lock(&self.doorbells).remove(&address);
        assert!(before.is_some(), "no doorbell at {address:#x}");
        Ok(())
    }
}

#[derive(Debug, Default)]
pub(crate) struct FakeVector {
    /// The route, and what was sent by it.
    messages: Mutex<(Option<MsiMessage>, Vec<MsiMessage>)>,
    /// Descriptors of the events that are attached.
    attached: Mutex<Vec<i32>>,
}

impl FakeVector {
    /// Messages sent since the last call.
    pub(crate) fn take_sent(&self) -> Vec<MsiMessage> {
        std::mem::take(&mut lock(&self.messages).1)
    }

    /// Whether signals of `event` raise the interrupt.
    pub(crate) fn takes(&self, event: &EventFd) -> bool {
        lock(&self.attached).contains(&event.as_raw_fd())
    }
}

impl MsiVector for FakeVector {
    fn route(&self, message: Option<MsiMessage>) -> io::Result<()> {
        assert!(message.is_some() || lock(&self.attached).is_empty(), "masked but attached");
        lock(&self.messages).0 = message;
        Ok(())
    }

    fn signal(&self) -> io::Result<()> {
        let (route, sent) = &mut *lock(&self.messages);
        sent.push(route.expect("a masked vector is never signalled"));
        Ok(())
    }

    fn attach(&self, event: &EventFd) -> io::Result<()> {
        assert!(!self.takes(event), "attached twice");
        assert!(lock(&self.messages).0.is_some(), "attached while masked");
        lock(&self.attached).push(event.as_raw_fd());
        Ok(())
    }

    fn detach(&self, event: &EventFd) -> io::Result<()> {
        assert!(self.takes(event), "not attached");
        lock(&self.attached).retain(|fd| *fd != event.as_raw_fd());
        Ok(())
    }
}
