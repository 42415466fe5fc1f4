//! Task management (RFC 7143 sections 11.5 and 11.6): ends commands that are still here, has the
//! target end the others, and answers when nothing of them can happen any more.

use super::{End, Scsi, Session};
use crate::iscsi::pdu::{Header, opcode};
use crate::iscsi::poller::Order;
use crate::scsi::{Managed, Outcome, TaskManagement};

/// Functions under way at a time.
const FUNCTIONS_MAX: usize = 16;

/// Answers.
mod answer {
    pub(super) const COMPLETE: u8 = 0;
    pub(super) const NO_TASK: u8 = 1;
    pub(super) const NO_UNIT: u8 = 2;
    pub(super) const NO_REASSIGNMENT: u8 = 4;
    pub(super) const NOT_SUPPORTED: u8 = 5;
    pub(super) const REJECTED: u8 = 255;
}

/// A function that was begun.
#[derive(Debug)]
pub(super) struct Function {
    tag: u32,
    managed: Managed,
}

impl Session<'_> {
    pub(super) fn task_management(&mut self, header: &Header) -> Result<(), End> {
        let tag = header.task_tag();
        let lun = header.lun();
        let code = header.flags() & 0x7f;
        if self.scsi.is_none() || self.functions.len() >= FUNCTIONS_MAX {
            self.managed(tag, answer::REJECTED);
            return Ok(());
        }
        let what = match code {
            1 => {
                self.abort_task(header);
                return Ok(());
            }
            2 => TaskManagement::AbortTaskSet,
            4 => TaskManagement::ClearTaskSet,
            5 => TaskManagement::LogicalUnitReset,
            6 | 7 => TaskManagement::TargetReset,
            8 => {
                self.managed(tag, answer::NO_REASSIGNMENT);
                return Ok(());
            }
            // CLEAR ACA, and what is not known.
            _ => {
                self.managed(tag, answer::NOT_SUPPORTED);
                return Ok(());
            }
        };
        let all = what == TaskManagement::TargetReset;
        self.drop_tasks(|_, task_lun| all || task_lun == lun);
        self.manage(tag, lun, what, code == 7)
    }

    /// Forgets tasks that the target does not know yet.
    fn drop_tasks(&mut self, which: impl Fn(u32, u64) -> bool) {
        let tasks = self.tasks.iter();
        let dropped = tasks.filter(|&(&tag, task)| !task.is_submitted() && which(tag, task.lun));
        let dropped: Vec<u32> = dropped.map(|(&tag, _)| tag).collect();
        for tag in dropped {
            if let Some(task) = self.forget(tag) {
                self.release(task.cost);
            }
        }
    }

    fn abort_task(&mut self, header: &Header) {
        let (tag, lun, wanted) = (header.task_tag(), header.lun(), header.u32(20));
        match self.tasks.get(&wanted).map(|task| (task.lun == lun, task.is_submitted())) {
            Some((true, true)) => {
                let what = TaskManagement::AbortTask(u64::from(wanted));
                // Ends in an answer only, never in the session.
                let _ = self.manage(tag, lun, what, false);
            }
            Some((true, false)) => {
                self.drop_tasks(|other, _| other == wanted);
                self.managed(tag, answer::COMPLETE);
            }
            // On the one connection there is, a command comes before the function that ends it, so
            // one that is not here is over (RFC 7143 section 11.6.1).
            Some((false, _)) | None => self.managed(tag, answer::NO_TASK),
        }
    }

    fn manage(&mut self, tag: u32, lun: u64, what: TaskManagement, cold: bool) -> Result<(), End> {
        let Some(Scsi { nexus, .. }) = &self.scsi else { return Ok(()) };
        let managed = self.shared.target.manage(nexus, lun, what);
        self.functions.push(Function { tag, managed });
        self.settle();
        if cold {
            // Connections go too, this one as soon as the answer is sent.
            self.shared.registry.order_others(self.seat.tsih, Order::Reset);
            return Err(End::Ordered(Order::Reset));
        }
        Ok(())
    }

    /// Answers the functions that are complete.
    pub(super) fn settle(&mut self) {
        let Some(Scsi { queue, .. }) = &self.scsi else { return };
        let mut settled = Vec::new();
        self.functions.retain_mut(|function| {
            let is_settled = function.managed.settled(queue);
            if is_settled {
                settled.push((function.tag, function.managed.outcome()));
            }
            !is_settled
        });
        for (tag, outcome) in settled {
            let answer = match outcome {
                Outcome::Complete => answer::COMPLETE,
                Outcome::NoSuchTask => answer::NO_TASK,
                Outcome::NoSuchUnit => answer::NO_UNIT,
            };
            self.managed(tag, answer);
        }
    }

    fn managed(&mut self, tag: u32, answer: u8) {
        let mut header = Header::new(opcode::TASK_MANAGEMENT_RESPONSE, 0x80);
        header.set(2, &[answer]).set_u32(16, tag);
        self.send(header, &[]);
    }
}
