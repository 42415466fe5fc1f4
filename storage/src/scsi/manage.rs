//! Task management (SAM-5 7).

use std::sync::Arc;

use super::nexus::{Access, Ending, Nexus};
use super::queue::ScsiQueue;
use super::sense;
use super::target::Target;
use super::unit;

/// What an initiator asks of its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskManagement {
    /// End the task of this tag.
    AbortTask(u64),
    /// End all tasks of this nexus at the unit.
    AbortTaskSet,
    /// End all tasks at the unit.
    ClearTaskSet,
    /// End all tasks at the unit, and the reservations of RESERVE(6) and (10).
    LogicalUnitReset,
    /// The same of every unit.
    TargetReset,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// FUNCTION COMPLETE, as soon as [`Managed::settled`].
    Complete,
    /// There is no such task: SAM-5 7.2 has this be FUNCTION COMPLETE as well; iSCSI tells it.
    NoSuchTask,
    /// INCORRECT LOGICAL UNIT NUMBER.
    NoSuchUnit,
}

/// Task management under way: aborted tasks are answered to nobody as if they had been carried
/// out, but some may still have data on its way to the disk.
#[derive(Debug)]
#[must_use = "the function is complete when it is settled"]
pub struct Managed {
    outcome: Outcome,
    sets: Vec<Ending>,
    tasks: Option<(Arc<Access>, Vec<u64>)>,
}

impl Managed {
    fn of(outcome: Outcome) -> Managed {
        Managed { outcome, sets: Vec::new(), tasks: None }
    }

    /// What to answer, when settled.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Whether every aborted task has ended, so that nothing of it reaches the disk any more. If
    /// not, `queue`'s descriptor becomes readable when it is worth asking again (after its
    /// [`poll`](ScsiQueue::poll), which may itself end some of them).
    pub fn settled(&mut self, queue: &ScsiQueue) -> bool {
        self.sets.retain_mut(|ending| !ending.is_over(queue.waker()));
        self.tasks.take_if(|(access, tasks)| access.have_ended(tasks, queue.waker()));
        self.sets.is_empty() && self.tasks.is_none()
    }
}

impl Target {
    /// Carries out a task management function that came from `nexus`.
    pub fn manage(&self, nexus: &Nexus, lun: u64, what: TaskManagement) -> Managed {
        let mut managed = Managed::of(Outcome::Complete);
        if what == TaskManagement::TargetReset {
            for number in 0..self.units().len() {
                self.reset(nexus, number, &mut managed);
            }
            return managed;
        }
        let Some(number) = unit::number(lun).filter(|&number| number < self.units().len()) else {
            return Managed::of(Outcome::NoSuchUnit);
        };
        let Some(own) = nexus.0.access.get(number) else {
            return Managed::of(Outcome::NoSuchUnit);
        };
        match what {
            TaskManagement::AbortTask(tag) => {
                let tasks = own.abort_tag(tag);
                if tasks.is_empty() {
                    return Managed::of(Outcome::NoSuchTask);
                }
                managed.tasks = Some((Arc::clone(own), tasks));
            }
            TaskManagement::AbortTaskSet => {
                managed.sets.push(own.abort_all(false));
            }
            TaskManagement::ClearTaskSet => {
                // TAS is 1: the others' tasks end with TASK ABORTED, hence no unit attention.
                for other in self.nexuses() {
                    let access = &other.0.access[number];
                    managed.sets.push(access.abort_all(!Arc::ptr_eq(access, own)));
                }
            }
            TaskManagement::LogicalUnitReset => self.reset(nexus, number, &mut managed),
            TaskManagement::TargetReset => {}
        }
        managed
    }

    /// LOGICAL UNIT RESET (SAM-5 6.3.3): every nexus is told.
    fn reset(&self, nexus: &Nexus, number: usize, managed: &mut Managed) {
        if self.lines().allows() {
            tracing::info!(lun = number, port = nexus.port().name(), "a logical unit is reset");
        }
        let unit = &self.units()[number];
        for other in self.nexuses() {
            let access = &other.0.access[number];
            let own = Arc::ptr_eq(&other.0, &nexus.0);
            managed.sets.push(access.abort_all(!own));
            access.attend(sense::POWER_ON);
        }
        unit.mode.reset();
        self.change_reservations(number, |reservations| reservations.reset());
    }

    /// The nexus is gone (SAM-5 6.3.4): its tasks end, as do its reservations of RESERVE(6) and
    /// (10); persistent ones stay. It hears of it when it is back.
    pub fn nexus_lost(&self, nexus: &Nexus) -> Managed {
        let mut managed = Managed::of(Outcome::Complete);
        for (number, access) in nexus.0.access.iter().enumerate() {
            managed.sets.push(access.abort_all(false));
            access.attend(sense::POWER_ON);
            self.change_reservations(number, |reservations| {
                reservations.nexus_lost(nexus.port());
            });
        }
        managed
    }
}
