//! Reservation commands: carried out on [`Reservations`], saved, published.

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};

use super::cdb::Cdb;
use super::nexus::{Ending, Nexus};
use super::opcodes::Kind;
use super::sense::{self, Fault, Field};
use super::target::{Target, TargetError};
use super::wake::{Waker, lock};
use crate::reservation::{Effects, Refusal, Reservations, SenseCode, StoreError};

/// How a reservation command ended.
#[derive(Debug)]
pub(super) enum Verdict {
    Good,
    Data(Vec<u8>),
    Conflict,
    Check(Fault),
    /// GOOD, when no task of these is left: PREEMPT AND ABORT.
    Victims(Vec<Ending>),
}

impl From<Refusal> for Verdict {
    fn from(refusal: Refusal) -> Verdict {
        match refusal {
            Refusal::Conflict => Verdict::Conflict,
            Refusal::Check { code, field } => {
                let field = field.map(|(in_cdb, byte)| Field { in_cdb, byte, bit: None });
                Verdict::Check(Fault { code, field, information: None })
            }
        }
    }
}

/// A reservation command.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) kind: Kind,
    pub(super) cdb: Cdb,
    /// The unit.
    pub(super) number: usize,
    /// Who sends it.
    pub(super) nexus: Nexus,
    /// PERSISTENT RESERVE OUT's parameter list.
    pub(super) list: Vec<u8>,
}

/// Where a verdict appears.
#[derive(Debug)]
pub(super) struct Pending {
    verdict: Mutex<Option<Verdict>>,
    waker: Waker,
}

impl Pending {
    pub(super) fn take(&self) -> Option<Verdict> {
        lock(&self.verdict).take()
    }
}

type Job = (Target, Request, Arc<Pending>);

/// The thread that carries out reservation commands of a target that saves them. `fdatasync` takes
/// its time, in which the queues' threads have other things to do.
#[derive(Debug)]
pub(super) struct Clerk(Sender<Job>);

impl Clerk {
    /// It ends with this value.
    pub(super) fn start() -> std::io::Result<Clerk> {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::Builder::new().name("reservations".to_owned()).spawn(move || {
            for (target, request, pending) in jobs {
                let verdict = target.carry_out(&request);
                *lock(&pending.verdict) = Some(verdict);
                pending.waker.wake();
            }
        })?;
        Ok(Clerk(sender))
    }
}

impl Target {
    /// Carries out a reservation command, or has it carried out: then its verdict appears later.
    pub(super) fn reserve(&self, request: Request, waker: &Waker) -> Result<Verdict, Arc<Pending>> {
        let Some(clerk) = self.clerk() else { return Ok(self.carry_out(&request)) };
        let pending = Arc::new(Pending { verdict: Mutex::new(None), waker: waker.clone() });
        match clerk.0.send((self.clone(), request, Arc::clone(&pending))) {
            Ok(()) => Err(pending),
            // The thread has panicked.
            Err(_) => Ok(Verdict::Check(sense::INTERNAL_FAILURE.into())),
        }
    }

    fn carry_out(&self, request: &Request) -> Verdict {
        let Request { kind, cdb, number, nexus, list } = request;
        let port = nexus.port();
        let short = *cdb.0.first_chunk::<10>().unwrap_or(&[0; 10]);
        let plain = |result: Result<(), Refusal>| match result {
            Ok(()) => Verdict::Good,
            Err(refusal) => refusal.into(),
        };
        match kind {
            Kind::Reserve => plain(self.change_reservations(*number, |it| it.reserve(port))),
            Kind::Release => plain(self.change_reservations(*number, |it| it.release(port))),
            Kind::PersistentIn => match lock(&self.units()[*number].reservations).read(&short) {
                Ok(data) => Verdict::Data(self.with_abilities(cdb, data)),
                Err(refusal) => refusal.into(),
            },
            _ => match self.transact((*number, Some(nexus)), |it| it.out(port, &short, list)) {
                Ok(victims) if victims.is_empty() => Verdict::Good,
                Ok(victims) => Verdict::Victims(victims),
                Err(verdict) => verdict,
            },
        }
    }

    /// REPORT CAPABILITIES: without a file, registrations do not outlast a loss of power (PTPL_C,
    /// SPC-4 6.15.4).
    fn with_abilities(&self, cdb: &Cdb, mut data: Vec<u8>) -> Vec<u8> {
        const REPORT_CAPABILITIES: u8 = 2;
        if cdb.action() == REPORT_CAPABILITIES
            && self.store().is_none()
            && let Some(byte) = data.get_mut(2)
        {
            *byte &= !0x01;
        }
        data
    }

    /// Changes persistent reservations: **saved, then published, then answered**. Whose tasks are
    /// to end, after these have been told to.
    ///
    /// The lock is held while the change is saved, so that nobody sees what a loss of power would
    /// undo. The data path does not take it.
    fn transact(
        &self,
        (number, own): (usize, Option<&Nexus>),
        change: impl FnOnce(&mut Reservations) -> Result<Effects, Refusal>,
    ) -> Result<Vec<Ending>, Verdict> {
        let unit = &self.units()[number];
        let mut current = lock(&unit.reservations);
        let mut next = current.clone();
        let Effects { attentions, abort, abort_own, save } = change(&mut next)?;
        match self.store() {
            Some(store) if save => {
                let lun = u16::try_from(number).unwrap_or(u16::MAX);
                if let Err(error) = store.save(lun, &unit.identity, &next) {
                    if self.lines().allows() {
                        tracing::error!(lun, %error, "reservations cannot be saved: they stay as they were");
                    }
                    let code = match error {
                        StoreError::Full { .. } => SenseCode::NO_ROOM,
                        _ => sense::INTERNAL_FAILURE,
                    };
                    return Err(Verdict::Check(code.into()));
                }
            }
            Some(store) => store.settle(),
            None if next.aptpl() => {
                // APTPL: there is no file to keep them in.
                return Err(Verdict::Check(Fault::list(20, Some(0))));
            }
            _ => {}
        }
        *current = next;
        // First the rights, then the tasks: see `Access`.
        self.publish(number, &current);
        for (port, code) in attentions {
            if let Some(nexus) = self.known(&port) {
                nexus.0.access[number].attend(code);
            }
        }
        let others = abort.iter().filter_map(|port| self.known(port));
        // Who preempts itself does not expect its commands to vanish: they end with a status, too.
        let victims = others.chain(own.filter(|_| abort_own).cloned());
        let victims = victims.map(|nexus| nexus.0.access[number].abort_all(true));
        Ok(victims.collect())
    }

    /// Ends all registrations and reservations of a unit, as an operator's last resort. Who is
    /// registered is told.
    pub fn clear_reservations(&self, lun: u64) -> Result<(), TargetError> {
        let number = usize::try_from(lun).ok().filter(|&number| number < self.units().len());
        let number = number.ok_or(TargetError::NoSuchUnit { lun })?;
        let before = self.status().units.swap_remove(number);
        let (registrations, holders) = (before.registrations.len(), before.holders);
        match self.transact((number, None), |it| Ok(it.clear())) {
            Ok(_) => {
                tracing::warn!(lun, registrations, ?holders, "an operator cleared reservations");
                Ok(())
            }
            Err(_) => Err(TargetError::Save),
        }
    }
}
