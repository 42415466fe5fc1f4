//! The way of a request: checked, resolved into extents or steps, served from the page cache or
//! carried by the engine in parts, finished, answered.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::buffers::Buffers;
use crate::disk::DiskState;
use crate::engine::{Engine, Finished};
use crate::error::IoError;
use crate::layer::{Erase, Extent, FileId, LayerError, Outcome, Source, Ticket, WriteStep};
use crate::request::{DiskRequest, Operation};
use crate::transfer::{Action, SpaceChange, Transfer};
use crate::units::DiskRange;

mod copy_up;
mod recovery;
mod slots;
#[cfg(test)]
mod tests;

use recovery::Next;
use slots::{Pending, Slots};

/// The answer to the request with this token.
pub type Answer = (u64, Result<(), IoError>);

/// One thread's way to a disk. Every request is answered exactly once: by
/// [`DiskQueue::submit`] itself when it can be served at once, otherwise by a later
/// [`DiskQueue::poll`] or [`DiskQueue::drain`].
///
/// Submit as many requests as there are, then call `poll`, which tells the kernel of all of them
/// at once. Before the thread sleeps, it waits for [`DiskQueue::ready_fd`] among its other
/// descriptors.
///
/// Dropping a queue waits until the kernel is through with the memory of its requests; their
/// answers are lost.
pub struct DiskQueue {
    // Declared first, hence dropped first: waits for the kernel while the files are still open.
    engine: Box<dyn Engine>,
    disk: Arc<DiskState>,
    slots: Slots,
    /// Answers found while waiting for a free slot.
    answers: Vec<Answer>,
    /// Requests that others are in the way of, by their slot.
    parked: VecDeque<(usize, DiskRequest)>,
    // Kept between requests, so that these allocate nothing.
    extents: Vec<Extent>,
    steps: Vec<WriteStep>,
    finished: Vec<Finished>,
    #[expect(clippy::vec_box, reason = "the boxes themselves are what is kept")]
    spare: Vec<Box<Transfer>>,
}

impl DiskQueue {
    pub(crate) fn new(disk: Arc<DiskState>, engine: Box<dyn Engine>, depth: u16) -> DiskQueue {
        DiskQueue {
            engine,
            disk,
            slots: Slots::new(usize::from(depth.max(1))),
            answers: Vec::new(),
            parked: VecDeque::new(),
            extents: Vec::new(),
            steps: Vec::new(),
            finished: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Takes a request. `Some` is its answer; with `None`, the answer comes later under `token`,
    /// which means nothing to the queue.
    ///
    /// When as many requests are under way as the queue is deep, waits for one of them to end.
    pub fn submit(&mut self, token: u64, request: DiskRequest) -> Option<Result<(), IoError>> {
        if let Err(error) = self.disk.check(&request) {
            return Some(Err(error));
        }
        while self.slots.is_full() {
            self.await_progress();
        }
        let operation = request.operation;
        let pending = Pending { token, operation, ticket: None, parts: 1, error: None };
        let slot = self.slots.insert(pending).ok()?;
        self.start(slot, request)?.map(|(_, result)| result)
    }

    /// Begins a request, or parks it (`None`). The answer, if it has one already.
    fn start(&mut self, slot: usize, request: DiskRequest) -> Option<Option<Answer>> {
        match self.begin(slot, request) {
            Ok(None) => {}
            Ok(Some(request)) => {
                self.parked.push_back((slot, request));
                return None;
            }
            Err(error) => self.fail(slot, error),
        }
        Some(self.end_part(slot))
    }

    /// Tries requests again that others were in the way of; whether one got further.
    fn unpark(&mut self, done: &mut Vec<Answer>) -> bool {
        let mut progress = false;
        for _ in 0..self.parked.len() {
            let Some((slot, request)) = self.parked.pop_front() else { break };
            if let Some(answer) = self.start(slot, request) {
                progress = true;
                done.extend(answer);
            }
        }
        progress
    }

    /// Tells the kernel of submitted requests and appends the answers there are, without waiting.
    pub fn poll(&mut self, done: &mut Vec<Answer>) {
        done.append(&mut self.answers);
        loop {
            self.engine.kick();
            self.engine.reap(&self.disk.files, &mut self.finished);
            if self.finished.is_empty() {
                if self.parked.is_empty() || !self.unpark_or_wait(done) {
                    return;
                }
                continue;
            }
            let mut finished = std::mem::take(&mut self.finished);
            for (transfer, result) in finished.drain(..) {
                let slot = transfer.request();
                if self.carry_on(transfer, result)
                    && let Some(answer) = self.end_part(slot)
                {
                    done.push(answer);
                }
            }
            self.finished = finished;
        }
    }

    /// Tries parked requests again. While other queues' requests are all that is in their way,
    /// nothing of this queue's tells when these have ended: it looks until they have. Whether
    /// there may be more to do.
    fn unpark_or_wait(&mut self, done: &mut Vec<Answer>) -> bool {
        loop {
            if self.unpark(done) {
                return true;
            }
            if self.slots.len() > self.parked.len() {
                return false;
            }
            std::thread::yield_now();
        }
    }

    /// A descriptor that is readable when [`DiskQueue::poll`] has answers or work to do. `None`:
    /// this queue answers every request in [`DiskQueue::submit`].
    pub fn ready_fd(&self) -> Option<BorrowedFd<'_>> {
        self.engine.ready_fd()
    }

    /// Requests that are not answered yet.
    pub fn in_flight(&self) -> usize {
        self.slots.len() + self.answers.len()
    }

    /// Waits until every request is answered, and appends the answers.
    pub fn drain(&mut self, done: &mut Vec<Answer>) {
        self.poll(done);
        while self.slots.len() > 0 {
            self.engine.wait();
            self.poll(done);
        }
    }

    /// Waits until some request has come further, and keeps the answers for `poll`.
    fn await_progress(&mut self) {
        let mut answers = std::mem::take(&mut self.answers);
        self.engine.kick();
        self.engine.wait();
        self.poll(&mut answers);
        self.answers = answers;
    }

    /// Resolves a request and starts its parts; gives it back where another one is in its way.
    fn begin(&mut self, slot: usize, request: DiskRequest) -> Result<Option<DiskRequest>, IoError> {
        let DiskRequest { operation, range, .. } = request;
        match operation {
            Operation::Flush => {
                self.flush(slot);
                return Ok(None);
            }
            // Nothing to resolve: a map has no extent without bytes.
            _ if range.is_empty() => return Ok(None),
            Operation::Read => {
                let mut extents = std::mem::take(&mut self.extents);
                extents.clear();
                let ticket = self.disk.chain.resolve_read(range, &mut extents);
                self.extents = extents;
                let Some(ticket) = unless_busy(ticket)? else { return Ok(Some(request)) };
                self.hold(slot, ticket);
                self.load(slot, request.buffers);
            }
            Operation::Write | Operation::Discard | Operation::WriteZeroes { .. } => {
                let chain = &self.disk.chain;
                chain.announce_change()?;
                let mut steps = std::mem::take(&mut self.steps);
                steps.clear();
                let ticket = match operation {
                    Operation::Discard => chain.resolve_erase(range, Erase::Discard, &mut steps),
                    Operation::WriteZeroes { unmap } => {
                        chain.resolve_erase(range, Erase::Zero { unmap }, &mut steps)
                    }
                    _ => chain.resolve_write(range, &mut steps),
                };
                self.steps = steps;
                let Some(ticket) = unless_busy(ticket)? else { return Ok(Some(request)) };
                self.hold(slot, ticket);
                self.apply(slot, request.buffers)?;
            }
        }
        Ok(None)
    }

    /// Makes the disk's files durable, and then, when the request is finished, its map.
    fn flush(&mut self, slot: usize) {
        if self.disk.read_only() {
            return;
        }
        for number in self.disk.changing() {
            if !self.disk.files[usize::from(number)].is_in_memory() {
                self.carry(slot, Action::Sync, FileId(number), 0, 0, Buffers::none());
            }
        }
    }

    /// Fills `buffers` from the extents that make up their range.
    fn load(&mut self, slot: usize, mut buffers: Buffers) {
        let extents = std::mem::take(&mut self.extents);
        for extent in &extents {
            let len = extent.range.len();
            match extent.source {
                Source::Zero | Source::Transparent => buffers.fill_zero(len),
                Source::Data { file, offset } => {
                    let data = buffers.split_to(len);
                    self.carry(slot, Action::Read, file, offset.get(), len, data);
                }
                Source::Encoded { layer } => {
                    let data = buffers.split_to(len);
                    if let Err(error) = self.decode(layer, extent.range, data) {
                        self.fail(slot, error);
                    }
                }
            }
        }
        self.extents = extents;
    }

    /// Fills `data` from a range that a layer keeps in a form of its own.
    fn decode(&self, layer: u16, range: DiskRange, mut data: Buffers) -> Result<(), IoError> {
        let mut bytes = vec![0; usize::try_from(range.len()).unwrap_or_default()];
        self.disk.chain.read_encoded(layer, range, &mut bytes)?;
        data.copy_from(&bytes);
        Ok(())
    }

    /// Takes the steps of a change, `buffers` being its payload. An error ends it early.
    fn apply(&mut self, slot: usize, mut buffers: Buffers) -> Result<(), IoError> {
        let steps = std::mem::take(&mut self.steps);
        let mut result = Ok(());
        for step in &steps {
            let none = Buffers::none();
            match *step {
                WriteStep::Store { range, file, at } => {
                    let data = buffers.split_to(range.len());
                    self.carry(slot, Action::Write, file, at.get(), range.len(), data);
                }
                WriteStep::CopyUp { range, file, at } => {
                    result = copy_up::copy_up(&self.disk, range, file, at);
                    if result.is_err() {
                        break;
                    }
                }
                WriteStep::ZeroFill { file, at, len, unmap } => {
                    let change = match unmap {
                        true => SpaceChange::Punch { for_zeroes: true },
                        false => SpaceChange::ZeroRange,
                    };
                    self.carry(slot, Action::Space(change), file, at.get(), len, none);
                }
                WriteStep::Deallocate { file, at, len } => {
                    let change = SpaceChange::Punch { for_zeroes: false };
                    self.carry(slot, Action::Space(change), file, at.get(), len, none);
                }
            }
        }
        self.steps = steps;
        result
    }

    /// Does one part of a request: what the page cache can do at once here, the rest as a
    /// transfer of the engine.
    fn carry(
        &mut self,
        slot: usize,
        action: Action,
        file: FileId,
        at: u64,
        len: u64,
        mut data: Buffers,
    ) {
        let backing = &self.disk.files[usize::from(file.0)];
        if action == Action::Read && backing.cuts_blocks(at, len) {
            // A part of a block, which a request for whole blocks takes from one of several layers.
            let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
            match copy_up::read(backing, at, &mut bytes) {
                Ok(()) => data.copy_from(&bytes),
                Err(error) => self.fail(slot, error),
            }
            return;
        }
        let mut done = 0;
        if self.engine.is_asynchronous() && len > 0 {
            done = match action {
                Action::Read => backing.read_cached(&mut data, at),
                Action::Write => backing.write_cached(&mut data, at),
                Action::Sync | Action::Space(_) => 0,
            };
            if done == len {
                return;
            }
        }
        let mut transfer = self.spare.pop().unwrap_or_default();
        transfer.begin(slot, action, file, at.saturating_add(done), len.saturating_sub(done));
        match recovery::prepare(backing, &mut transfer) {
            Next::Again => {}
            Next::Done => return self.retire(transfer),
            Next::Failed(error) => {
                self.fail(slot, error);
                return self.retire(transfer);
            }
        }
        if matches!(action, Action::Read | Action::Write) {
            let needs = backing.alignment();
            let block = usize::try_from(needs.length).unwrap_or(usize::MAX);
            if backing.is_direct() && !data.is_aligned(needs.address, block) {
                transfer.through_staging(data);
            } else {
                transfer.directly(data);
            }
        }
        if let Some(pending) = self.slots.get(slot) {
            pending.parts += 1;
        }
        if self.launch(transfer) {
            // Others of its parts are under way, or its submission is: this is not the last one.
            self.slots.end_part(slot);
        }
    }

    /// Hands a transfer to the engine until it is under way (false) or at its end (true).
    fn launch(&mut self, mut transfer: Box<Transfer>) -> bool {
        loop {
            let Some((finished, result)) = self.engine.start(&self.disk.files, transfer) else {
                return false;
            };
            match self.settle(finished, result) {
                Some(again) => transfer = again,
                None => return true,
            }
        }
    }

    /// Goes on with a transfer that the engine gave back; whether it is at its end.
    fn carry_on(&mut self, transfer: Box<Transfer>, result: std::io::Result<u64>) -> bool {
        match self.settle(transfer, result) {
            Some(again) => self.launch(again),
            None => true,
        }
    }

    /// Decides what follows from a system call's result. `Some`: the transfer is to be started
    /// again.
    fn settle(
        &mut self,
        mut transfer: Box<Transfer>,
        result: std::io::Result<u64>,
    ) -> Option<Box<Transfer>> {
        let file = &self.disk.files[usize::from(transfer.file().0)];
        match recovery::next(file, &mut transfer, result) {
            Next::Again => return Some(transfer),
            Next::Done => {}
            Next::Failed(error) => self.fail(transfer.request(), error),
        }
        self.retire(transfer);
        None
    }

    /// Keeps a transfer's box for another one.
    fn retire(&mut self, mut transfer: Box<Transfer>) {
        transfer.clear();
        self.spare.push(transfer);
    }

    /// Keeps the layer's ticket with the request.
    fn hold(&mut self, slot: usize, ticket: Ticket) {
        if let Some(pending) = self.slots.get(slot) {
            pending.ticket = Some(ticket);
        }
    }

    /// Lets a request fail when its parts have ended. The first error counts.
    fn fail(&mut self, slot: usize, error: IoError) {
        if let Some(pending) = self.slots.get(slot) {
            pending.error.get_or_insert(error);
        }
    }

    /// The error of a sync by a format, of which no flush has told yet.
    fn failed_sync(&self) -> Result<(), IoError> {
        let operation = "fdatasync (for metadata)";
        let told = |source| IoError::Host { operation, offset: 0, source };
        let changing = self.disk.changing().map(|number| &self.disk.files[usize::from(number)]);
        changing.map(|file| file.image().take_failed_sync().map_err(told)).fold(Ok(()), Result::and)
    }

    /// Counts a part as ended. With the last one, the layer is told, and the answer is known.
    fn end_part(&mut self, slot: usize) -> Option<Answer> {
        let Pending { token, operation, ticket, error, .. } = self.slots.end_part(slot)?;
        let chain = &self.disk.chain;
        let mut result = error.map_or(Ok(()), Err);
        if let Some(ticket) = ticket {
            let how = if result.is_ok() { Outcome::Done } else { Outcome::Abort };
            let finish = chain.finish(ticket, how).map_err(IoError::from);
            result = result.and(finish);
        }
        if operation == Operation::Flush && !self.disk.read_only() {
            // Payload durable, then metadata.
            result = result.and_then(|()| chain.flush_metadata().map_err(IoError::from));
            // What a sync on behalf of another request has lost, this one must tell of.
            result = result.and(self.failed_sync());
        }
        Some((token, result))
    }
}

/// The ticket, unless another request is in the way.
fn unless_busy(ticket: Result<Ticket, LayerError>) -> Result<Option<Ticket>, IoError> {
    match ticket {
        Ok(ticket) => Ok(Some(ticket)),
        Err(LayerError::Busy) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
