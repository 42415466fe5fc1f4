//! [`Reservations`] as bytes.
//!
//! ```text
//!    0  version: 1                              u8
//!    1  flags: 1 APTPL, 2 there is no store      u8
//!    2  type of the reservation, 0 for none     u8
//!    3  place of its holder, 65535 for none     u16, as are all numbers little-endian
//!    5  PRgeneration                            u32
//!    9  name of the holder of the SPC-2 reservation: length (0: none), bytes
//!    …  number of registrations                 u16
//!    …  each: key (u64), length of the name (u8), name; ordered by name
//! ```

use std::collections::BTreeMap;

use super::{InitiatorPort, Kind, REGISTRATIONS_MAX, Reservation, Reservations};

/// The only version there is.
const VERSION: u8 = 1;
/// In place of a holder.
const NOBODY: u16 = u16::MAX;

/// Bytes that are no state of reservations.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record of reservations is damaged: {what}")]
pub struct BadState {
    what: &'static str,
}

fn bad<T>(what: &'static str) -> Result<T, BadState> {
    Err(BadState { what })
}

/// What has not been read yet.
struct Rest<'b>(&'b [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadState> {
        let Some((taken, rest)) = self.0.split_first_chunk() else {
            return bad("it ends too early");
        };
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, BadState> {
        self.take().map(|[byte]| byte)
    }

    /// A name; none if its length is 0.
    fn port(&mut self) -> Result<Option<InitiatorPort>, BadState> {
        let length = usize::from(self.byte()?);
        let Some((name, rest)) = self.0.split_at_checked(length) else {
            return bad("a port's name ends too early");
        };
        self.0 = rest;
        if name.is_empty() {
            return Ok(None);
        }
        let port = str::from_utf8(name).ok().and_then(|name| InitiatorPort::new(name).ok());
        port.map_or_else(|| bad("a port's name cannot be one"), |port| Ok(Some(port)))
    }
}

impl Reservations {
    /// All of it as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let kind = self.kind().map_or(0, Kind::code);
        let holder = match &self.reservation {
            Some(Reservation::One(holder, _)) => self.keys.keys().position(|port| port == holder),
            _ => None,
        };
        let holder = holder.and_then(|place| u16::try_from(place).ok()).unwrap_or(NOBODY);
        let mut bytes = vec![VERSION, u8::from(self.aptpl) | u8::from(self.volatile) << 1, kind];
        bytes.extend(holder.to_le_bytes());
        bytes.extend(self.generation.to_le_bytes());
        put_name(&mut bytes, self.legacy.as_ref().map_or("", InitiatorPort::name));
        bytes.extend(u16::try_from(self.keys.len()).unwrap_or(u16::MAX).to_le_bytes());
        for (port, key) in &self.keys {
            bytes.extend(key.to_le_bytes());
            put_name(&mut bytes, port.name());
        }
        bytes
    }

    /// What [`Reservations::to_bytes`] gave. Takes nothing for granted.
    pub fn from_bytes(bytes: &[u8]) -> Result<Reservations, BadState> {
        let mut rest = Rest(bytes);
        if rest.byte()? != VERSION {
            return bad("its version is not known");
        }
        let (aptpl, volatile) = match rest.byte()? {
            0 => (false, false),
            1 => (true, false),
            2 => (false, true),
            _ => return bad("its flags are not known"),
        };
        let (kind, holder) = (rest.byte()?, u16::from_le_bytes(rest.take()?));
        let generation = u32::from_le_bytes(rest.take()?);
        let legacy = rest.port()?;
        let count = usize::from(u16::from_le_bytes(rest.take()?));
        if count > REGISTRATIONS_MAX {
            return bad("there are too many registrations");
        }
        let mut keys = BTreeMap::new();
        for _ in 0..count {
            let key = u64::from_le_bytes(rest.take()?);
            let Some(port) = rest.port()? else { return bad("a registration has no port") };
            if key == 0 {
                return bad("a registration has no key");
            }
            if keys.last_key_value().is_some_and(|(last, _)| *last >= port) {
                return bad("registrations are not in order");
            }
            keys.insert(port, key);
        }
        if !rest.0.is_empty() {
            return bad("it is too long");
        }
        if legacy.is_some() && !keys.is_empty() {
            return bad("both kinds of reservations are in use");
        }
        let reservation = reservation(kind, holder, &keys)?;
        Ok(Reservations { generation, aptpl, volatile, keys, reservation, legacy })
    }
}

fn reservation(
    kind: u8,
    holder: u16,
    keys: &BTreeMap<InitiatorPort, u64>,
) -> Result<Option<Reservation>, BadState> {
    let port = keys.keys().nth(usize::from(holder));
    match (kind, Kind::from_code(kind), port) {
        (0, _, _) if holder == NOBODY => Ok(None),
        (_, Some(kind), None) if kind.is_all_registrants() && holder == NOBODY => {
            if keys.is_empty() {
                bad("nobody holds the reservation")
            } else {
                Ok(Some(Reservation::All(kind)))
            }
        }
        (_, Some(kind), Some(port)) if !kind.is_all_registrants() => {
            Ok(Some(Reservation::One(port.clone(), kind)))
        }
        _ => bad("the reservation's type and its holder do not fit"),
    }
}

/// Names of ports have a length that fits.
fn put_name(bytes: &mut Vec<u8>, name: &str) {
    bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    bytes.extend(name.bytes());
}
