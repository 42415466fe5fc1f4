//! cohort's header extension: the identifier of the contents, and the record of the parent
//! (`docs/qcow2-extension.md`).
//!
//! It has two slots, so that one is whole while the other is written.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::header::{BACKING_FORMAT, Header, IDENTIFIED, NAME_MAX, be32, be64, put32, put64};
use super::unsupported;
use crate::format::Format;
use crate::formats::FormatError;
use crate::image::ImageFile;
use crate::link::ParentLink;

/// Its type.
pub(super) const KIND: u32 = 0x9d3b_52c7;
/// Bytes of a slot: what there is room for, between these.
const SLOT_MIN: usize = 512;
const SLOT_MAX: usize = 8192;
/// Bytes of a slot before its texts.
const FIXED: usize = 40;

/// What a slot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The identifier of the contents.
    pub(super) id: Uuid,
    /// Higher in the newer slot.
    pub(super) sequence: u64,
    /// The name of the backing file that the header had with this record. Whoever changes the
    /// header without knowing of the record thereby makes the record's parent void.
    pub(super) backing: Vec<u8>,
    /// The parent.
    pub(super) link: Option<ParentLink>,
}

impl Record {
    /// A record of contents that are new.
    pub(super) fn fresh(backing: &[u8], link: Option<&ParentLink>) -> Record {
        Record { id: Uuid::new_v4(), sequence: 1, backing: backing.to_vec(), link: link.cloned() }
    }

    /// The number of the record that comes after it; none where one with that number would not
    /// count.
    pub(super) fn next_sequence(&self) -> Option<u64> {
        self.sequence.checked_add(1).filter(|&next| next != u64::MAX)
    }

    /// The bytes of a slot.
    pub(super) fn encode(&self, len: usize) -> Result<Vec<u8>, FormatError> {
        let link = self.link.as_ref().map_or(Ok(Vec::new()), ParentLink::to_json)?;
        let used = FIXED + self.backing.len() + link.len();
        if used > len {
            let what = format!("a record of {used} bytes in a header with room for {len}");
            return Err(unsupported(what));
        }
        let mut bytes = vec![0; len];
        put64(&mut bytes, 8, self.sequence);
        bytes[16..32].copy_from_slice(self.id.as_bytes());
        put32(&mut bytes, 32, u32::try_from(self.backing.len()).unwrap_or_default());
        put32(&mut bytes, 36, u32::try_from(link.len()).unwrap_or_default());
        bytes[FIXED..FIXED + self.backing.len()].copy_from_slice(&self.backing);
        bytes[FIXED + self.backing.len()..used].copy_from_slice(&link);
        let sum = crc32c::crc32c(&bytes[4..]);
        put32(&mut bytes, 0, sum);
        Ok(bytes)
    }

    /// Reads a slot; `None` where it was never written, or torn.
    fn decode(bytes: &[u8]) -> Option<Record> {
        if bytes.len() < FIXED || be32(bytes, 0) != crc32c::crc32c(&bytes[4..]) {
            return None;
        }
        let id = Uuid::from_slice(&bytes[16..32]).ok()?;
        let (name, link) = (be32(bytes, 32) as usize, be32(bytes, 36) as usize);
        let texts = &bytes[FIXED..];
        let backing = texts.get(..name)?.to_vec();
        let link = match texts.get(name..name.checked_add(link)?)? {
            [] => None,
            text => Some(ParentLink::from_json(text).ok()?),
        };
        // One without a successor would never give way to a newer one.
        let sequence = Some(be64(bytes, 8)).filter(|&sequence| sequence != u64::MAX)?;
        Some(Record { id, sequence, backing, link })
    }
}

/// The extension of an empty image: a record, and a slot that was never written.
pub(super) fn new_extension(record: &Record, room: usize) -> Result<Vec<u8>, FormatError> {
    let mut bytes = record.encode(slot_len(room))?;
    bytes.resize(bytes.len() * 2, 0);
    Ok(bytes)
}

fn slot_len(room: usize) -> usize {
    (room / 4 / 512 * 512).min(SLOT_MAX)
}

/// The record that counts, and the number of its slot. One that goes with the header's backing
/// file comes before one that does not.
pub(super) fn current(header: &Header) -> Option<(usize, Record)> {
    let (_, data) = header.extension(KIND)?;
    let slots = data.chunks_exact((data.len() / 2).max(1)).take(2).map(Record::decode).enumerate();
    let found = slots.filter_map(|(number, record)| Some((number, record?)));
    found.max_by_key(|(_, record)| (record.backing == header.backing(), record.sequence))
}

/// Puts a record into the slot that does not count, durably, and adds the extension where the image
/// has none. Whether there was room.
pub(super) fn write(
    header: &mut Header,
    image: &ImageFile,
    record: &Record,
) -> Result<bool, FormatError> {
    let Some((at, data)) = header.extension(KIND) else {
        let room = header.room();
        if slot_len(room) < SLOT_MIN {
            return Ok(false);
        }
        let data = new_extension(record, room)?;
        return header.add_extension(image, KIND, &data);
    };
    let len = data.len() / 2;
    let other = current(header).map_or(0, |(number, _)| 1 - number.min(1));
    let bytes = record.encode(len)?;
    header.put(image, super::index(at) + other * len, &bytes)?;
    Ok(true)
}

/// The identifier, if nobody has written to the image since it was given.
pub(super) fn identifier(header: &Header) -> Option<Uuid> {
    (header.autoclear() & IDENTIFIED != 0).then(|| current(header).map(|(_, r)| r.id))?
}

/// The parent that an image names.
pub(super) fn parent(header: &Header) -> Result<Option<ParentLink>, FormatError> {
    let name = header.backing();
    let record = current(header).map(|(_, record)| record).filter(|r| r.backing == name);
    if let Some(link) = record.and_then(|record| record.link) {
        // The bit, not the record, says whether QEMU would miss the parent.
        if name.is_empty() == header.has_foreign_parent() {
            return Ok(Some(link));
        }
    }
    if header.has_foreign_parent() {
        return Err(super::damaged(72, "no record of the parent can be read"));
    }
    if name.is_empty() {
        return Ok(None);
    }
    let name = std::str::from_utf8(name);
    let name = name.map_err(|_| unsupported("a backing file whose name is not UTF-8".into()))?;
    if has_protocol(name) {
        return Err(unsupported(format!("the backing file {name:?}, which is no path,")));
    }
    let word = header.extension(BACKING_FORMAT).map(|(_, data)| data).unwrap_or_default();
    let format = match word {
        b"raw" => Format::Raw,
        b"qcow2" => Format::Qcow2,
        b"vhdx" => Format::Vhdx,
        [] => {
            let what = "a backing file of unrecorded format (`qemu-img rebase -u -F FORMAT -b \
                        FILE IMAGE` records it)";
            return Err(unsupported(what.to_owned()));
        }
        other => {
            let word = String::from_utf8_lossy(other);
            return Err(unsupported(format!("a backing file of the format {word:?}")));
        }
    };
    let path = PathBuf::from(name);
    let (relative, absolute) =
        if path.is_absolute() { (None, Some(path)) } else { (Some(path), None) };
    Ok(Some(ParentLink { relative, absolute, ..ParentLink::new(format, None) }))
}

/// What the header is to call the parent; empty for one that QEMU cannot follow.
pub(super) fn backing_name(link: &ParentLink) -> Result<Vec<u8>, FormatError> {
    if !matches!(link.format, Format::Raw | Format::Qcow2) {
        return Ok(Vec::new());
    }
    let name = |path: &Path| {
        let text = path.to_str()?;
        // What looks like a protocol is a path only if something says so.
        let text = if has_protocol(text) { format!("./{text}") } else { text.to_owned() };
        (!text.is_empty() && text.len() <= NAME_MAX).then(|| text.into_bytes())
    };
    let relative = link.relative.as_deref().and_then(name);
    relative.or_else(|| link.absolute.as_deref().and_then(name)).ok_or_else(|| {
        unsupported("a parent whose path is not UTF-8, or longer than 1023 bytes,".into())
    })
}

/// Whether QEMU takes a name for something else than a path.
fn has_protocol(name: &str) -> bool {
    name.split('/').next().is_some_and(|first| first.contains(':'))
}
