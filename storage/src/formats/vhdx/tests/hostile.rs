//! Files that nobody should make: they may be refused, or read as anything, but nothing panics.

use proptest::prelude::*;

use super::super::bytes::seal;
use super::*;

/// The structures of a file: where, and how many bytes a checksum covers, if there is one.
const STRUCTURES: [(u64, usize, usize); 9] = [
    (0, 8, 0),
    (64 << 10, 80, 4096),
    (128 << 10, 80, 4096),
    (192 << 10, 80, 64 << 10),
    (256 << 10, 80, 64 << 10),
    (MIB, 200, 8192),
    (2 * MIB, 232, 0),
    ((2 << 20) + (64 << 10), 400, 0),
    (3 * MIB, 64, 0),
];

#[derive(Clone, Debug)]
struct Harm {
    structure: usize,
    at: usize,
    value: Vec<u8>,
    sealed: bool,
}

fn harm() -> impl Strategy<Value = Harm> {
    let value = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..9),
        (0..64u32).prop_map(|bit| (1u64 << bit).to_le_bytes().to_vec()),
        Just(vec![0xff; 8]),
        Just(vec![0; 8]),
        (0..8u64, 0..8u64).prop_map(|(mib, state)| (mib << 20 | state).to_le_bytes().to_vec()),
    ];
    let place = (0..STRUCTURES.len()).prop_flat_map(|it| (Just(it), 0..STRUCTURES[it].1));
    (place, value, prop_oneof![4 => Just(true), 1 => Just(false)])
        .prop_map(|((structure, at), value, sealed)| Harm { structure, at, value, sealed })
}

fn harm_file(path: &Path, harms: &[Harm]) {
    let file = image(path);
    for Harm { structure, at, value, sealed } in harms {
        let (start, _, covered) = STRUCTURES[*structure];
        file.write_at(value, start + *at as u64).unwrap();
        if covered != 0 && *sealed {
            let mut bytes = vec![0; covered];
            file.read_at(&mut bytes, start).unwrap();
            seal(&mut bytes);
            file.write_at(&bytes, start).unwrap();
        }
    }
}

/// Uses the file in every way.
fn use_it(image: &Arc<ImageFile>) {
    let Ok(layer) = open(LayerFile::alone(Arc::clone(image), 32 << 20)) else {
        return;
    };
    let size = layer.info().size;
    for start in [0, size.saturating_sub(MIB), size / 2 / 4096 * 4096] {
        let range = range(start, MIB.min(size - start));
        let mut extents = Vec::new();
        if let Ok(ticket) = layer.resolve_read(range, &mut extents) {
            let _ = layer.finish(ticket, Outcome::Done);
        }
        let mut steps = Vec::new();
        if let Ok(ticket) = layer.resolve_write(range, &mut steps) {
            let _ = layer.finish(ticket, Outcome::Done);
        }
        if let Ok(ticket) = layer.resolve_erase(range, Erase::Discard, &mut steps) {
            let _ = layer.finish(ticket, Outcome::Done);
        }
        let _ = layer.flush_metadata();
    }
    let _ = layer.identity();
    let _ = layer.set_parent(&link(Format::Raw, "other", Identity::fresh()));
    let _ = layer.check(false);
    let _ = layer.close();
}

/// A differencing disk whose log matters.
fn sample(folder: &Path) -> PathBuf {
    let path = make_over_raw(folder, &pattern(5, 4 << 20), MIB);
    let image = image(&path);
    let layer = layer_of(&image);
    layer.announce_change().unwrap();
    for (start, len) in [(0, 4096), (MIB, MIB)] {
        let bytes = pattern(6, usize::try_from(len).unwrap());
        change(&layer, &image, |steps| layer.resolve_write(range(start, len), steps), &bytes);
    }
    layer.flush_metadata().unwrap();
    path
}

proptest! {
    #![proptest_config(testkit::cases(256))]

    #[test]
    fn no_file_makes_us_panic(harms in proptest::collection::vec(harm(), 1..6)) {
        // In memory, where there is such a place: a sync costs nothing there.
        let folder = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let path = sample(folder.path());
        harm_file(&path, &harms);
        use_it(&read_only(&path));
        use_it(&image(&path));
    }
}

#[test]
fn what_must_be_understood_is() {
    let (_folder, path) = make(&dynamic(4 * MIB), MIB);
    let refused = |structure: usize, at: usize, value: &[u8]| {
        let value = value.to_vec();
        let before = fs::read(&path).unwrap();
        harm_file(&path, &[Harm { structure, at, value, sealed: true }]);
        let error = open(LayerFile::alone(image(&path), 32 << 20)).err();
        fs::write(&path, before).unwrap();
        error.unwrap()
    };
    let not_this = refused(0, 0, b"V");
    assert!(matches!(not_this, FormatError::NotThis { format: Format::Vhdx }), "{not_this}");
    // The second header, which is the current one: version, log.
    assert!(matches!(refused(2, 66, &[2]), FormatError::Unsupported { .. }));
    assert!(matches!(refused(2, 72, &[1]), FormatError::Damaged { .. }));
    // Both regions become ones that nobody knows, but must.
    assert!(matches!(refused(3, 16, &[1]), FormatError::Unsupported { .. }));
    assert!(matches!(refused(3, 8, &[0xff, 0xff]), FormatError::Damaged { .. }));
    assert!(matches!(refused(3, 32, &[0, 0, 32]), FormatError::Damaged { .. }), "overlap");
    // A metadata item.
    assert!(matches!(refused(6, 32, &[1]), FormatError::Unsupported { .. }));
    assert!(matches!(refused(6, 10, &[0xff, 0xff]), FormatError::Damaged { .. }));
    // Blocks of 3 MiB; a size for which the BAT has no room.
    assert!(matches!(refused(7, 0, &[0, 0, 0x30]), FormatError::Damaged { .. }));
    assert!(matches!(refused(7, 8, &[0, 0, 0, 0, 0, 0x20]), FormatError::Damaged { .. }));
}

#[test]
fn a_torn_header_leaves_the_other() {
    let (_folder, path) = make(&dynamic(4 * MIB), MIB);
    let identity = layer_of(&read_only(&path)).identity().unwrap();
    for slot in [1, 2] {
        let before = fs::read(&path).unwrap();
        harm_file(&path, &[Harm { structure: slot, at: 20, value: vec![1; 8], sealed: false }]);
        assert_eq!(layer_of(&read_only(&path)).identity().unwrap(), identity);
        let layer = layer_of(&image(&path));
        layer.announce_change().unwrap();
        assert_ne!(layer.identity().unwrap(), identity);
        fs::write(&path, before).unwrap();
    }
    let torn = |structure| Harm { structure, at: 20, value: vec![1; 8], sealed: false };
    harm_file(&path, &[torn(1), torn(2)]);
    open(LayerFile::alone(image(&path), 32 << 20)).err().unwrap();
}

/// QEMU looks at the first region table only.
#[test]
fn what_is_there_twice_is_mended() {
    let (_folder, path) = make(&dynamic(4 * MIB), MIB);
    let before = fs::read(&path).unwrap();
    let identity = layer_of(&read_only(&path)).identity().unwrap();
    for structure in 1..5 {
        harm_file(&path, &[Harm { structure, at: 20, value: vec![1; 8], sealed: false }]);
        let found = layer_of(&read_only(&path)).check(false).unwrap();
        assert!(
            matches!(&found[..], [finding] if finding.harmless && !finding.repaired),
            "{found:?}"
        );
        let layer = layer_of(&image(&path));
        let mended = layer.check(true).unwrap();
        assert!(matches!(&mended[..], [finding] if finding.repaired), "{mended:?}");
        layer.close().unwrap();
        let layer = layer_of(&read_only(&path));
        assert_eq!(layer.check(false).unwrap(), []);
        assert_eq!(layer.identity().unwrap(), identity);
        assert!(as_qemu_reads(&path).iter().all(|&byte| byte == 0));
        assert!(
            fs::read(&path).unwrap()[192 << 10..][..128 << 10] == before[192 << 10..][..128 << 10]
        );
    }
}

#[test]
fn the_last_sequence_number_ends_writing() {
    let (_folder, path) = make(&dynamic(4 * MIB), MIB);
    harm_file(&path, &[Harm { structure: 2, at: 8, value: vec![0xff; 8], sealed: true }]);
    let layer = layer_of(&image(&path));
    layer.announce_change().unwrap_err();
}

#[test]
fn blocks_where_none_may_be() {
    let (_folder, path) = make(&dynamic(4 * MIB), MIB);
    // In the headers, the log, the BAT, and beyond the end.
    for mib in [0u64, 1, 3, 4, 1 << 40] {
        image(&path).write_at(&(mib << 20 | 6).to_le_bytes(), 3 * MIB).unwrap();
        let layer = layer_of(&read_only(&path));
        layer.resolve_read(range(0, 512), &mut Vec::new()).unwrap_err();
        let findings = layer.check(false).unwrap();
        assert!(matches!(&findings[..], [finding] if !finding.harmless), "{findings:?}");
    }
}

/// Regions and items that need not be understood, and items of users, are left alone.
#[test]
fn what_need_not_be_understood_stays() {
    let (_folder, path) = make(&dynamic(4 * MIB), MIB);
    let file = image(&path);
    let mut table = fs::read(&path).unwrap()[192 << 10..256 << 10].to_vec();
    table[8] = 3;
    // A region at 6 MiB, which is behind the end of the file.
    table[80..96].fill(0x77);
    table[98] = 0x60;
    table[106] = 0x10;
    seal(&mut table);
    for at in [192 << 10, 256 << 10] {
        file.write_at(&table, at).unwrap();
    }
    // A user's item under the format's own identifier.
    let mut items = fs::read(&path).unwrap()[2 << 20..][..4096].to_vec();
    items[10] = 6;
    let user = items[32..64].to_vec();
    items[192..224].copy_from_slice(&user);
    items[216] = 1;
    file.write_at(&items, 2 * MIB).unwrap();
    let layer = layer_of(&file);
    assert_eq!(layer.check(true).unwrap(), []);
    let place = range(0, 512);
    let mut steps = Vec::new();
    let ticket = layer.resolve_write(place, &mut steps).unwrap();
    assert!(matches!(steps[..], [WriteStep::Store { at, .. }] if at.get() == 7 * MIB), "{steps:?}");
    layer.finish(ticket, Outcome::Done).unwrap();
    layer.close().unwrap();
    assert_eq!(layer_of(&file).check(true).unwrap(), []);
}
