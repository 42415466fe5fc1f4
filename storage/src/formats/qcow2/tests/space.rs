//! Places that have no room for more.

use super::*;
use crate::testkit::{Loop, Tmpfs};

/// The tables that lead to what was answered for have their space from the beginning: a full file
/// system refuses writes, not the flush after them.
#[test]
fn a_full_file_system_keeps_what_was_answered_for() {
    for options in ["", "cluster_size=4k", "cluster_size=512"] {
        let Some(place) = Tmpfs::new("size=1m,huge=never") else { return };
        let path = place.path().join("a.qcow2");
        match options {
            "" => make(&path, 64 << 20, None),
            _ => drop(qemu_img(&["create", "-f", "qcow2", "-o", options, text(&path), "64M"])),
        }
        let mut queue = open(&path);
        let (mut model, mut refused) = (Vec::new(), 0);
        for step in 0..1024 {
            let bytes = pattern(u8::try_from(step % 251).unwrap(), 8192);
            match testkit::write(&mut queue, model.len() as u64, &bytes) {
                Ok(()) => model.extend(bytes),
                Err(error) => {
                    assert!(error.is_no_space(), "{error:?}");
                    refused += 1;
                }
            }
            if refused == 3 {
                break;
            }
        }
        assert!(!model.is_empty() && refused == 3, "{options}");
        testkit::flush(&mut queue).unwrap();
        drop(queue);
        assert!(read(&mut open_to_read(&path), 0, model.len()) == model, "{options}");
        let found = layer(&path, false).check(false).unwrap();
        assert!(found.iter().all(|finding| finding.harmless), "{options}: {found:?}");
    }
}

/// Where the space ends while the refcount table moves, the counts stay right.
#[test]
fn a_refcount_table_that_finds_no_space_to_move_to() {
    let Some(place) = Tmpfs::new("size=16m,huge=never") else { return };
    let [full, path, ballast] = ["full", "a.qcow2", "ballast"].map(|name| place.path().join(name));
    let options = "cluster_size=4k,refcount_bits=64";
    qemu_img(&["create", "-f", "qcow2", "-o", options, text(&full), "1G"]);
    // As many clusters as the table can count, the blocks of the counts at the end.
    let counted = (512 * 512 - 511) << 12;
    image(&full, true).set_len(counted).unwrap();
    let taken = layer(&full, true);
    let map = &mut taken.state().map;
    while map.refcounts.allocate(&taken.image).unwrap().0 + 1 < counted >> 12 {}
    map.flush().unwrap();
    assert_eq!(map.refcounts.clusters(), 512 * 512);
    let mut said = Vec::new();
    for pages in 0..12 {
        let sparse = ["--sparse=always", text(&full), text(&path)];
        assert!(std::process::Command::new("cp").args(sparse).status().unwrap().success());
        let mut rest = File::create(&ballast).unwrap();
        let len = std::iter::from_fn(|| std::io::Write::write(&mut rest, &[1; 4096]).ok()).count();
        rest.set_len((len - pages) as u64 * 4096).unwrap();
        let layer = layer(&path, true);
        let map = &mut layer.state().map;
        let moved = map.refcounts.allocate_table(&layer.image);
        rest.set_len(0).unwrap();
        said.push(moved.is_ok());
        map.flush().unwrap();
        let found = check::check(map, false).unwrap();
        assert!(found.iter().all(|finding| finding.harmless), "{pages} {moved:?}: {found:?}");
    }
    assert!(said.contains(&false) && said.contains(&true), "{said:?}");
}

/// A device has the bytes that it has, and a part of a cluster at its end is none.
#[test]
fn a_device_need_not_end_with_a_cluster() {
    let Some(device) = Loop::new((1 << 20) + 4096, 512) else { return };
    qemu_img(&["create", "-f", "qcow2", text(&device.0), "2M"]);
    let mut queue = open(&device.0);
    let mut model = Vec::new();
    let error = loop {
        let bytes = pattern(9, CLUSTER);
        match testkit::write(&mut queue, model.len() as u64, &bytes) {
            Ok(()) => model.extend(bytes),
            Err(error) => break error,
        }
    };
    assert!(error.is_no_space() && model.len() > 8 * CLUSTER, "{error:?} {}", model.len());
    drop(queue);
    assert!(read(&mut open_to_read(&device.0), 0, model.len()) == model);
    assert_clean(&device.0);
}
