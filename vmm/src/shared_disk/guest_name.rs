//! Who a guest is to a shared disk.

use std::fmt;
use std::path::Path;

use storage::iscsi::{BadName, IscsiName};
use storage::reservation::InitiatorPort;

/// What the names of guests begin with that are not iSCSI names themselves.
const PREFIX: &str = "iqn.2026-11.cohort.guest:";

/// A guest's name among the initiators of a shared disk: an iSCSI name, also where the guest does
/// not come by iSCSI.
///
/// Reservations belong to this name. It is the same whichever socket the guest comes over, before
/// and after it restarts, and on another host, whence it comes in a session of
/// `cohort shared-disk connect`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestName {
    iscsi: IscsiName,
    port: InitiatorPort,
}

impl GuestName {
    /// The part of the port's name that tells the sessions of one initiator apart (RFC 7143
    /// 11.12.5): a guest has one, in the range for numbers that nobody else assigns.
    pub const ISID: [u8; 6] = [0x80, 0, 0, 0, 0, 0];

    /// The guest of this name: an iSCSI name (`iqn.…`, `eui.…`, `naa.…`) is itself, any other text
    /// follows a prefix of ours, where characters that iSCSI names lack are spelled in hexadecimal.
    ///
    /// # Errors
    /// There is nothing, or too much.
    pub fn new(text: &str) -> Result<GuestName, BadName> {
        if ["iqn.", "eui.", "naa."].iter().any(|kind| text.starts_with(kind)) {
            return GuestName::of(IscsiName::new(text)?);
        }
        if text.is_empty() {
            return Err(BadName);
        }
        let mut name = PREFIX.to_owned();
        for byte in text.bytes() {
            match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' => name.push(byte.into()),
                // A colon has no other place in the name: no two texts have the same one.
                _ => name += &format!(":{byte:02x}"),
            }
        }
        GuestName::of(IscsiName::new(&name)?)
    }

    fn of(iscsi: IscsiName) -> Result<GuestName, BadName> {
        let port = storage::iscsi::initiator_port(&iscsi, GuestName::ISID).map_err(|_| BadName)?;
        Ok(GuestName { iscsi, port })
    }

    /// The guest that a socket is named after: its file name, without an extension.
    ///
    /// # Errors
    /// It has none, or too much of one.
    pub fn of_socket(socket: &Path) -> Result<GuestName, BadName> {
        GuestName::new(&socket.file_stem().unwrap_or_default().to_string_lossy())
    }

    /// The name for a session.
    pub fn iscsi(&self) -> &IscsiName {
        &self.iscsi
    }

    /// The name of the guest's port, the same that a target gives its session.
    pub fn port(&self) -> &InitiatorPort {
        &self.port
    }
}

impl fmt::Display for GuestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iscsi.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> String {
        GuestName::new(text).unwrap().to_string()
    }

    #[test]
    fn every_text_has_a_name_of_its_own() {
        assert_eq!(name("node-0"), "iqn.2026-11.cohort.guest:node-0");
        assert_eq!(name("Node 0"), "iqn.2026-11.cohort.guest::4eode:200");
        assert_eq!(name(":4eode"), "iqn.2026-11.cohort.guest::3a4eode");
        assert_eq!(name("iqn.2000-01.org:x"), "iqn.2000-01.org:x");
        assert!(GuestName::new("").is_err());
        assert!(GuestName::new(&"x".repeat(250)).is_err());
        assert!(GuestName::new("iqn.with blank").is_err());
    }

    #[test]
    fn a_socket_names_a_guest_and_its_port() {
        let guest = GuestName::of_socket(Path::new("/run/lab/node-0.sock")).unwrap();
        assert_eq!(guest.to_string(), "iqn.2026-11.cohort.guest:node-0");
        assert_eq!(guest.port().name(), "iqn.2026-11.cohort.guest:node-0,i,0x800000000000");
        assert!(GuestName::of_socket(Path::new("/")).is_err());
    }
}
