use proptest::prelude::*;

use super::*;
use crate::kernel::fixtures::{bz_image, setup};

fn parse(file: &[u8]) -> Result<BzImage, BzImageError> {
    BzImage::parse(&file[..file.len().min(HEAD)], file.len() as u64)
}

#[test]
fn the_setup_header_says_where_things_are() {
    let file = bz_image(setup(), b"compressed");
    assert!(recognises(&file));
    let image = parse(&file).unwrap();
    let payload = image.payload().unwrap();
    assert_eq!(&file[payload.start as usize..payload.end as usize], b"compressed");
    assert_eq!((image.start, image.init_size), (0x40_0000, 0x10_0000));
    assert_eq!((image.cmdline_max(), image.initrd_end()), (100, 1 << 31));
    image.check_entry().unwrap();
    assert_eq!(image.header().len(), 0x26c - HEADER);
}

#[test]
fn fields_of_later_versions_are_not_read_in_earlier_ones() {
    let image = parse(&bz_image(setup_header { version: 0x209, ..setup() }, b"x")).unwrap();
    assert_eq!((image.start, image.init_size), (0x10_0000, 0));
    assert!(matches!(image.check_entry(), Err(BzImageError::NoEntry)));
}

#[test]
fn unusable_images_are_refused() {
    let old = parse(&bz_image(setup_header { version: 0x207, ..setup() }, b"x")).unwrap_err();
    let message = "its boot protocol is 2.07, but cohort needs 2.08 (Linux 2.6.26)";
    assert_eq!(old.to_string(), message);
    let low = parse(&bz_image(setup_header { loadflags: 0, ..setup() }, b"x"));
    assert!(matches!(low, Err(BzImageError::ZImage)));
    let short = parse(&bz_image(setup_header { jump: 0x10eb, ..setup() }, b"x"));
    assert!(matches!(short, Err(BzImageError::ShortHeader { end: 0x212 })));
}

#[test]
fn every_truncation_is_noticed() {
    let file = bz_image(setup(), b"compressed");
    for len in 0..file.len() {
        assert!(!recognises(&file[..len]) || parse(&file[..len]).is_err(), "{len}");
    }
    let error = parse(&file[..file.len() - 1]).unwrap_err();
    let message = "its payload ends at byte 1750, but the file has only 1749 bytes";
    assert_eq!(error.to_string(), message);
    let syssize = bz_image(setup_header { syssize: u32::MAX, ..setup() }, b"x");
    assert!(
        matches!(parse(&syssize), Err(BzImageError::Truncated { what, .. }) if what.starts_with("prot"))
    );
}

proptest! {
    #[test]
    fn arbitrary_headers_do_not_panic(
        header in prop::collection::vec(any::<u8>(), 0x80), version in any::<u16>(), len in 0usize..0x500
    ) {
        let mut file = bz_image(setup(), b"compressed");
        file[HEADER..HEADER + 0x80].copy_from_slice(&header);
        file[0x206..0x208].copy_from_slice(&version.to_le_bytes());
        file.truncate(len);
        if let Ok(image) = parse(&file) {
            let payload = image.payload().unwrap_or_default();
            prop_assert!(payload.end <= file.len() as u64);
        }
    }
}
