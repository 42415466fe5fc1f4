//! PERSISTENT RESERVE IN (SPC-4 6.15).

use super::{Kind, Refusal, Reservation, Reservations};

/// The one target port (SPC-4 6.15.5).
const TARGET_PORT: u16 = 1;

impl Reservations {
    /// PERSISTENT RESERVE IN: all of the parameter data, which the caller cuts to the allocation
    /// length. Lengths in it are those of all (SPC-4 4.2.5.6).
    pub fn read(&self, cdb: &[u8; 10]) -> Result<Vec<u8>, Refusal> {
        // Whoever it is from (SPC-2 5.5.1).
        if self.legacy.is_some() {
            return Err(Refusal::Conflict);
        }
        match cdb[1] & 0x1f {
            0 => Ok(self.with_header(self.keys.values().copied().flat_map(u64::to_be_bytes))),
            1 => Ok(self.with_header(self.reservation.iter().flat_map(|it| self.descriptor(it)))),
            2 => Ok(self.capabilities()),
            3 => Ok(self.with_header(self.full_status())),
            _ => Err(Refusal::cdb(1)),
        }
    }

    /// PRgeneration and length come before what follows (SPC-4 6.15.2, 6.15.3, 6.15.5).
    fn with_header(&self, rest: impl IntoIterator<Item = u8>) -> Vec<u8> {
        let mut bytes = self.generation.to_be_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(rest);
        // A bounded number of bounded registrations does not come near the end of this.
        let length = u32::try_from(bytes.len() - 8).unwrap_or(u32::MAX);
        bytes[4..8].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    /// What READ RESERVATION says of the reservation (SPC-4 6.15.3.2). All registrants are
    /// holders: no key is the holder's.
    fn descriptor(&self, reservation: &Reservation) -> [u8; 16] {
        let key = match reservation {
            Reservation::One(holder, _) => self.keys.get(holder).copied().unwrap_or_default(),
            Reservation::All(_) => 0,
        };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&key.to_be_bytes());
        bytes[13] = reservation.kind().code();
        bytes
    }

    /// REPORT CAPABILITIES (SPC-4 6.15.4).
    fn capabilities(&self) -> Vec<u8> {
        const CRH: u8 = 1 << 4;
        const ATP_C: u8 = 1 << 2;
        const PTPL_C: u8 = 1;
        /// Type mask valid.
        const TMV: u8 = 1 << 7;
        /// ALLOW COMMANDS: TEST UNIT READY goes through all types; MODE SENSE, READ BUFFER, REPORT
        /// SUPPORTED OPERATION CODES and the like through those that let others read.
        const ALLOW_COMMANDS: u8 = 3 << 4;
        let mut bytes = vec![0; 8];
        bytes[1] = 8;
        bytes[2] = CRH | ATP_C | if self.volatile { 0 } else { PTPL_C };
        bytes[3] = TMV | ALLOW_COMMANDS | u8::from(self.aptpl);
        for kind in Kind::ALL {
            let (byte, bit) = kind.mask();
            bytes[4 + byte] |= 1 << bit;
        }
        bytes
    }

    /// READ FULL STATUS (SPC-4 6.15.5). Each registration is told with its target port, so that
    /// ALL_TG_PT stays zero.
    fn full_status(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (port, key) in &self.keys {
            let transport_id = port.transport_id();
            let (holder, kind) = match self.kind() {
                Some(kind) if self.holds(port) => (1, kind.code()),
                // SCOPE and TYPE only count for holders.
                _ => (0, 0),
            };
            bytes.extend(key.to_be_bytes());
            bytes.extend([0, 0, 0, 0, holder, kind, 0, 0, 0, 0]);
            bytes.extend(TARGET_PORT.to_be_bytes());
            bytes.extend(u32::try_from(transport_id.len()).unwrap_or_default().to_be_bytes());
            bytes.extend(transport_id);
        }
        bytes
    }
}
