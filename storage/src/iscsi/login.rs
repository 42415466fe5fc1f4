//! Login (RFC 7143 sections 6 and 11.12): one PDU in, one out, until the session may begin or the
//! initiator is turned away. Knows no socket.
//!
//! ```text
//!  first request ──► security negotiation ──► operational negotiation ──► full feature phase
//!        │               (CHAP, or None)            (keys)                      ▲
//!        └──────────────────┴── the initiator may leave out what is not demanded ┘
//! ```

use super::chap::{Challenge, ChapError};
use super::keys::{self, BadText, Gathered};
use super::limits::ServerLimits;
use super::names::{IscsiName, Isid};
use super::negotiation::Agreed;
use super::pdu::{Header, Pdu, opcode};
use super::secrets::ChapSecrets;

/// Most bytes of data in a PDU of login (RFC 7143 section 13.12: what holds before it is agreed).
pub(super) const LOGIN_SEGMENT: u32 = 8192;
/// Most bytes of text in one sequence.
const TEXT_MAX: usize = 64 << 10;
/// Most requests of a login.
const REQUESTS_MAX: u32 = 64;

const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;

/// The number of the only portal group there is.
pub(super) const PORTAL_GROUP: &str = "1";

/// Why a login failed: status class and detail (RFC 7143 section 11.13.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Initiator = 0x0200,
    Authentication = 0x0201,
    NotFound = 0x0203,
    Version = 0x0205,
    TooManyConnections = 0x0206,
    MissingParameter = 0x0207,
    SessionType = 0x0209,
    NoSuchSession = 0x020a,
    NotLogin = 0x020b,
    Target = 0x0300,
    Unavailable = 0x0301,
    OutOfResources = 0x0302,
}

/// A failure and what the log is to say about it.
#[derive(Debug)]
struct Refused(Failure, String);

impl From<BadText> for Refused {
    fn from(error: BadText) -> Refused {
        Refused(Failure::Initiator, error.to_string())
    }
}

impl From<ChapError> for Refused {
    fn from(error: ChapError) -> Refused {
        Refused(Failure::Authentication, error.to_string())
    }
}

fn refused<T>(failure: Failure, why: &str) -> Result<T, Refused> {
    Err(Refused(failure, why.to_owned()))
}

/// What the server is to its initiators.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) target: IscsiName,
    pub(super) chap: Option<ChapSecrets>,
    pub(super) limits: ServerLimits,
}

/// What is to be done after the answer was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Wait for the next request.
    Continue,
    /// The session begins, once its TSIH is in the header.
    Enter,
    /// The connection ends, for this reason.
    Close(String),
}

/// The answer to a request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) header: Header,
    pub(super) text: Vec<u8>,
    pub(super) then: Then,
}

#[derive(Debug)]
enum Security {
    /// Nothing was said.
    Open,
    /// CHAP was agreed on.
    Chap,
    Challenged(Challenge),
    Done,
}

/// What the first request says, and all others must repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fixed {
    isid: Isid,
    task_tag: u32,
    connection: u16,
}

/// One login.
#[derive(Debug)]
pub(super) struct Login<'p> {
    policy: &'p Policy,
    fixed: Option<Fixed>,
    requests: u32,
    stage: u8,
    security: Security,
    gathered: Gathered,
    /// Text that did not fit into the last answer.
    pending: Vec<u8>,
    /// Keys that were negotiated: none is twice.
    seen: Vec<String>,
    cmd_sn: u32,
    stat_sn: u32,
    said_segment: bool,
    initiator: Option<IscsiName>,
    alias: Option<String>,
    discovery: bool,
    user: Option<String>,
    agreed: Agreed,
}

/// Who logged in, and how.
#[derive(Clone, Debug)]
pub(super) struct Admitted {
    pub(super) initiator: IscsiName,
    pub(super) isid: Isid,
    pub(super) connection: u16,
    pub(super) alias: Option<String>,
    pub(super) discovery: bool,
    /// The name by which it proved itself.
    pub(super) user: Option<String>,
    pub(super) agreed: Agreed,
    /// The numbers of the session's first command and first answer.
    pub(super) cmd_sn: u32,
    pub(super) stat_sn: u32,
}

impl<'p> Login<'p> {
    pub(super) fn new(policy: &'p Policy) -> Login<'p> {
        Login {
            policy,
            fixed: None,
            requests: 0,
            stage: SECURITY,
            security: Security::Open,
            gathered: Gathered::new(TEXT_MAX),
            pending: Vec::new(),
            seen: Vec::new(),
            cmd_sn: 0,
            stat_sn: 1,
            said_segment: false,
            initiator: None,
            alias: None,
            discovery: false,
            user: None,
            agreed: Agreed::default(),
        }
    }

    /// Takes a request. `knows` tells whether there is a session of this TSIH.
    pub(super) fn request(&mut self, pdu: &Pdu<'_>, knows: impl Fn(u16) -> bool) -> Answer {
        match self.step(pdu, knows) {
            Ok(answer) => answer,
            Err(Refused(failure, why)) => self.fail(&pdu.header, failure, why),
        }
    }

    /// The answer that turns the initiator away.
    pub(super) fn fail(&mut self, request: &Header, failure: Failure, why: String) -> Answer {
        let mut header = self.response(request, 0);
        header.set_u16(36, failure as u16);
        Answer { header, text: Vec::new(), then: Then::Close(why) }
    }

    /// What came out of a login that may [`Then::Enter`].
    pub(super) fn admitted(&self) -> Option<Admitted> {
        let fixed = self.fixed?;
        let mut agreed = self.agreed.clone();
        agreed.settle();
        Some(Admitted {
            initiator: self.initiator.clone()?,
            isid: fixed.isid,
            connection: fixed.connection,
            alias: self.alias.clone(),
            discovery: self.discovery,
            user: self.user.clone(),
            agreed,
            cmd_sn: self.cmd_sn,
            stat_sn: self.stat_sn,
        })
    }

    /// The initiator's name, once it is known, for the log.
    pub(super) fn initiator(&self) -> Option<&IscsiName> {
        self.initiator.as_ref()
    }

    fn response(&mut self, request: &Header, flags: u8) -> Header {
        let mut header = Header::new(opcode::LOGIN_RESPONSE, flags);
        let window = u32::from(self.policy.limits.commands);
        // Bytes 2 and 3 are versions, of which 0 is the only one.
        header
            .set(8, request.bytes().get(8..16).unwrap_or_default())
            .set_u32(16, request.task_tag())
            .set_u32(24, self.stat_sn)
            .set_u32(28, self.cmd_sn)
            .set_u32(32, self.cmd_sn.wrapping_add(window).wrapping_sub(1));
        self.stat_sn = self.stat_sn.wrapping_add(1);
        header
    }

    fn step(&mut self, pdu: &Pdu<'_>, knows: impl Fn(u16) -> bool) -> Result<Answer, Refused> {
        let header = &pdu.header;
        if header.opcode() != opcode::LOGIN {
            return refused(Failure::NotLogin, "something else than a login request");
        }
        if header.byte(3) > 0 {
            return refused(Failure::Version, "a version of the protocol that is not known");
        }
        self.requests += 1;
        if self.requests > REQUESTS_MAX {
            return refused(Failure::Initiator, "login takes too many requests");
        }
        let flags = header.flags();
        let (transit, goes_on) = (flags & 0x80 != 0, flags & 0x40 != 0);
        let (stage, next) = ((flags >> 2) & 3, flags & 3);
        self.repeat(header, stage, knows)?;
        let ways = [(SECURITY, OPERATIONAL), (SECURITY, FULL_FEATURE), (OPERATIONAL, FULL_FEATURE)];
        if stage != self.stage || (transit && (goes_on || !ways.contains(&(stage, next)))) {
            return refused(Failure::Initiator, "stages of login out of order");
        }
        if !self.pending.is_empty() {
            if !pdu.data.is_empty() {
                return refused(Failure::Initiator, "text in between the parts of an answer");
            }
        } else {
            self.gathered.add(pdu.data)?;
            if goes_on {
                let header = self.response(header, stage << 2);
                return Ok(Answer { header, text: Vec::new(), then: Then::Continue });
            }
            let text = self.gathered.take();
            self.pending = self.answer(&keys::pairs(&text)?)?;
        }
        let more = self.pending.len().saturating_sub(LOGIN_SEGMENT as usize);
        let rest = self.pending.split_off(self.pending.len() - more);
        let text = std::mem::replace(&mut self.pending, rest);
        if more > 0 {
            let header = self.response(header, 0x40 | (stage << 2));
            return Ok(Answer { header, text, then: Then::Continue });
        }
        if !transit || !self.may_leave()? {
            let header = self.response(header, stage << 2);
            return Ok(Answer { header, text, then: Then::Continue });
        }
        self.stage = next;
        let header = self.response(header, 0x80 | (stage << 2) | next);
        let then = if next == FULL_FEATURE { Then::Enter } else { Then::Continue };
        Ok(Answer { header, text, then })
    }

    /// Takes from the first request what all others must repeat.
    fn repeat(
        &mut self,
        header: &Header,
        stage: u8,
        knows: impl Fn(u16) -> bool,
    ) -> Result<(), Refused> {
        let mut isid = [0; 6];
        isid.copy_from_slice(header.bytes().get(8..14).unwrap_or(&[0; 6]));
        let fixed =
            Fixed { isid: Isid(isid), task_tag: header.task_tag(), connection: header.u16(20) };
        // A session has one connection, which cannot be exchanged for another either: error
        // recovery level 0 has the session start anew.
        match header.u16(14) {
            0 => {}
            known if knows(known) => {
                return refused(Failure::TooManyConnections, "a second connection of a session");
            }
            _ => return refused(Failure::NoSuchSession, "a session that is not known"),
        }
        match self.fixed {
            None => {
                self.fixed = Some(fixed);
                self.stage = stage;
                self.cmd_sn = header.cmd_sn();
                Ok(())
            }
            Some(first) if first == fixed => Ok(()),
            Some(_) => refused(Failure::Initiator, "requests that do not belong together"),
        }
    }

    /// Whether the initiator may leave this stage.
    fn may_leave(&self) -> Result<bool, Refused> {
        match (&self.policy.chap, &self.security, self.stage) {
            (None, ..) | (_, Security::Done, _) => Ok(true),
            (_, Security::Open, _) | (_, _, OPERATIONAL) => {
                refused(Failure::Authentication, "it does not want to prove itself")
            }
            (_, Security::Chap | Security::Challenged(_), _) => Ok(false),
        }
    }

    /// Takes a whole text apart and answers it.
    fn answer(&mut self, pairs: &[(&str, &str)]) -> Result<Vec<u8>, Refused> {
        let mut out = Vec::new();
        if self.initiator.is_none() {
            self.introduce(pairs, &mut out)?;
        }
        if self.stage == OPERATIONAL && self.policy.chap.is_some() {
            self.may_leave()?;
        }
        for &(key, value) in pairs {
            if self.seen.iter().any(|seen| seen == key) {
                return Err(Refused(Failure::Initiator, format!("{key} is negotiated twice")));
            }
            if self.seen.len() > 1000 {
                return refused(Failure::Initiator, "too many keys");
            }
            self.seen.push(key.to_owned());
            match key {
                "InitiatorName" | "InitiatorAlias" | "SessionType" | "TargetName" => {}
                "AuthMethod" if self.stage == SECURITY => self.method(value, &mut out)?,
                "CHAP_A" if matches!(self.security, Security::Chap) => {
                    let challenge = Challenge::new(value).map_err(|error| {
                        Refused(Failure::Target, format!("no random bytes: {error}"))
                    })??;
                    challenge.push(&mut out);
                    self.security = Security::Challenged(challenge);
                }
                "CHAP_N" => self.prove(pairs, &mut out)?,
                "CHAP_A" | "CHAP_I" | "CHAP_C" | "CHAP_R" => {}
                _ => self.agreed.offer(key, value, &self.policy.limits, &mut out),
            }
        }
        if self.stage == OPERATIONAL && !self.said_segment {
            self.said_segment = true;
            let most = self.policy.limits.receive_segment;
            keys::push(&mut out, "MaxRecvDataSegmentLength", &most.to_string());
        }
        Ok(out)
    }

    /// Who comes, and to whom (RFC 7143 section 6.3.1): in the first request's text.
    fn introduce(&mut self, pairs: &[(&str, &str)], out: &mut Vec<u8>) -> Result<(), Refused> {
        let value = |wanted| pairs.iter().find(|&&(key, _)| key == wanted).map(|&(_, value)| value);
        self.discovery = match value("SessionType") {
            None | Some("Normal") => false,
            Some("Discovery") => true,
            Some(_) => return refused(Failure::SessionType, "a type of session that is not known"),
        };
        let Some(name) = value("InitiatorName") else {
            return refused(Failure::MissingParameter, "no InitiatorName");
        };
        let name = IscsiName::new(name)
            .map_err(|_| Refused(Failure::Initiator, "an InitiatorName that is none".into()))?;
        match value("TargetName") {
            None if !self.discovery => return refused(Failure::MissingParameter, "no TargetName"),
            Some(target) if !target.eq_ignore_ascii_case(self.policy.target.as_str()) => {
                return refused(Failure::NotFound, "a target that is not here");
            }
            _ => {}
        }
        if !self.discovery {
            keys::push(out, "TargetPortalGroupTag", PORTAL_GROUP);
        }
        self.alias = value("InitiatorAlias").map(|alias| alias.chars().take(255).collect());
        self.initiator = Some(name);
        Ok(())
    }

    /// How the initiator is to prove itself.
    fn method(&mut self, offers: &str, out: &mut Vec<u8>) -> Result<(), Refused> {
        let wanted = if self.policy.chap.is_some() { "CHAP" } else { "None" };
        if !offers.split(',').any(|offer| offer == wanted) {
            return refused(Failure::Authentication, "no way to prove itself that is known");
        }
        self.security = if wanted == "CHAP" { Security::Chap } else { Security::Done };
        keys::push(out, "AuthMethod", wanted);
        Ok(())
    }

    fn prove(&mut self, pairs: &[(&str, &str)], out: &mut Vec<u8>) -> Result<(), Refused> {
        // A challenge is good for one answer.
        let challenge = std::mem::replace(&mut self.security, Security::Open);
        let (Security::Challenged(challenge), Some(secrets)) = (challenge, &self.policy.chap)
        else {
            return refused(Failure::Authentication, "an answer that nobody asked for");
        };
        self.user = Some(challenge.check(pairs, secrets, out)?);
        self.security = Security::Done;
        Ok(())
    }
}
