//! Files that others made, and ours as others read them.

use super::*;

#[test]
fn qemu_accepts_what_we_make() {
    // QEMU knows no logical sectors of 4096 bytes.
    for (size, fixed) in [(10 * MIB, false), (10 * MIB + 512, false), (70 * MIB, true)] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("disk.vhdx");
        let new = NewLayer { fixed, ..dynamic(size) };
        super::super::create(&image(&path), &new).unwrap();
        assert!(as_qemu_reads(&path) == vec![0; usize::try_from(size).unwrap()]);
        let (good, text) = qemu_img(&["info", "--output=json", path.to_str().unwrap()]);
        assert!(good && text.contains(&format!("\"virtual-size\": {size}")), "{text}");
        assert!(text.contains("\"cluster-size\": 33554432"), "{text}");
    }
}

#[test]
fn the_largest_disks() {
    for (parent, len) in [(None, 3 + 16 + 1), (Some(()), 3 + 257)] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("disk.vhdx");
        let parent = parent.map(|()| link(Format::Vhdx, "base.vhdx", Identity::fresh()));
        let new = NewLayer { parent, ..dynamic(64 << 40) };
        super::super::create(&image(&path), &new).unwrap();
        assert!(fs::metadata(&path).unwrap().len() <= len * MIB);
        let image = image(&path);
        let layer = layer_of(&image);
        let end = range((64 << 40) - MIB, MIB);
        change(&layer, &image, |steps| layer.resolve_write(end, steps), &pattern(1, 1 << 20));
        layer.close().unwrap();
        drop(layer);
        let (layer, mut extents) = (layer_of(&image), Vec::new());
        let ticket = layer.resolve_read(end, &mut extents).unwrap();
        assert!(matches!(extents[..], [Extent { source: Source::Data { .. }, .. }]));
        layer.finish(ticket, Outcome::Done).unwrap();
    }
    let folder = TempDir::new().unwrap();
    let image = image(&folder.path().join("disk.vhdx"));
    super::super::create(&image, &dynamic((64 << 40) + 512)).unwrap_err();
}

#[test]
fn we_read_what_qemu_makes() {
    let folder = TempDir::new().unwrap();
    let raw = folder.path().join("disk.raw");
    let mut bytes = vec![0; 40 << 20];
    for at in [0, 5 << 20, (33 << 20) + 512] {
        bytes[at..at + 300_000].copy_from_slice(&pattern(9, 300_000));
    }
    fs::write(&raw, &bytes).unwrap();
    for (kind, block) in [("dynamic", "1M"), ("dynamic", "32M"), ("fixed", "16M")] {
        let path = folder.path().join("disk.vhdx");
        let how = format!("subformat={kind},block_size={block}");
        let (raw, name) = (raw.to_str().unwrap(), path.to_str().unwrap());
        let (good, text) = qemu_img(&["convert", "-f", "raw", "-O", "vhdx", "-o", &how, raw, name]);
        assert!(good, "{text}");
        let mut queue = queue(&path, &options());
        assert!(read(&mut queue, 0, bytes.len()) == bytes, "{how}");
        // And we may write to it.
        write(&mut queue, 12 << 20, &[7; 4096]);
        drop(queue);
        let mut changed = bytes.clone();
        changed[12 << 20..][..4096].fill(7);
        assert!(as_qemu_reads(&path) == changed, "{how}");
    }
}

#[test]
fn qemu_replays_our_log() {
    let (folder, path) = make(&dynamic(20 * MIB), MIB);
    let mut queue = queue(&path, &options());
    let mut bytes = vec![0; 20 << 20];
    for at in [0, 3 << 20, (7 << 20) - 512] {
        bytes[at..at + 1024].copy_from_slice(&pattern(3, 1024));
        write(&mut queue, at as u64, &bytes[at..at + 1024]);
    }
    ask(&mut queue, Operation::Flush, 0, 0, Buffers::none()).unwrap();
    let copy = folder.path().join("copy.vhdx");
    fs::copy(&path, &copy).unwrap();
    // Only the log says where blocks are.
    let file = File::options().write(true).open(&copy).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 4096], 3 << 20).unwrap();
    let name = copy.to_str().unwrap();
    let (good, text) = qemu_img(&["check", "-f", "vhdx", "-r", "all", name]);
    assert!(good, "{text}");
    assert!(as_qemu_reads(&copy) == bytes);
}

/// The files that Windows made, of a Python package; `None` where there is no network.
fn windows_files(folder: &Path) -> Option<PathBuf> {
    let pip = Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-binary", ":all:", "--no-deps"])
        .args(["--disable-pip-version-check", "--dest"])
        .arg(folder)
        .arg("dissect.hypervisor==3.10")
        .status();
    if !pip.is_ok_and(|status| status.success()) {
        println!("skipped: dissect.hypervisor cannot be downloaded");
        return None;
    }
    let script = "cd \"$1\" && tar xzf *.tar.gz && gunzip */tests/data/*vhdx.gz";
    let unpacked = Command::new("sh").args(["-c", script, "sh"]).arg(folder).status().unwrap();
    assert!(unpacked.success());
    Some(folder.join("dissect.hypervisor-3.10/tests/data"))
}

#[test]
fn files_from_windows() {
    let folder = TempDir::new().unwrap();
    let Some(data) = windows_files(folder.path()) else { return };
    for name in ["dynamic.vhdx", "fixed.vhdx"] {
        let path = data.join(name);
        let mut queue = queue(&path, &DiskOptions { read_only: true, ..options() });
        let bytes = read(&mut queue, 0, 0xa0_0000);
        assert_eq!(bytes[510..512], [0x55, 0xaa]);
        assert_eq!(bytes[0x20_0000..0x20_0200], [0xff; 512]);
        drop(queue);
        assert!(as_qemu_reads(&path) == bytes, "{name}");
    }
    let path = data.join("differencing.avhdx");
    let layer = layer_of(&read_only(&path));
    let info = layer.info().clone();
    let parent = info.parent.unwrap();
    println!("{parent:?}");
    assert_eq!(parent.format, Format::Vhdx);
    // The parent it was made on, as far as the record goes, is one of the others.
    let base = parent.candidates(&path);
    let wanted = parent.identity.unwrap();
    let found: Vec<_> = ["dynamic.vhdx", "fixed.vhdx"]
        .into_iter()
        .filter(|name| layer_of(&read_only(&data.join(name))).identity().unwrap() == wanted)
        .collect();
    println!("{base:?} {found:?}");
    let findings = layer.check(false).unwrap();
    assert!(findings.iter().all(|finding| finding.harmless), "{findings:?}");
}
