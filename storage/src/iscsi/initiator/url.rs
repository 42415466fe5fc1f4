//! Where a remote disk is.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::iscsi::names::{BadName, IscsiName};
use crate::scsi;

/// The port of iSCSI targets (RFC 7143 section 14).
const PORT: u16 = 3260;
/// Most bytes of a host's name (RFC 1035 section 2.3.4).
const HOST_MAX: usize = 253;
/// Logical units that a number of 14 bits can name (SAM-5 4.7.7.4).
const UNITS: u16 = 1 << 14;

/// A logical unit of a target: `iscsi://HOST[:PORT]/IQN/LUN`, an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IscsiUrl {
    host: String,
    port: u16,
    target: IscsiName,
    unit: u16,
}

/// What is wrong with a URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadUrl {
    /// Not of the form.
    #[error("not a URL of an iSCSI disk: one is `iscsi://HOST[:PORT]/IQN/LUN`")]
    Form,
    /// It holds a user's name, or a secret.
    #[error("a URL of an iSCSI disk has no place for names and secrets: those are in a file")]
    Secret,
    /// No host.
    #[error("not the name or address of a host: letters, digits, `-`, `.` and `_`, 253 at most")]
    Host,
    /// No port.
    #[error("not a port: a number from 1 to 65535")]
    Port,
    /// No target.
    #[error(transparent)]
    Target(#[from] BadName),
    /// No logical unit.
    #[error("not a logical unit: a number from 0 to 16383")]
    Unit,
}

impl IscsiUrl {
    /// The host's name, or its address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The target's name.
    pub fn target(&self) -> &IscsiName {
        &self.target
    }

    /// The number of the logical unit.
    pub fn unit(&self) -> u16 {
        self.unit
    }

    /// The 8 bytes of the logical unit number.
    pub(super) fn lun(&self) -> u64 {
        scsi::unit_address(self.unit.into())
    }
}

/// Takes `HOST`, `HOST:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT` apart.
pub(super) fn authority(text: &str) -> Result<(String, u16), BadUrl> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(BadUrl::Host)?;
            host.parse::<Ipv6Addr>().map_err(|_| BadUrl::Host)?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':').ok_or(BadUrl::Port)?),
            };
            (host, port)
        }
        None => {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            if !(1..=HOST_MAX).contains(&host.len()) || !host.chars().all(allowed) {
                return Err(BadUrl::Host);
            }
            (host, port)
        }
    };
    let port = match port {
        None => PORT,
        Some(text) => decimal(text).filter(|&port| port > 0).ok_or(BadUrl::Port)?,
    };
    Ok((host.to_owned(), port))
}

/// A number without sign.
fn decimal(text: &str) -> Option<u16> {
    text.chars().all(|c| c.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl FromStr for IscsiUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<IscsiUrl, BadUrl> {
        let rest = text.strip_prefix("iscsi://").ok_or(BadUrl::Form)?;
        if rest.contains('@') || rest.contains('%') {
            return Err(BadUrl::Secret);
        }
        let mut parts = rest.split('/');
        let (Some(place), Some(target), Some(unit), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BadUrl::Form);
        };
        let (host, port) = authority(place)?;
        let target = IscsiName::new(target)?;
        let unit = decimal(unit).filter(|&unit| unit < UNITS).ok_or(BadUrl::Unit)?;
        Ok(IscsiUrl { host, port, target, unit })
    }
}

impl fmt::Display for IscsiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IscsiUrl { host, port, target, unit } = self;
        let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "iscsi://{open}{host}{close}")?;
        if *port != PORT {
            write!(f, ":{port}")?;
        }
        write!(f, "/{target}/{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_and_put_together() {
        for (text, host, port, unit, lun) in [
            ("iscsi://disks.example/iqn.2026-01.example:a/0", "disks.example", 3260, 0, 0),
            ("iscsi://10.0.0.1:860/iqn.2026-01.example:a/7", "10.0.0.1", 860, 7, 7 << 48),
            ("iscsi://[::1]/iqn.2026-01.example:a/255", "::1", 3260, 255, 255 << 48),
            ("iscsi://[::1]:9/iqn.2026-01.example:a/300", "::1", 9, 300, 0x412c << 48),
        ] {
            let url: IscsiUrl = text.parse().unwrap();
            assert_eq!((url.host(), url.port(), url.unit(), url.lun()), (host, port, unit, lun));
            assert_eq!(url.target().as_str(), "iqn.2026-01.example:a");
            assert_eq!(url.to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = format!("iscsi://{}/iqn.a:b/0", "a".repeat(254));
        for (text, error) in [
            ("http://a/iqn.a:b/0", BadUrl::Form),
            ("iscsi://a/iqn.a:b", BadUrl::Form),
            ("iscsi://a/iqn.a:b/0/", BadUrl::Form),
            ("iscsi://joe%secret@a/iqn.a:b/0", BadUrl::Secret),
            ("iscsi:///iqn.a:b/0", BadUrl::Host),
            ("iscsi://[a]/iqn.a:b/0", BadUrl::Host),
            (&long, BadUrl::Host),
            ("iscsi://a:0/iqn.a:b/0", BadUrl::Port),
            ("iscsi://a:65536/iqn.a:b/0", BadUrl::Port),
            ("iscsi://[::1]860/iqn.a:b/0", BadUrl::Port),
            ("iscsi://a/disk/0", BadUrl::Target(BadName)),
            ("iscsi://a/iqn.a:b/16384", BadUrl::Unit),
            ("iscsi://a/iqn.a:b/+1", BadUrl::Unit),
        ] {
            assert_eq!(text.parse::<IscsiUrl>(), Err(error), "{text}");
        }
    }
}
