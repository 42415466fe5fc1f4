//! Files that others made: Windows, and programs that write VHDX as it does.

use cohort_tests::oracles::{disk_files, read_by_libvhdi};

use super::*;

/// A copy of one of these files, to open, write and check.
fn copy(name: &str, folder: &TempDir) -> Option<PathBuf> {
    let path = folder.path().join(name);
    fs::copy(disk_files()?.join(name), &path).unwrap();
    Some(path)
}

fn only_read(path: &Path) -> DiskQueue {
    queue(path, &DiskOptions { read_only: true, ..options() })
}

#[test]
fn files_from_windows() {
    for (name, mib) in [
        ("dynamic.vhdx", 10),
        ("fixed.vhdx", 10),
        ("ntfs-dynamic.vhdx", 4),
        ("ntfs-fixed.vhdx", 4),
        ("test-disk2vhd.vhdx", 256),
    ] {
        let folder = TempDir::new().unwrap();
        let Some(path) = copy(name, &folder) else { return };
        let mut bytes = read(&mut only_read(&path), 0, mib << 20);
        assert_eq!(bytes[510..512], [0x55, 0xaa], "{name}");
        assert!(as_qemu_reads(&path) == bytes, "{name}");
        if let Some(theirs) = read_by_libvhdi(&[&path]) {
            assert!(theirs.unwrap() == bytes, "{name}");
        }
        let at = (3 << 20) + 512;
        bytes[at..at + 1024].copy_from_slice(&pattern(5, 1024));
        write(&mut queue(&path, &options()), at as u64, &pattern(5, 1024));
        assert!(as_qemu_reads(&path) == bytes, "{name}, written to");
        if let Some(theirs) = read_by_libvhdi(&[&path]) {
            assert!(theirs.unwrap() == bytes, "{name}, written to");
        }
    }
}

/// QEMU's own tests say what is in this one.
#[test]
fn a_large_file_from_windows() {
    const MIB: u64 = 1 << 20;
    let folder = TempDir::new().unwrap();
    let Some(path) = copy("iotest-dynamic-1G.vhdx", &folder) else { return };
    let mut disk = only_read(&path);
    for at in 0..1024 {
        let byte = match at {
            0..33 => 0xa5,
            33..66 => 0x96,
            _ => 0,
        };
        assert!(read(&mut disk, at * MIB, 1 << 20) == [byte; 1 << 20], "{at} MiB");
    }
}

/// The log is QEMU's.
#[test]
fn a_log_that_was_never_replayed() {
    const LEN: usize = 64 << 20;
    let folder = TempDir::new().unwrap();
    let Some(path) = copy("iotest-dirtylog-10G-4M.vhdx", &folder) else { return };
    let unread = fs::read(&path).unwrap();
    let mut bytes = vec![0; LEN];
    bytes[..18 << 20].fill(0xa5);
    assert!(read(&mut only_read(&path), 0, LEN) == bytes);
    assert!(fs::read(&path).unwrap() == unread, "changed though opened for reading only");
    write(&mut queue(&path, &options()), 40 << 20, &[7; 512]);
    bytes[40 << 20..][..512].fill(7);
    assert!(read(&mut only_read(&path), 0, LEN) == bytes);
    for qemu in Qemu::all() {
        let name = path.to_str().unwrap();
        assert!(qemu.img(&["check", "-f", "vhdx", name]).contains("No errors"));
        for (pattern, part) in [("0xa5", "0 18M"), ("0", "18M 22M"), ("7", "40M 512")] {
            let command = format!("read -P {pattern} {part}");
            let (good, text) = qemu.run("qemu-io", &["-r", "-f", "vhdx", "-c", &command, name]);
            assert!(good && !text.contains("failed"), "{text}");
        }
    }
}

#[test]
fn chains_from_windows() {
    for kind in ["fat", "ntfs"] {
        let folder = TempDir::new().unwrap();
        let names = [format!("{kind}-differential.vhdx"), format!("{kind}-parent.vhdx")];
        let [Some(child), Some(parent)] = names.map(|name| copy(&name, &folder)) else { return };
        let mut bytes = read(&mut only_read(&child), 0, 4 << 20);
        assert!(bytes != read(&mut only_read(&parent), 0, 4 << 20), "{kind}");
        let Some(theirs) = read_by_libvhdi(&[&child, &parent]) else { return };
        assert!(theirs.unwrap() == bytes, "{kind}");
        // Sectors that were the parent's, in blocks of which the child has some and none.
        for at in [512, (1 << 20) + 512, (3 << 20) + 4096] {
            bytes[at..at + 1536].copy_from_slice(&pattern(5, 1536));
            write(&mut queue(&child, &options()), at as u64, &pattern(5, 1536));
        }
        let theirs = read_by_libvhdi(&[&child, &parent]).unwrap();
        assert!(theirs.unwrap() == bytes, "{kind}, written to");
        assert!(read(&mut only_read(&child), 0, 4 << 20) == bytes, "{kind}");
        assert_eq!(layer_of(&read_only(&child)).check(false).unwrap(), [], "{kind}");
        write(&mut queue(&parent, &options()), 0, &[1; 512]);
        let error = Disk::open(&child, &options()).unwrap_err().to_string();
        assert!(error.contains("has changed"), "{error}");
    }
}

/// Its parent is not at hand.
#[test]
fn a_checkpoint_of_hyper_v() {
    let folder = TempDir::new().unwrap();
    let Some(path) = copy("differencing.avhdx", &folder) else { return };
    differencing_file_from_windows(&path);
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
    // Another parent takes the name and the identity.
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
