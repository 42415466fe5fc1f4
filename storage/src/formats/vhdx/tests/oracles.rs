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
    differencing_file_from_windows(&data.join("differencing.avhdx"));
}

/// The blocks of which that file has some sectors.
const BLOCKS: [u64; 32] = [
    0, 256, 923, 1018, 1027, 1028, 1041, 1042, 1043, 1716, 1750, 1760, 1764, 1872, 1874, 1886,
    1900, 1903, 2509, 2513, 2565, 2615, 2671, 2675, 2679, 2738, 2740, 3302, 3412, 3413, 3479, 3514,
];

/// BLAKE3 of these blocks, as dissect.hypervisor reads them over a parent whose sectors are filled
/// with [`filling`].
const CONTENT: &str = "bfb19be6bc2b0b7e069a2b19bf1aff33060dbb7bbdc27deaa3075b97a32a27d3";

fn filling(sector: u64) -> u8 {
    u8::try_from((sector * 7 + sector / 256) & 255).unwrap()
}

fn differencing_file_from_windows(path: &Path) {
    let info = layer_of(&read_only(path)).info().clone();
    assert_eq!((info.size, info.sector), (8 << 30, 512));
    let parent = info.parent.unwrap();
    let name = "./Generation 1_49C4BAF3-4B25-4406-8C4B-D39E65C32385.avhdx";
    let id = "ff34003b-11ed-4cf8-a166-b2be05e20b80".parse().unwrap();
    assert_eq!(parent, link(Format::Vhdx, name, Identity::Id(id)));
    // Its own parent is not at hand: another one takes the name and the identity.
    let base = path.with_file_name(name);
    super::super::create(&image(&base), &dynamic(8 << 30)).unwrap();
    let mut disk = queue(&base, &options());
    for block in BLOCKS {
        let sectors = block * 4096..(block + 1) * 4096;
        let bytes: Vec<u8> = sectors.flat_map(|sector| [filling(sector); 512]).collect();
        write(&mut disk, block * 2 * MIB, &bytes);
    }
    drop(disk);
    Disk::open(path, &options()).unwrap_err();
    let base = image(&base);
    let mut headers = super::super::header::Headers::read(&base).unwrap();
    headers.update(&base, |header| header.data_write = id).unwrap();
    let mut disk = queue(path, &options());
    let mut hash = blake3::Hasher::new();
    for block in BLOCKS {
        hash.update(&read(&mut disk, block * 2 * MIB, 2 << 20));
    }
    assert_eq!(hash.finalize().to_hex().as_str(), CONTENT);
    // A write to a sector that was the parent's, and to a block that was.
    let parents =
        (0..4096).find(|&sector| read(&mut disk, sector * 512, 512) == [filling(sector); 512]);
    let sector = parents.unwrap() * 512;
    for at in [sector, 100 * 2 * MIB + 512] {
        write(&mut disk, at, &[0xc7; 512]);
    }
    drop(disk);
    let mut disk = queue(path, &options());
    for at in [sector, 100 * 2 * MIB + 512] {
        assert_eq!(read(&mut disk, at, 512), [0xc7; 512]);
    }
    assert_eq!(read(&mut disk, 100 * 2 * MIB, 512), [0; 512]);
    drop(disk);
    let findings = layer_of(&read_only(path)).check(false).unwrap();
    assert!(findings.iter().all(|finding| finding.harmless), "{findings:?}");
}
