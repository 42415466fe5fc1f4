//! Who may use a logical unit: persistent reservations (SPC-4 5.13) and the reservations of SPC-2
//! (RESERVE and RELEASE, SPC-4 5.13.3).
//!
//! ```text
//!  command ──► demand: what it needs, by its CDB            demand.rs
//!          ──► Rights of its initiator port, in one byte     rights.rs
//!
//!  PERSISTENT RESERVE OUT ──► Reservations::out  ──► Effects out.rs, preempt.rs
//!  PERSISTENT RESERVE IN  ──► Reservations::read ──► bytes   read.rs
//!  RESERVE, RELEASE       ──► Reservations::reserve, release legacy.rs
//!
//!  Effects::save ──► Store::save, before GOOD                store.rs
//! ```
//!
//! [`Reservations`] is a plain value: it neither waits nor does I/O, and changes only where a
//! command succeeds. Whoever owns it gives out new [`Rights`] when it has changed, before the
//! command that changed it is answered.
//!
//! Registrations belong to an [`InitiatorPort`], which is the guest's name and not a connection's.
//! There is one target port, so that a port's name tells the I_T nexus, and ALL_TG_PT says what is
//! the case anyway.

use std::collections::BTreeMap;

mod demand;
mod kind;
mod legacy;
mod out;
mod port;
mod preempt;
mod read;
mod rights;
mod sense;
mod state;
mod store;
#[cfg(test)]
mod tests;

pub use demand::{Demand, demand};
pub use kind::Kind;
pub use port::{BadPortName, InitiatorPort};
pub use rights::Rights;
pub use sense::{Refusal, SenseCode};
pub use state::BadState;
pub use store::{Store, StoreError};

/// Registrations that a logical unit takes at most.
pub const REGISTRATIONS_MAX: usize = 1024;

/// All registrations, the persistent reservation and the SPC-2 reservation of one logical unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    /// PRgeneration (SPC-4 6.15.2).
    generation: u32,
    /// The APTPL bit that was received last: whether a loss of power leaves all this as it is
    /// (SPC-4 5.13.5).
    aptpl: bool,
    /// There is nowhere to keep anything, so that an APTPL bit of one is refused.
    volatile: bool,
    /// Keys of the registered ports, none of them 0.
    keys: BTreeMap<InitiatorPort, u64>,
    /// There is none without a registration.
    reservation: Option<Reservation>,
    /// Who holds the SPC-2 reservation. There is none while a port is registered.
    legacy: Option<InitiatorPort>,
}

/// A persistent reservation. Its scope is the logical unit, as SPC-4 knows no other.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reservation {
    /// Of a type that one registered port holds.
    One(InitiatorPort, Kind),
    /// Of a type that every registered port holds.
    All(Kind),
}

impl Reservation {
    fn new(port: &InitiatorPort, kind: Kind) -> Reservation {
        match kind.is_all_registrants() {
            true => Reservation::All(kind),
            false => Reservation::One(port.clone(), kind),
        }
    }

    fn kind(&self) -> Kind {
        match *self {
            Reservation::One(_, kind) | Reservation::All(kind) => kind,
        }
    }
}

/// What has to be done after a command has succeeded and before it is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "attentions, aborts and what is to be saved come before GOOD"]
pub struct Effects {
    /// Unit attention conditions to establish, at most one for a port.
    pub attentions: Vec<(InitiatorPort, SenseCode)>,
    /// Ports whose tasks are to be aborted. The port that sent the command is never among them.
    pub abort: Vec<InitiatorPort>,
    /// The other tasks of the port that sent the command are to be aborted, too: it has preempted
    /// itself.
    pub abort_own: bool,
    /// What a loss of power leaves has changed: [`Store::save`] it.
    pub save: bool,
}

impl Reservations {
    /// None, for a logical unit that has no [`Store`]: it says that a loss of power takes all, and
    /// refuses to be asked for anything else.
    pub fn volatile() -> Reservations {
        Reservations { volatile: true, ..Reservations::default() }
    }

    /// What a port may do now.
    pub fn rights(&self, port: &InitiatorPort) -> Rights {
        let (read, write) = match &self.reservation {
            None => (true, true),
            Some(Reservation::One(holder, _)) if holder == port => (true, true),
            Some(reservation) => {
                let kind = reservation.kind();
                let trusted = kind.is_for_registrants() && self.keys.contains_key(port);
                (trusted || !kind.is_exclusive_access(), trusted)
            }
        };
        Rights::new(read, write, self.legacy.as_ref().map(|holder| holder == port))
    }

    /// LOGICAL UNIT RESET: the SPC-2 reservation goes, persistent ones stay (SPC-4 5.13.1).
    pub fn reset(&mut self) {
        self.legacy = None;
    }

    /// Loss of an I_T nexus: its SPC-2 reservation goes, persistent ones stay (SPC-4 5.13.1).
    pub fn nexus_lost(&mut self, port: &InitiatorPort) {
        self.legacy.take_if(|holder| holder == port);
    }

    /// What a loss of power leaves: all registrations and the persistent reservation if the APTPL
    /// bit that was received last was one, else nothing (SPC-4 5.13.5). The generation starts
    /// anew (SPC-4 6.15.2).
    pub fn after_power_loss(&self) -> Reservations {
        if !self.aptpl {
            return Reservations { volatile: self.volatile, ..Reservations::default() };
        }
        Reservations { generation: 0, legacy: None, ..self.clone() }
    }

    /// Whether both leave the same after a loss of power.
    fn survives_as(&self, other: &Reservations) -> bool {
        let neither = !self.aptpl && !other.aptpl;
        let kept = |it: &Reservations| (it.aptpl, it.reservation.clone());
        neither || kept(self) == kept(other) && self.keys == other.keys
    }

    /// Removes every registration and reservation, as an operator may do who knows that nobody is
    /// left who could: as CLEAR, but every registered port is told.
    pub fn clear(&mut self) -> Effects {
        let before = self.clone();
        self.legacy = None;
        let mut effects = self.remove_all(None);
        effects.save = !self.survives_as(&before);
        effects
    }

    /// PRgeneration.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The registered ports and their keys, by name.
    pub fn registrations(&self) -> impl ExactSizeIterator<Item = (&InitiatorPort, u64)> {
        self.keys.iter().map(|(port, &key)| (port, key))
    }

    /// The registered ports that hold the persistent reservation: none, one, or all.
    pub fn holders(&self) -> impl Iterator<Item = &InitiatorPort> {
        self.keys.keys().filter(|port| self.holds(port))
    }

    /// The type of the persistent reservation, if there is one.
    pub fn kind(&self) -> Option<Kind> {
        self.reservation.as_ref().map(Reservation::kind)
    }

    /// Whether a loss of power leaves registrations and the persistent reservation as they are.
    pub fn aptpl(&self) -> bool {
        self.aptpl
    }

    /// Who holds the SPC-2 reservation.
    pub fn legacy_holder(&self) -> Option<&InitiatorPort> {
        self.legacy.as_ref()
    }

    /// Whether the port is a holder of the persistent reservation (SPC-4 5.13.10).
    fn holds(&self, port: &InitiatorPort) -> bool {
        match &self.reservation {
            None => false,
            Some(Reservation::One(holder, _)) => holder == port,
            Some(Reservation::All(_)) => self.keys.contains_key(port),
        }
    }
}
