//! The two headers (MS-VHDX 2.2.2). One is current; a change goes to the other, which then is.

use uuid::Uuid;

use super::bytes::{
    get_guid, get16, get32, get64, is_sealed, put, put_guid, put16, put32, put64, seal,
};
use super::{MIB, PAGE_BYTES};
use crate::format::Format;
use crate::formats::FormatError;
use crate::image::ImageFile;

/// First bytes of the file (2.2.1).
pub(super) const FILE_SIGNATURE: &[u8; 8] = b"vhdxfile";
const SIGNATURE: &[u8; 4] = b"head";
/// Where the headers are.
pub(super) const SLOTS: [u64; 2] = [64 << 10, 128 << 10];

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sequence: u64,
    /// Renewed before the first change of the file after a writable open.
    pub(super) file_write: Uuid,
    /// Renewed before the first change of what the disk reads as: the layer's identity.
    pub(super) data_write: Uuid,
    /// Of the log's valid entries; nil where nothing in the log matters.
    pub(super) log: Uuid,
    /// Where the log is, and its bytes.
    pub(super) log_offset: u64,
    pub(super) log_len: u32,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; PAGE_BYTES] {
        let mut bytes = [0; PAGE_BYTES];
        put(&mut bytes, 0, SIGNATURE);
        put64(&mut bytes, 8, self.sequence);
        put_guid(&mut bytes, 16, self.file_write);
        put_guid(&mut bytes, 32, self.data_write);
        put_guid(&mut bytes, 48, self.log);
        // The log's version is 0, the format's is 1.
        put16(&mut bytes, 66, 1);
        put32(&mut bytes, 68, self.log_len);
        put64(&mut bytes, 72, self.log_offset);
        seal(&mut bytes);
        bytes
    }

    fn decode(bytes: &[u8], at: u64) -> Result<Header, FormatError> {
        let header = Header {
            sequence: get64(bytes, 8),
            file_write: get_guid(bytes, 16),
            data_write: get_guid(bytes, 32),
            log: get_guid(bytes, 48),
            log_len: get32(bytes, 68),
            log_offset: get64(bytes, 72),
        };
        let (log_version, version) = (get16(bytes, 64), get16(bytes, 66));
        if version != 1 {
            return Err(FormatError::Unsupported { what: format!("version {version} of VHDX") });
        }
        if log_version != 0 && !header.log.is_nil() {
            let what = format!("version {log_version} of the VHDX log");
            return Err(FormatError::Unsupported { what });
        }
        let log_len = u64::from(header.log_len);
        let placed = header.log_offset >= MIB && header.log_offset.is_multiple_of(MIB);
        let end = header.log_offset.checked_add(log_len).filter(|&end| end <= i64::MAX as u64);
        if !placed || log_len == 0 || !log_len.is_multiple_of(MIB) || end.is_none() {
            return Err(FormatError::damaged(at, "the log is in an impossible place"));
        }
        Ok(header)
    }
}

/// Both headers of a file.
#[derive(Debug)]
pub(super) struct Headers {
    current: Header,
    slot: usize,
}

impl Headers {
    /// Looks for the current header: of the valid ones, that with the higher sequence number.
    pub(super) fn read(image: &ImageFile) -> Result<Headers, FormatError> {
        let mut start = [0; 8];
        match image.read_at(&mut start, 0) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
            result => result.map_err(FormatError::host("read", 0))?,
        }
        if start != *FILE_SIGNATURE {
            return Err(FormatError::NotThis { format: Format::Vhdx });
        }
        let mut best: Option<(u64, usize, [u8; PAGE_BYTES])> = None;
        for (slot, at) in SLOTS.into_iter().enumerate() {
            let Some(bytes) = Headers::valid(image, at)? else { continue };
            let sequence = get64(&bytes, 8);
            match &best {
                Some((other, ..)) if *other > sequence => {}
                Some((other, _, first)) if *other == sequence && *first != bytes => {
                    let what = "two headers that differ have the same sequence number";
                    return Err(FormatError::damaged(at, what));
                }
                _ => best = Some((sequence, slot, bytes)),
            }
        }
        let (_, slot, bytes) =
            best.ok_or_else(|| FormatError::damaged(SLOTS[0], "neither header is valid"))?;
        Ok(Headers { current: Header::decode(&bytes, SLOTS[slot])?, slot })
    }

    /// The header at `at`, if it is valid.
    fn valid(image: &ImageFile, at: u64) -> Result<Option<[u8; PAGE_BYTES]>, FormatError> {
        let mut bytes = [0; PAGE_BYTES];
        match image.read_at(&mut bytes, at) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result.map_err(FormatError::host("read", at))?,
        }
        Ok(is_sealed(&bytes, SIGNATURE).then_some(bytes))
    }

    /// Where the header is that is not valid, if one of them is not.
    pub(super) fn damaged(image: &ImageFile) -> Result<Option<u64>, FormatError> {
        for at in SLOTS {
            if Headers::valid(image, at)?.is_none() {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    pub(super) fn current(&self) -> &Header {
        &self.current
    }

    /// Changes the header, durably. Both copies are written one after the other, so that a crash
    /// leaves one of them, and later damage of one does not bring old identifiers back.
    pub(super) fn update(
        &mut self,
        image: &ImageFile,
        change: impl FnOnce(&mut Header),
    ) -> Result<(), FormatError> {
        let mut header = self.current.clone();
        change(&mut header);
        for _ in 0..SLOTS.len() {
            header.sequence = header.sequence.checked_add(1).ok_or_else(|| {
                let what = "changing a file whose header has the last number (convert the disk)";
                FormatError::Unsupported { what: what.to_owned() }
            })?;
            let slot = 1 - self.slot;
            let at = SLOTS[slot];
            image.write_at(&header.encode(), at).map_err(FormatError::host("write", at))?;
            image.sync().map_err(FormatError::host("sync", at))?;
            (self.current, self.slot) = (header.clone(), slot);
        }
        Ok(())
    }
}
