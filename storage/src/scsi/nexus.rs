//! I_T nexuses: what the target remembers of each initiator port.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::sense;
use super::wake::{Waiters, Waker, lock};
use crate::reservation::{self, Demand, InitiatorPort, Rights, SenseCode};

/// Unit attentions that wait for one initiator port at one unit; older ones make room.
const ATTENTIONS_MAX: usize = 16;

/// An initiator port as the target knows it. The same port has the same state, over whichever
/// connections it comes.
#[derive(Clone, Debug)]
pub struct Nexus(pub(super) Arc<NexusState>);

#[derive(Debug)]
pub(super) struct NexusState {
    pub(super) port: InitiatorPort,
    /// By logical unit number.
    pub(super) access: Box<[Arc<Access>]>,
}

impl Nexus {
    /// The port.
    pub fn port(&self) -> &InitiatorPort {
        &self.0.port
    }

    /// Whether reservations would let a command through now, of which the CDB has `cdb` as its
    /// first bytes.
    pub fn may(&self, lun: u16, cdb: &[u8]) -> bool {
        let access = self.0.access.get(usize::from(lun));
        access.is_some_and(|access| access.allows(reservation::demand(cdb)))
    }
}

/// One initiator port's access to one logical unit.
///
/// **The order in which `rights`, `epoch` and `tasks` are touched is what fencing rests on.** A
/// task counts itself first, and then looks whether it may go on ([`Access::enter`]); PREEMPT AND
/// ABORT first takes the rights away, and then waits until those that count are none. All with
/// sequentially consistent order: one of the two sees the other.
#[derive(Debug)]
pub(super) struct Access {
    /// [`Rights`] as bits.
    rights: AtomicU8,
    /// How often this port's tasks were aborted all together. A task of an earlier epoch is an
    /// aborted one.
    epoch: AtomicU32,
    /// Whether another port did so the last time.
    by_other: AtomicBool,
    /// Tasks that have no name yet, by the last bit of their epoch.
    tasks: [AtomicU32; 2],
    /// Who waits for tasks to end.
    pub(super) waiters: Waiters,
    /// Tasks that did not end at once.
    named: Mutex<Vec<Named>>,
    attention: AtomicBool,
    attentions: Mutex<VecDeque<SenseCode>>,
    pub(super) traffic: Traffic,
}

/// What has gone to and from a unit.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) reads: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) written_bytes: AtomicU64,
}

#[derive(Debug)]
struct Named {
    tag: u64,
    id: u64,
    epoch: u32,
    aborted: bool,
    /// Whether it may still change or read the medium.
    active: bool,
}

/// When a task began: it counts until [`Access::leave`], [`Access::forget`] or
/// [`Access::rest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch(u32);

impl Access {
    /// That of a port that is new here: it is told that things are as after power on.
    pub(super) fn new(rights: Rights) -> Access {
        Access {
            rights: AtomicU8::new(rights.to_bits()),
            epoch: AtomicU32::new(0),
            by_other: AtomicBool::new(false),
            tasks: Default::default(),
            waiters: Waiters::default(),
            named: Mutex::default(),
            attention: AtomicBool::new(true),
            attentions: Mutex::new(VecDeque::from([sense::POWER_ON])),
            traffic: Traffic::default(),
        }
    }

    /// Counts a task. Look at the rights after this.
    pub(super) fn enter(&self) -> Epoch {
        loop {
            let epoch = self.epoch.load(Ordering::SeqCst);
            self.count(epoch).fetch_add(1, Ordering::SeqCst);
            if self.epoch.load(Ordering::SeqCst) == epoch {
                return Epoch(epoch);
            }
            // Who aborts in between may have seen no task to wait for.
            self.leave(Epoch(epoch));
        }
    }

    /// A task without a name is through with the medium.
    pub(super) fn leave(&self, epoch: Epoch) {
        self.count(epoch.0).fetch_sub(1, Ordering::SeqCst);
        self.waiters.wake_all();
    }

    fn count(&self, epoch: u32) -> &AtomicU32 {
        &self.tasks[usize::from(epoch & 1 == 1)]
    }

    /// Whether the port may do what a command demands.
    pub(super) fn allows(&self, demand: Demand) -> bool {
        Rights::from_bits(self.rights.load(Ordering::SeqCst)).allows(demand)
    }

    pub(super) fn set_rights(&self, rights: Rights) {
        self.rights.store(rights.to_bits(), Ordering::SeqCst);
    }

    /// Aborts all tasks there are. What has reached the disk's queue ends there:
    /// [`Ending::is_over`] tells when.
    pub(super) fn abort_all(self: &Arc<Self>, by_other: bool) -> Ending {
        self.by_other.store(by_other, Ordering::SeqCst);
        let epoch = self.epoch.fetch_add(1, Ordering::SeqCst);
        Ending { access: Arc::clone(self), epoch, passed: [false; 2] }
    }

    /// Gives a task a name, as it does not end at once: ABORT TASK finds it. `active`: it has
    /// counted until now, and goes on to.
    pub(super) fn name(&self, tag: u64, id: u64, epoch: Epoch, active: bool) {
        let task = Named { tag, id, epoch: epoch.0, aborted: false, active };
        lock(&self.named).push(task);
        if active {
            // Now it is counted twice; the other way round it would not be for a moment.
            self.leave(epoch);
        }
    }

    /// A task with a name goes on without the medium.
    pub(super) fn rest(&self, id: u64) {
        let mut named = lock(&self.named);
        named.iter_mut().filter(|task| task.id == id).for_each(|task| task.active = false);
        drop(named);
        self.waiters.wake_all();
    }

    /// A task with a name is over.
    pub(super) fn forget(&self, id: u64) {
        let mut named = lock(&self.named);
        if let Some(at) = named.iter().position(|task| task.id == id) {
            named.swap_remove(at);
        }
        drop(named);
        self.waiters.wake_all();
    }

    /// Whether a task was aborted, and whether by another port.
    pub(super) fn aborted(&self, epoch: Epoch, id: Option<u64>) -> Option<bool> {
        if self.epoch.load(Ordering::SeqCst) != epoch.0 {
            return Some(self.by_other.load(Ordering::SeqCst));
        }
        // A task that no one knows of cannot be aborted by its tag.
        id.filter(|&id| self.is_aborted_by_tag(id)).map(|_| false)
    }

    /// Whether ABORT TASK was about this task.
    pub(super) fn is_aborted_by_tag(&self, id: u64) -> bool {
        lock(&self.named).iter().any(|task| task.id == id && task.aborted)
    }

    /// Aborts the tasks of this tag; their numbers.
    pub(super) fn abort_tag(&self, tag: u64) -> Vec<u64> {
        let mut named = lock(&self.named);
        let tasks = named.iter_mut().filter(|task| task.tag == tag);
        tasks
            .map(|task| {
                task.aborted = true;
                task.id
            })
            .collect()
    }

    /// Whether none of these tasks is left; if there is one, `waker` hears when that changes.
    pub(super) fn have_ended(&self, ids: &[u64], waker: &Waker) -> bool {
        let none = || !lock(&self.named).iter().any(|task| ids.contains(&task.id));
        none() || {
            self.waiters.add(waker);
            none()
        }
    }

    /// Establishes a unit attention condition (SAM-5 5.14). Those that tell of a reset make what
    /// came before moot.
    pub(super) fn attend(&self, code: SenseCode) {
        let mut attentions = lock(&self.attentions);
        if code.asc == sense::POWER_ON.asc {
            attentions.clear();
        }
        if !attentions.contains(&code) {
            if attentions.len() >= ATTENTIONS_MAX {
                attentions.pop_front();
            }
            attentions.push_back(code);
        }
        self.attention.store(true, Ordering::SeqCst);
    }

    /// The oldest unit attention, which is cleared by being reported.
    pub(super) fn take_attention(&self) -> Option<SenseCode> {
        if !self.attention.load(Ordering::SeqCst) {
            return None;
        }
        let mut attentions = lock(&self.attentions);
        let code = attentions.pop_front();
        self.attention.store(!attentions.is_empty(), Ordering::SeqCst);
        code
    }
}

/// All tasks of an epoch, and of those before it, on their way to the end.
#[derive(Debug)]
pub(super) struct Ending {
    access: Arc<Access>,
    epoch: u32,
    /// Whether there was a moment without tasks that have no name, by the last bit of their epoch.
    /// These are about to end or to get one, whatever their epoch is.
    passed: [bool; 2],
}

impl Ending {
    /// Whether none of the tasks is left; if there is one, `waker` hears when that may have
    /// changed.
    pub(super) fn is_over(&mut self, waker: &Waker) -> bool {
        self.look() || {
            self.access.waiters.add(waker);
            self.look()
        }
    }

    fn look(&mut self) -> bool {
        for (passed, count) in self.passed.iter_mut().zip(&self.access.tasks) {
            *passed |= count.load(Ordering::SeqCst) == 0;
        }
        // Then those with a name, since tasks go from there to here.
        let earlier = |task: &&Named| self.epoch.wrapping_sub(task.epoch) < 1 << 31;
        self.passed == [true; 2]
            && !lock(&self.access.named).iter().filter(earlier).any(|task| task.active)
    }
}
