//! Numbers and GUIDs in byte arrays, little-endian. What lies beyond an array's end reads as zero
//! and is not written, so that no offset from a file can make these panic.

use uuid::Uuid;

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let end = at.saturating_add(N);
    bytes.get(at..end).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

pub(super) fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

pub(super) fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

pub(super) fn get64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// A GUID as Windows keeps it: the first three fields are little-endian.
pub(super) fn get_guid(bytes: &[u8], at: usize) -> Uuid {
    Uuid::from_bytes_le(array(bytes, at))
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at.saturating_add(value.len())) {
        place.copy_from_slice(value);
    }
}

pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    put(bytes, at, &value.to_le_bytes());
}

pub(super) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    put(bytes, at, &value.to_le_bytes());
}

pub(super) fn put64(bytes: &mut [u8], at: usize, value: u64) {
    put(bytes, at, &value.to_le_bytes());
}

pub(super) fn put_guid(bytes: &mut [u8], at: usize, value: Uuid) {
    put(bytes, at, &value.to_bytes_le());
}

/// CRC-32C of a structure whose checksum is at byte 4, which counts as zero.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let (head, rest) = bytes.split_at(bytes.len().min(4));
    let rest = rest.get(4..).unwrap_or_default();
    let crc = crc32c::crc32c_append(crc32c::crc32c(head), &[0; 4]);
    crc32c::crc32c_append(crc, rest)
}

/// Puts its checksum into a structure.
pub(super) fn seal(bytes: &mut [u8]) {
    let sum = checksum(bytes);
    put32(bytes, 4, sum);
}

/// Whether a structure begins with `signature` and its checksum is right.
pub(super) fn is_sealed(bytes: &[u8], signature: &[u8; 4]) -> bool {
    bytes.starts_with(signature) && get32(bytes, 4) == checksum(bytes)
}
