//! Digests of headers and data: CRC32C, least significant byte first (RFC 7143 section 13.1).

/// Bytes of a digest.
pub(super) const DIGEST_LEN: usize = 4;

/// Which parts of a PDU are followed by a digest. Both are off until login is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digests {
    /// After the header and its additional segments.
    pub(super) header: bool,
    /// After the data and its padding.
    pub(super) data: bool,
}

/// The digest of these parts, one after the other.
pub(super) fn digest(parts: &[&[u8]]) -> [u8; DIGEST_LEN] {
    parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::digest;

    /// RFC 7143 appendix A.4 of its predecessor, RFC 3720 appendix B.4, as bytes on the wire.
    #[test]
    fn vectors_of_the_standard() {
        let ascending: Vec<u8> = (0..32).collect();
        let descending: Vec<u8> = (0..32).rev().collect();
        for (bytes, wanted) in [
            (&[0u8; 32][..], [0xaa, 0x36, 0x91, 0x8a]),
            (&[0xff; 32], [0x43, 0xab, 0xa8, 0x62]),
            (&ascending, [0x4e, 0x79, 0xdd, 0x46]),
            (&descending, [0x5c, 0xdb, 0x3f, 0x11]),
        ] {
            assert_eq!(digest(&[bytes]), wanted);
            let (head, tail) = bytes.split_at(5);
            assert_eq!(digest(&[head, tail]), wanted);
        }
    }
}
