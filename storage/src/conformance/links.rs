//! Children and their parents: what is recorded, and what is wrong with a chain.

use super::*;
use crate::formats::NewLayer;
use crate::identity::{Digest, Identity};
use crate::link::{Overridden, ParentLink};

/// A link to a file in the same folder, under any identity.
fn link(name: &str, format: Format, identity: Option<Identity>) -> ParentLink {
    ParentLink { relative: Some(name.into()), ..ParentLink::new(format, identity) }
}

fn create(path: &Path, link: ParentLink) {
    let new = NewLayer { size: SIZE, sector: 512, parent: Some(link), fixed: false, traits: None };
    testkit::create_linked(path, &new).unwrap();
}

#[test]
fn a_child_keeps_its_record_whole() {
    for subject in children(PARENT_SIZE) {
        let parent = subject.parent.as_deref().unwrap();
        let recorded = testkit::top(&subject.open(&READ_ONLY)).info().parent.clone().unwrap();
        let made = testkit::link_to(parent);
        assert_eq!(recorded, made, "{}", subject.name());

        // Another one takes its place, and changes neither contents nor identity.
        let identity = testkit::identity(&subject.path);
        let full = ParentLink {
            digest: Some(Digest([0x5a; 32])),
            overridden: Some(Identity::fresh()),
            overridden_below: vec![
                Overridden {
                    child: "/images/child.layer".into(),
                    parent: "/images/base.raw".into(),
                    recorded: Some(Identity::fresh()),
                    found: Identity::fresh(),
                };
                8
            ],
            absolute: Some(parent.parent().unwrap().join("a folder/with ü").join("disk")),
            ..made.clone()
        };
        for link in [&full, &made, &full] {
            let disk = subject.open(&WRITABLE);
            testkit::top(&disk).set_parent(link).unwrap();
            drop(disk);
            let disk = subject.open(&READ_ONLY);
            assert_eq!(testkit::top(&disk).info().parent.as_ref(), Some(link));
            let bytes = testkit::read(&mut disk.queue(1).unwrap(), 0, 1 << 20).unwrap();
            assert!(bytes == pattern(7, 1 << 20), "{}", subject.name());
            drop(disk);
            assert_eq!(testkit::identity(&subject.path), identity, "{}", subject.name());
        }
    }
}

#[test]
fn a_parent_that_was_written_is_refused() {
    for subject in children(PARENT_SIZE) {
        let parent = subject.parent.as_deref().unwrap();
        let mut queue = Disk::open(parent, &WRITABLE).unwrap().queue(1).unwrap();
        testkit::write(&mut queue, 512, &pattern(1, 512)).unwrap();
        drop(queue);
        let identity = testkit::identity(parent);
        for options in [WRITABLE, READ_ONLY] {
            let error = broken(&subject.path, &options);
            let ChainError::Mismatch { recorded, found, .. } = &error else { panic!("{error:?}") };
            assert!(**found == identity && recorded != found, "{error:?}");
        }
        // Who insists can have it, and that is recorded where something may be written.
        let insisting = DiskOptions { allow_mismatch: true, ..READ_ONLY };
        drop(subject.open(&insisting));
        drop(subject.open(&DiskOptions { allow_mismatch: true, ..WRITABLE }));
        let disk = subject.open(&insisting);
        let link = testkit::top(&disk).info().parent.clone().unwrap();
        assert_eq!(link.overridden, Some(identity), "{}", subject.name());
        drop(disk);
        assert!(matches!(broken(&subject.path, &READ_ONLY), ChainError::Mismatch { .. }));
    }
}

#[test]
fn a_child_without_a_recorded_identity_is_refused() {
    for format in CHILDREN {
        for folder in folders() {
            let [base, child] = [("base", Format::Raw), ("child", format)]
                .map(|(name, format)| testkit::file_in(folder.path(), name, format));
            testkit::create(&base, SIZE, None).unwrap();
            create(&child, link("base.raw", Format::Raw, None));
            let error = broken(&child, &WRITABLE);
            assert!(matches!(error, ChainError::Unlinked { .. }), "{error:?}");
        }
    }
}

#[test]
fn a_parent_that_is_gone_is_looked_for_where_the_child_says() {
    for subject in children(PARENT_SIZE) {
        let parent = subject.parent.as_deref().unwrap();
        let folder = parent.parent().unwrap();
        let moved = folder.join("moved");
        fs::rename(parent, &moved).unwrap();
        let error = broken(&subject.path, &WRITABLE);
        let ChainError::ParentMissing { tried, .. } = &error else { panic!("{error:?}") };
        assert_eq!(tried[0], folder.join(parent.file_name().unwrap()));
    }
}

#[test]
fn a_folder_of_layers_can_move() {
    for subject in children(PARENT_SIZE) {
        // The rename leaves the files alone, and with them the fingerprint of a raw parent.
        let folder = subject.path.parent().unwrap();
        let moved = folder.with_extension("moved");
        fs::rename(folder, &moved).unwrap();
        let path = moved.join(subject.path.file_name().unwrap());
        let opened = Disk::open(&path, &WRITABLE).map(drop);
        fs::rename(&moved, folder).unwrap();
        opened.unwrap();
    }
}

#[test]
fn a_layer_that_is_its_own_ancestor_is_refused() {
    for format in CHILDREN {
        for folder in folders() {
            let [one, other] =
                ["one", "other"].map(|name| testkit::file_in(folder.path(), name, format));
            let file = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
            create(&one, link(&file(&other), format, None));
            let known = |path: &Path| {
                let image = crate::chain::open::lock(
                    fs::File::open(path).unwrap(),
                    path,
                    crate::lock::Use::Read,
                );
                let layer = crate::formats::LayerFile::alone(image.unwrap(), 0);
                crate::formats::open(format, layer).unwrap().identity().unwrap()
            };
            create(&other, link(&file(&one), format, Some(known(&one))));
            // Whose record of the other is wrong, but that is found later.
            let options = DiskOptions { allow_mismatch: true, ..READ_ONLY };
            let error = broken(&other, &options);
            assert!(matches!(error, ChainError::Cycle { .. }), "{error:?}");

            let own = testkit::file_in(folder.path(), "own", format);
            create(&own, link(&file(&own), format, None));
            let error = broken(&own, &WRITABLE);
            assert!(
                matches!(error, ChainError::Cycle { .. } | ChainError::ParentInUse { .. }),
                "{error:?}"
            );
        }
    }
}

#[test]
fn no_chain_has_more_than_256_layers() {
    // One format is enough, and in memory: the rule is the chain's.
    let format = Format::Layer;
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut below = testkit::file_in(folder.path(), "base", Format::Raw);
    testkit::create(&below, 1 << 20, None).unwrap();
    for number in 1..=256 {
        let path = testkit::file_in(folder.path(), &number.to_string(), format);
        // The identity is not looked for by way of the whole chain: that would take long.
        let identity = (number == 1).then(|| testkit::identity(&below));
        let parent = match identity {
            Some(_) => testkit::link_to(&below),
            None => {
                let name = below.file_name().unwrap().to_str().unwrap().to_owned();
                link(&name, format, None)
            }
        };
        let new = NewLayer {
            size: 1 << 20,
            sector: 512,
            parent: Some(parent),
            fixed: false,
            traits: None,
        };
        testkit::create_linked(&path, &new).unwrap();
        below = path;
    }
    let options = DiskOptions { allow_mismatch: true, ..READ_ONLY };
    let error = broken(&below, &options);
    assert!(matches!(error, ChainError::TooDeep { max: 256, .. }), "{error:?}");
    let deepest = testkit::file_in(folder.path(), "255", format);
    let disk = Disk::open(&deepest, &options).unwrap();
    let bytes = testkit::read(&mut disk.queue(1).unwrap(), 0, 1 << 20).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 0));
}
