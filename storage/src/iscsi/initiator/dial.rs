//! Having a session: the host's address, a connection, login (RFC 7143 sections 6 and 11.12, 11.13).
//! All of it may block for a while, hence is done in a thread of its own.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::offer::Offers;
use super::options::SessionOptions;
use super::proof::Proof;
use super::url::{self, IscsiUrl};
use crate::iscsi::digest::Digests;
use crate::iscsi::keys::{self, Gathered};
use crate::iscsi::login::LOGIN_SEGMENT;
use crate::iscsi::negotiation::Agreed;
use crate::iscsi::pdu::{self, Decoded, Header, opcode};

/// Most bytes of text in one sequence.
const TEXT_MAX: usize = 64 << 10;
/// Most requests of a login.
const REQUESTS_MAX: u32 = 32;
/// The number of the only connection.
pub(super) const CONNECTION: u16 = 1;
/// The number of a session's first command.
const FIRST_COMMAND: u32 = 1;

const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;
const TRANSIT: u8 = 0x80;
const GOES_ON: u8 = 0x40;

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The host is not known.
    #[error("cannot find the address of {host}")]
    Resolve {
        /// Its name.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody listens there.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke during login.
    #[error("the connection broke during login")]
    Broken {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The target does not let us in.
    #[error("the target refuses the login: {reason} (status {status:#06x})")]
    Refused {
        /// Status class and detail (RFC 7143 section 11.13.5).
        status: u16,
        /// What it means.
        reason: &'static str,
    },
    /// The target does not ask for, or take, the proof that is given.
    #[error("the target wants another way of proof: {0}")]
    Proof(&'static str),
    /// The target did not prove that it is the one that was meant.
    #[error("the target did not prove that it knows its secret")]
    Impostor,
    /// The target sends us elsewhere, where we are sent elsewhere again.
    #[error("the target redirects to {to}, after it has redirected already")]
    Redirected {
        /// Where to.
        to: String,
    },
    /// What the target says is not what the protocol has.
    #[error("the target's part of the login makes no sense: {0}")]
    Protocol(String),
    /// The host lacks what a session needs.
    #[error("cannot begin a session")]
    Host {
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ConnectError {
    /// Whether it is of no use to try again soon: somebody has to change something first.
    pub fn is_final(&self) -> bool {
        match self {
            ConnectError::Refused { status, .. } => status >> 8 == 2,
            ConnectError::Proof(_) | ConnectError::Impostor => true,
            _ => false,
        }
    }

    /// What to do about it.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            ConnectError::Refused { status: 0x0201 | 0x0202, .. } | ConnectError::Proof(_) => {
                Some("compare the initiator's name and secret with what the target has")
            }
            ConnectError::Refused { status: 0x0203, .. } => {
                Some("compare the target's name with what the server serves")
            }
            ConnectError::Impostor => {
                Some("compare the target's secret in the file of secrets with what the target has")
            }
            _ => None,
        }
    }
}

/// What a status of class 2 or 3 means (RFC 7143 section 11.13.5).
fn reason(status: u16) -> &'static str {
    match status {
        0x0200 => "the initiator made a mistake",
        0x0201 => "name or secret is wrong",
        0x0202 => "this initiator may not use the target",
        0x0203 => "there is no such target",
        0x0204 => "the target is gone for good",
        0x0205 => "no version of the protocol is common",
        0x0206 => "too many connections",
        0x0207 => "a parameter is missing",
        0x0208 => "the connection does not fit into the session",
        0x0209 => "the type of session is not supported",
        0x020a => "there is no such session",
        0x020b => "the request does not belong here",
        0x0301 => "the service is not available now",
        0x0302 => "the target has no room for a session now",
        status if status >> 8 == 3 => "the target failed",
        _ => "for a reason that is not known",
    }
}

/// A session that begins.
#[derive(Debug)]
pub(super) struct Established {
    pub(super) socket: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) agreed: Agreed,
    /// The numbers of the first command and of the target's first answer.
    pub(super) cmd_sn: u32,
    pub(super) exp_stat_sn: u32,
    /// Up to which number commands may be sent.
    pub(super) max_cmd_sn: u32,
}

/// How a login ended that did not fail.
pub(super) enum Ended {
    Begun(Box<Established>),
    /// The target is to be found there.
    Elsewhere(String),
}

/// Connects and logs in; goes where the target says it is, once.
pub(super) fn dial(url: &IscsiUrl, options: &SessionOptions) -> Result<Established, ConnectError> {
    let to = match log_in((url.host(), url.port()), url, options)? {
        Ended::Begun(session) => return Ok(*session),
        Ended::Elsewhere(to) => to,
    };
    let nonsense = |_| ConnectError::Protocol("it redirects to what is no address".to_owned());
    // Of `HOST:PORT,GROUP` the group means nothing here.
    let place = to.split_once(',').map_or(to.as_str(), |(place, _)| place);
    let (host, port) = url::authority(place).map_err(nonsense)?;
    tracing::info!(%url, to = place, "the iSCSI target redirects");
    match log_in((&host, port), url, options)? {
        Ended::Begun(session) => Ok(*session),
        Ended::Elsewhere(to) => Err(ConnectError::Redirected { to }),
    }
}

/// Connects to the first address of the host that takes the connection.
fn connect(host: &str, port: u16, patience: Duration) -> Result<TcpStream, ConnectError> {
    let resolve = |source| ConnectError::Resolve { host: host.to_owned(), source };
    let addresses = (host, port).to_socket_addrs().map_err(resolve)?;
    let mut last = resolve(io::ErrorKind::NotFound.into());
    for address in addresses.take(8) {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(socket) => return Ok(socket),
            Err(source) => last = ConnectError::Connect { address, source },
        }
    }
    Err(last)
}

fn log_in(
    (host, port): (&str, u16),
    url: &IscsiUrl,
    options: &SessionOptions,
) -> Result<Ended, ConnectError> {
    let limits = &options.limits;
    let socket = connect(host, port, limits.login_time)?;
    let broken = |source: io::Error| ConnectError::Broken { source };
    let peer = socket.peer_addr().map_err(broken)?;
    prepare(&socket, limits.answer_time).map_err(broken)?;
    log_in_on(socket, peer, url, options)
}

/// Logs in on a connection that there is.
pub(super) fn log_in_on(
    socket: TcpStream,
    peer: SocketAddr,
    url: &IscsiUrl,
    options: &SessionOptions,
) -> Result<Ended, ConnectError> {
    let limits = &options.limits;
    let broken = |source: io::Error| ConnectError::Broken { source };
    let mut login = Login {
        options,
        wire: Wire { socket, received: Vec::new(), deadline: Instant::now() + limits.login_time },
        offers: Offers::new(options),
        agreed: Offers::new(options).unanswered(),
        proof: Proof::new(options.chap.as_ref()),
        stage: SECURITY,
        exp_stat_sn: None,
        max_cmd_sn: 0,
        requests: 0,
    };
    if let Some(to) = login.run(url)? {
        return Ok(Ended::Elsewhere(to));
    }
    let Login { wire, mut agreed, exp_stat_sn, max_cmd_sn, .. } = login;
    if !wire.received.is_empty() {
        return Err(ConnectError::Protocol("it goes on after the end of login".to_owned()));
    }
    wire.socket.set_nonblocking(true).map_err(broken)?;
    agreed.settle();
    Ok(Ended::Begun(Box::new(Established {
        socket: wire.socket,
        peer,
        agreed,
        cmd_sn: FIRST_COMMAND,
        exp_stat_sn: exp_stat_sn.unwrap_or_default(),
        max_cmd_sn,
    })))
}

/// Small PDUs go at once, and a peer that vanished is noticed.
fn prepare(socket: &TcpStream, patience: Duration) -> io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    let patience = u32::try_from(patience.as_millis() * 2).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(socket, patience)?;
    Ok(())
}

/// The connection before the session, used one PDU at a time.
struct Wire {
    socket: TcpStream,
    received: Vec<u8>,
    deadline: Instant,
}

impl Wire {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }

    fn send(&mut self, header: &mut Header, text: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::new();
        pdu::push(&mut bytes, header, text, Digests::default());
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write_all(&bytes)
    }

    /// The next PDU.
    fn receive(&mut self) -> Result<(Header, Vec<u8>), ConnectError> {
        let broken = |source: io::Error| ConnectError::Broken { source };
        loop {
            let decoded = pdu::decode(&self.received, Digests::default(), LOGIN_SEGMENT);
            let wanted = match decoded {
                Ok(Decoded::Whole(pdu, len)) => {
                    let found = (pdu.header, pdu.data.to_vec());
                    self.received.drain(..len);
                    return Ok(found);
                }
                Ok(Decoded::Partial(wanted)) => wanted,
                Err(error) => return Err(ConnectError::Protocol(error.to_string())),
            };
            // No more than the PDU has: what follows belongs to the session.
            let mut part = vec![0; wanted.saturating_sub(self.received.len())];
            self.socket.set_read_timeout(Some(self.left().map_err(broken)?)).map_err(broken)?;
            let count = match self.socket.read(&mut part) {
                Ok(0) => return Err(broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(broken(io::ErrorKind::TimedOut.into()));
                }
                Err(error) => return Err(broken(error)),
            };
            self.received.extend_from_slice(part.get(..count).unwrap_or_default());
        }
    }
}

/// One login.
struct Login<'o> {
    options: &'o SessionOptions,
    wire: Wire,
    offers: Offers,
    agreed: Agreed,
    proof: Proof<'o>,
    stage: u8,
    exp_stat_sn: Option<u32>,
    max_cmd_sn: u32,
    requests: u32,
}

/// An answer of the target's: whether it agrees to go on to the next stage, and its text.
struct Answer {
    transit: bool,
    text: Vec<u8>,
}

impl Login<'_> {
    /// Logs in; the result is where to go instead.
    fn run(&mut self, url: &IscsiUrl) -> Result<Option<String>, ConnectError> {
        let mut text = Vec::new();
        keys::push(&mut text, "InitiatorName", self.options.initiator.as_str());
        keys::push(&mut text, "TargetName", url.target().as_str());
        keys::push(&mut text, "SessionType", "Normal");
        self.proof.begin(&mut text);
        loop {
            let next = if self.stage == SECURITY { OPERATIONAL } else { FULL_FEATURE };
            let may_leave = self.stage != SECURITY || self.proof.may_leave();
            let answer = match self.exchange(may_leave.then_some(next), &text)? {
                Ok(answer) => answer,
                Err(to) => return Ok(Some(to)),
            };
            text.clear();
            let bad = |error: keys::BadText| ConnectError::Protocol(error.to_string());
            let pairs = keys::pairs(&answer.text).map_err(bad)?;
            if self.stage == SECURITY {
                self.proof.take(&pairs, &mut text)?;
            } else {
                for &pair in &pairs {
                    let taken = self.offers.take(pair, &mut self.agreed, &mut text);
                    taken.map_err(ConnectError::Protocol)?;
                }
            }
            if !answer.transit {
                continue;
            }
            if self.stage == OPERATIONAL {
                return Ok(None);
            }
            self.proof.finish()?;
            self.stage = OPERATIONAL;
            text.clear();
            self.offers.push(&mut text);
        }
    }

    /// Sends a request, and gets the whole answer to it, or where to go instead.
    fn exchange(
        &mut self,
        next: Option<u8>,
        text: &[u8],
    ) -> Result<Result<Answer, String>, ConnectError> {
        let protocol = |what: &str| ConnectError::Protocol(what.to_owned());
        let mut gathered = Gathered::new(TEXT_MAX);
        let mut flags = self.stage << 2 | next.map_or(0, |next| TRANSIT | next);
        let mut text = text;
        loop {
            self.requests += 1;
            if self.requests > REQUESTS_MAX {
                return Err(protocol("it does not come to an end"));
            }
            let mut header = Header::new(opcode::LOGIN | 0x40, flags);
            header.set(8, &self.options.isid).set_u32(16, 0).set_u16(20, CONNECTION);
            header.set_u32(24, FIRST_COMMAND).set_u32(28, self.exp_stat_sn.unwrap_or_default());
            let sent = self.wire.send(&mut header, text);
            sent.map_err(|source| ConnectError::Broken { source })?;
            let (header, part) = self.wire.receive()?;
            if header.opcode() != opcode::LOGIN_RESPONSE || header.task_tag() != 0 {
                return Err(protocol("an answer that is none to a login"));
            }
            gathered.add(&part).map_err(|error| ConnectError::Protocol(error.to_string()))?;
            let status = header.u16(36);
            match status >> 8 {
                0 => {}
                1 => return Ok(Err(self.elsewhere(&gathered.take())?)),
                _ => return Err(ConnectError::Refused { status, reason: reason(status) }),
            }
            let stat_sn = header.u32(24);
            if self.exp_stat_sn.is_some_and(|expected| expected != stat_sn) {
                return Err(protocol("its answers are not numbered in order"));
            }
            self.exp_stat_sn = Some(stat_sn.wrapping_add(1));
            self.max_cmd_sn = header.u32(32);
            let (transit, goes_on) = (header.flags() & TRANSIT != 0, header.flags() & GOES_ON != 0);
            if (header.flags() >> 2) & 3 != self.stage || transit && goes_on {
                return Err(protocol("an answer that belongs to another stage"));
            }
            if transit && next != Some(header.flags() & 3) {
                return Err(protocol("it goes on to a stage that was not asked for"));
            }
            if !goes_on {
                return Ok(Ok(Answer { transit, text: gathered.take() }));
            }
            // The rest of the text is to be asked for with empty requests.
            text = &[];
            flags = self.stage << 2;
        }
    }

    fn elsewhere(&self, text: &[u8]) -> Result<String, ConnectError> {
        let pairs = keys::pairs(text).map_err(|error| ConnectError::Protocol(error.to_string()))?;
        let address = pairs.iter().find(|&&(key, _)| key == "TargetAddress");
        match address {
            Some((_, address)) if address.len() <= 300 => Ok((*address).to_owned()),
            _ => Err(ConnectError::Protocol("it redirects to nowhere".to_owned())),
        }
    }
}
