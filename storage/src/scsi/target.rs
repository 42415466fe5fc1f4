//! The target: its units, and the initiator ports it knows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use super::log::Limit;
use super::nexus::{Access, Nexus, NexusState};
use super::queue::ScsiQueue;
use super::reserve::Clerk;
use super::status::{NexusStatus, RegistrationStatus, TargetStatus, UnitStatus};
use super::unit::{self, Unit};
use super::wake::lock;
use crate::reservation::{InitiatorPort, Kind, Reservations, Store};
use crate::{Disk, DiskError};

/// Logical units of a target, by one byte of their number.
const UNITS_MAX: usize = 256;

/// Initiator ports that are remembered although nobody comes from there any more.
const PORTS_MAX: usize = 4096;

/// A logical unit to be.
pub struct UnitOptions {
    /// What is on it.
    pub disk: Disk,
    /// Text that tells the disk from all others, the same wherever and however often it is served:
    /// its names derive from it.
    pub identity: String,
    /// Who is registered, as it was left.
    pub reservations: Reservations,
}

/// Why there is no target.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// No units.
    #[error("a target needs at least one disk")]
    NoUnits,
    /// Too many.
    #[error("{count} disks are more than the {UNITS_MAX} that a target can have")]
    TooManyUnits {
        /// How many.
        count: usize,
    },
    /// Two units would be one and the same to initiators.
    #[error("two of the disks have the identity {identity}")]
    SameIdentity {
        /// Which.
        identity: String,
    },
    /// There is no such unit.
    #[error("there is no logical unit {lun}")]
    NoSuchUnit {
        /// Which.
        lun: u64,
    },
    /// The file of reservations cannot be written.
    #[error("reservations cannot be saved: the log says why")]
    Save,
    /// A thread or descriptor could not be had.
    #[error("the host cannot {action}")]
    Host {
        /// What for.
        action: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// A SCSI target. Clones share it.
#[derive(Clone)]
pub struct Target(Arc<TargetState>);

struct TargetState {
    units: Vec<Arc<Unit>>,
    store: Option<Store>,
    /// Lines about what initiators can bring about.
    lines: Limit,
    /// Who saves reservations, if they are.
    clerk: Option<Clerk>,
    /// Queues so far, which number their tasks.
    queues: AtomicU16,
    /// The target port's name (SPC-4 7.8.6.6.4), the same as long as it has the same units.
    port: u64,
    nexuses: Mutex<BTreeMap<InitiatorPort, Nexus>>,
    /// Held while a port becomes known: taken before the reservations of any unit, which are
    /// taken before `nexuses`.
    introduction: Mutex<()>,
}

impl Target {
    /// A target with these units, LUN 0 first. Changes of reservations that are to survive a loss
    /// of power are kept in `store`; without one, initiators that ask for this are refused.
    pub fn new(units: Vec<UnitOptions>, store: Option<Store>) -> Result<Target, TargetError> {
        if units.is_empty() {
            return Err(TargetError::NoUnits);
        }
        if units.len() > UNITS_MAX {
            return Err(TargetError::TooManyUnits { count: units.len() });
        }
        for (at, unit) in units.iter().enumerate() {
            if units[..at].iter().any(|other| other.identity == unit.identity) {
                return Err(TargetError::SameIdentity { identity: unit.identity.clone() });
            }
        }
        let clerk = match &store {
            None => None,
            Some(_) => Some(
                Clerk::start()
                    .map_err(|source| TargetError::Host { action: "start a thread", source })?,
            ),
        };
        let identities: Vec<&str> = units.iter().map(|unit| unit.identity.as_str()).collect();
        let port = unit::Names::of_port(&identities);
        Ok(Target(Arc::new(TargetState {
            clerk,
            lines: Limit::default(),
            queues: AtomicU16::new(0),
            port,
            units: units.into_iter().map(|options| Arc::new(Unit::new(options))).collect(),
            store,
            nexuses: Mutex::default(),
            introduction: Mutex::default(),
        })))
    }

    /// A target with one unit, on engines of a test's own.
    #[cfg(test)]
    pub(super) fn with_engine(options: UnitOptions, make: unit::MakeEngine) -> Target {
        let mut target = Target::new(vec![options], None).expect("it has one unit");
        let state = Arc::get_mut(&mut target.0).expect("nobody else has it yet");
        let unit = Arc::get_mut(&mut state.units[0]).expect("nor this");
        unit.engine = Some(make);
        target
    }

    /// A way to all units for one thread, for up to `depth` commands at a time.
    pub fn queue(&self, depth: u16) -> Result<ScsiQueue, DiskError> {
        ScsiQueue::new(self.clone(), depth)
    }

    /// The nexus of an initiator port. A port that is new, or was forgotten, finds all units as
    /// after power on.
    pub fn nexus(&self, port: InitiatorPort) -> Nexus {
        let _introduction = lock(&self.0.introduction);
        if let Some(nexus) = lock(&self.0.nexuses).get(&port) {
            return nexus.clone();
        }
        let rights = |unit: &Arc<Unit>| lock(&unit.reservations).rights(&port);
        let access = self.0.units.iter().map(|unit| Arc::new(Access::new(rights(unit))));
        let access = access.collect();
        let nexus = Nexus(Arc::new(NexusState { port: port.clone(), access }));
        {
            let mut nexuses = lock(&self.0.nexuses);
            if nexuses.len() >= PORTS_MAX {
                // Not those with tasks under way, which others may have to wait for.
                let is_used = |access: &Arc<Access>| Arc::strong_count(access) > 1;
                nexuses.retain(|_, nexus| {
                    Arc::strong_count(&nexus.0) > 1 || nexus.0.access.iter().any(is_used)
                });
            }
            nexuses.insert(port.clone(), nexus.clone());
        }
        // What changed before the port was in the list was not published to it.
        for (unit, access) in self.0.units.iter().zip(&nexus.0.access) {
            access.set_rights(lock(&unit.reservations).rights(&port));
        }
        nexus
    }

    pub(super) fn units(&self) -> &[Arc<Unit>] {
        &self.0.units
    }

    pub(super) fn store(&self) -> Option<&Store> {
        self.0.store.as_ref()
    }

    pub(super) fn lines(&self) -> &Limit {
        &self.0.lines
    }

    pub(super) fn clerk(&self) -> Option<&Clerk> {
        self.0.clerk.as_ref()
    }

    pub(super) fn port(&self) -> u64 {
        self.0.port
    }

    /// A number for a queue.
    pub(super) fn next_queue(&self) -> u16 {
        self.0.queues.fetch_add(1, Ordering::Relaxed)
    }

    /// A port, if it is known.
    pub(super) fn known(&self, port: &InitiatorPort) -> Option<Nexus> {
        lock(&self.0.nexuses).get(port).cloned()
    }

    /// All ports that are known.
    pub(super) fn nexuses(&self) -> Vec<Nexus> {
        lock(&self.0.nexuses).values().cloned().collect()
    }

    /// Changes a unit's reservations, and publishes what everyone may do now.
    pub(super) fn change_reservations<T>(
        &self,
        number: usize,
        change: impl FnOnce(&mut Reservations) -> T,
    ) -> T {
        let mut reservations = lock(&self.0.units[number].reservations);
        let result = change(&mut reservations);
        self.publish(number, &reservations);
        result
    }

    /// Tells every port what it may do now. The caller holds the unit's reservations.
    pub(super) fn publish(&self, number: usize, reservations: &Reservations) {
        for nexus in lock(&self.0.nexuses).values() {
            nexus.0.access[number].set_rights(reservations.rights(&nexus.0.port));
        }
    }

    /// The target as it is now.
    pub fn status(&self) -> TargetStatus {
        let nexuses = self.nexuses();
        let sum = |number: Option<usize>, nexus: &Nexus| {
            let mut sum = [0; 4];
            for (at, access) in nexus.0.access.iter().enumerate() {
                if number.is_none_or(|number| number == at) {
                    let traffic = &access.traffic;
                    sum[0] += traffic.reads.load(Ordering::Relaxed);
                    sum[1] += traffic.writes.load(Ordering::Relaxed);
                    sum[2] += traffic.read_bytes.load(Ordering::Relaxed);
                    sum[3] += traffic.written_bytes.load(Ordering::Relaxed);
                }
            }
            sum
        };
        let units = self.0.units.iter().enumerate().map(|(number, unit)| {
            let mut total = [0; 4];
            for nexus in &nexuses {
                for (total, part) in total.iter_mut().zip(sum(Some(number), nexus)) {
                    *total += part;
                }
            }
            let [reads, writes, read_bytes, written_bytes] = total;
            let reservations = lock(&unit.reservations);
            UnitStatus {
                lun: u16::try_from(number).unwrap_or(u16::MAX),
                path: unit.disk.path().display().to_string(),
                size: unit.disk.size().get(),
                block_size: unit.block,
                read_only: unit.disk.read_only(),
                naa: format!("{:016x}", unit.names.naa),
                registrations: reservations
                    .registrations()
                    .map(|(port, key)| RegistrationStatus { port: port.name().to_owned(), key })
                    .collect(),
                holders: reservations.holders().map(|port| port.name().to_owned()).collect(),
                kind: reservations.kind().map(Kind::code),
                generation: reservations.generation(),
                aptpl: reservations.aptpl(),
                reads,
                writes,
                read_bytes,
                written_bytes,
            }
        });
        let units = units.collect();
        let nexuses = nexuses.iter().map(|nexus| {
            let [reads, writes, read_bytes, written_bytes] = sum(None, nexus);
            NexusStatus {
                port: nexus.port().name().to_owned(),
                // One in the list, one here.
                in_use: Arc::strong_count(&nexus.0) > 2,
                reads,
                writes,
                read_bytes,
                written_bytes,
            }
        });
        TargetStatus { units, nexuses: nexuses.collect() }
    }
}
