//! Who wrote to an image, and whether that is found out.

use super::*;

fn identity(path: &Path) -> Identity {
    layer(path, false).identity().unwrap()
}

fn chain() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = folder();
    let [base, top] = ["base.qcow2", "top.qcow2"].map(|name| folder.path().join(name));
    make(&base, 1 << 20, None);
    write(&mut open(&base), 0, &pattern(1, 4096));
    make(&top, 1 << 20, Some(link(&base, Format::Qcow2)));
    (folder, base, top)
}

fn refused(path: &Path) -> String {
    let options = DiskOptions { format: Some(Format::Qcow2), ..DiskOptions::default() };
    try_open(path, &options).err().expect("refused").to_string()
}

#[test]
fn reading_leaves_it_and_writing_renews_it() {
    let (_folder, base, top) = chain();
    let old = identity(&base);
    assert!(matches!(old, Identity::Id(_)));
    // Opened for writing by cohort, but not written to.
    drop(open(&base));
    assert_eq!(identity(&base), old);
    for qemu in Qemu::all() {
        qemu.img(&["info", text(&base)]);
        qemu.img(&["check", text(&base)]);
    }
    read_by_qemu(&base);
    assert_eq!(identity(&base), old);
    drop(open(&top));
    write(&mut open(&base), 0, &pattern(2, 512));
    let new = identity(&base);
    assert!(matches!(new, Identity::Id(_)) && new != old);
    refused(&top);
}

#[test]
fn qemu_opening_for_writing_voids_it() {
    for tool in Qemu::all() {
        let (_folder, base, top) = chain();
        let old = identity(&base);
        let io = |arguments: &[&str]| {
            let (good, text) =
                tool.run("qemu-io", &[&["-f", "qcow2", "-c"], arguments, &[text(&base)]].concat());
            assert!(good, "{text}");
        };
        io(&["read 0 512"]);
        assert!(matches!(identity(&base), Identity::File(_)), "opened for writing");
        refused(&top);
        io(&["write 0 512"]);
        assert!(matches!(identity(&base), Identity::File(_)));
        // QEMU keeps the extension, and cohort's next change makes it true again, under a new name.
        write(&mut open(&base), 512, &pattern(2, 512));
        let new = identity(&base);
        assert!(matches!(new, Identity::Id(_)) && new != old);
        assert_clean(&base);
        io(&["read 0 512", "-r"]);
        assert_eq!(identity(&base), new);
    }
}

/// Also where the name of a backing file is in the way of the extension.
#[test]
fn an_image_of_qemu_gets_the_extension_when_it_is_first_written() {
    for options in ["compat=1.1", "compat=0.10", "cluster_size=512"] {
        let folder = folder();
        let [base, top] = ["base", "top.qcow2"].map(|name| folder.path().join(name));
        std::fs::write(&base, pattern(1, 1 << 20)).unwrap();
        qemu_img(&["create", "-f", "qcow2", "-o", options, "-F", "raw", "-b", "base", text(&top)]);
        assert!(matches!(identity(&top), Identity::File(_)));
        let refusal = refused(&top);
        assert!(refusal.contains("base"), "{refusal}");
        let linked = layer(&top, true).set_parent(&link(&base, Format::Raw));
        if options.starts_with("cluster_size") {
            linked.unwrap_err();
            continue;
        }
        linked.unwrap();
        let mut queue = open(&top);
        write(&mut queue, 512, &pattern(2, 512));
        drop(queue);
        let id = identity(&top);
        assert_eq!(matches!(id, Identity::Id(_)), options == "compat=1.1");
        let info = qemu_img(&["info", "-f", "qcow2", text(&top)]);
        assert!(info.contains("backing file: base"), "{info}");
        assert_clean(&top);
        let mut model = pattern(1, 1 << 20);
        model[512..1024].copy_from_slice(&pattern(2, 512));
        assert!(read_by_qemu(&top) == model);
        assert!(read(&mut open_to_read(&top), 0, 1 << 20) == model);
    }
}

/// Where there is no room for an identifier, the file's times say that it has changed, before
/// anything else can be seen of the change.
#[test]
fn a_change_without_an_identifier_is_announced_by_the_times_of_the_file() {
    for options in ["compat=0.10", "cluster_size=512"] {
        let folder = folder();
        let path = folder.path().join("a.qcow2");
        qemu_img(&["create", "-f", "qcow2", "-o", options, text(&path), "1M"]);
        write(&mut open(&path), 0, &pattern(1, 512));
        let layer = layer(&path, true);
        let before = layer.identity().unwrap();
        assert!(matches!(before, Identity::File(_)), "{options}");
        // More than the step in which kernels count times.
        std::thread::sleep(std::time::Duration::from_millis(20));
        layer.announce_change().unwrap();
        let announced = layer.identity().unwrap();
        assert!(matches!(announced, Identity::File(_)) && announced != before, "{options}");
    }
}

/// Whoever wrote it: one that no record can follow would stay the one that counts.
#[test]
fn a_record_without_a_successor_does_not_count() {
    let (_folder, base, _) = chain();
    {
        let layer = layer(&base, true);
        let header = &mut layer.state().map.header;
        let (_, record) = record::current(header).unwrap();
        let last = Record { sequence: u64::MAX, id: uuid::Uuid::new_v4(), ..record };
        assert!(record::write(header, &layer.image, &last).unwrap());
    }
    // In either of the two slots.
    for seed in [2, 3] {
        let before = identity(&base);
        write(&mut open(&base), 0, &pattern(seed, 512));
        assert_ne!(identity(&base), before);
    }
}

#[test]
fn bitmaps_are_disowned_by_the_first_change() {
    let folder = folder();
    let path = folder.path().join("a.qcow2");
    qemu_img(&["create", "-f", "qcow2", text(&path), "1M"]);
    qemu_img(&["bitmap", "--add", text(&path), "b0"]);
    assert_eq!(layer(&path, false).state().map.header.autoclear(), 1);
    drop(open(&path));
    assert_eq!(layer(&path, false).state().map.header.autoclear(), 1);
    write(&mut open(&path), 0, &pattern(1, 512));
    assert_eq!(layer(&path, false).state().map.header.autoclear(), IDENTIFIED);
}

#[test]
fn relinking_changes_the_name_that_qemu_sees_and_not_the_identity() {
    let (folder, base, top) = chain();
    let old = identity(&top);
    for (name, format) in [("other.qcow2", Format::Qcow2), ("raw", Format::Raw), ("b", Format::Raw)]
    {
        let other = folder.path().join(name);
        match format {
            Format::Raw => std::fs::write(&other, pattern(1, 1 << 20)).unwrap(),
            _ => drop(std::fs::copy(&base, &other).unwrap()),
        }
        let link = link(&other, format);
        layer(&top, true).set_parent(&link).unwrap();
        assert_eq!(layer(&top, false).info().parent, Some(link));
        assert_eq!(identity(&top), old);
        let info = qemu_img(&["info", "-f", "qcow2", text(&top)]);
        assert!(info.contains(&format!("backing file: {name} ")), "{info}");
        assert!(info.contains(&format!("backing file format: {format}")), "{info}");
        drop(open(&top));
        assert_clean(&top);
    }
    // Whoever changes the name only has not said what the new parent holds.
    qemu_img(&["rebase", "-u", "-F", "qcow2", "-b", "base.qcow2", text(&top)]);
    let parent = layer(&top, false).info().parent.clone().unwrap();
    assert_eq!(parent.relative, Some("base.qcow2".into()));
}

#[test]
fn qemu_refuses_what_it_cannot_follow() {
    let folder = folder();
    let path = folder.path().join("a.qcow2");
    let parent = ParentLink {
        relative: Some("base.layer".into()),
        ..ParentLink::new(Format::Layer, Some(Identity::fresh()))
    };
    make(&path, 1 << 20, Some(parent.clone()));
    assert_eq!(layer(&path, false).info().parent, Some(parent.clone()));
    for qemu in Qemu::all() {
        let (good, error) = qemu.run("qemu-img", &["info", "-f", "qcow2", text(&path)]);
        assert!(!good && error.contains("cohort: parent of another format"), "{error}");
    }
    // To a parent that QEMU can follow there is no way: the header has no place for its format.
    layer(&path, true)
        .set_parent(&ParentLink { format: Format::Raw, ..parent.clone() })
        .unwrap_err();
    assert_eq!(layer(&path, false).info().parent, Some(parent));
}

/// Wherever the renewal of an identity or of a link is interrupted, no old identity is left on
/// what may have changed, and the link is the old one or the new one.
#[test]
fn torn_renewals() {
    let (folder, base, top) = chain();
    let other = folder.path().join("a-longer-name-than-before.raw");
    std::fs::write(&other, pattern(1, 1 << 20)).unwrap();
    let new_link = link(&other, Format::Raw);
    // The extension is there, or is added, with a name in its way.
    let foreign = folder.path().join("foreign.qcow2");
    let name = "base.qcow2";
    let create = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", name, text(&foreign)];
    qemu_img(&create);
    for (image, own) in [(&top, true), (&foreign, false)] {
        let old = identity(image);
        assert_eq!(matches!(old, Identity::Id(_)), own);
        for announce in [false, true] {
            let path = folder.path().join("copy.qcow2");
            let (done, states) = interrupted(image, &path, |layer| match announce {
                true => layer.announce_change().unwrap(),
                false => layer.set_parent(&new_link).unwrap(),
            });
            let old_link = layer(image, false).info().parent.clone().unwrap();
            assert_eq!(old_link.identity, own.then(|| identity(&base)));
            for (seen, state) in states {
                std::fs::write(&path, &state).unwrap();
                let now = layer(&path, false);
                let parent = now.info().parent.clone().unwrap();
                let id = now.identity().unwrap();
                if announce {
                    // Nothing is changed before all this is durable.
                    let fine = match id {
                        Identity::File(_) => true,
                        _ => id == done || (id == old && seen == 0),
                    };
                    assert!(fine, "{id}, write {seen}");
                    assert_eq!(parent, old_link);
                } else {
                    assert!(!own || id == old, "{id}");
                    assert!(parent == old_link || parent == new_link, "{parent:?}");
                }
            }
        }
    }
}

/// Does something to a copy of an image, and gives the identity after it, and all states in which
/// a crash may have left the file, each with the number of writes before the one that was torn.
fn interrupted(
    image: &Path,
    copy: &Path,
    deed: impl FnOnce(&Qcow2Layer),
) -> (Identity, Vec<(usize, Vec<u8>)>) {
    use crate::crash::{Change, Recorder};
    std::fs::copy(image, copy).unwrap();
    let mut bytes = std::fs::read(copy).unwrap();
    let recorder = Recorder::default();
    let installed = recorder.install();
    let layer = layer(copy, true);
    drop(installed);
    deed(&layer);
    let (mut states, mut seen, mut synced) = (Vec::new(), 0, true);
    for (_, change) in recorder.changes() {
        let Change::Write { at, bytes: new } = change else {
            synced = true;
            continue;
        };
        assert!(std::mem::take(&mut synced), "each write is durable before the next");
        let at = usize::try_from(at).unwrap();
        // Each sector is there or not: the first ones only, the last ones only.
        let cuts = (at / 512 * 512 + 512..at + new.len()).step_by(512).map(|cut| cut - at);
        for cut in std::iter::once(0).chain(cuts).chain([new.len()]) {
            for part in [0..cut, cut..new.len()] {
                let mut state = bytes.clone();
                state[at + part.start..at + part.end].copy_from_slice(&new[part]);
                states.push((seen, state));
            }
        }
        bytes[at..at + new.len()].copy_from_slice(&new);
        seen += 1;
    }
    assert!(seen >= 3);
    (layer.identity().unwrap(), states)
}

/// However high the number of the record that it replaces.
#[test]
fn a_change_with_the_last_numbers_is_announced() {
    for sequence in u64::MAX - 3..u64::MAX {
        let (_folder, base, _) = chain();
        {
            let layer = layer(&base, true);
            let header = &mut layer.state().map.header;
            let (_, record) = record::current(header).unwrap();
            let late = Record { sequence, ..record };
            assert!(record::write(header, &layer.image, &late).unwrap());
        }
        for seed in 2..6 {
            let before = identity(&base);
            // More than the step in which kernels count times.
            std::thread::sleep(std::time::Duration::from_millis(20));
            write(&mut open(&base), 0, &pattern(seed, 512));
            assert_ne!(identity(&base), before, "{sequence:#x} {seed}");
        }
        assert_clean(&base);
    }
}

/// Who wants to record a parent where that cannot be done is told what to do instead.
#[test]
fn a_header_without_a_place_for_the_parent() {
    let folder = folder();
    let [base, path] = ["base", "a.qcow2"].map(|name| folder.path().join(name));
    std::fs::write(&base, pattern(1, 1 << 20)).unwrap();
    let options = ["create", "-f", "qcow2", "-o", "cluster_size=512", "-F", "raw", "-b", "base"];
    qemu_img(&[&options[..], &[text(&path)]].concat());
    let source = layer(&path, true).set_parent(&link(&base, Format::Raw)).unwrap_err();
    let error = crate::DiskError::Layer { path, source };
    assert!(error.to_string().ends_with("a.qcow2 cannot be used"), "{error}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("cohort disk convert --parent"), "{cause}");
}
