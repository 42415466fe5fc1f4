//! Names of initiators and targets (RFC 7143 section 4.2.7).

use std::fmt;

use crate::reservation::{BadPortName, InitiatorPort};

/// Most bytes of a name.
const NAME_MAX: usize = 223;

/// The name of an iSCSI node: `iqn.`, `eui.` or `naa.` and what follows, in lower case, because
/// names are the same whatever the case of their letters (RFC 3722). It holds nothing that would
/// look like something else in a log or in an identifier made of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IscsiName(String);

/// What is no name of an iSCSI node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an iSCSI name: one is `iqn.`, `eui.` or `naa.` followed by letters, digits, `-`, `.`, `:` \
     or `_`, of at most 223 bytes"
)]
pub struct BadName;

impl IscsiName {
    /// Checks a name.
    pub fn new(name: &str) -> Result<IscsiName, BadName> {
        let name = name.to_ascii_lowercase();
        let known = ["iqn.", "eui.", "naa."].iter().any(|kind| name.starts_with(kind));
        // `_` is against the rules, and in use.
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-.:_".contains(c);
        let fits = (5..=NAME_MAX).contains(&name.len()) && name.chars().all(allowed);
        if known && fits { Ok(IscsiName(name)) } else { Err(BadName) }
    }

    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IscsiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The initiator's part of a session's identity (RFC 7143 section 11.12.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Isid(pub(super) [u8; 6]);

impl fmt::Display for Isid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The port that a session of this initiator comes from, as targets name it (SPC-4 section
/// 7.6.4.6, RFC 7143 section 4.4.1).
///
/// # Errors
/// None: names of nodes are short enough.
pub fn initiator_port(initiator: &IscsiName, isid: [u8; 6]) -> Result<InitiatorPort, BadPortName> {
    InitiatorPort::new(&format!("{initiator},i,0x{}", Isid(isid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let name = IscsiName::new("iqn.2026-01.Example:Disk_1").unwrap();
        assert_eq!(name.as_str(), "iqn.2026-01.example:disk_1");
        assert_eq!(
            initiator_port(&name, [0x80, 1, 2, 3, 4, 0xff]).unwrap().name(),
            "iqn.2026-01.example:disk_1,i,0x8001020304ff"
        );
        for good in ["eui.02004567A425678D", "naa.52004567BA64678D"] {
            assert!(IscsiName::new(good).is_ok());
        }
        let long = format!("iqn.{}", "a".repeat(220));
        for bad in ["", "iqn.", "disk", "iqn.a b", "iqn.a,i,0x1", "iqn.a\u{1b}[2J", "iqn.ü", &long]
        {
            assert_eq!(IscsiName::new(bad), Err(BadName), "{bad}");
        }
    }
}
