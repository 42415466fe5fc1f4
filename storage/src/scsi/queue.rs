//! A thread's way to all units of a target.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, epoll, poll};

use super::begin::{self, Begin, Plan};
use super::cdb::Cdb;
use super::command::{Command, Response, Status};
use super::nexus::{Access, Epoch, Nexus};
use super::opcodes::{self, Kind};
use super::reserve::{self, Verdict};
use super::sense::{self, Fault};
use super::target::Target;
use super::task::{State, Task, Tasks};
use super::unit::{self, Unit};
use super::wake::Waker;
use super::work::Step;
use super::{capacity, inquiry};
use crate::reservation;
use crate::{Answer, DiskError, DiskQueue, IoError, Operation};

/// Requests that one command may have answered at once before others get their turn.
const TURN: u32 = 4;

/// A thread's way to all units of a target. Every command is answered exactly once: by
/// [`ScsiQueue::submit`] itself, or by a later [`ScsiQueue::poll`] or [`ScsiQueue::drain`].
///
/// Submit as many commands as there are, then call `poll`, which tells the host of all of them at
/// once. Before the thread sleeps, it waits for [`ScsiQueue::ready_fd`] among its other
/// descriptors.
///
/// Dropping a queue waits until the host is through with the memory of its commands; those that
/// are not answered end as if they were aborted.
pub struct ScsiQueue {
    target: Target,
    /// By logical unit; a unit gets its own with the first command that needs it.
    disks: Vec<Option<DiskQueue>>,
    tasks: Tasks,
    /// Tasks that go on when it is their turn again.
    ready: VecDeque<usize>,
    /// Tasks that wait for others.
    parked: Vec<usize>,
    waker: Waker,
    epoll: OwnedFd,
    /// Kept between calls.
    answers: Vec<Answer>,
}

/// What a task waits for that cannot go on.
enum Wait {
    /// The disk's answer.
    Disk,
    /// Other tasks, or a verdict: whoever ends it wakes the queue.
    Others,
    /// Other tasks' turns.
    Turn,
    /// Nothing: it is over.
    Nothing,
}

impl ScsiQueue {
    pub(super) fn new(target: Target, depth: u16) -> Result<ScsiQueue, DiskError> {
        let host = |source: rustix::io::Errno| DiskError::NoRing { source: source.into() };
        let waker = Waker::new().map_err(host)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(host)?;
        let (data, flags) = (epoll::EventData::new_u64(0), epoll::EventFlags::IN);
        epoll::add(&epoll, waker.fd(), data, flags).map_err(host)?;
        Ok(ScsiQueue {
            disks: target.units().iter().map(|_| None).collect(),
            tasks: Tasks::new(depth.max(1), target.next_queue()),
            ready: VecDeque::new(),
            parked: Vec::new(),
            answers: Vec::new(),
            target,
            waker,
            epoll,
        })
    }

    /// Takes a command. `Some` is its answer; with `None`, it comes later under `token`, which
    /// means nothing to the queue.
    pub fn submit(&mut self, token: u64, nexus: &Nexus, mut command: Command) -> Option<Response> {
        let (cdb, given) = cdb_of(&command);
        let number = unit::number(command.lun).filter(|&it| it < self.target.units().len());
        let place = number.and_then(|number| Some((number, nexus.0.access.get(number)?)));
        let Some((number, access)) = place else {
            return Some(absent(command, self.target.units().len()));
        };
        let unit = &self.target.units()[number];
        let check = |fault: Fault| Response::check(fault.encode(unit.mode.descriptor_sense()));
        if self.tasks.is_full() {
            return Some(Response::of(Status::TaskSetFull));
        }
        // INQUIRY, REPORT LUNS and REQUEST SENSE neither report nor clear a unit attention
        // condition by status (SAM-5 5.14).
        if !matches!(cdb.opcode(), 0x12 | 0x03 | 0xa0)
            && let Some(code) = access.take_attention()
        {
            return Some(check(code.into()));
        }
        let kind = match opcodes::find(&cdb, given) {
            Ok(command) => command.kind,
            Err(fault) => return Some(check(fault)),
        };
        // Counted first, then looked at: see `Access`.
        let epoch = access.enter();
        if !access.allows(reservation::demand(&cdb.0[..usize::from(given)])) {
            access.leave(epoch);
            return Some(Response::of(Status::ReservationConflict));
        }
        let port = (self.target.port(), self.target.units().len());
        let begun = begin::begin(kind, &cdb, &mut command, (unit, access), port);
        let access = Arc::clone(access);
        let now = match begun {
            Err(fault) => check(fault),
            Ok(Begin::Good { wanted }) => Response { wanted, ..Response::GOOD },
            Ok(Begin::Reply(data, allocated)) => reply(&data, allocated, &mut command),
            Ok(Begin::Reservation(list)) => {
                let nexus = nexus.clone();
                let request = reserve::Request { kind, cdb, number, nexus, list };
                let verdict = self.target.reserve(request, &self.waker);
                return self.reserved(token, (number, access, epoch), command, &cdb, verdict);
            }
            Ok(Begin::Work(plan)) => {
                return self.work((token, command.tag), (number, access, epoch), kind, plan);
            }
            Ok(Begin::ModeChanged(plan)) => {
                for other in self.target.nexuses() {
                    let other = &other.0.access[number];
                    if !Arc::ptr_eq(other, &access) {
                        other.attend(sense::MODE_CHANGED);
                    }
                }
                return self.work((token, command.tag), (number, access, epoch), kind, plan);
            }
        };
        access.leave(epoch);
        Some(now)
    }

    /// What follows from a reservation command's verdict, which may not be there yet.
    fn reserved(
        &mut self,
        token: u64,
        (number, access, epoch): (usize, Arc<Access>, Epoch),
        command: Command,
        cdb: &Cdb,
        verdict: Result<Verdict, Arc<reserve::Pending>>,
    ) -> Option<Response> {
        let mut task = Task::new((token, command.tag), (number, access, epoch));
        task.keep(command, cdb.number::<2>(7));
        task.response.data_out = if cdb.opcode() == 0x5f { cdb.number::<4>(5) } else { 0 };
        task.response.wanted = task.response.data_out;
        match verdict {
            Ok(verdict) => task.judge(verdict, self.target.units()),
            Err(pending) => task.state = State::Judged(pending),
        }
        let slot = self.tasks.reserve();
        self.run(slot, task).map(|(_, response)| response)
    }

    /// Begins work on the medium.
    fn work(
        &mut self,
        names: (u64, u64),
        (number, access, epoch): (usize, Arc<Access>, Epoch),
        kind: Kind,
        plan: Plan,
    ) -> Option<Response> {
        let Plan { steps, hold, data_out, wanted } = plan;
        let mut task = Task::new(names, (number, access, epoch));
        task.response = Response { data_out, wanted, ..Response::GOOD };
        task.reads = kind == Kind::Read;
        task.steps = Some(steps);
        task.state = State::Asked;
        if let Some((start, end, hold)) = hold {
            let ranges = &self.target.units()[number].ranges;
            let (held, is_granted) = ranges.acquire(start, end, hold, &self.waker);
            task.held = Some(held);
            if !is_granted {
                task.state = State::Held;
            }
        }
        let slot = self.tasks.reserve();
        self.run(slot, task).map(|(_, response)| response)
    }

    /// Goes on with a task that waited; its answer, if it has one now.
    fn go_on(&mut self, slot: usize) -> Option<(u64, Response)> {
        let task = self.tasks.take(slot)?;
        self.run(slot, task)
    }

    /// Goes on with a task as far as it gets. It is put into its slot only if it has to wait: most
    /// reads and writes of what the host has cached do not.
    fn run(&mut self, slot: usize, mut task: Task) -> Option<(u64, Response)> {
        match self.advance(slot, &mut task) {
            Wait::Nothing => {
                self.tasks.free(slot);
                return Some(task.end(&self.target.units()[task.number]));
            }
            Wait::Others => self.parked.push(slot),
            Wait::Disk => {}
            Wait::Turn => {
                self.ready.push_back(slot);
                self.waker.wake();
            }
        }
        self.tasks.put(slot, task);
        None
    }

    /// Goes on with a task until it has to wait, or is over.
    fn advance(&mut self, slot: usize, task: &mut Task) -> Wait {
        if let State::Judged(pending) = &task.state {
            match pending.take() {
                Some(verdict) => task.judge(verdict, self.target.units()),
                None => return Wait::Others,
            }
        }
        match &mut task.state {
            State::Judged(_) | State::Over => return Wait::Nothing,
            State::Victims(victims) => {
                victims.retain_mut(|victim| !victim.is_over(&self.waker));
                let wait = !victims.is_empty();
                return match wait && task.aborted().is_none() {
                    true => Wait::Others,
                    false => Wait::Nothing,
                };
            }
            State::Held => {
                let ranges = &self.target.units()[task.number].ranges;
                if task.held.as_ref().is_some_and(|held| !ranges.is_granted(held)) {
                    return Wait::Others;
                }
            }
            State::Asked => {}
        }
        for _ in 0..TURN {
            match self.step(slot, task) {
                Ok(true) => {}
                Ok(false) => return Wait::Disk,
                Err(()) => return Wait::Nothing,
            }
        }
        // The others first.
        Wait::Turn
    }

    /// Takes the next step of a task: whether it has been taken already, or is under way; an error
    /// when there is none.
    fn step(&mut self, slot: usize, task: &mut Task) -> Result<bool, ()> {
        let unit = &self.target.units()[task.number];
        if task.aborted().is_some() {
            return Err(());
        }
        let next = match &mut task.steps {
            Some(steps) => steps.next(unit),
            None => Ok(Step::Done),
        };
        let request = match next {
            Ok(Step::Ask(request)) => request,
            Ok(Step::Done) => return Err(()),
            Err(fault) => {
                task.fail(fault, unit);
                return Err(());
            }
        };
        task.state = State::Asked;
        task.asked = (request.operation, request.range.start());
        let number = task.number;
        let disk = match self.disk(number) {
            Ok(disk) => disk,
            Err(error) => {
                tracing::error!(lun = number, %error, "a logical unit cannot be used");
                task.fail(sense::INTERNAL_FAILURE.into(), &self.target.units()[number]);
                return Err(());
            }
        };
        let answer = disk.submit(slot as u64, request);
        let is_told = disk.ready_fd().is_some();
        match answer {
            Some(result) => self.asked(task, result).map(|()| true),
            None => {
                if !is_told {
                    self.waker.wake();
                }
                Ok(false)
            }
        }
    }

    /// Takes note of the answer to a task's request; an error ends the task.
    fn asked(&self, task: &mut Task, result: Result<(), IoError>) -> Result<(), ()> {
        let Err(error) = result else { return Ok(()) };
        let (operation, start) = task.asked;
        let unit = &self.target.units()[task.number];
        let lun = task.number;
        if self.tasks.lines.allows() {
            tracing::error!(
                lun,
                path = %unit.disk.path().display(),
                %error,
                cause = ?std::error::Error::source(&error).map(ToString::to_string),
                "{} at byte {start:#x} failed",
                operation.word(),
            );
        }
        let write = operation != Operation::Read;
        task.fail(Fault::of_io(&error, write, start / u64::from(unit.block)), unit);
        Err(())
    }

    /// A disk has answered a task's request; the task's own answer, if it has one now.
    fn answered(&mut self, slot: usize, result: Result<(), IoError>) -> Option<(u64, Response)> {
        let mut task = self.tasks.take(slot)?;
        if self.asked(&mut task, result).is_err() {
            task.state = State::Over;
        }
        self.run(slot, task)
    }

    /// The queue of a unit's disk.
    fn disk(&mut self, number: usize) -> Result<&mut DiskQueue, DiskError> {
        let place = &mut self.disks[number];
        if place.is_none() {
            let disk = self.target.units()[number].queue(self.tasks.depth())?;
            if let Some(fd) = disk.ready_fd() {
                let (data, flags) = (epoll::EventData::new_u64(1), epoll::EventFlags::IN);
                epoll::add(&self.epoll, fd, data, flags)
                    .map_err(|source| DiskError::NoRing { source: source.into() })?;
            }
            *place = Some(disk);
        }
        match place {
            Some(disk) => Ok(disk),
            None => Err(DiskError::NoRing { source: std::io::ErrorKind::NotFound.into() }),
        }
    }

    /// Goes on with what is under way, and appends the answers there are, without waiting.
    pub fn poll(&mut self, done: &mut Vec<(u64, Response)>) {
        self.poll_disks(done);
        if !self.waker.take() {
            return;
        }
        for slot in std::mem::take(&mut self.parked) {
            done.extend(self.go_on(slot));
        }
        // Those that are there now: a task that takes its turn comes back to the end.
        for _ in 0..self.ready.len() {
            if let Some(slot) = self.ready.pop_front() {
                done.extend(self.go_on(slot));
            }
        }
        // The host has yet to hear of the requests that these made.
        self.poll_disks(done);
    }

    /// Takes the answers of disks, and tells the host of the requests that follow from them.
    fn poll_disks(&mut self, done: &mut Vec<(u64, Response)>) {
        let mut answers = std::mem::take(&mut self.answers);
        let busy = |disk: &&mut DiskQueue| disk.in_flight() > 0;
        self.disks.iter_mut().flatten().filter(busy).for_each(|disk| disk.poll(&mut answers));
        let answered = !answers.is_empty();
        for (token, result) in answers.drain(..) {
            done.extend(self.answered(usize::try_from(token).unwrap_or(usize::MAX), result));
        }
        self.answers = answers;
        for disk in self.disks.iter_mut().flatten().filter(busy) {
            if answered {
                disk.poll(&mut self.answers);
            }
            if disk.ready_fd().is_none() && disk.in_flight() > 0 {
                // Nothing else tells when there is more.
                self.waker.wake();
            }
        }
        if !self.answers.is_empty() {
            // For the next call: this one comes to an end.
            self.waker.wake();
        }
    }

    /// Waits until every command is answered, and appends the answers. What waits for commands of
    /// other queues waits for their threads.
    pub fn drain(&mut self, done: &mut Vec<(u64, Response)>) {
        self.poll(done);
        while self.in_flight() > 0 {
            self.wait();
            self.poll(done);
        }
    }

    /// Waits until [`ScsiQueue::poll`] has something to do.
    pub(super) fn wait(&self) {
        let mut fds = [PollFd::new(&self.epoll, PollFlags::IN)];
        // An interruption is a reason to look, like any other.
        let _ = poll(&mut fds, None);
    }

    /// Commands that are not answered yet.
    pub fn in_flight(&self) -> usize {
        self.tasks.len()
    }

    /// Readable when [`ScsiQueue::poll`] has something to do.
    pub fn ready_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }
}

impl Drop for ScsiQueue {
    fn drop(&mut self) {
        // Waits for the host.
        self.disks.clear();
        for mut task in self.tasks.remove_all() {
            let unit: &Unit = &self.target.units()[task.number];
            task.end(unit);
        }
    }
}

impl std::fmt::Debug for ScsiQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScsiQueue").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

/// The answer to a command for a logical unit that is not there, by a target with so many units
/// (SAM-5 5.12, SPC-4 6.6.2).
pub(crate) fn absent(mut command: Command, units: usize) -> Response {
    let (cdb, given) = cdb_of(&command);
    let missing = Fault::from(sense::NO_SUCH_UNIT);
    let kind = opcodes::find(&cdb, given).map(|command| command.kind);
    let (data, allocated) = match kind {
        Ok(Kind::Inquiry) => (inquiry::inquiry(&cdb, None, 0), cdb.number::<2>(3)),
        Ok(Kind::ReportLuns) => (capacity::luns(&cdb, units), cdb.number::<4>(6)),
        Ok(Kind::RequestSense) => {
            let data = missing.encode(cdb.byte(1) & 1 != 0).bytes().to_vec();
            (Ok(data), u64::from(cdb.byte(4)))
        }
        _ => (Err(missing), 0),
    };
    match data {
        Ok(data) => reply(&data, allocated, &mut command),
        Err(fault) => Response::check(fault.encode(false)),
    }
}

/// The descriptor block that came, and how many bytes of it.
fn cdb_of(command: &Command) -> (Cdb, u8) {
    (Cdb(command.cdb), command.cdb_len.min(32))
}

/// GOOD with data, cut to what the initiator has allocated and there is room for.
pub(super) fn reply(data: &[u8], allocated: u64, command: &mut Command) -> Response {
    let wanted = allocated.min(data.len() as u64);
    let filled = wanted.min(command.data_in.len());
    let data = data.get(..usize::try_from(filled).unwrap_or_default()).unwrap_or_default();
    command.data_in.copy_from(data);
    Response { data_in: filled, wanted, ..Response::GOOD }
}
