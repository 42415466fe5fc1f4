//! The header: what a layer says of itself, in two slots that are written by turns
//! (`docs/layer-format.md`, "The header").

use uuid::Uuid;

use super::geometry::{BLOCK, BLOCK_BYTES, BLOCK_NUMBER, Geometry, HEADER_AREA, MAP_OFFSET};
use crate::format::Format;
use crate::formats::FormatError;
use crate::image::ImageFile;
use crate::link::ParentLink;

/// The file's first bytes.
const MAGIC: [u8; 8] = *b"cohlayer";
/// The only version there is.
const VERSION: u32 = 1;
/// A slot's first bytes.
const SLOT_MAGIC: [u8; 8] = *b"layerhdr";
/// Where the slots are.
pub(super) const SLOTS: [u64; 2] = [64 << 10, 256 << 10];
/// Bytes of the record of the parent at most.
const LINK_MAX: usize = 64 << 10;
/// Where the checksum is in a slot.
const CHECKSUM_AT: usize = 8;

/// What a layer that was left in order says of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    /// Device and inode of the file that was sealed.
    pub(super) file: (u64, u64),
    /// What was written in it.
    pub(super) written: Written,
    /// The space that it had, in units of 512 bytes.
    pub(super) space: u64,
}

/// Which blocks of a body are written, in a few bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// How many of the disk's blocks this is about, from the first on: all of them, unless there
    /// are too many runs.
    pub(super) covered: u64,
    /// How many of these are written.
    pub(super) blocks: u64,
    /// CRC-32C over the list of their runs.
    pub(super) checksum: u32,
}

/// The header's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sequence: u64,
    pub(super) geometry: Geometry,
    /// Identifier of the contents.
    pub(super) data_id: Uuid,
    /// `None` while the layer is open for writing.
    pub(super) seal: Option<Seal>,
    pub(super) parent: Option<ParentLink>,
}

/// What a slot holds.
#[derive(Debug)]
pub(super) enum Slot {
    /// Nothing was ever written there.
    Unused,
    /// What is there is no header, or not one that was written to its end.
    Damaged(&'static str),
    /// A header.
    Valid(Box<Header>),
}

/// Writes `number` at `at`.
fn put<const N: usize>(bytes: &mut [u8], at: usize, number: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&number);
}

/// The bytes at `at`, zeroes where there are none.
fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut number = [0; N];
    if let Some(found) = bytes.get(at..at + N) {
        number.copy_from_slice(found);
    }
    number
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(bytes, at))
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(bytes, at))
}

/// The checksum of a slot, its own field taken as zero.
fn checksum(bytes: &[u8]) -> u32 {
    let (before, after) = bytes.split_at(CHECKSUM_AT.min(bytes.len()));
    let after = after.get(4..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), after)
}

impl Header {
    /// A slot's bytes, in whole blocks.
    pub(super) fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let link = self.parent.as_ref().map(ParentLink::to_json).transpose()?.unwrap_or_default();
        let link_len = u32::try_from(link.len()).ok().filter(|_| link.len() <= LINK_MAX);
        let link_len = link_len.ok_or_else(|| FormatError::Unsupported {
            what: format!("a record of the parent of {} bytes", link.len()),
        })?;
        let mut bytes = vec![0; BLOCK_BYTES];
        put(&mut bytes, 0, SLOT_MAGIC);
        put(&mut bytes, 16, self.sequence.to_le_bytes());
        put(&mut bytes, 24, VERSION.to_le_bytes());
        // At 32, the required features: none so far.
        put(&mut bytes, 40, self.geometry.size.to_le_bytes());
        put(&mut bytes, 48, self.geometry.sector.to_le_bytes());
        put(&mut bytes, 52, BLOCK_NUMBER.to_le_bytes());
        put(&mut bytes, 56, MAP_OFFSET.to_le_bytes());
        put(&mut bytes, 64, self.geometry.body().to_le_bytes());
        put(&mut bytes, 72, *self.data_id.as_bytes());
        put(&mut bytes, 88, link_len.to_le_bytes());
        if let Some(Seal { file, written, space }) = self.seal {
            put(&mut bytes, 92, 1u32.to_le_bytes());
            put(&mut bytes, 96, file.0.to_le_bytes());
            put(&mut bytes, 104, file.1.to_le_bytes());
            put(&mut bytes, 112, written.blocks.to_le_bytes());
            put(&mut bytes, 120, written.checksum.to_le_bytes());
            put(&mut bytes, 128, written.covered.to_le_bytes());
            put(&mut bytes, 136, space.to_le_bytes());
        }
        bytes.extend_from_slice(&link);
        let checksum = checksum(&bytes);
        put(&mut bytes, CHECKSUM_AT, checksum.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        Ok(bytes)
    }

    /// Reads a slot that is at `at` in the file.
    pub(super) fn decode(bytes: &[u8], at: u64) -> Result<Slot, FormatError> {
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(Slot::Unused);
        }
        if get(bytes, 0) != SLOT_MAGIC {
            return Ok(Slot::Damaged("the signature is wrong"));
        }
        let link_len = u64::from(get_u32(bytes, 88));
        let covered = usize::try_from(BLOCK + link_len).unwrap_or(usize::MAX);
        let Some(covered) = bytes.get(..covered) else {
            return Ok(Slot::Damaged("the record of the parent is too long"));
        };
        if checksum(covered) != get_u32(bytes, CHECKSUM_AT) {
            return Ok(Slot::Damaged("the checksum is wrong"));
        }
        // From here on, the slot says what somebody meant to say.
        let (version, features) = (get_u32(bytes, 24), get_u64(bytes, 32));
        if version != VERSION {
            return unsupported(format!("version {version} of the layer format"));
        }
        if features != 0 {
            return unsupported(format!("features {features:#x} of the layer format"));
        }
        let geometry = Geometry::new(get_u64(bytes, 40), get_u32(bytes, 48))?;
        let block = get_u32(bytes, 52);
        if block != BLOCK_NUMBER {
            return unsupported(format!("a block size of {block} bytes"));
        }
        if get_u64(bytes, 56) != MAP_OFFSET || get_u64(bytes, 64) != geometry.body() {
            return Err(FormatError::damaged(at, "the zero map or the body is elsewhere"));
        }
        let sequence = get_u64(bytes, 16);
        if sequence == u64::MAX {
            return Err(FormatError::damaged(at, "the sequence number has no successor"));
        }
        let seal = match get_u32(bytes, 92) {
            0 => None,
            1 => Some(Seal {
                file: (get_u64(bytes, 96), get_u64(bytes, 104)),
                written: Written {
                    covered: get_u64(bytes, 128),
                    blocks: get_u64(bytes, 112),
                    checksum: get_u32(bytes, 120),
                },
                space: get_u64(bytes, 136),
            }),
            state => return unsupported(format!("state {state} of the layer format")),
        };
        let parent = match covered.get(BLOCK_BYTES..) {
            None | Some([]) => None,
            Some(json) => Some(ParentLink::from_json(json)?),
        };
        let data_id = Uuid::from_bytes(get(bytes, 72));
        let header = Header { sequence, geometry, data_id, seal, parent };
        if header.place() != at {
            return Ok(Slot::Damaged("the sequence number belongs to the other one"));
        }
        Ok(Slot::Valid(Box::new(header)))
    }

    /// The slot that it is in, or goes to.
    pub(super) fn place(&self) -> u64 {
        SLOTS[usize::from(self.sequence % 2 == 1)]
    }

    /// Takes space for it in both slots.
    pub(super) fn reserve(&self, image: &ImageFile) -> Result<(), FormatError> {
        let len = self.encode()?.len() as u64;
        let reserve = |at| image.reserve(at, len).map_err(FormatError::host("take space for", at));
        SLOTS.into_iter().try_for_each(reserve)
    }

    /// Writes it to its slot, and makes that durable.
    pub(super) fn write(&self, image: &ImageFile) -> Result<(), FormatError> {
        let at = self.place();
        image.write_at(&self.encode()?, at).map_err(FormatError::host("write", at))?;
        image.sync().map_err(FormatError::host("sync", at))
    }
}

fn unsupported<T>(what: String) -> Result<T, FormatError> {
    Err(FormatError::Unsupported { what })
}

/// Writes what tells that the file is a layer.
pub(super) fn write_signature(image: &ImageFile) -> Result<(), FormatError> {
    let mut bytes = [0; BLOCK_BYTES];
    put(&mut bytes, 0, MAGIC);
    put(&mut bytes, 8, VERSION.to_le_bytes());
    image.write_at(&bytes, 0).map_err(FormatError::host("write", 0))
}

/// Reads both slots of a file that says it is a layer of a version that is known.
pub(super) fn read_slots(image: &ImageFile) -> Result<[Slot; 2], FormatError> {
    let mut start = [0; 16];
    let not_this = || FormatError::NotThis { format: Format::Layer };
    if image.len().map_err(FormatError::host("find the size of", 0))? < HEADER_AREA {
        return Err(not_this());
    }
    image.read_at(&mut start, 0).map_err(FormatError::host("read", 0))?;
    if get(&start, 0) != MAGIC {
        return Err(not_this());
    }
    let version = get_u32(&start, 8);
    if version != VERSION {
        return unsupported(format!("version {version} of the layer format"));
    }
    let read = |at| {
        let mut bytes = vec![0; BLOCK_BYTES];
        image.read_at(&mut bytes, at).map_err(FormatError::host("read", at))?;
        let link_len = usize::try_from(get_u32(&bytes, 88)).unwrap_or(usize::MAX).min(LINK_MAX);
        bytes.resize(BLOCK_BYTES + link_len, 0);
        let (link, from) = (&mut bytes[BLOCK_BYTES..], at + BLOCK);
        image.read_at(link, from).map_err(FormatError::host("read", from))?;
        Header::decode(&bytes, at)
    };
    Ok([read(SLOTS[0])?, read(SLOTS[1])?])
}

/// The header that counts: of those that are valid, the one that was written last.
pub(super) fn current(slots: [Slot; 2]) -> Result<Header, FormatError> {
    let mut why = "no header was ever written";
    let mut newest: Option<Box<Header>> = None;
    for slot in slots {
        match slot {
            Slot::Unused => {}
            Slot::Damaged(what) => why = what,
            Slot::Valid(header) => {
                if newest.as_ref().is_none_or(|other| other.sequence < header.sequence) {
                    newest = Some(header);
                }
            }
        }
    }
    newest
        .map(|header| *header)
        .ok_or_else(|| FormatError::damaged(SLOTS[0], format!("neither header can be used: {why}")))
}
