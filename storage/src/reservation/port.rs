//! Names of initiator ports.

use std::fmt;
use std::sync::Arc;

/// Between an iSCSI name and the ISID of a session (RFC 7143 4.2.7, SPC-4 7.6.4.6).
const SESSION: &str = ",i,0x";
/// Bytes that follow the header of an iSCSI TransportID at least (SPC-4 7.6.4.6).
const NAME_ROOM: usize = 20;

/// The name of an initiator port. It belongs to the guest, not to a connection: a guest that comes
/// back under its name is who it was.
///
/// It has 1 to 255 bytes of printable ASCII without space; for iSCSI, it is
/// `<iSCSI name>,i,0x<ISID, 12 hexadecimal digits>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InitiatorPort(Arc<str>);

/// A name that no port can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a port's name has 1 to 255 bytes of printable ASCII without space")]
pub struct BadPortName(());

impl InitiatorPort {
    /// Bytes of a name at most.
    pub const NAME_MAX: usize = 255;

    /// The port of this name.
    pub fn new(name: &str) -> Result<InitiatorPort, BadPortName> {
        let fits = (1..=InitiatorPort::NAME_MAX).contains(&name.len());
        match fits && name.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(InitiatorPort(name.into())),
            false => Err(BadPortName(())),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Its iSCSI TransportID: of format 01b where the name ends in an ISID, else of format 00b
    /// (SPC-4 7.6.4.6).
    pub fn transport_id(&self) -> Vec<u8> {
        const ISCSI: u8 = 5;
        let session = self.0.rsplit_once(SESSION).is_some_and(|(name, isid)| {
            !name.is_empty()
                && !isid.is_empty()
                && isid.bytes().all(|digit| digit.is_ascii_hexdigit())
        });
        // At least one zero ends the name, and zeroes fill it up to a multiple of four.
        let length = (self.0.len() + 1).next_multiple_of(4).max(NAME_ROOM);
        let mut id = vec![u8::from(session) << 6 | ISCSI, 0];
        id.extend(u16::try_from(length).unwrap_or_default().to_be_bytes());
        id.extend(self.0.bytes());
        id.resize(4 + length, 0);
        id
    }
}

impl fmt::Display for InitiatorPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
