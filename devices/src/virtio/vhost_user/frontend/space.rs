//! The configuration that the driver sees: what the back end says, kept for whenever the driver
//! reads it.

use std::sync::Mutex;

use super::session::Session;
use super::{FrontEndError, Kind, config};
use crate::sync::lock;

/// A device's configuration.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) kind: Kind,
    /// Request queues that the driver is told of.
    queues: u16,
    /// Whether the back end keeps it, too.
    kept: bool,
    bytes: Mutex<Bytes>,
}

#[derive(Debug)]
struct Bytes {
    now: Vec<u8>,
    /// As they were before the driver wrote.
    initial: Vec<u8>,
}

impl Space {
    pub(super) fn new(kind: Kind, said: Option<&[u8]>, queues: u16) -> Space {
        let mut now = said.map_or_else(config::scsi_default, <[u8]>::to_vec);
        config::set_request_queues(kind, &mut now, queues);
        let bytes = Mutex::new(Bytes { initial: now.clone(), now });
        Space { kind, queues, kept: said.is_some(), bytes }
    }

    /// Fills `out` from `offset` on; beyond the end with zeroes.
    pub(super) fn read(&self, offset: usize, out: &mut [u8]) {
        let bytes = lock(&self.bytes);
        for (n, byte) in out.iter_mut().enumerate() {
            *byte = bytes.now.get(offset.saturating_add(n)).copied().unwrap_or(0);
        }
    }

    /// Takes what a driver that agreed on `features` writes; whether the back end is to have it.
    pub(super) fn write(&self, offset: usize, data: &[u8], features: u64) -> bool {
        let end = offset.saturating_add(data.len());
        if !self.kept || !(offset..end).all(|at| self.kind.writable(at, features)) {
            return false;
        }
        let mut bytes = lock(&self.bytes);
        for (to, from) in bytes.now.iter_mut().skip(offset).zip(data) {
            *to = *from;
        }
        true
    }

    /// Takes what a back end says now. Returns whether the driver has to know, or what of it the
    /// driver cannot go on with.
    pub(super) fn update(&self, said: Option<&[u8]>) -> Result<bool, &'static str> {
        let said = match (said, self.kept) {
            (Some(said), true) => said,
            (None, false) => return Ok(false),
            _ => return Err("another configuration"),
        };
        let mut new = said.to_vec();
        config::set_request_queues(self.kind, &mut new, self.queues);
        let mut bytes = lock(&self.bytes);
        if let Some(what) = config::conflict(self.kind, &bytes.initial, &new) {
            return Err(what);
        }
        let mut changed = false;
        let Bytes { now, initial } = &mut *bytes;
        for (at, ((now, initial), new)) in now.iter_mut().zip(initial).zip(new).enumerate() {
            // What drivers may write stays as the driver has it.
            if !self.kind.writable(at, u64::MAX) {
                changed |= *now != new;
                (*now, *initial) = (new, new);
            }
        }
        Ok(changed)
    }

    /// Brings a back end in line with what a driver that agreed on `features` wrote.
    pub(super) fn restore(&self, session: &Session, features: u64) -> Result<(), FrontEndError> {
        let Some(said) = session.config.as_deref() else { return Ok(()) };
        let differing: Vec<(usize, u8)> = {
            let bytes = lock(&self.bytes);
            let both = bytes.now.iter().zip(said).enumerate();
            both.filter(|(at, (now, said))| self.kind.writable(*at, features) && now != said)
                .map(|(at, (now, _))| (at, *now))
                .collect()
        };
        differing.into_iter().try_for_each(|(at, byte)| session.write_config(at, &[byte]))
    }

    /// Forgets what the driver wrote, as a reset does. Returns whether it wrote anything.
    pub(super) fn reset(&self) -> bool {
        let mut bytes = lock(&self.bytes);
        let written = bytes.now != bytes.initial;
        bytes.now = bytes.initial.clone();
        written
    }
}
