//! Our files as QEMU and libvhdi read them, and QEMU's as we do.

use cohort_tests::oracles::read_by_libvhdi;

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
        for qemu in Qemu::all() {
            let text = qemu.img(&["info", "--output=json", path.to_str().unwrap()]);
            assert!(text.contains(&format!("\"virtual-size\": {size}")), "{text}");
            assert!(text.contains("\"cluster-size\": 33554432"), "{text}");
        }
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
    let kinds = [("dynamic", "1M"), ("dynamic", "32M"), ("fixed", "16M")];
    let all = Qemu::all();
    for (qemu, (kind, block)) in all.iter().flat_map(|qemu| kinds.map(|kind| (qemu, kind))) {
        let path = folder.path().join("disk.vhdx");
        let how = format!("subformat={kind},block_size={block}");
        let (raw, name) = (raw.to_str().unwrap(), path.to_str().unwrap());
        qemu.img(&["convert", "-f", "raw", "-O", "vhdx", "-o", &how, raw, name]);
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
    for qemu in Qemu::all() {
        let copy = folder.path().join("copy.vhdx");
        fs::copy(&path, &copy).unwrap();
        // Only the log says where blocks are.
        let file = File::options().write(true).open(&copy).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0; 4096], 3 << 20).unwrap();
        qemu.img(&["check", "-f", "vhdx", "-r", "all", copy.to_str().unwrap()]);
        assert!(as_qemu_reads(&copy) == bytes);
    }
}

#[track_caller]
fn assert_read_by_libvhdi(chain: &[&Path], bytes: &[u8]) {
    if let Some(theirs) = read_by_libvhdi(chain) {
        let theirs = theirs.unwrap();
        let sectors = theirs.chunks(512).zip(bytes.chunks(512));
        let other = sectors.enumerate().find(|(_, (theirs, ours))| theirs != ours);
        assert!(theirs == bytes, "{chain:?}: {:?}", other.map(|(sector, _)| sector));
    }
}

/// Chains, and zeroes in a disk without a parent. In a child, libvhdi 20210425 asks the sector
/// bitmap alone, also for blocks that are zero whatever parents have; and what was unmapped, whose
/// bytes nobody owes anyone, it reads where it was.
#[test]
fn libvhdi_reads_what_we_write() {
    for (size, fixed) in [(10 * MIB, false), (10 * MIB + 512, false), (40 * MIB + 4096, true)] {
        let folder = TempDir::new().unwrap();
        let [base, middle, top] =
            ["base", "middle", "top"].map(|name| folder.path().join(format!("{name}.vhdx")));
        create_with_blocks(&image(&base), &NewLayer { fixed, ..dynamic(size) }, 2 * MIB).unwrap();
        let mut bytes = vec![0; usize::try_from(size).unwrap()];
        assert_read_by_libvhdi(&[&base], &bytes);
        let mut put = |path: &Path, at: u64, len: usize, seed| {
            write(&mut queue(path, &options()), at, &pattern(seed, len));
            bytes[usize::try_from(at).unwrap()..][..len].copy_from_slice(&pattern(seed, len));
        };
        put(&base, 0, 9 << 20, 1);
        put(&base, size - 512, 512, 2);
        for (operation, block) in [
            (Operation::WriteZeroes { unmap: true }, 0),
            (Operation::WriteZeroes { unmap: false }, 3),
        ] {
            let (at, len) = (block * 2 * MIB, 2 * MIB);
            ask(&mut queue(&base, &options()), operation, at, len, Buffers::none()).unwrap();
            bytes[usize::try_from(at).unwrap()..][..2 << 20].fill(0);
        }
        assert_read_by_libvhdi(&[&base], &bytes);
        for (child, parent, seed) in [(&middle, &base, 3), (&top, &middle, 10)] {
            let new = NewLayer { parent: Some(testkit::link_to(parent)), ..dynamic(size) };
            create_with_blocks(&image(child), &new, 2 * MIB).unwrap();
            // Sectors of blocks that parents have and have not, all of a block, and the end.
            for (at, len, seed) in [
                (MIB + u64::from(seed) * 512, 1024, seed),
                (3 * MIB - 512, 1024, seed + 1),
                (4 * MIB, 2 << 20, seed + 2),
                (size - 1024, 1024, seed + 3),
            ] {
                write(&mut queue(child, &options()), at, &pattern(seed, len));
                bytes[usize::try_from(at).unwrap()..][..len].copy_from_slice(&pattern(seed, len));
            }
            let chain = [child, parent, &base];
            let below = if child == &top { &chain[..] } else { &chain[..2] };
            let below: Vec<&Path> = below.iter().map(|path| path.as_path()).collect();
            // Where a chunk is all the parents', a child needs no sector bitmap, and libvhdi
            // 20210425 takes the start of the file for one: these have one.
            assert_read_by_libvhdi(&below, &bytes);
            assert!(read(&mut queue(child, &options()), 0, bytes.len()) == bytes);
        }
    }
}
