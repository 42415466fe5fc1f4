use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::OVERRIDDEN_MAX;
use crate::disk::{Disk, DiskOptions};
use crate::format::Format;
use crate::identity::Identity;
use crate::link::ParentLink;
use crate::tools::{self, Create, DiskName, Linkage, Unwatched};

const LAYERED: [Format; 3] = [Format::Layer, Format::Qcow2, Format::Vhdx];
const INSIST: DiskOptions = DiskOptions {
    allow_mismatch: true,
    read_only: false,
    direct: false,
    engine: crate::disk::EngineChoice::Positional,
    format: None,
    map_memory: None,
};
const PLAIN: DiskOptions = DiskOptions { allow_mismatch: false, ..INSIST };

fn child(path: &Path, parent: &Path) {
    let order = Create {
        path: path.to_owned(),
        format: None,
        size: None,
        parent: Some(DiskName { path: parent.to_owned(), format: None, allow_mismatch: false }),
        fixed: false,
        protect: false,
        digest: false,
    };
    tools::create(&order, &Unwatched).unwrap();
}

fn base(path: &Path) {
    fs::File::create(path).unwrap().set_len(16 << 20).unwrap();
}

/// Writes a byte without cohort's knowing.
fn scribble(path: &Path, byte: u8) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&[byte], 0).unwrap();
    // More than the step in which kernels count times.
    std::thread::sleep(std::time::Duration::from_millis(20));
}

fn link(path: &Path) -> ParentLink {
    tools::info(path, None).unwrap().layers[0].parent.clone().unwrap()
}

fn identity(path: &Path) -> Identity {
    tools::info(path, None).unwrap().layers[0].identity.clone()
}

#[test]
fn a_link_further_down_that_was_overridden_is_recorded_in_the_top_layer() {
    for format in LAYERED {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (below, middle) = (at("base.raw"), at("mid.layer"));
        let top = at(&format!("top.{format}"));
        base(&below);
        child(&middle, &below);
        child(&top, &middle);
        let id = identity(&top);
        let recorded = link(&middle).identity;
        let before = fs::read(&middle).unwrap();
        for time in 1..=OVERRIDDEN_MAX + 2 {
            scribble(&below, u8::try_from(time).unwrap());
            Disk::open(&top, &PLAIN).unwrap_err();
            // For reading, nothing is recorded.
            let untouched = fs::read(&top).unwrap();
            let read_only = DiskOptions { read_only: true, ..INSIST };
            drop(Disk::open(&top, &read_only).unwrap());
            assert!(fs::read(&top).unwrap() == untouched, "{format}");
            // Once for each state of the parent.
            for _ in 0..2 {
                drop(Disk::open(&top, &INSIST).unwrap());
            }
            let noted = link(&top);
            assert_eq!(noted.overridden, None, "{format}");
            assert_eq!(noted.overridden_below.len(), time.min(OVERRIDDEN_MAX), "{format}");
            let last = noted.overridden_below.last().unwrap();
            assert_eq!((&last.child, &last.parent), (&middle, &below));
            assert_eq!((&last.recorded, &last.found), (&recorded, &identity(&below)));
        }
        assert!(fs::read(&middle).unwrap() == before, "a layer below the top was written");
        assert_eq!(identity(&top), id, "{format}: no contents have changed");
    }
}

#[test]
fn where_the_parent_was_found_is_recorded() {
    for format in LAYERED {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        let at = |name: &str| real.join(name);
        for name in ["a", "b", "b/below"] {
            fs::create_dir(at(name)).unwrap();
        }
        base(&at("a/base.raw"));
        let top = at(&format!("a/top.{format}"));
        child(&top, &at("a/base.raw"));
        let (id, first) = (identity(&top), link(&top));
        assert_eq!(first.relative.as_deref(), Some(Path::new("base.raw")));

        // The child alone moves: the parent is found by its absolute path.
        let moved = at(&format!("b/below/top.{format}"));
        fs::rename(&top, &moved).unwrap();
        drop(Disk::open(&moved, &DiskOptions { read_only: true, ..PLAIN }).unwrap());
        assert_eq!(link(&moved), first, "{format}: reading changes nothing");
        drop(Disk::open(&moved, &PLAIN).unwrap());
        let now = link(&moved);
        assert_eq!(now.relative.as_deref(), Some(Path::new("../../a/base.raw")), "{format}");
        assert_eq!(ParentLink { relative: first.relative.clone(), ..now }, first, "{format}");

        // All of it moves: the parent is found from the child's folder.
        fs::create_dir(at("c")).unwrap();
        for name in ["a", "b"] {
            fs::rename(at(name), at("c").join(name)).unwrap();
        }
        let moved = at(&format!("c/b/below/top.{format}"));
        drop(Disk::open(&moved, &PLAIN).unwrap());
        assert_eq!(link(&moved).absolute, Some(at("c/a/base.raw")), "{format}");
        assert_eq!(identity(&moved), id, "{format}: no contents have changed");
        assert!(matches!(tools::info(&moved, None).unwrap().layers[0].linkage, Linkage::Ok));

        // By another name the layer is still in its own folder.
        let other = at(&format!("other.{format}"));
        std::os::unix::fs::symlink(&moved, &other).unwrap();
        drop(Disk::open(&other, &PLAIN).unwrap());
        assert_eq!(link(&moved).relative.as_deref(), Some(Path::new("../../a/base.raw")));

        // What is settled is not written again.
        let settled = fs::read(&moved).unwrap();
        drop(Disk::open(&moved, &PLAIN).unwrap());
        assert!(fs::read(&moved).unwrap() == settled, "{format}");
    }
}
