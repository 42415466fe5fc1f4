//! The control queue: task management and asynchronous notification (virtio 1.3, 5.6.6.2).

use std::sync::Arc;

use memshare::GuestMemory;
use storage::Owner;
use storage::scsi::{CommandQueue, Initiator, Outcome, ServiceResponse, TaskManagement};
use virtio_bindings::virtio_scsi::{
    VIRTIO_SCSI_T_AN_QUERY, VIRTIO_SCSI_T_AN_SUBSCRIBE, VIRTIO_SCSI_T_TMF,
    VIRTIO_SCSI_T_TMF_ABORT_TASK, VIRTIO_SCSI_T_TMF_ABORT_TASK_SET,
    VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET, VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET,
    VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET,
};

use super::fence::Fence;
use super::lun;
use super::space::Space;
use crate::virtio::parts::Parts;
use crate::virtio::queue::{Chain, Queue, RingError};
use crate::virtio::serve::Serve;
use crate::virtio::tokens::Tokens;
use crate::virtio::worker::Wake;

/// Bytes of a task management request: type, subtype, LUN, identifier.
const TMF_LEN: usize = 24;
/// Bytes of a request about asynchronous notification: type, LUN, events.
const NOTIFICATION_LEN: usize = 16;
/// Bytes of its answer: events, response.
const EVENTS_LEN: usize = 5;

/// How a request ended, for the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Code {
    /// Also FUNCTION COMPLETE.
    Ok = 0,
    BadTarget = 3,
    TransportFailure = 6,
    Failure = 9,
    Rejected = 11,
    IncorrectLun = 12,
}

/// What is to be done.
enum Work {
    /// This is done already.
    Done(Vec<u8>),
    /// The target does it.
    Manage { lun: u64, what: TaskManagement },
    /// The nexus is reset.
    Reset,
}

/// The requests of the control queue of a started device.
pub(super) struct Control {
    initiator: Arc<dyn Initiator>,
    target: Box<dyn CommandQueue>,
    /// Of the request queues.
    fences: Vec<Arc<Fence>>,
    owner: Owner,
    /// Functions that the target has not answered.
    pending: Tokens<Asked>,
    answers: Vec<(u64, ServiceResponse)>,
    /// Functions that wait for what the driver has yet to see first.
    fenced: Vec<Fenced>,
}

/// A function that the target has to answer.
struct Asked {
    space: Space,
    /// It is asked for once more if there is no such task.
    again: Option<(u64, TaskManagement)>,
}

struct Fenced {
    space: Space,
    then: Then,
    tickets: Vec<u64>,
}

/// What becomes of a function behind its fence.
enum Then {
    Answer(Code),
    Ask(u64, TaskManagement),
}

impl Control {
    pub(super) fn new(
        initiator: Arc<dyn Initiator>,
        target: Box<dyn CommandQueue>,
        memory: &Arc<GuestMemory>,
        fences: Vec<Arc<Fence>>,
    ) -> Control {
        let owner: Owner = Arc::new(Arc::clone(memory));
        let (pending, answers, fenced) = (Tokens::default(), Vec::new(), Vec::new());
        Control { initiator, target, fences, owner, pending, answers, fenced }
    }

    /// Keeps an answer back until the driver sees those of the commands that it is about.
    fn fence(&mut self, space: Space, then: Then, all: bool) {
        let tickets = self.fences.iter().map(|fence| fence.ask(all)).collect();
        self.fenced.push(Fenced { space, then, tickets });
    }

    fn is_due(&self, fenced: &Fenced) -> bool {
        self.fences.iter().zip(&fenced.tickets).all(|(fence, &ticket)| fence.is_passed(ticket))
    }
}

impl Serve for Control {
    const DEVICE: &'static str = "SCSI host";

    fn take(&mut self, chain: &Chain, queue: &mut Queue) -> Result<(), RingError> {
        let (space, work) = parse(chain, queue.memory(), &self.owner)?;
        match work {
            Work::Done(bytes) => finish(&space, &bytes, queue),
            Work::Manage { lun, what } => {
                let token = self.pending.keep(Asked { space, again: Some((lun, what)) });
                self.target.manage(token, lun, what);
            }
            Work::Reset => {
                // What this ends, it ends by and by; the fence waits for it.
                self.initiator.nexus_lost();
                self.fence(space, Then::Answer(Code::Ok), true);
            }
        }
        Ok(())
    }

    fn poll(&mut self) {
        self.target.poll(&mut self.answers);
    }

    fn has_answers(&self) -> bool {
        !self.answers.is_empty() || self.fenced.iter().any(|fenced| self.is_due(fenced))
    }

    fn in_flight(&self) -> usize {
        self.target.in_flight()
    }

    fn return_answers(&mut self, queue: &mut Queue) -> bool {
        let mut any = !self.answers.is_empty();
        let mut answers = std::mem::take(&mut self.answers);
        for (token, answer) in answers.drain(..) {
            let Some(Asked { space, again }) = self.pending.take(token) else { continue };
            let then = match (&answer, again) {
                // A request queue's thread may have taken the command, and be about to hand it
                // over. Behind the fence it has, or the task is over.
                (ServiceResponse::Managed(Outcome::NoSuchTask), Some((lun, what))) => {
                    Then::Ask(lun, what)
                }
                _ => Then::Answer(code_of(&answer)),
            };
            self.fence(space, then, false);
        }
        self.answers = answers;
        for fenced in std::mem::take(&mut self.fenced) {
            if !self.is_due(&fenced) {
                self.fenced.push(fenced);
                continue;
            }
            any = true;
            let space = fenced.space;
            match fenced.then {
                Then::Answer(code) => finish(&space, &[code as u8], queue),
                Then::Ask(lun, what) => {
                    let token = self.pending.keep(Asked { space, again: None });
                    self.target.manage(token, lun, what);
                }
            }
        }
        any
    }

    fn drain(&mut self, wake: &Wake) {
        self.target.drain(&mut self.answers);
        // The request queues end before this one is told to, so this does not sleep in vain.
        while !self.fenced.iter().all(|fenced| self.is_due(fenced)) {
            wake.sleep();
            self.target.poll(&mut self.answers);
        }
    }
}

/// Parses the request in `chain`. `owner` keeps `memory` mapped. An error means that the chain is
/// none a driver may make.
fn parse(chain: &Chain, memory: &GuestMemory, owner: &Owner) -> Result<(Space, Work), RingError> {
    let parts = Parts::new(chain, memory, owner);
    let mut request = [0; TMF_LEN];
    parts.read(0, &mut request)?;
    let [t0, t1, t2, t3, rest @ ..] = request;
    let kind = u32::from_le_bytes([t0, t1, t2, t3]);
    let (request_len, response_len) = match kind {
        VIRTIO_SCSI_T_TMF => (TMF_LEN, 1),
        VIRTIO_SCSI_T_AN_QUERY | VIRTIO_SCSI_T_AN_SUBSCRIBE => (NOTIFICATION_LEN, EVENTS_LEN),
        _ => (size_of::<u32>(), 1),
    };
    if parts.readable() < request_len as u64 {
        return Err(parts.short());
    }
    let space = Space::new(chain, response_len as u64, memory)?;
    let work = match kind {
        VIRTIO_SCSI_T_TMF => {
            let [s0, s1, s2, s3, l0, l1, l2, l3, l4, l5, l6, l7, id @ ..] = rest;
            let subtype = u32::from_le_bytes([s0, s1, s2, s3]);
            let lun = [l0, l1, l2, l3, l4, l5, l6, l7];
            manage(subtype, lun, u64::from_le_bytes(id))
        }
        VIRTIO_SCSI_T_AN_QUERY | VIRTIO_SCSI_T_AN_SUBSCRIBE => {
            let [l0, l1, l2, l3, l4, l5, l6, l7, ..] = rest;
            let target = lun::of_target([l0, l1, l2, l3, l4, l5, l6, l7]);
            let code = if target.is_some() { Code::Ok } else { Code::BadTarget };
            // Of the events asked for, none is supported.
            Work::Done(vec![0, 0, 0, 0, code as u8])
        }
        // Where its response belongs is not known, so that it comes back without one.
        _ => Work::Done(Vec::new()),
    };
    Ok((space, work))
}

/// A task management function. CLEAR ACA and the queries are not supported (SAM-5 7.1 leaves them
/// to the target; there is no ACA without NACA).
fn manage(subtype: u32, lun: [u8; 8], id: u64) -> Work {
    let Some(lun) = lun::of_target(lun) else { return Work::Done(vec![Code::BadTarget as u8]) };
    let what = match subtype {
        VIRTIO_SCSI_T_TMF_ABORT_TASK => TaskManagement::AbortTask(id),
        VIRTIO_SCSI_T_TMF_ABORT_TASK_SET => TaskManagement::AbortTaskSet,
        VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET => TaskManagement::ClearTaskSet,
        VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET => TaskManagement::LogicalUnitReset,
        VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET => return Work::Reset,
        _ => return Work::Done(vec![Code::Rejected as u8]),
    };
    Work::Manage { lun, what }
}

fn code_of(answer: &ServiceResponse) -> Code {
    match answer {
        // A task that is over has no need to be aborted (SAM-5 7.2).
        ServiceResponse::Managed(Outcome::Complete | Outcome::NoSuchTask) => Code::Ok,
        ServiceResponse::Managed(Outcome::NoSuchUnit) => Code::IncorrectLun,
        ServiceResponse::DeliveryFailure => Code::TransportFailure,
        ServiceResponse::Complete(_) => Code::Failure,
    }
}

fn finish(space: &Space, bytes: &[u8], queue: &mut Queue) {
    space.write(bytes, queue.memory());
    queue.push_used(space.head(), u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    queue.publish();
}
