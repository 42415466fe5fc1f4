use super::*;

const VERSION_AT: u16 = 0x100;

/// An image with a PE header, a version, and a CRC that is right while it is unsigned.
fn image(version: &[u8]) -> Vec<u8> {
    let mut image: Vec<u8> = (0..9000u32).map(|at| (at.wrapping_mul(77) >> 3) as u8).collect();
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(PE_POINTER, &0x80u32.to_le_bytes());
    put(0x80, b"PE\0\0");
    put(0x98, &[0x0b, 0x02]);
    put(0x98 + 64, &[0; 4]);
    put(0x98 + 144, &[0; 8]);
    put(0x300, version);
    let mut crc = Crc::new();
    crc.update(&image);
    image.extend((!crc.sum()).to_le_bytes());
    image
}

#[test]
fn damage_is_noticed_and_signing_is_not() {
    let mut image = image(b"6.1.0-9-cloud\0");
    assert!(!is_wrong(&image, VERSION_AT));
    image[0x98 + 64..0x98 + 68].fill(0x11);
    image[0x98 + 144..0x98 + 152].fill(0x22);
    assert!(!is_wrong(&image, VERSION_AT));
    for at in [0x98 + 68, 5000, 9003] {
        image[at] ^= 1;
        assert!(is_wrong(&image, VERSION_AT), "{at}");
        image[at] ^= 1;
    }
}

#[test]
fn images_without_a_checksum_are_not_judged() {
    for version in [&b"6.16.0\0"[..], b"7.0.1-rc1\0", b"unknown\0", b"6.\0", b"\xff\xfe"] {
        let mut image = image(version);
        image[5000] ^= 1;
        assert!(!is_wrong(&image, VERSION_AT));
    }
    let mut old = image(b"5.10.0\0");
    old[5000] ^= 1;
    assert!(!is_wrong(&old, 0));
    assert!(!is_wrong(&old, u16::MAX));
    assert!(!is_wrong(b"", VERSION_AT));
}
