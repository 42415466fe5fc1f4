//! Damaged images: refused, or read and written as far as that makes sense. Never a panic, never
//! memory or time without bound.

use proptest::prelude::*;

use super::*;
use crate::chain::open::open_layer;

const SIZE: u64 = 4 * CLUSTER as u64;

/// An image with data, zero clusters, compressed clusters, and a backing file.
fn victim(folder: &Path, options: &str) -> PathBuf {
    let [raw, base, path] = ["raw", "base", "a.qcow2"].map(|name| folder.join(name));
    std::fs::write(&raw, pattern(3, 2 * CLUSTER)).unwrap();
    File::create(&base).unwrap().set_len(SIZE).unwrap();
    let name = format!("{options},backing_file=base,backing_fmt=raw");
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &name, text(&path), "256k"]);
    // Compressed clusters, data beside them, and zeroes.
    let write = |command: &str| {
        qemu("qemu-io", &["-f", "qcow2", "-c", command, text(&path)]).unwrap();
    };
    write("write -c -P 5 0 64k");
    write("write -P 6 64k 64k");
    write("write -z 128k 64k");
    let _ = layer(&path, true).set_parent(&link(&base, Format::Raw));
    path
}

/// Everything that can be asked of a layer, in any order; answers do not matter.
fn provoke(path: &Path, writable: bool) {
    let file = layer_file(path, writable);
    let layer = match Qcow2Layer::open(file) {
        Ok(layer) => layer,
        Err(error) => {
            let _ = error.to_string();
            return;
        }
    };
    let _ = layer.identity();
    let size = layer.info().size;
    let len = size.min(SIZE);
    for start in [0, size - len] {
        let range = DiskRange::new(start, len).unwrap();
        let mut extents = Vec::new();
        if let Ok(ticket) = layer.resolve_read(range, &mut extents) {
            for extent in &extents {
                if let Source::Encoded { .. } = extent.source {
                    let mut bytes = vec![0; index(extent.range.len())];
                    let _ = layer.read_encoded(extent.range, &mut bytes);
                }
            }
            layer.finish(ticket, Outcome::Done).unwrap();
        }
        if !writable {
            continue;
        }
        if start == 0 {
            let _ = layer.announce_change();
        }
        let part = DiskRange::new(start + len / 4 / 512 * 512, len / 2 / 512 * 512).unwrap();
        for outcome in [Outcome::Abort, Outcome::Done] {
            let mut steps = Vec::new();
            if let Ok(ticket) = layer.resolve_write(part, &mut steps) {
                let _ = layer.finish(ticket, outcome);
            }
            let mut steps = Vec::new();
            if let Ok(ticket) = layer.resolve_erase(range, Erase::Zero { unmap: true }, &mut steps)
            {
                let _ = layer.finish(ticket, outcome);
            }
            let _ = layer.flush_metadata();
        }
    }
    let _ = layer.check(writable);
    let _ = layer.close();
}

/// Where to hit: the header, the extensions, a table.
fn place() -> impl Strategy<Value = u64> {
    let cluster = CLUSTER as u64;
    prop_oneof![
        4 => 0u64..112,
        2 => 112u64..1024,
        1 => 0..cluster,
        2 => (1u64..6, 0u64..64).prop_map(move |(at, inside)| at * cluster + inside),
        1 => 0..8 * cluster,
        1 => 6 * cluster..14 * cluster,
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..9),
        Just(vec![0xff; 8]),
        Just(vec![0; 8]),
        any::<u64>().prop_map(|number| (1u64 << (number % 64)).to_be_bytes().to_vec()),
        (0u64..9).prop_map(|cluster| (cluster << 16 | 1 << 63).to_be_bytes().to_vec()),
        any::<u64>().prop_map(|number| (number | 1 << 62).to_be_bytes().to_vec()),
    ]
}

proptest! {
    #![proptest_config(testkit::cases(300))]

    #[test]
    fn mutations(
        changes in proptest::collection::vec((place(), bytes()), 1..4),
        cut in proptest::option::weighted(0.1, 0u64..600_000),
        which in 0usize..3,
    ) {
        use std::sync::OnceLock;
        static VICTIMS: OnceLock<[Vec<u8>; 3]> = OnceLock::new();
        let victims = VICTIMS.get_or_init(|| {
            let ways = [("compat=1.1", false), ("compat=0.10", false), ("compat=1.1", true)];
            ways.map(|(options, snapshots)| {
                let folder = folder();
                let path = victim(folder.path(), options);
                if snapshots {
                    qemu_img(&["snapshot", "-c", "one", text(&path)]);
                    qemu("qemu-io", &["-f", "qcow2", "-c", "write 0 128k", text(&path)]).unwrap();
                    qemu_img(&["snapshot", "-c", "two", text(&path)]);
                }
                std::fs::read(path).unwrap()
            })
        });
        let folder = folder();
        let path = folder.path().join("a.qcow2");
        for writable in [false, true] {
            std::fs::write(&path, &victims[which]).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            for (at, bytes) in &changes {
                file.write_all_at(bytes, *at).unwrap();
            }
            if let Some(cut) = cut {
                file.set_len(cut).unwrap();
            }
            provoke(&path, writable);
        }
    }
}

/// What the mutations start from is sound.
#[test]
fn the_victims_are_healthy() {
    for options in ["compat=1.1", "compat=0.10"] {
        let folder = folder();
        let path = victim(folder.path(), options);
        let whole = layer(&path, false);
        let mut extents = Vec::new();
        let ticket = whole.resolve_read(DiskRange::new(0, SIZE).unwrap(), &mut extents).unwrap();
        whole.finish(ticket, Outcome::Done).unwrap();
        assert!(matches!(extents[0].source, Source::Encoded { .. }), "{extents:?}");
        assert!(matches!(extents[1].source, Source::Data { .. }), "{extents:?}");
        assert!(matches!(extents.last().unwrap().source, Source::Transparent), "{extents:?}");
        assert_eq!(whole.check(false).unwrap(), []);
        provoke(&path, true);
        assert_clean(&path);
    }
}

/// An image whose refcount block is in the place of `offset`'s.
fn with_counts_at(path: &Path, offset: u64) {
    qemu_img(&["create", "-q", "-f", "qcow2", text(path), "256k"]);
    for command in ["write -P 6 0 64k", "write -P 7 64k 64k"] {
        qemu("qemu-io", &["-f", "qcow2", "-c", command, text(path)]).unwrap();
    }
    let file = File::options().write(true).open(path).unwrap();
    // The refcount table is the second cluster.
    file.write_all_at(&offset.to_be_bytes(), CLUSTER as u64).unwrap();
}

#[test]
fn counts_in_the_place_of_something_else_are_not_put_right() {
    // Where QEMU puts the L1 table, the L2 table and the data.
    for (offset, what) in [(3, Some("L1 table")), (4, Some("L2 table")), (5, None)] {
        let folder = folder();
        let path = folder.path().join("a.qcow2");
        let offset = offset * CLUSTER as u64;
        with_counts_at(&path, offset);
        let before = std::fs::read(&path).unwrap();
        let findings = layer(&path, true).check(true).unwrap();
        assert!(!findings.is_empty() && findings.iter().all(|found| !found.repaired));
        assert!(before == std::fs::read(&path).unwrap(), "changed with counts at {offset:#x}");
        // Where a table is, nothing may be written either; data that are there are no table.
        if let Some(what) = what {
            let error = layer(&path, true).announce_change().unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("refcount block"), "{error}");
            assert!(before == std::fs::read(&path).unwrap());
        }
    }
}

/// In version 2, no cluster can say that it is zero. QEMU does not read such a one either.
#[test]
fn a_zero_cluster_of_version_2_is_damage() {
    let folder = folder();
    let path = folder.path().join("a.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "compat=0.10", text(&path), "256k"]);
    write(&mut open(&path), 0, &pattern(1, CLUSTER));
    let entry = {
        let layer = layer(&path, false);
        let map = &mut layer.state().map;
        let entry = map.entry(0).unwrap() | map::ZERO;
        layer_file(&path, true).image.write_at(&entry.to_be_bytes(), map.l1()[0] & map::OFFSET)
    };
    entry.unwrap();
    for open in [open_to_read, open] {
        let mut queue = open(&path);
        let error = testkit::read(&mut queue, 0, 512).unwrap_err();
        let told = std::error::Error::source(&error).map(ToString::to_string);
        assert!(format!("{error}: {told:?}").contains("version 2"), "{error}: {told:?}");
    }
    testkit::write(&mut open(&path), 0, &pattern(2, 512)).unwrap_err();
    let found = layer(&path, false).check(false).unwrap();
    assert!(found.iter().any(|finding| !finding.harmless && finding.what.contains("version 2")));
    for qemu in Qemu::all() {
        let (good, told) = qemu.run("qemu-io", &["-f", "qcow2", "-c", "read 0 512", text(&path)]);
        assert!(!good || told.contains("error"), "{told}");
    }
}

/// What is decompressed is kept for all layers of a chain together, however many there are.
#[test]
fn decompressed_clusters_of_all_layers_share_their_room() {
    let folder = folder();
    let [raw, path] = ["raw", "a.qcow2"].map(|name| folder.path().join(name));
    let content = pattern(3, 8 * CLUSTER);
    std::fs::write(&raw, &content).unwrap();
    qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", text(&raw), text(&path)]);
    let memory = DiskOptions { map_memory: Some(24 * CLUSTER), ..testkit::READ_ONLY }.map_memory();
    for place in 0..4 {
        let image = image(&path, false);
        let layer = open_layer(Format::Qcow2, &image, place, &memory).unwrap();
        let mut bytes = vec![0; CLUSTER];
        for (cluster, content) in content.chunks(CLUSTER).enumerate() {
            let range = DiskRange::new((cluster * CLUSTER) as u64, CLUSTER as u64).unwrap();
            layer.read_encoded(range, &mut bytes).unwrap();
            assert!(bytes == content);
            assert!(memory.decoded.bytes() <= 3 * CLUSTER, "{}", memory.decoded.bytes());
        }
    }
    assert_eq!(memory.decoded.bytes(), 3 * CLUSTER);
}
