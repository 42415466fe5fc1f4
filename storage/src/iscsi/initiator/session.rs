//! The full feature phase of one session (RFC 7143 sections 4 and 11), as the initiator.
//!
//! ```text
//!  start ──► SCSI Command ──► Outbox          send.rs
//!  R2T ──► Transfer ──► Data-Out ──► Outbox   send.rs
//!  Input ──► Data-In ──► guest memory         receive.rs
//!        └─► answers ──► complete             receive.rs, functions.rs
//! ```
//!
//! The target is believed nothing: each tag, number, offset and length is held against what was
//! asked for, and what does not fit ends the session.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::dial::{CONNECTION, Established};
use super::options::SessionLimits;
use super::port::Request;
use super::repeat;
use super::wire::Outbox;
use crate::Buffers;
use crate::iscsi::digest::Digests;
use crate::iscsi::input::Input;
use crate::iscsi::negotiation::Agreed;
use crate::iscsi::pdu::{Header, Malformed, NO_TAG, opcode};
use crate::scsi::{Response, ServiceResponse};

mod functions;
mod receive;
mod send;

pub(super) use functions::{Function, What};

/// Bytes to read at a time where no more are known to belong together: what is behind them is read
/// to where it belongs.
const CHUNK: usize = 16 << 10;
/// How often a command is sent whose answer is lost again and again.
const SENT_MAX: u8 = 8;
/// How long a target has to say good-bye.
const FAREWELL: Duration = Duration::from_millis(500);

/// Why a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// The target closed the connection.
    Closed,
    /// It asked for it.
    Asked,
    /// It does not keep to the protocol.
    Protocol(String),
    /// It does not answer, or takes nothing.
    Silent,
    Host(io::Error),
    /// The guest is gone.
    NexusLost,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Closed => f.write_str("the target closed the connection"),
            End::Asked => f.write_str("the target asked for the end of the session"),
            End::Protocol(why) => f.write_str(why),
            End::Silent => f.write_str("the target does not answer"),
            End::Host(error) => write!(f, "the connection failed: {error}"),
            End::NexusLost => f.write_str("the guest is gone"),
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Host(error)
    }
}

impl From<Malformed> for End {
    fn from(error: Malformed) -> End {
        End::Protocol(error.to_string())
    }
}

fn protocol<T>(why: &str) -> Result<T, End> {
    Err(End::Protocol(why.to_owned()))
}

/// A command that was sent. What refers to the guest's memory is let go of before it is answered.
#[derive(Debug)]
struct Task {
    /// Room for data that did not come yet.
    room: Buffers,
    /// Data that was not sent.
    data: Buffers,
    expected_in: u32,
    expected_out: u32,
    received: u32,
    next_data_sn: u32,
    /// How much of the data was sent unasked or asked for.
    granted: u32,
    /// R2Ts whose data was not sent.
    r2ts: u32,
    next_r2t_sn: u32,
    cmd_sn: u32,
    /// Its first byte among all that the session sends, and the end of its data so far.
    place: u64,
    data_end: u64,
    /// Nobody waits for it any more: it is not sent again.
    is_given_up: bool,
    request: Request,
}

/// A sequence of data to be sent.
#[derive(Debug)]
struct Transfer {
    task: u32,
    /// The target's tag, or none.
    tag: u32,
    offset: u32,
    left: u32,
    data_sn: u32,
}

/// Data that is on its way to where it belongs.
#[derive(Debug)]
struct Direct {
    header: Header,
    room: Buffers,
    padding: usize,
}

/// An answer that waits until nothing of its command is to be sent any more.
#[derive(Debug)]
struct Lingering {
    until: u64,
    request: Request,
    response: ServiceResponse,
}

/// A session. The order of the fields is that in which they let go of guests' memory.
#[derive(Debug)]
pub(super) struct Session {
    output: Outbox,
    direct: Option<Direct>,
    tasks: HashMap<u32, Task>,
    lingering: Vec<Lingering>,
    transfers: VecDeque<Transfer>,
    function: Option<functions::Sent>,
    socket: TcpStream,
    agreed: Agreed,
    limits: SessionLimits,
    lun: u64,
    input: Input,
    next_tag: u32,
    cmd_sn: u32,
    max_cmd_sn: u32,
    exp_stat_sn: u32,
    begun_at: Instant,
    /// The target answered a command.
    is_useful: bool,
    heard_at: Instant,
    /// When the target last took something of what there is to send.
    taken_at: Instant,
    /// Our question whether it is there: its tag and when it was asked.
    ping: Option<(u32, Instant)>,
    /// Bytes of answers to the target's own questions, and where the last of them ends.
    owed: (u64, u64),
    /// Until when the target wants it to end.
    leave_by: Option<Instant>,
    /// Bytes that were reported.
    counted: (u64, u64),
}

impl Session {
    pub(super) fn new(begun: Established, limits: &SessionLimits, lun: u64) -> Session {
        let Established { socket, agreed, cmd_sn, exp_stat_sn, max_cmd_sn, .. } = begun;
        let now = Instant::now();
        Session {
            output: Outbox::default(),
            direct: None,
            tasks: HashMap::new(),
            lingering: Vec::new(),
            transfers: VecDeque::new(),
            function: None,
            socket,
            agreed,
            limits: limits.clone(),
            lun,
            input: Input::with_chunk(limits.receive_segment, CHUNK),
            next_tag: 0,
            cmd_sn,
            max_cmd_sn,
            exp_stat_sn,
            begun_at: now,
            is_useful: false,
            heard_at: now,
            taken_at: now,
            ping: None,
            owed: (0, 0),
            leave_by: None,
            counted: (0, 0),
        }
    }

    fn digests(&self) -> Digests {
        self.agreed.digests
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.socket.peer_addr().ok()
    }

    /// How long it lasts already.
    pub(super) fn age(&self) -> Duration {
        self.begun_at.elapsed()
    }

    /// Whether the target answered a command.
    pub(super) fn is_useful(&self) -> bool {
        self.is_useful
    }

    /// Whether there is something to send.
    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Bytes received and sent since this was last asked.
    pub(super) fn moved(&mut self) -> (u64, u64) {
        let all = (self.input.received(), self.output.sent());
        let before = std::mem::replace(&mut self.counted, all);
        (all.0 - before.0, all.1 - before.1)
    }

    /// A tag that no task has.
    fn new_tag(&mut self) -> u32 {
        loop {
            self.next_tag = self.next_tag.wrapping_add(1);
            if self.next_tag != NO_TAG && !self.tasks.contains_key(&self.next_tag) {
                return self.next_tag;
            }
        }
    }

    /// The tags of the commands that are this.
    pub(super) fn find(&self, is: impl Fn(&Request) -> bool) -> Vec<u32> {
        let tasks = self.tasks.iter().filter(|(_, task)| is(&task.request));
        tasks.map(|(&tag, _)| tag).collect()
    }

    /// Nobody waits for this command any more.
    pub(super) fn give_up(&mut self, tag: u32) {
        if let Some(task) = self.tasks.get_mut(&tag) {
            task.is_given_up = true;
        }
    }

    /// Ends a task, which is answered as soon as nothing of it is to be sent any more.
    fn end(&mut self, tag: u32, response: ServiceResponse) {
        let Some(Task { room, data, request, data_end, .. }) = self.tasks.remove(&tag) else {
            return;
        };
        drop((room, data));
        self.transfers.retain(|transfer| transfer.task != tag);
        if self.output.sent() < data_end {
            self.lingering.push(Lingering { until: data_end, request, response });
        } else {
            request.answer(response);
        }
    }

    /// Sends what the target takes.
    pub(super) fn flush(&mut self) -> Result<(), End> {
        if self.output.flush(&self.socket)? || self.output.is_empty() {
            self.taken_at = Instant::now();
        }
        let sent = self.output.sent();
        if self.lingering.iter().any(|lingering| lingering.until <= sent) {
            for Lingering { until, request, response } in std::mem::take(&mut self.lingering) {
                if until <= sent {
                    request.answer(response);
                } else {
                    self.lingering.push(Lingering { until, request, response });
                }
            }
        }
        Ok(())
    }

    /// How long to sleep at most. Asks a silent target whether it is there.
    pub(super) fn patience(&mut self) -> Result<Duration, End> {
        let now = Instant::now();
        let left = |since: Instant, patience: Duration| {
            let left = patience.saturating_sub(now.saturating_duration_since(since));
            if left.is_zero() { Err(End::Silent) } else { Ok(left) }
        };
        let SessionLimits { idle_time, answer_time, .. } = self.limits;
        let mut pause = idle_time;
        if !self.output.is_empty() {
            pause = pause.min(left(self.taken_at, answer_time)?);
        }
        if let Some(sent_at) = self.function.as_ref().map(functions::Sent::at) {
            pause = pause.min(left(sent_at, answer_time)?);
        }
        if let Some(leave_by) = self.leave_by {
            let more = leave_by.saturating_duration_since(now);
            if more.is_zero() || self.tasks.is_empty() && self.output.is_empty() {
                return Err(End::Asked);
            }
            pause = pause.min(more);
        }
        if let Some((_, asked_at)) = self.ping {
            // Whatever came since shows that it is there.
            return Ok(pause.min(left(asked_at.max(self.heard_at), answer_time)?));
        }
        let idle = now.saturating_duration_since(self.heard_at);
        if idle < idle_time {
            return Ok(pause.min(idle_time - idle));
        }
        let tag = self.new_tag();
        self.ping = Some((tag, now));
        let mut header = Header::new(opcode::NOP_OUT | 0x40, 0x80);
        header.set_u32(16, tag).set_u32(20, NO_TAG);
        header.set_u32(24, self.cmd_sn).set_u32(28, self.exp_stat_sn);
        let on = self.digests();
        self.output.push(&mut header, &[], &[], on);
        Ok(Duration::ZERO)
    }

    /// Says good-bye, as far as that goes fast: with a PDU half sent there is no way to.
    pub(super) fn farewell(&mut self) {
        if !self.output.is_empty() || self.flush().is_err() {
            return;
        }
        let mut header = Header::new(opcode::LOGOUT | 0x40, 0x80);
        let tag = self.new_tag();
        header.set_u32(16, tag).set_u16(20, CONNECTION);
        header.set_u32(24, self.cmd_sn).set_u32(28, self.exp_stat_sn);
        let on = self.digests();
        self.output.push(&mut header, &[], &[], on);
        let deadline = Instant::now() + FAREWELL;
        let quiet = self.output.flush(&self.socket).is_ok()
            && self.socket.set_nonblocking(false).is_ok()
            && self.socket.set_read_timeout(Some(FAREWELL)).is_ok();
        let mut waste = [0; 4096];
        // It closes the connection when it has answered.
        while quiet
            && Instant::now() < deadline
            && (&self.socket).read(&mut waste).is_ok_and(|count| count > 0)
        {}
    }

    /// Takes the lost session apart: what is to be sent in the next one, in order, and the function
    /// under way. All else is answered. `silent` says that nobody waits for any of it.
    pub(super) fn dissolve(self, silent: bool) -> (Vec<Request>, Option<Function>) {
        let Session { output, direct, tasks, lingering, function, socket, .. } = self;
        let sent = output.sent();
        drop((output, direct, socket));
        for Lingering { request, response, .. } in lingering {
            request.answer(response);
        }
        let mut tasks: Vec<Task> = tasks.into_values().collect();
        tasks.sort_unstable_by_key(|task| task.place);
        let mut again = Vec::new();
        for Task { room, data, mut request, place, is_given_up, .. } in tasks {
            drop((room, data));
            let was_sent = place < sent;
            if silent || is_given_up {
                request.answer(ServiceResponse::Complete(Response::silent()));
            } else if !was_sent {
                again.push(request);
            } else if repeat::is_repeatable(&request.command) && request.sent < SENT_MAX {
                request.sent += 1;
                again.push(request);
            } else {
                request.answer(ServiceResponse::DeliveryFailure);
            }
        }
        (again, function.map(functions::Sent::into_function))
    }
}
