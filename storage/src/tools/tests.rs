//! The tools on files, and what they leave behind.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::new_file::NewFile;
use super::one::OneLayer;
use super::*;
use crate::chain::ChainError;
use crate::disk::{Disk, DiskOptions};
use crate::error::DiskError;
use crate::format::Format;
use crate::formats::NewLayer;
use crate::link::ParentLink;
use crate::testkit;

const MIB: u64 = 1 << 20;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A raw image with bytes at some places.
fn raw(folder: &Path, name: &str, size: u64, content: &[(u64, &[u8])]) -> PathBuf {
    let path = folder.join(name);
    let file = File::create(&path).unwrap();
    file.set_len(size).unwrap();
    for (at, bytes) in content {
        file.write_all_at(bytes, *at).unwrap();
    }
    path
}

fn named(path: &Path) -> DiskName {
    DiskName { path: path.to_owned(), format: None, allow_mismatch: false }
}

fn new(path: &Path) -> Create {
    Create {
        path: path.to_owned(),
        format: None,
        size: None,
        parent: None,
        fixed: false,
        protect: false,
        digest: false,
    }
}

fn copy(source: &Path, target: &Path) -> Convert {
    let (source, target) = (named(source), target.to_owned());
    Convert { source, target, format: None, parent: None, fixed: false }
}

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn differs(a: &Path, b: &Path) -> Option<u64> {
    compare(&named(a), &named(b), &Unwatched).unwrap().difference
}

#[test]
fn a_new_disk_has_its_size_and_takes_no_name_that_is_taken() {
    let folder = folder();
    let path = folder.path().join("a.raw");
    let error = create(&new(&path), &Unwatched).unwrap_err();
    assert!(matches!(error, ToolError::NoSize(_)), "{error:?}");
    let error = create(&Create { size: Some(1000), ..new(&path) }, &Unwatched).unwrap_err();
    assert!(matches!(error, ToolError::Size { size: 1000, unit: 512 }), "{error:?}");
    assert!(names(folder.path()).is_empty());
    let order = Create { size: Some(MIB), ..new(&path) };
    let made = create(&order, &Unwatched).unwrap();
    assert_eq!((made.format, made.size, made.parent), (Format::Raw, MIB, None));
    assert_eq!(fs::metadata(&path).unwrap().len(), MIB);
    let error = create(&order, &Unwatched).unwrap_err();
    assert!(matches!(error, ToolError::Exists(_)), "{error:?}");
    let gone = folder.path().join("none/a.raw");
    let error = create(&Create { size: Some(MIB), ..new(&gone) }, &Unwatched).unwrap_err();
    assert!(matches!(error, ToolError::Host { .. }), "{error:?}");
    assert_eq!(names(folder.path()), ["a.raw"]);
}

#[test]
fn a_raw_disk_has_no_parent_and_the_parent_is_left_alone() {
    let folder = folder();
    let base = raw(folder.path(), "base.raw", MIB, &[]);
    let mode = fs::metadata(&base).unwrap().mode();
    let path = folder.path().join("child.raw");
    let order = Create { parent: Some(named(&base)), protect: true, ..new(&path) };
    let error = create(&order, &Unwatched).unwrap_err();
    assert!(matches!(error, ToolError::Create { .. }) && error.is_usage(), "{error:?}");
    assert_eq!(fs::metadata(&base).unwrap().mode(), mode);
    assert_eq!(names(folder.path()), ["base.raw"]);
}

#[test]
fn holes_are_neither_copied_nor_read() {
    let folder = folder();
    let content: [(u64, &[u8]); 3] = [(0, b"start"), (5 * MIB + 7, b"middle"), (9 * MIB, &[0; 99])];
    let source = raw(folder.path(), "a.raw", 16 * MIB, &content);
    let target = folder.path().join("b.raw");
    let copied = convert(&copy(&source, &target), &Unwatched).unwrap();
    assert!(copied.written <= 128 << 10, "{copied:?}");
    assert_eq!(fs::read(&source).unwrap(), fs::read(&target).unwrap());
    assert_eq!(differs(&source, &target), None);
    File::options().write(true).open(&target).unwrap().write_all_at(b"!", 12 * MIB + 3).unwrap();
    assert_eq!(differs(&source, &target), Some(12 * MIB + 3));
    assert_eq!(names(folder.path()), ["a.raw", "b.raw"]);
}

#[test]
fn what_only_one_disk_has_must_be_zero() {
    let folder = folder();
    let short = raw(folder.path(), "short", MIB, &[(7, b"x")]);
    let long = raw(folder.path(), "long", 3 * MIB, &[(7, b"x")]);
    assert_eq!(differs(&short, &long), None);
    File::options().write(true).open(&long).unwrap().write_all_at(b"!", 2 * MIB).unwrap();
    assert_eq!((differs(&short, &long), differs(&long, &short)), (Some(2 * MIB), Some(2 * MIB)));
}

/// A child in cohort's own format.
fn child(of: &Path, name: &str) -> PathBuf {
    let path = of.with_file_name(name);
    let order = Create { parent: Some(named(of)), ..new(&path) };
    create(&order, &Unwatched).unwrap();
    path
}

#[test]
fn a_merge_that_is_stopped_leaves_a_child_that_reads_as_before() {
    let folder = folder();
    let base = raw(folder.path(), "base.raw", 8 * MIB, &[(0, b"base")]);
    let wanted = raw(folder.path(), "new.raw", 8 * MIB, &[(MIB, &[7; 5 << 20])]);
    let path = folder.path().join("child.layer");
    let order = Convert { parent: Some(named(&base)), ..copy(&wanted, &path) };
    convert(&order, &Unwatched).unwrap();
    let order = Commit { child: named(&path), force: false, folders: Vec::new(), delete: true };
    let error = commit(&order, &Impatient(Cell::new(4))).unwrap_err();
    assert!(matches!(error, ToolError::Interrupted), "{error:?}");
    assert!(differs(&base, &wanted).is_some(), "it was not stopped");
    assert_eq!(differs(&path, &wanted), None);
    commit(&order, &Unwatched).unwrap();
    assert_eq!(differs(&base, &wanted), None);
    assert_eq!(names(folder.path()), ["base.raw", "new.raw"]);
}

#[test]
fn layers_that_rest_on_a_file_are_found_by_the_file_and_not_its_name() {
    let folder = folder();
    let base = raw(folder.path(), "base.raw", MIB, &[]);
    let first = child(&base, "a.layer");
    let second = child(&first, "b.layer");
    fs::write(folder.path().join("c.layer"), "no layer").unwrap();
    let link = folder.path().join("link.raw");
    fs::hard_link(&base, &link).unwrap();
    let children = |path| children_of(path, &[]).unwrap().found;
    assert_eq!(children(&link), [first.canonicalize().unwrap()]);
    assert_eq!(children(&first), [second.canonicalize().unwrap()]);
    assert!(children(&second).is_empty());
}

#[test]
fn the_deepest_chain_takes_no_more() {
    let folder = folder();
    let mut top = folder.path().join("0.layer");
    create(&Create { size: Some(MIB), ..new(&top) }, &Unwatched).unwrap();
    for number in 1..256 {
        // Not by `create`, which would open all of the chain each time.
        let identity = OneLayer::look(&top, None).unwrap().layer.identity().unwrap();
        let parent = ParentLink {
            relative: top.file_name().map(PathBuf::from),
            ..ParentLink::new(Format::Layer, Some(identity))
        };
        top = folder.path().join(format!("{number}.layer"));
        let layer =
            NewLayer { size: MIB, sector: 512, parent: Some(parent), fixed: false, traits: None };
        NewFile::create(&top, Format::Layer, &layer).unwrap().publish().unwrap();
    }
    assert_eq!(info(&top, None).unwrap().layers.len(), 256);
    assert!(matches!(info(&top, None).unwrap().layers[255].linkage, Linkage::Base));
    let order = Create { parent: Some(named(&top)), ..new(&folder.path().join("more.layer")) };
    let error = create(&order, &Unwatched).unwrap_err();
    assert_eq!(error.chain().map(ChainError::status), Some(44), "{error:?}");
}

/// Stops what it watches after so many reports.
struct Impatient(Cell<u32>);

impl Progress for Impatient {
    fn advance(&self, _done: u64, _total: u64) {
        self.0.set(self.0.get().saturating_sub(1));
    }

    fn cancelled(&self) -> bool {
        self.0.get() == 0
    }
}

#[test]
fn who_is_stopped_leaves_nothing() {
    let folder = folder();
    let source = raw(folder.path(), "a.raw", 8 * MIB, &[(0, &[7; 4 << 20])]);
    for after in 1..4 {
        let order = copy(&source, &folder.path().join("b.raw"));
        let error = convert(&order, &Impatient(Cell::new(after))).unwrap_err();
        assert!(matches!(error, ToolError::Interrupted), "{error:?}");
        assert_eq!(names(folder.path()), ["a.raw"]);
    }
}

#[test]
fn who_is_stopped_leaves_the_parent_its_permissions() {
    let folder = folder();
    let base = raw(folder.path(), "base.raw", MIB, &[(0, b"base")]);
    let mode = fs::metadata(&base).unwrap().mode();
    for digest in [false, true] {
        let parent = Some(named(&base));
        let order = Create { parent, protect: true, digest, ..new(&base.with_extension("layer")) };
        let error = create(&order, &Impatient(Cell::new(1))).unwrap_err();
        assert!(matches!(error, ToolError::Interrupted), "{error:?}");
        assert_eq!(fs::metadata(&base).unwrap().mode(), mode);
        assert_eq!(names(folder.path()), ["base.raw"]);
    }
}

#[test]
fn a_name_may_be_as_long_as_names_can_be() {
    let folder = folder();
    let name = format!("{}.layer", "n".repeat(255 - ".layer".len()));
    create(&Create { size: Some(MIB), ..new(&folder.path().join(&name)) }, &Unwatched).unwrap();
    assert_eq!(names(folder.path()), [name]);
}

#[test]
fn a_map_makes_up_the_disk_and_a_digest_is_of_all_it_reads_as() {
    let folder = folder();
    let path = raw(folder.path(), "a.raw", 130 * MIB, &[(MIB, &[7; 8192]), (129 * MIB, b"end")]);
    let disk = Disk::open(&path, &DiskOptions { read_only: true, ..Default::default() }).unwrap();
    let entries = map(&disk, &Unwatched).unwrap();
    let mut at = 0;
    for entry in &entries {
        assert_eq!(entry.start, at);
        assert!(entry.state != MapState::Data || entry.offset == Some(entry.start));
        at += entry.length;
    }
    assert_eq!(at, 130 * MIB);
    assert!(entries.iter().any(|entry| entry.state == MapState::Zero), "{entries:?}");
    let wanted = blake3::hash(&fs::read(&path).unwrap());
    assert_eq!(digest(&disk, &Unwatched).unwrap().0, *wanted.as_bytes());
}

#[test]
fn a_base_has_nothing_to_relink_or_commit() {
    let folder = folder();
    let base = raw(folder.path(), "a.raw", MIB, &[]);
    let other = raw(folder.path(), "b.raw", MIB, &[]);
    let order = Relink { child: base.clone(), format: None, parent: named(&other), force: true };
    let error = relink(&order, &Unwatched).unwrap_err();
    assert!(matches!(error, ToolError::NoParent(_)), "{error:?}");
    let order = Relink { parent: named(&base), ..order };
    let error = relink(&order, &Unwatched).unwrap_err();
    let ToolError::Disk(DiskError::Chain(ChainError::WouldCycle { .. })) = error else {
        panic!("{error:?}")
    };
    let order = Commit { child: named(&base), force: false, folders: Vec::new(), delete: true };
    let error = commit(&order, &Unwatched).unwrap_err();
    assert!(matches!(error, ToolError::NoParent(_)), "{error:?}");
    let checked = check(&base, None, true, true, &Unwatched).unwrap();
    assert_eq!((checked.status(), checked.layers.len()), (0, 1));
    assert!(matches!(info(&base, None).unwrap().layers[0].linkage, Linkage::Base));
}

#[test]
fn the_way_out_of_a_chain_that_is_too_deep_works() {
    let folder = folder();
    let base = raw(folder.path(), "base.raw", MIB, &[(0, b"base")]);
    let at = |number: u32| folder.path().join(format!("{number}.layer"));
    let child = |path: &Path, parent: &Path| {
        create(&Create { parent: Some(named(parent)), ..new(path) }, &Unwatched)
    };
    child(&at(1), &base).unwrap();
    for layer in 2..256 {
        // Without opening all of the chain each time.
        let below = OneLayer::look(&at(layer - 1), None).unwrap();
        let parent = Some(ParentLink {
            relative: Some(format!("{}.layer", layer - 1).into()),
            ..ParentLink::new(Format::Layer, Some(below.layer.identity().unwrap()))
        });
        let new = NewLayer { size: MIB, sector: 512, parent, fixed: false, traits: None };
        testkit::create_linked(&at(layer), &new).unwrap();
    }
    let deep = |error: ToolError| {
        let chain = error.chain().unwrap();
        assert!(matches!(chain, ChainError::TooDeep { .. }), "{chain:?}");
        assert!(chain.help().contains("convert") && chain.help().contains("relink"));
    };
    deep(child(&at(256), &at(255)).unwrap_err());
    let order = Convert { parent: Some(named(&at(255))), ..copy(&base, &at(256)) };
    deep(convert(&order, &Unwatched).unwrap_err());
    // One more, further down.
    child(&at(0), &base).unwrap();
    let relinked = |child: u32, parent: &Path| {
        let (child, parent) = (at(child), named(parent));
        relink(&Relink { child, format: None, parent, force: false }, &Unwatched).unwrap()
    };
    assert_eq!(relinked(1, &at(0)), Relinked::ByContents);
    deep(compare(&named(&at(255)), &named(&base), &Unwatched).unwrap_err());
    let folders = Vec::new();
    let order = Commit { child: named(&at(255)), force: false, folders, delete: false };
    deep(commit(&order, &Unwatched).unwrap_err());
    let checked = check(&at(255), None, false, false, &Unwatched).unwrap();
    assert_eq!((checked.status(), checked.layers.len()), (44, 256));
    // As the help says; nobody need insist, since the contents are the same.
    convert(&copy(&at(100), &at(1000)), &Unwatched).unwrap();
    assert_eq!(relinked(101, &at(1000)), Relinked::ByContents);
    assert_eq!(differs(&at(255), &base), None);
}

#[test]
fn a_child_is_the_same_disk_as_its_parents() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let traits = |name: &str| {
        let disk = named(&path(name)).open().unwrap();
        disk.state().chain.info().traits
    };
    create(&Create { size: Some(MIB), ..new(&path("base.vhdx")) }, &Unwatched).unwrap();
    // Through a layer whose format does not say what disk it is of.
    for (child, parent) in [("a.layer", "base.vhdx"), ("b.vhdx", "a.layer"), ("c.vhdx", "b.vhdx")] {
        let order = Create { parent: Some(named(&path(parent))), ..new(&path(child)) };
        create(&order, &Unwatched).unwrap();
    }
    let base = traits("base.vhdx");
    assert!(base.is_some());
    assert_eq!([traits("b.vhdx"), traits("c.vhdx")], [base, base]);
    convert(&copy(&path("c.vhdx"), &path("copy.vhdx")), &Unwatched).unwrap();
    assert_ne!(traits("copy.vhdx"), base, "a copy is a disk of its own");
}
