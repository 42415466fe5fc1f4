//! Log entries (MS-VHDX 2.3.1): their form.

use uuid::Uuid;

use super::bytes::{get_guid, get32, get64, is_sealed, put, put_guid, put32, put64, seal};
use super::pages::Bytes;
use super::region::Region;
use super::{MIB, PAGE, PAGE_BYTES};

const SIGNATURE: &[u8; 4] = b"loge";
const HEADER: usize = 64;
const DESCRIPTOR: usize = 32;

/// An entry's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Bytes of the entry, a multiple of [`PAGE`].
    pub(super) len: u32,
    /// Where in the log the oldest entry is that still matters.
    pub(super) tail: u32,
    pub(super) sequence: u64,
    pub(super) guid: Uuid,
    /// The file was at least this long, durably, when the entry was written.
    pub(super) flushed_len: u64,
    /// The file must be at least this long once the entry is replayed.
    pub(super) last_len: u64,
    /// Pages that descriptors take up, the header's included.
    descriptor_pages: usize,
    descriptors: usize,
}

/// One change that an entry describes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Update {
    /// A page has these bytes.
    Page { at: u64, bytes: Bytes },
    /// A range is zero.
    Zero { at: u64, len: u64 },
}

impl Update {
    /// Where in the file it is.
    pub(super) fn place(&self) -> Region {
        match *self {
            Update::Page { at, .. } => Region { offset: at, len: PAGE },
            Update::Zero { at, len } => Region { offset: at, len },
        }
    }
}

impl Entry {
    /// Looks at a page of the log: the header of an entry of the log `guid`, it may be. What
    /// follows is still to be checked, by [`Entry::updates`].
    pub(super) fn decode(page: &[u8], guid: Uuid, log_len: u32) -> Option<Entry> {
        if !page.starts_with(SIGNATURE) || get_guid(page, 32) != guid {
            return None;
        }
        let (len, descriptors) = (get32(page, 8), get32(page, 24) as usize);
        let descriptor_pages =
            descriptors.checked_mul(DESCRIPTOR)?.checked_add(HEADER)?.div_ceil(PAGE_BYTES);
        let entry = Entry {
            len,
            tail: get32(page, 12),
            sequence: get64(page, 16),
            guid,
            flushed_len: get64(page, 48),
            last_len: get64(page, 56),
            descriptor_pages,
            descriptors,
        };
        let whole = len != 0 && u64::from(len).is_multiple_of(PAGE) && len <= log_len;
        let tail = u64::from(entry.tail).is_multiple_of(PAGE) && entry.tail < log_len;
        let fits = descriptor_pages <= len as usize / PAGE_BYTES;
        (whole && tail && fits && entry.sequence != 0).then_some(entry)
    }

    /// What the entry, whose bytes these are, describes; `None` if it is torn. Its pages are looked
    /// at before its checksum, so that entries that claim to lie within each other cost little.
    pub(super) fn updates(&self, bytes: &[u8]) -> Option<Vec<Update>> {
        let (low, high) = halves(self.sequence);
        let data = bytes.get(self.descriptor_pages * PAGE_BYTES..)?;
        let (mut pages, rest) = (data.chunks_exact(PAGE_BYTES), 0..self.descriptors);
        if !data.chunks_exact(PAGE_BYTES).all(|page| {
            page.starts_with(b"data")
                && get32(page, 4) == high
                && get32(page, PAGE_BYTES - 4) == low
        }) {
            return None;
        }
        let mut updates = Vec::new();
        for number in rest {
            let descriptor = bytes.get(HEADER + number * DESCRIPTOR..)?.get(..DESCRIPTOR)?;
            let at = get64(descriptor, 16);
            if get64(descriptor, 24) != self.sequence || !at.is_multiple_of(PAGE) {
                return None;
            }
            updates.push(match &descriptor[..4] {
                b"desc" => {
                    let page = pages.next()?;
                    let mut bytes = Box::new([0; PAGE_BYTES]);
                    bytes.copy_from_slice(page);
                    put(&mut bytes[..], 0, &descriptor[8..16]);
                    put(&mut bytes[..], PAGE_BYTES - 4, &descriptor[4..8]);
                    Update::Page { at, bytes }
                }
                b"zero" => {
                    let len = get64(descriptor, 8);
                    if !len.is_multiple_of(PAGE) || at.checked_add(len).is_none() {
                        return None;
                    }
                    Update::Zero { at, len }
                }
                _ => return None,
            });
        }
        (pages.next().is_none() && is_sealed(bytes, SIGNATURE)).then_some(updates)
    }
}

/// Most pages whose descriptors fit beside the header into one page.
pub(super) const PAGES_MAX: usize = (PAGE_BYTES - HEADER) / DESCRIPTOR;

/// The low and the high half of a sequence number.
fn halves(sequence: u64) -> (u32, u32) {
    let low = u32::try_from(sequence & u64::from(u32::MAX)).unwrap_or_default();
    (low, u32::try_from(sequence >> 32).unwrap_or_default())
}

/// An entry that describes up to [`PAGES_MAX`] pages, and is its own tail, `at` in the log. It
/// tells the file's length in whole MiB, as it must: what is sure to be there, and what is needed.
pub(super) fn encode(
    pages: &[(u64, Bytes)],
    guid: Uuid,
    sequence: u64,
    at: u32,
    file_len: u64,
) -> Vec<u8> {
    let (low, high) = halves(sequence);
    let mut entry = vec![0; PAGE_BYTES * (1 + pages.len())];
    let len = u32::try_from(entry.len()).unwrap_or(u32::MAX);
    put(&mut entry, 0, SIGNATURE);
    put32(&mut entry, 8, len);
    put32(&mut entry, 12, at);
    put64(&mut entry, 16, sequence);
    put32(&mut entry, 24, u32::try_from(pages.len()).unwrap_or(u32::MAX));
    put_guid(&mut entry, 32, guid);
    put64(&mut entry, 48, file_len - file_len % MIB);
    put64(&mut entry, 56, file_len.next_multiple_of(MIB));
    for (number, (at, bytes)) in pages.iter().enumerate() {
        let descriptor = HEADER + DESCRIPTOR * number;
        put(&mut entry, descriptor, b"desc");
        put(&mut entry, descriptor + 4, &bytes[PAGE_BYTES - 4..]);
        put(&mut entry, descriptor + 8, &bytes[..8]);
        put64(&mut entry, descriptor + 16, *at);
        put64(&mut entry, descriptor + 24, sequence);
        let page = PAGE_BYTES * (1 + number);
        put(&mut entry, page, &bytes[..]);
        put(&mut entry, page, b"data");
        put32(&mut entry, page + 4, high);
        put32(&mut entry, page + PAGE_BYTES - 4, low);
    }
    seal(&mut entry);
    entry
}
