//! Task management (RFC 7143 sections 11.5 and 11.6): one function at a time, since targets have
//! little room for immediate requests.

use std::time::Instant;

use super::{End, Session, protocol};
use crate::iscsi::initiator::port::Errand;
use crate::iscsi::pdu::{Header, NO_TAG, opcode};
use crate::scsi::{Outcome, Response, ServiceResponse, TaskManagement};

/// What is to be done to tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum What {
    /// End the one of this tag.
    Abort(u32),
    /// It ended with its session.
    Gone,
    /// A function that is about all of them.
    All(TaskManagement),
}

/// A function, and who waits for it.
#[derive(Debug)]
pub(in super::super) struct Function {
    pub(in super::super) what: What,
    pub(in super::super) since: Instant,
    pub(in super::super) errand: Option<Errand>,
}

impl Function {
    pub(in super::super) fn answer(self, response: ServiceResponse) {
        if let Some(errand) = self.errand {
            errand.answer(response);
        }
    }
}

/// The function under way.
#[derive(Debug)]
pub(super) struct Sent {
    function: Function,
    tag: u32,
    at: Instant,
    /// Commands before this place are those that it is about.
    place: u64,
}

impl Sent {
    pub(super) fn at(&self) -> Instant {
        self.at
    }

    pub(super) fn into_function(self) -> Function {
        self.function
    }
}

impl Session {
    /// Whether a function may be sent now.
    pub(in super::super) fn takes_function(&self) -> bool {
        self.function.is_none()
    }

    /// Sends a function, or answers it.
    pub(in super::super) fn manage(&mut self, function: Function) {
        let complete = ServiceResponse::Managed(Outcome::Complete);
        let (code, referenced) = match function.what {
            What::Gone => return function.answer(complete),
            What::Abort(tag) => match self.tasks.get(&tag) {
                Some(task) => (1, Some((tag, task.cmd_sn))),
                // It ended meanwhile.
                None => {
                    return function.answer(ServiceResponse::Managed(Outcome::NoSuchTask));
                }
            },
            What::All(TaskManagement::AbortTaskSet | TaskManagement::AbortTask(_)) => (2, None),
            What::All(TaskManagement::ClearTaskSet) => (4, None),
            What::All(TaskManagement::LogicalUnitReset) => (5, None),
            What::All(TaskManagement::TargetReset) => (6, None),
        };
        let tag = self.new_tag();
        let mut header = Header::new(opcode::TASK_MANAGEMENT | 0x40, 0x80 | code);
        let (of, of_sn) = referenced.unwrap_or((NO_TAG, 0));
        header.set(8, &self.lun.to_be_bytes()).set_u32(16, tag).set_u32(20, of);
        header.set_u32(24, self.cmd_sn).set_u32(28, self.exp_stat_sn).set_u32(32, of_sn);
        let on = self.digests();
        let place = self.output.put();
        self.output.push(&mut header, &[], &[], on);
        self.function = Some(Sent { function, tag, at: Instant::now(), place });
    }

    /// A function is answered.
    pub(super) fn managed(&mut self, header: &Header) -> Result<(), End> {
        const COMPLETE: u8 = 0;
        const NO_TASK: u8 = 1;
        const NO_UNIT: u8 = 2;
        let sent = self.function.take_if(|sent| sent.tag == header.task_tag());
        let Some(Sent { function, place, .. }) = sent else {
            return protocol("it answers a function that was not asked for");
        };
        let answer = header.byte(2);
        let silent = ServiceResponse::Complete(Response::silent());
        let response = match (answer, function.what) {
            (COMPLETE, What::Abort(task)) => {
                self.end(task, silent);
                ServiceResponse::Managed(Outcome::Complete)
            }
            (COMPLETE, _) => {
                let before = self.tasks.iter().filter(|(_, task)| task.place < place);
                let before: Vec<u32> = before.map(|(&tag, _)| tag).collect();
                before.into_iter().for_each(|tag| self.end(tag, silent.clone()));
                ServiceResponse::Managed(Outcome::Complete)
            }
            (NO_TASK, What::Abort(task)) => {
                // Its answer would have come before this one.
                self.end(task, ServiceResponse::DeliveryFailure);
                ServiceResponse::Managed(Outcome::NoSuchTask)
            }
            (NO_UNIT, _) => ServiceResponse::Managed(Outcome::NoSuchUnit),
            _ => ServiceResponse::DeliveryFailure,
        };
        let is_refused =
            !matches!(response, ServiceResponse::Managed(Outcome::Complete | Outcome::NoSuchTask));
        if is_refused && function.errand.is_none() {
            // The memory of the task is wanted back, and the end of the session is a way to that.
            return Err(End::Protocol(format!("it does not end a task (answer {answer})")));
        }
        function.answer(response);
        Ok(())
    }
}
