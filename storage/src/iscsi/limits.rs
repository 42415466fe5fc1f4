//! What a client may have the server spend on it.

use std::time::Duration;

/// Bounds on what clients cost. Values that make no sense are brought into range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections at a time, those in login included.
    pub connections: usize,
    /// How long login may take.
    pub login_time: Duration,
    /// Commands of a session at a time: its window of command numbers.
    pub commands: u16,
    /// Bytes of memory for the data of the commands of all sessions together. Half of it is shared,
    /// and each connection has its part of the other half for itself. Commands beyond wait; of
    /// those for whose unsolicited data there is no room either, initiators are told that the task
    /// set is full. What is received and sent besides takes up to 6 MiB of each session.
    pub server_bytes: usize,
    /// Bytes of memory for the data of a session's commands, at most half of `server_bytes`.
    /// Commands beyond wait.
    pub session_bytes: usize,
    /// Bytes of data of one command. What a command transfers beyond is an error.
    pub command_bytes: usize,
    /// Most bytes of data in a PDU that is taken (`MaxRecvDataSegmentLength`).
    pub receive_segment: u32,
    /// Most bytes of a sequence of data PDUs (`MaxBurstLength`).
    pub max_burst: u32,
    /// Most bytes of data that come without being asked for (`FirstBurstLength`).
    pub first_burst: u32,
    /// R2Ts of a command at a time (`MaxOutstandingR2T`).
    pub outstanding_r2t: u32,
    /// How long an initiator may be silent before it is asked whether it is there.
    pub idle_time: Duration,
    /// How long it has to answer, and how long it may take nothing of what is sent to it.
    pub answer_time: Duration,
}

impl Default for ServerLimits {
    fn default() -> ServerLimits {
        ServerLimits {
            connections: 64,
            login_time: Duration::from_secs(15),
            commands: 128,
            server_bytes: 256 << 20,
            session_bytes: 64 << 20,
            command_bytes: 32 << 20,
            receive_segment: 256 << 10,
            max_burst: 1 << 20,
            first_burst: 128 << 10,
            outstanding_r2t: 16,
            idle_time: Duration::from_secs(20),
            answer_time: Duration::from_secs(20),
        }
    }
}

impl ServerLimits {
    /// The same within the bounds that the protocol and this server have.
    pub(super) fn in_range(mut self) -> ServerLimits {
        let second = Duration::from_secs(1);
        self.connections = self.connections.clamp(1, 4096);
        self.commands = self.commands.clamp(1, 1024);
        // What holds when the initiator says nothing about a length must be taken.
        self.receive_segment = self.receive_segment.clamp(8192, (1 << 24) - 4);
        self.first_burst = self.first_burst.clamp(65_536, (1 << 24) - 4);
        self.max_burst = self.max_burst.clamp(262_144, (1 << 24) - 4);
        self.outstanding_r2t = self.outstanding_r2t.clamp(1, 65_535);
        self.command_bytes = self.command_bytes.clamp(1 << 20, 1 << 30);
        self.server_bytes = self.server_bytes.max(2 << 20);
        // A command has to fit into what is shared.
        self.command_bytes = self.command_bytes.min(self.server_bytes / 2);
        self.session_bytes = self.session_bytes.clamp(self.command_bytes, self.server_bytes / 2);
        self.login_time = self.login_time.max(second / 10);
        self.idle_time = self.idle_time.max(second / 10);
        self.answer_time = self.answer_time.max(second / 10);
        self
    }
}
