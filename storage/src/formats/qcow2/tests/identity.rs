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
    qemu_img(&["info", text(&base)]);
    qemu_img(&["check", text(&base)]);
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
    let (_folder, base, top) = chain();
    let old = identity(&base);
    let io = |command: &str| qemu("qemu-io", &["-f", "qcow2", "-c", command, text(&base)]).unwrap();
    io("read 0 512");
    assert!(matches!(identity(&base), Identity::File(_)), "opened for writing");
    refused(&top);
    io("write 0 512");
    assert!(matches!(identity(&base), Identity::File(_)));
    // QEMU keeps the extension, and cohort's next change makes it true again, under a new name.
    write(&mut open(&base), 512, &pattern(2, 512));
    let new = identity(&base);
    assert!(matches!(new, Identity::Id(_)) && new != old);
    assert_clean(&base);
    qemu("qemu-io", &["-r", "-f", "qcow2", "-c", "read 0 512", text(&base)]).unwrap();
    assert_eq!(identity(&base), new);
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
        absolute: None,
        format: Format::Layer,
        identity: Some(Identity::fresh()),
        digest: None,
        overridden: None,
    };
    make(&path, 1 << 20, Some(parent.clone()));
    assert_eq!(layer(&path, false).info().parent, Some(parent.clone()));
    let error = qemu("qemu-img", &["info", "-f", "qcow2", text(&path)]).unwrap_err();
    assert!(error.contains("cohort: parent of another format"), "{error}");
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
    use crate::crash::{Change, Recorder};
    let (folder, base, top) = chain();
    let other = folder.path().join("a-longer-name-than-before.raw");
    std::fs::write(&other, pattern(1, 1 << 20)).unwrap();
    let (old_link, new_link) = (link(&base, Format::Qcow2), link(&other, Format::Raw));
    let old = identity(&top);
    for announce in [false, true] {
        let path = folder.path().join("copy.qcow2");
        std::fs::copy(&top, &path).unwrap();
        let before = std::fs::read(&path).unwrap();
        let recorder = Recorder::default();
        let installed = recorder.install();
        let layer = self::layer(&path, true);
        drop(installed);
        match announce {
            true => layer.announce_change().unwrap(),
            false => layer.set_parent(&new_link).unwrap(),
        }
        let done = layer.identity().unwrap();
        assert_eq!(done != old, announce);
        let mut bytes = before;
        let torn = folder.path().join("torn.qcow2");
        let mut seen = 0;
        for (_, change) in recorder.changes() {
            let Change::Write { at, bytes: new } = change else { continue };
            // Each sector is there or not: the first ones only, the last ones only.
            let at = usize::try_from(at).unwrap();
            let cuts: Vec<usize> = std::iter::once(0)
                .chain((at / 512 * 512 + 512..at + new.len()).step_by(512).map(|cut| cut - at))
                .chain([new.len()])
                .collect();
            for cut in cuts {
                for first in [true, false] {
                    let mut state = bytes.clone();
                    let part = if first { 0..cut } else { cut..new.len() };
                    state[at + part.start..at + part.end].copy_from_slice(&new[part]);
                    std::fs::write(&torn, &state).unwrap();
                    let now = self::layer(&torn, false);
                    let parent = now.info().parent.clone().unwrap();
                    if announce {
                        let id = now.identity().unwrap();
                        assert!(
                            matches!(id, Identity::File(_)) || id == done || {
                                // Nothing has been changed before the first write is durable.
                                id == old && seen == 0
                            }
                        );
                        assert_eq!(parent, old_link);
                    } else {
                        assert_eq!(now.identity().unwrap(), old);
                        assert!(parent == old_link || parent == new_link, "{parent:?}");
                    }
                }
            }
            bytes[at..at + new.len()].copy_from_slice(&new);
            seen += 1;
        }
        assert!(seen >= 3);
    }
}
