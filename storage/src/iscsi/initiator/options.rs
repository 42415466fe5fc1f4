//! How a session is to be.

use std::path::Path;
use std::time::Duration;

use crate::iscsi::names::IscsiName;
use crate::iscsi::secrets::{ChapSecrets, Secret, SecretsError};

/// How to log in to a target, and what to expect of it.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// The initiator's name.
    pub initiator: IscsiName,
    /// The initiator's part of the session's identity (RFC 7143 section 11.12.5): with the name it
    /// is the port to which the target's reservations belong.
    pub isid: [u8; 6],
    /// How to prove who we are; without, only targets that ask nobody let us in.
    pub chap: Option<Credentials>,
    /// Whether to ask for a digest of headers.
    pub header_digest: bool,
    /// Whether to ask for a digest of data, which costs a copy of it.
    pub data_digest: bool,
    /// Bounds and patience.
    pub limits: SessionLimits,
    /// How long a command waits for a session that is lost before it fails.
    pub lost_patience: Duration,
}

impl SessionOptions {
    /// Those of the port with this name, without proof and digests.
    pub fn new(initiator: IscsiName, isid: [u8; 6]) -> SessionOptions {
        SessionOptions {
            initiator,
            isid,
            chap: None,
            header_digest: false,
            data_digest: false,
            limits: SessionLimits::default(),
            lost_patience: Duration::from_secs(60),
        }
    }
}

/// What is offered to a target, and how long it is waited for. Values that make no sense are
/// brought into range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Most bytes of data in a PDU that is taken (`MaxRecvDataSegmentLength`).
    pub receive_segment: u32,
    /// Most bytes of a sequence of data PDUs (`MaxBurstLength`).
    pub max_burst: u32,
    /// Most bytes of data sent without being asked for (`FirstBurstLength`).
    pub first_burst: u32,
    /// R2Ts of a command at a time (`MaxOutstandingR2T`).
    pub outstanding_r2t: u16,
    /// Whether data may come with its command (`ImmediateData`).
    pub immediate_data: bool,
    /// Whether other data always waits until it is asked for (`InitialR2T`).
    pub initial_r2t: bool,
    /// How long looking for the host, connecting and logging in may take, each.
    pub login_time: Duration,
    /// How long the target may be silent before it is asked whether it is there.
    pub idle_time: Duration,
    /// How long it has to answer that, or a task management function, and how long it may take
    /// nothing of what is sent to it.
    pub answer_time: Duration,
    /// How long to wait before the second attempt to have a lost session back. Each further one
    /// waits twice as long as the one before, up to `retry_most`.
    pub retry_first: Duration,
    /// The longest wait between attempts.
    pub retry_most: Duration,
}

impl Default for SessionLimits {
    fn default() -> SessionLimits {
        SessionLimits {
            receive_segment: 256 << 10,
            max_burst: 1 << 20,
            first_burst: 128 << 10,
            outstanding_r2t: 8,
            immediate_data: true,
            initial_r2t: false,
            login_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(5),
            answer_time: Duration::from_secs(10),
            retry_first: Duration::from_millis(100),
            retry_most: Duration::from_secs(5),
        }
    }
}

impl SessionLimits {
    /// The same within the bounds that the protocol and this initiator have.
    pub(super) fn in_range(mut self) -> SessionLimits {
        let longest = (1 << 24) - 4;
        // What holds before it is agreed on must be taken.
        self.receive_segment = self.receive_segment.clamp(8192, longest);
        self.max_burst = self.max_burst.clamp(512, longest);
        self.first_burst = self.first_burst.clamp(512, self.max_burst);
        self.outstanding_r2t = self.outstanding_r2t.clamp(1, 1024);
        let least = Duration::from_millis(100);
        self.login_time = self.login_time.max(least);
        self.idle_time = self.idle_time.max(least);
        self.answer_time = self.answer_time.max(least);
        self.retry_first = self.retry_first.max(Duration::from_millis(1));
        self.retry_most = self.retry_most.max(self.retry_first);
        self
    }
}

/// How an initiator proves who it is (CHAP), and perhaps what the target must know.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub(super) name: String,
    pub(super) secret: Secret,
    /// What the target has to prove that it knows.
    pub(super) target: Option<Secret>,
}

impl Credentials {
    /// Reads a file as that of [`ChapSecrets`]: the line with the target's name has the secret that
    /// the target must prove to know (mutual CHAP); the one other line is the initiator's.
    ///
    /// # Errors
    /// The file cannot be used, or has lines of several initiators.
    pub fn read(path: &Path, target: &IscsiName) -> Result<Credentials, SecretsError> {
        let secrets = ChapSecrets::read(path, target)?;
        Credentials::of(&secrets).ok_or_else(|| SecretsError::NotOurs {
            path: path.to_owned(),
            what: "has secrets of several initiators, of which only one can be this one's",
        })
    }

    pub(super) fn of(secrets: &ChapSecrets) -> Option<Credentials> {
        let (name, secret) = secrets.only_initiator()?;
        let target = secrets.of_target().map(|(_, secret)| secret.clone());
        Some(Credentials { name: name.to_owned(), secret: secret.clone(), target })
    }

    #[cfg(test)]
    pub(super) fn of_test(text: &str, target: &str) -> Credentials {
        Credentials::of(&ChapSecrets::of_test(text, target)).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_initiator() {
        const TARGET: &str = "iqn.2026-01.example:disk";
        let one = Credentials::of_test("joe:0123456789ab", TARGET);
        assert_eq!((one.name.as_str(), one.secret.bytes()), ("joe", &b"0123456789ab"[..]));
        assert!(one.target.is_none());
        let both =
            Credentials::of_test("iqn.2026-01.example:disk:ba9876543210\na:0123456789ab", TARGET);
        assert_eq!(both.target.as_ref().map(Secret::bytes), Some(&b"ba9876543210"[..]));
        assert!(!format!("{both:?}").contains("0123456789ab"));
        let two = ChapSecrets::of_test("a:0123456789ab\nb:0123456789ab", TARGET);
        assert!(Credentials::of(&two).is_none());
    }
}
