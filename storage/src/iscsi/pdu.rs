//! PDUs as bytes (RFC 7143 section 11): finding one in what a socket gave, and its fields.
//!
//! ```text
//!  ┌────────────────────────┬──────────────────┬────────┬───────────┬─────────┬────────┐
//!  │ basic header segment   │ additional       │ header │ data      │ padding │ data   │
//!  │ 48 bytes               │ header segments  │ digest │ segment   │ to 4    │ digest │
//!  └────────────────────────┴──────────────────┴────────┴───────────┴─────────┴────────┘
//! ```

use super::digest::{DIGEST_LEN, Digests, digest};

/// Bytes of the basic header segment.
pub(super) const HEADER_LEN: usize = 48;

/// Most bytes of additional header segments: their length is a byte that counts words.
pub(super) const AHS_MAX: usize = 255 * 4;

/// "No task" and "no transfer": the tag that no task has (RFC 7143 section 11.2.1.8).
pub(super) const NO_TAG: u32 = u32::MAX;

/// What PDUs are, in the low six bits of their first byte.
pub(super) mod opcode {
    pub(in crate::iscsi) const NOP_OUT: u8 = 0x00;
    pub(in crate::iscsi) const SCSI_COMMAND: u8 = 0x01;
    pub(in crate::iscsi) const TASK_MANAGEMENT: u8 = 0x02;
    pub(in crate::iscsi) const LOGIN: u8 = 0x03;
    pub(in crate::iscsi) const TEXT: u8 = 0x04;
    pub(in crate::iscsi) const DATA_OUT: u8 = 0x05;
    pub(in crate::iscsi) const LOGOUT: u8 = 0x06;
    pub(in crate::iscsi) const SNACK: u8 = 0x10;
    pub(in crate::iscsi) const NOP_IN: u8 = 0x20;
    pub(in crate::iscsi) const SCSI_RESPONSE: u8 = 0x21;
    pub(in crate::iscsi) const TASK_MANAGEMENT_RESPONSE: u8 = 0x22;
    pub(in crate::iscsi) const LOGIN_RESPONSE: u8 = 0x23;
    pub(in crate::iscsi) const TEXT_RESPONSE: u8 = 0x24;
    pub(in crate::iscsi) const DATA_IN: u8 = 0x25;
    pub(in crate::iscsi) const LOGOUT_RESPONSE: u8 = 0x26;
    pub(in crate::iscsi) const R2T: u8 = 0x31;
    pub(in crate::iscsi) const ASYNC: u8 = 0x32;
    pub(in crate::iscsi) const REJECT: u8 = 0x3f;
}

/// Why a PDU is rejected (RFC 7143 section 11.17.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    DataDigest = 0x02,
    Snack = 0x03,
    Protocol = 0x04,
    NotSupported = 0x05,
    TooManyImmediate = 0x06,
    InvalidField = 0x09,
}

/// The basic header segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header([u8; HEADER_LEN]);

impl Header {
    /// A header of this kind, its flags in the second byte.
    pub(super) fn new(opcode: u8, flags: u8) -> Header {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = opcode;
        bytes[1] = flags;
        Header(bytes)
    }

    #[cfg(test)]
    pub(super) fn from_bytes(bytes: [u8; HEADER_LEN]) -> Header {
        Header(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8; HEADER_LEN] {
        &self.0
    }

    pub(super) fn opcode(&self) -> u8 {
        self.0[0] & 0x3f
    }

    /// Whether it is delivered at once, whatever its number (RFC 7143 section 4.2.2.1).
    pub(super) fn is_immediate(&self) -> bool {
        self.0[0] & 0x40 != 0
    }

    pub(super) fn flags(&self) -> u8 {
        self.0[1]
    }

    /// The byte at `at`, 0 beyond the end.
    pub(super) fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or_default()
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(|rest| rest.first_chunk().copied()).unwrap_or([0; N])
    }

    pub(super) fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.array(at))
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }

    pub(super) fn set(&mut self, at: usize, bytes: &[u8]) -> &mut Header {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        self
    }

    pub(super) fn set_u16(&mut self, at: usize, value: u16) -> &mut Header {
        self.set(at, &value.to_be_bytes())
    }

    pub(super) fn set_u32(&mut self, at: usize, value: u32) -> &mut Header {
        self.set(at, &value.to_be_bytes())
    }

    /// Bytes of additional header segments.
    pub(super) fn ahs_len(&self) -> usize {
        usize::from(self.0[4]) * 4
    }

    /// Bytes of the data segment without padding.
    pub(super) fn data_len(&self) -> u32 {
        u32::from_be_bytes([0, self.0[5], self.0[6], self.0[7]])
    }

    /// Says how long the data segment is: at most 2^24 - 1 bytes.
    pub(super) fn set_data_len(&mut self, len: usize) -> &mut Header {
        let [.., a, b, c] = u32::try_from(len).unwrap_or_default().to_be_bytes();
        self.set(5, &[a, b, c])
    }

    /// The 8 bytes of a logical unit number.
    pub(super) fn lun(&self) -> u64 {
        self.u64(8)
    }

    /// The tag the initiator gave its task.
    pub(super) fn task_tag(&self) -> u32 {
        self.u32(16)
    }

    /// The tag the target gave a transfer.
    pub(super) fn transfer_tag(&self) -> u32 {
        self.u32(20)
    }

    /// The number of a command in the session.
    pub(super) fn cmd_sn(&self) -> u32 {
        self.u32(24)
    }
}

/// A PDU in the bytes that a socket gave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pdu<'b> {
    pub(super) header: Header,
    /// Additional header segments with their padding.
    pub(super) ahs: &'b [u8],
    pub(super) data: &'b [u8],
}

/// What the first bytes of a connection are.
#[derive(Debug)]
pub(super) enum Decoded<'b> {
    /// A part of a PDU; so many bytes are needed to say more.
    Partial(usize),
    /// A PDU of so many bytes.
    Whole(Pdu<'b>, usize),
}

/// Why the bytes of a connection are no PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the header's digest is wrong")]
    HeaderDigest,
    /// The header is sound, so the next PDU is known to start after `len` bytes.
    #[error("the data's digest is wrong")]
    DataDigest { header: Header, len: usize },
    #[error("the data segment has {len} bytes, more than the {limit} declared")]
    TooLong { len: u32, limit: u32, header: Header },
}

/// Bytes of padding after `len` bytes.
pub(super) fn padding(len: usize) -> usize {
    len.wrapping_neg() % 4
}

/// Finds the header at the start of `bytes`: it and where its data starts, or how many bytes are
/// needed. A length is believed only where the digest over it is right and it is within `limit`.
pub(super) fn decode_head(
    bytes: &[u8],
    digests: Digests,
    limit: u32,
) -> Result<Result<(Header, usize), usize>, Malformed> {
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else { return Ok(Err(HEADER_LEN)) };
    let header = Header(*header);
    let ahs_end = HEADER_LEN + header.ahs_len();
    let data_start = ahs_end + if digests.header { DIGEST_LEN } else { 0 };
    let Some(head) = bytes.get(..data_start) else { return Ok(Err(data_start)) };
    let (head, sum) = head.split_at(ahs_end);
    if digests.header && digest(&[head]) != *sum {
        return Err(Malformed::HeaderDigest);
    }
    let len = header.data_len();
    if len > limit {
        return Err(Malformed::TooLong { len, limit, header });
    }
    Ok(Ok((header, data_start)))
}

/// Finds the PDU at the start of `bytes`; what is asked for is bounded, as by [`decode_head`].
pub(super) fn decode(bytes: &[u8], digests: Digests, limit: u32) -> Result<Decoded<'_>, Malformed> {
    let (header, data_start) = match decode_head(bytes, digests, limit)? {
        Ok(found) => found,
        Err(wanted) => return Ok(Decoded::Partial(wanted)),
    };
    let head = bytes.get(..HEADER_LEN + header.ahs_len()).unwrap_or_default();
    let len = header.data_len();
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let padded = len + padding(len);
    let has_digest = digests.data && len > 0;
    let total = data_start + padded + if has_digest { DIGEST_LEN } else { 0 };
    let Some(data) = bytes.get(data_start..total) else {
        return Ok(Decoded::Partial(total));
    };
    let (data, sum) = data.split_at(padded);
    if has_digest && digest(&[data]) != *sum {
        return Err(Malformed::DataDigest { header, len: total });
    }
    let ahs = head.get(HEADER_LEN..).unwrap_or_default();
    let data = data.get(..len).unwrap_or_default();
    Ok(Decoded::Whole(Pdu { header, ahs, data }, total))
}

/// Appends a header with its digest, for a data segment of `data_len` bytes that follows.
pub(super) fn push_header(out: &mut Vec<u8>, header: &mut Header, data_len: usize, on: Digests) {
    header.set_data_len(data_len);
    out.extend_from_slice(header.bytes());
    if on.header {
        out.extend_from_slice(&digest(&[header.bytes()]));
    }
}

/// Appends what follows the data segment `data`: padding and digest.
pub(super) fn push_tail(out: &mut Vec<u8>, data: &[u8], on: Digests) {
    let pad = [0; 3].get(..padding(data.len())).unwrap_or_default();
    out.extend_from_slice(pad);
    if on.data && !data.is_empty() {
        out.extend_from_slice(&digest(&[data, pad]));
    }
}

/// Appends a whole PDU.
pub(super) fn push(out: &mut Vec<u8>, header: &mut Header, data: &[u8], on: Digests) {
    push_header(out, header, data.len(), on);
    out.extend_from_slice(data);
    push_tail(out, data, on);
}

/// What the additional header segments of a SCSI command say (RFC 7143 section 11.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Additional<'b> {
    /// The bytes of the command descriptor block after the 16th.
    pub(super) cdb: &'b [u8],
    /// How many bytes are expected to be read where the command also writes.
    pub(super) read_len: Option<u32>,
}

/// Takes additional header segments apart; `None` when their lengths or kinds make no sense.
pub(super) fn additional(mut ahs: &[u8]) -> Option<Additional<'_>> {
    const EXTENDED_CDB: u8 = 1;
    const READ_LENGTH: u8 = 2;
    let mut found = Additional::default();
    while !ahs.is_empty() {
        let &[high, low, kind, ..] = ahs else { return None };
        let len = usize::from(u16::from_be_bytes([high, low]));
        // The length counts what follows the kind, a reserved byte first.
        let content = ahs.get(3..3 + len)?;
        let (_reserved, content) = content.split_first()?;
        match kind {
            EXTENDED_CDB if found.cdb.is_empty() => found.cdb = content,
            READ_LENGTH if found.read_len.is_none() => {
                found.read_len = Some(u32::from_be_bytes(content.try_into().ok()?));
            }
            _ => return None,
        }
        ahs = ahs.get((3 + len).next_multiple_of(4)..)?;
    }
    Some(found)
}

#[cfg(test)]
mod tests;
