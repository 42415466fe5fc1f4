//! The full feature phase of one session (RFC 7143 sections 4 and 11), in one thread.
//!
//! ```text
//!  Input ──► receive ──► numbers (CmdSN)      in order? within the window?
//!                │
//!                ├──► command.rs   SCSI Command: data collected, memory had, to the ScsiQueue
//!                ├──► data.rs      Data-Out taken, R2T asked, Data-In and responses made
//!                ├──► manage.rs    task management
//!                └──► control.rs   NOP, text, logout, reject, pings
//!  ScsiQueue ──► finish ──► Output
//! ```
//!
//! **What a client can have the session keep is bounded**: commands by the window of numbers,
//! their data by `session_bytes` and what all share (memory.rs), what is to be sent by taking no
//! more from a client that does not take what it is sent.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::digest::Digests;
use super::input::{Filled, Input};
use super::limits::ServerLimits;
use super::login::Admitted;
use super::memory::Share;
use super::names::initiator_port;
use super::negotiation::Agreed;
use super::output::Output;
use super::pdu::{Header, Malformed, Pdu, Reason, opcode};
use super::poller::{Order, Pace, Poller};
use super::pool::Pool;
use super::registry::{Connected, Seat};
use super::server::Shared;
use crate::scsi::{Nexus, Response, ScsiQueue};

mod command;
mod control;
mod data;
mod end;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod manage;
mod room;

use command::Task;
use control::{Ping, Text};
pub(super) use end::End;
use manage::Function;

/// Bytes to be sent beyond which nothing more is taken in.
const OUTPUT_MAX: usize = 4 << 20;
/// Bytes of PDUs that came before their turn.
const EARLY_MAX: usize = 1 << 20;
/// Immediate commands at a time, which the window of numbers does not bound.
const IMMEDIATE_MAX: u32 = 8;
/// Reads from the socket before the disks have their turn.
const READS_MAX: usize = 8;

/// What came before its turn.
#[derive(Debug)]
enum Early {
    /// A SCSI command, whose task there is already: its data may come.
    Task(u32),
    Other(Header, Vec<u8>),
}

/// The way to the disks, which discovery sessions have not.
struct Scsi {
    queue: ScsiQueue,
    nexus: Nexus,
}

/// A session.
pub(super) struct Session<'s> {
    shared: &'s Shared,
    seat: &'s Seat,
    connection: u16,
    /// Where the initiator came to.
    local: SocketAddr,
    discovery: bool,
    agreed: Agreed,
    scsi: Option<Scsi>,
    /// The number of the next answer.
    stat_sn: u32,
    /// The number of the next command.
    exp_cmd_sn: u32,
    /// Numbered commands that are not answered.
    open: u32,
    /// Immediate ones.
    immediate: u32,
    early: BTreeMap<u32, Early>,
    early_bytes: usize,
    /// By the tag that the initiator gave them.
    tasks: HashMap<u32, Task>,
    /// Those that wait for memory or for others, in order.
    waiting: VecDeque<u32>,
    /// Those that had their turn and are not answered.
    running: usize,
    /// Nothing starts before the one that runs has ended.
    barrier: bool,
    /// Bytes of memory for data.
    used: usize,
    /// It is in line for memory.
    in_line: bool,
    /// Bytes of data of commands that have no memory yet.
    early_data: usize,
    pool: Pool,
    /// When others began to wait for its memory, and how many bytes it had moved by then.
    pressed: Option<(Instant, u64)>,
    next_transfer: u32,
    functions: Vec<Function>,
    text: Text,
    ping: Ping,
    output: Output,
    done: Vec<(u64, Response)>,
    /// Dropped last, when all memory is free.
    share: Share,
}

impl<'s> Session<'s> {
    /// A session of an initiator that is logged in; `output` has the answer that says so.
    pub(super) fn new(
        shared: &'s Shared,
        admitted: &Admitted,
        seat: &'s Seat,
        (local, output): (SocketAddr, Output),
    ) -> io::Result<Session<'s>> {
        let scsi = if admitted.discovery {
            None
        } else {
            let port = initiator_port(&admitted.initiator, admitted.isid.0);
            let port = port.map_err(io::Error::other)?;
            let depth = u32::from(shared.policy.limits.commands) + IMMEDIATE_MAX;
            let depth = u16::try_from(depth).unwrap_or(u16::MAX);
            let queue = shared.target.queue(depth).map_err(io::Error::other)?;
            Some(Scsi { queue, nexus: shared.target.nexus(port) })
        };
        Ok(Session {
            shared,
            seat,
            connection: admitted.connection,
            local,
            discovery: admitted.discovery,
            agreed: admitted.agreed.clone(),
            scsi,
            stat_sn: admitted.stat_sn,
            exp_cmd_sn: admitted.cmd_sn,
            open: 0,
            immediate: 0,
            early: BTreeMap::new(),
            early_bytes: 0,
            tasks: HashMap::new(),
            waiting: VecDeque::new(),
            running: 0,
            barrier: false,
            used: 0,
            in_line: false,
            early_data: 0,
            pool: Pool::default(),
            pressed: None,
            next_transfer: 0,
            functions: Vec::new(),
            text: Text::default(),
            ping: Ping::new(),
            output,
            done: Vec::new(),
            share: shared.memory.share()?,
        })
    }

    fn limits(&self) -> &'s ServerLimits {
        &self.shared.policy.limits
    }

    fn digests(&self) -> Digests {
        self.agreed.digests
    }

    /// What is not sent yet.
    pub(super) fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Serves until the end, and says why it came.
    pub(super) fn run(
        &mut self,
        socket: &TcpStream,
        place: &Connected,
        poller: &mut Poller,
        input: &mut Input,
    ) -> End {
        let end = match self.serve(socket, place, poller, input) {
            Ok(never) => match never {},
            Err(end) => end,
        };
        if let End::Ordered(order @ (Order::Stop | Order::Reset)) = end {
            self.take_leave(order);
        }
        end
    }

    fn serve(
        &mut self,
        socket: &TcpStream,
        place: &Connected,
        poller: &mut Poller,
        input: &mut Input,
    ) -> Result<std::convert::Infallible, End> {
        if let Some(scsi) = &self.scsi {
            poller.add(scsi.queue.ready_fd()).map_err(io::Error::from)?;
        }
        poller.add(self.share.fd()).map_err(io::Error::from)?;
        let mut pace = Pace::new();
        loop {
            let pause = self.turn(socket, place, input, &mut pace)?;
            let asked = (!self.is_full(), !self.output.is_empty());
            let ready = poller.wait(socket, asked, pause).map_err(io::Error::from)?;
            pace.readable |= ready.readable;
        }
    }

    /// Does what there is to do, a fair share of each. Says how long to sleep then.
    fn turn(
        &mut self,
        mut socket: &TcpStream,
        place: &Connected,
        input: &mut Input,
        pace: &mut Pace,
    ) -> Result<Duration, End> {
        for _ in 0..READS_MAX {
            self.take(input)?;
            if !pace.readable || self.is_full() {
                break;
            }
            match input.fill(&mut socket)? {
                Filled::Some { all } => pace.readable = !all,
                Filled::Nothing => pace.readable = false,
                Filled::Closed => return Err(End::Closed),
            }
        }
        let backlog = self.take(input)?;
        self.share.look();
        self.collect();
        self.start_waiting();
        let queued = self.output.queued();
        let sent = self.output.flush(&mut socket)?;
        self.release(sent);
        self.output.free().for_each(|memory| self.pool.give(memory, &mut self.share));
        self.start_waiting();
        if let Some(order) = place.bell.order() {
            return Err(End::Ordered(order));
        }
        let now = Instant::now();
        if self.output.is_empty() || self.output.queued() < queued {
            pace.sent_at = now;
        }
        let moved = input.received() + self.output.sent();
        let pause = self.patience(now, pace.sent_at)?.min(self.make_way(now, moved)?);
        self.count(input);
        // What was not taken for want of room is taken once something was sent.
        let more = (pace.readable || backlog) && !self.is_full();
        Ok(if more { Duration::ZERO } else { pause })
    }

    /// Whether nothing is taken in until something was sent.
    fn is_full(&self) -> bool {
        self.output.queued() > OUTPUT_MAX
    }

    /// Takes the PDUs there are. Says whether some may be left, for want of room.
    fn take(&mut self, input: &mut Input) -> Result<bool, End> {
        while !self.is_full() {
            match input.first(self.digests()) {
                Ok(None) => return Ok(false),
                Ok(Some((pdu, len))) => {
                    self.ping.heard();
                    self.receive(&pdu)?;
                    input.consume(len);
                }
                Err(error) => input.consume(self.malformed(&error)?),
            }
        }
        Ok(true)
    }

    /// What is no PDU ends the session, but for data with a wrong digest: that only ends its
    /// command (RFC 7143 section 7.8). Says how many bytes to pass by then.
    fn malformed(&mut self, error: &Malformed) -> Result<usize, End> {
        let why = error.to_string();
        match *error {
            // Where the next PDU starts is not known.
            Malformed::HeaderDigest => Err(End::Protocol(why)),
            Malformed::TooLong { header, .. } => Err(self.offence(&header, Reason::Protocol, &why)),
            Malformed::DataDigest { header, len } if header.opcode() == opcode::DATA_OUT => {
                self.ping.heard();
                self.reject(&header, Reason::DataDigest);
                self.lose_data(&header);
                Ok(len)
            }
            // A command is lost, and at level 0 nobody sends it again.
            Malformed::DataDigest { header, .. } => {
                Err(self.offence(&header, Reason::DataDigest, &why))
            }
        }
    }

    /// Takes the answers there are.
    fn collect(&mut self) {
        let Some(scsi) = &mut self.scsi else { return };
        let mut done = std::mem::take(&mut self.done);
        scsi.queue.poll(&mut done);
        for (token, response) in done.drain(..) {
            self.finish(token, &response);
        }
        self.done = done;
        self.settle();
    }

    fn count(&self, input: &Input) {
        let counters = &self.seat.counters;
        let commands = u32::try_from(self.tasks.len()).unwrap_or(u32::MAX);
        counters.commands.store(commands, Ordering::Relaxed);
        counters.received.store(input.received(), Ordering::Relaxed);
        counters.sent.store(self.output.sent(), Ordering::Relaxed);
    }

    /// How long to sleep at most.
    fn patience(&mut self, now: Instant, sent_at: Instant) -> Result<Duration, End> {
        let limits = self.limits();
        let mut left = self.ping_due(now)?;
        if !self.output.is_empty() {
            let stalled = now.saturating_duration_since(sent_at);
            let more = limits.answer_time.saturating_sub(stalled);
            if more.is_zero() {
                return Err(End::Silent);
            }
            left = left.min(more);
        }
        Ok(left)
    }

    /// Numbers of the window: how many commands may come now.
    fn room(&self) -> u32 {
        u32::from(self.limits().commands).saturating_sub(self.open)
    }

    /// Writes the numbers that every PDU to the initiator has (RFC 7143 section 4.2.2); `status`
    /// says that it is an answer, which has a number of its own.
    fn number(&mut self, header: &mut Header, status: bool) {
        let last = self.exp_cmd_sn.wrapping_add(self.room()).wrapping_sub(1);
        header.set_u32(24, self.stat_sn).set_u32(28, self.exp_cmd_sn).set_u32(32, last);
        if status {
            self.stat_sn = self.stat_sn.wrapping_add(1);
        }
    }

    /// Sends an answer.
    fn send(&mut self, mut header: Header, data: &[u8]) {
        self.number(&mut header, true);
        let on = self.digests();
        self.output.push(&mut header, data, on);
    }

    /// Takes one PDU: those with a number when it is their turn.
    fn receive(&mut self, pdu: &Pdu<'_>) -> Result<(), End> {
        let header = &pdu.header;
        match header.opcode() {
            opcode::DATA_OUT => return self.data_out(pdu),
            opcode::SNACK => {
                self.reject(header, Reason::Snack);
                return Ok(());
            }
            opcode::LOGIN => {
                return Err(self.offence(header, Reason::Protocol, "a login within a session"));
            }
            opcode::NOP_OUT
            | opcode::SCSI_COMMAND
            | opcode::TASK_MANAGEMENT
            | opcode::TEXT
            | opcode::LOGOUT => {}
            _ => {
                self.reject(header, Reason::NotSupported);
                return Ok(());
            }
        }
        if header.is_immediate() {
            return self.dispatch(pdu);
        }
        let ahead = header.cmd_sn().wrapping_sub(self.exp_cmd_sn);
        if ahead >= self.room() {
            // Before or beyond the window: it is as if it had not come (section 4.2.2.1).
            return Ok(());
        }
        if ahead > 0 {
            return self.keep(pdu);
        }
        self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
        self.dispatch(pdu)?;
        while let Some(early) = self.early.remove(&self.exp_cmd_sn) {
            self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
            match early {
                Early::Task(tag) => self.deliver(tag),
                Early::Other(header, data) => {
                    self.early_bytes -= data.len();
                    self.dispatch(&Pdu { header, ahs: &[], data: &data })?;
                }
            }
        }
        Ok(())
    }

    /// Keeps a PDU until it is its turn.
    fn keep(&mut self, pdu: &Pdu<'_>) -> Result<(), End> {
        let number = pdu.header.cmd_sn();
        if self.early.contains_key(&number) {
            return Ok(());
        }
        self.early_bytes += pdu.data.len();
        if self.early_bytes > EARLY_MAX {
            return Err(End::Protocol("too much came before its turn".to_owned()));
        }
        let early = if pdu.header.opcode() == opcode::SCSI_COMMAND {
            self.early_bytes -= pdu.data.len();
            match self.accept(pdu)? {
                Some(tag) if self.bound_early(tag) => return Ok(()),
                Some(tag) => Early::Task(tag),
                None => return Ok(()),
            }
        } else {
            Early::Other(pdu.header, pdu.data.to_vec())
        };
        self.early.insert(number, early);
        Ok(())
    }

    /// Takes a PDU whose turn it is.
    fn dispatch(&mut self, pdu: &Pdu<'_>) -> Result<(), End> {
        let header = &pdu.header;
        match header.opcode() {
            opcode::SCSI_COMMAND => {
                if let Some(tag) = self.accept(pdu)? {
                    self.deliver(tag);
                }
                Ok(())
            }
            opcode::TASK_MANAGEMENT => self.task_management(header),
            opcode::NOP_OUT => {
                self.nop_out(header, pdu.data);
                Ok(())
            }
            opcode::TEXT => self.text_request(pdu),
            opcode::LOGOUT => self.logout(header),
            _ => Ok(()),
        }
    }

    /// Ends what the initiator left: the nexus is lost, its commands end, and nothing of them
    /// reaches a disk after this.
    pub(super) fn end(mut self) {
        self.tasks.retain(|_, task| task.is_submitted());
        let Some(Scsi { mut queue, nexus }) = self.scsi.take() else { return };
        let mut lost = self.shared.target.nexus_lost(&nexus);
        let mut done = std::mem::take(&mut self.done);
        // Also ends those that were put aside: they are aborted.
        while queue.in_flight() > 0 || !lost.settled(&queue) {
            queue.drain(&mut done);
            done.clear();
            if queue.in_flight() == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}
