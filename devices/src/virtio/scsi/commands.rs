//! What becomes of the requests of one request queue.

use std::sync::Arc;

use memshare::GuestMemory;
use storage::Owner;
use storage::scsi::{CommandQueue, ServiceResponse};

use super::config::Sizes;
use super::fence::Gate;
use super::request::{self, Reply};
use crate::virtio::queue::{Chain, Queue, RingError};
use crate::virtio::serve::Serve;
use crate::virtio::tokens::Tokens;
use crate::virtio::worker::Wake;

/// The commands of one queue of a started device.
pub(super) struct Commands {
    target: Box<dyn CommandQueue>,
    sizes: Arc<Sizes>,
    /// Keeps guest memory mapped for commands. Of this queue alone: threads that count references
    /// to one object get in each other's way.
    owner: Owner,
    /// Commands that the target has not answered.
    pending: Tokens<Pending>,
    answers: Vec<(u64, ServiceResponse)>,
    gate: Gate,
    /// Nothing is taken any more.
    ending: bool,
}

/// What is kept of a command until its answer.
struct Pending {
    reply: Reply,
    /// [`Gate::seen`] when it was taken.
    seen: u64,
}

impl Commands {
    pub(super) fn new(
        target: Box<dyn CommandQueue>,
        memory: &Arc<GuestMemory>,
        sizes: Arc<Sizes>,
        gate: Gate,
    ) -> Commands {
        let owner: Owner = Arc::new(Arc::clone(memory));
        let (pending, answers) = (Tokens::default(), Vec::new());
        Commands { target, sizes, owner, pending, answers, gate, ending: false }
    }

    fn answer(&mut self, token: u64, answer: &ServiceResponse, queue: &mut Queue) {
        if let Some(Pending { reply, .. }) = self.pending.take(token) {
            reply.answer(answer, queue);
        }
    }
}

impl Serve for Commands {
    const DEVICE: &'static str = "SCSI host";

    fn take(&mut self, chain: &Chain, queue: &mut Queue) -> Result<(), RingError> {
        let (reply, command) = request::parse(chain, queue.memory(), &self.owner, &self.sizes)?;
        match command {
            Err(code) => reply.refuse(code, queue),
            Ok(command) => {
                let token = self.pending.keep(Pending { reply, seen: self.gate.seen() });
                if let Some(answer) = self.target.submit(token, command) {
                    self.answer(token, &answer, queue);
                }
            }
        }
        Ok(())
    }

    fn poll(&mut self) {
        self.gate.look();
        self.target.poll(&mut self.answers);
    }

    fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    fn in_flight(&self) -> usize {
        self.target.in_flight()
    }

    fn return_answers(&mut self, queue: &mut Queue) -> bool {
        let any = !self.answers.is_empty();
        let mut answers = std::mem::take(&mut self.answers);
        for (token, answer) in answers.drain(..) {
            self.answer(token, &answer, queue);
        }
        self.answers = answers;
        if self.ending {
            self.gate.close();
        } else {
            self.gate.pass(self.pending.iter().map(|pending| pending.seen));
        }
        any
    }

    fn drain(&mut self, _wake: &Wake) {
        self.target.drain(&mut self.answers);
        self.ending = true;
    }
}
