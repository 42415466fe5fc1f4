//! Identity, slots, and files that are not what they should be.

use proptest::prelude::*;

use super::header::SLOTS;
use super::*;

const SIZE: u64 = 4 * BLOCK;

fn damage(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

#[test]
fn looking_changes_nothing() {
    for place in Place::everywhere(SIZE, Some(SIZE)) {
        write(&mut place.queue(), BLOCK, &pattern(1, 4096));
        let before = std::fs::read(&place.layer).unwrap();
        let times = Fingerprint::of(&std::fs::metadata(&place.layer).unwrap());
        for options in [READ_ONLY, WRITABLE] {
            let mut queue = place.queue_with(&options);
            read(&mut queue, 0, 4 * 4096);
            ask(&mut queue, Operation::Flush, 0, 0, Buffers::none());
            drop(queue);
            assert!(std::fs::read(&place.layer).unwrap() == before);
            assert_eq!(Fingerprint::of(&std::fs::metadata(&place.layer).unwrap()), times);
        }
    }
}

#[test]
fn the_identity_is_renewed_by_changes_alone() {
    let place = Place::on_disk(SIZE, Some(SIZE));
    let id = || place.open().identity().unwrap();
    let first = id();
    read(&mut place.queue(), 0, 4096);
    let layer = place.open();
    let link = layer.info().parent.clone().unwrap();
    let link = ParentLink { overridden: Some(Identity::fresh()), ..link };
    layer.set_parent(&link).unwrap();
    layer.close().unwrap();
    assert_eq!(id(), first);
    assert_eq!(place.open().info().parent, Some(link));
    assert!(place.open().header().seal.is_some());
    write(&mut place.queue(), 0, &[1; 512]);
    assert_ne!(id(), first);
}

#[test]
fn a_layer_that_was_not_closed_opens_and_is_closed_then() {
    let place = Place::on_disk(SIZE, Some(SIZE));
    let layer = place.open();
    layer.announce_change().unwrap();
    let ticket = layer.resolve_write(DiskRange::new(0, BLOCK).unwrap(), &mut Vec::new()).unwrap();
    layer.image.write_at(&[1; 4096], layer.geometry.body()).unwrap();
    layer.finish(ticket, Outcome::Done).unwrap();
    let id = layer.identity().unwrap();
    drop(layer);
    // Without a sync, from the page cache, for readers as well.
    assert_eq!(states(&open(&place.layer, false).unwrap())[0], State::Data);
    let layer = place.open();
    assert!(layer.header().seal.is_none());
    layer.close().unwrap();
    assert_eq!(place.open().header().seal.unwrap().written.blocks, 1);
    assert_eq!(place.open().identity().unwrap(), id);
}

#[test]
fn a_torn_header_leaves_the_one_before() {
    let place = Place::on_disk(SIZE, Some(SIZE));
    let first = place.open().identity().unwrap();
    let layer = place.open();
    layer.announce_change().unwrap();
    assert_ne!(layer.identity().unwrap(), first);
    let at = layer.header().place();
    drop(layer);
    // The link is covered as well.
    for at in [at + 80, at + BLOCK + 3] {
        damage(&place.layer, at);
        let layer = place.open();
        assert_eq!(layer.identity().unwrap(), first);
        let findings = layer.check(false).unwrap();
        assert!(matches!(&findings[..], [Finding { harmless: true, repaired: false, .. }]));
        damage(&place.layer, at);
    }
    damage(&place.layer, at);
    assert!(place.open().check(true).unwrap()[0].repaired);
    assert_eq!(place.open().check(false).unwrap(), []);
    assert_eq!(place.open().identity().unwrap(), first);
    for at in SLOTS {
        damage(&place.layer, at + 20);
    }
    let error = open(&place.layer, true).err().unwrap();
    assert!(matches!(error, FormatError::Damaged { .. }), "{error}");
}

#[test]
fn what_is_out_of_order_is_found_and_mended() {
    let place = Place::on_disk(SIZE, Some(SIZE));
    let layer = place.open();
    let len = layer.geometry.file_len();
    layer.image.set_len(len + 12345).unwrap();
    layer.image.write_at(&[0xf0], geometry::MAP_OFFSET).unwrap();
    let findings = layer.check(true).unwrap();
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings.iter().all(|finding| finding.harmless && finding.repaired));
    assert_eq!(layer.check(false).unwrap(), []);
    assert_eq!(std::fs::metadata(&place.layer).unwrap().len(), len);
    layer.image.set_len(len - 512).unwrap();
    assert!(matches!(place.refused(), FormatError::Damaged { .. }));
}

#[test]
fn other_files_and_other_versions_are_named() {
    let place = Place::on_disk(SIZE, Some(SIZE));
    let header = place.open().header();
    damage(&place.layer, 8);
    assert!(matches!(place.refused(), FormatError::Unsupported { .. }));
    damage(&place.layer, 8);
    damage(&place.layer, 0);
    assert!(matches!(place.refused(), FormatError::NotThis { .. }));
    damage(&place.layer, 0);
    // A feature that this version does not know, in a header that is whole.
    let mut bytes = header.encode().unwrap();
    bytes[32] = 1;
    bytes[8..12].fill(0);
    let covered = 4096 + u32::from_le_bytes(bytes[88..92].try_into().unwrap()) as usize;
    let checksum = crc32c::crc32c(&bytes[..covered]);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    let file = File::options().write(true).open(&place.layer).unwrap();
    file.write_all_at(&bytes, header.place()).unwrap();
    assert!(matches!(place.refused(), FormatError::Unsupported { .. }));
    file.set_len(100).unwrap();
    assert!(matches!(place.refused(), FormatError::NotThis { .. }));
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (number, (size, sector)) in
        [(0, 512), (1 << 63, 512), (1000, 512), (512, 4096), (4096, 1024)].into_iter().enumerate()
    {
        let image = new_image(&folder.path().join(number.to_string()));
        let new = NewLayer { size, sector, parent: None, fixed: false, traits: None };
        let error = formats::create(Format::Layer, &image, &new).unwrap_err();
        assert!(matches!(error, FormatError::Unsupported { .. }), "{error}");
    }
}

/// Numbers with which to replace some of a header's, behind a checksum that fits.
fn mutations() -> impl Strategy<Value = Vec<(usize, Vec<u8>)>> {
    let number = prop_oneof![
        any::<u64>().prop_map(|number| number.to_le_bytes().to_vec()),
        Just(vec![0xff; 8]),
        Just(vec![0; 8]),
        proptest::collection::vec(any::<u8>(), 1..200),
    ];
    proptest::collection::vec((12usize..300, number), 0..4)
}

proptest! {
    #![proptest_config(testkit::cases(256))]

    #[test]
    fn no_bytes_are_too_odd_for_a_slot(bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
        let _ = Header::decode(&bytes, SLOTS[0]);
    }

    #[test]
    fn no_numbers_are_too_odd_for_a_header(changes in mutations(), link in 0usize..70_000) {
        let place = Place::on_disk(SIZE, Some(SIZE));
        let mut bytes = place.open().header().encode().unwrap();
        bytes.resize(4096 + (64 << 10), b' ');
        for (at, with) in changes {
            bytes[at..at + with.len()].copy_from_slice(&with);
        }
        if link < bytes.len() - 4096 {
            bytes[88..92].copy_from_slice(&u32::try_from(link).unwrap().to_le_bytes());
        }
        bytes[8..12].fill(0);
        let covered = 4096 + u32::from_le_bytes(bytes[88..92].try_into().unwrap()) as usize;
        let checksum = bytes.get(..covered).map_or(0, crc32c::crc32c);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
        let file = File::options().write(true).open(&place.layer).unwrap();
        file.write_all_at(&bytes, SLOTS[0]).unwrap();
        if let Ok(layer) = open(&place.layer, true) {
            let _ = (layer.check(true), layer.announce_change(), layer.close());
            let whole = DiskRange::new(0, layer.info().size.min(1 << 24)).unwrap();
            let ticket = layer.resolve_read(whole, &mut Vec::new()).unwrap();
            layer.finish(ticket, Outcome::Done).unwrap();
        }
    }
}

/// A change that would need a number without a successor is refused, and leaves the layer usable.
#[test]
fn numbers_are_not_used_up() {
    let place = Place::on_disk(SIZE, Some(SIZE));
    let image = Arc::clone(&place.open().image);
    let header = place.open().header();
    for sequence in [u64::MAX - 2, u64::MAX - 1] {
        Header { sequence, ..header.clone() }.write(&image).unwrap();
    }
    let id = place.open().identity().unwrap();
    let error = place.open().announce_change().unwrap_err();
    assert!(error.to_string().contains("sequence number"), "{error}");
    assert_eq!(place.open().identity().unwrap(), id);
}
