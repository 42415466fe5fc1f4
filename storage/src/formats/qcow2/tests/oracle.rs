//! What cohort writes, QEMU reads, and the other way round.

use super::super::header::be64;
use super::super::map::{COPIED, OFFSET};
use super::*;

#[test]
fn a_new_image_is_clean_and_qemu_reads_what_is_written() {
    let folder = folder();
    let path = folder.path().join("a.qcow2");
    let size = 3 * CLUSTER + 1024;
    make(&path, size as u64, None);
    assert_clean(&path);
    let mut model = vec![0; size];
    let mut queue = open(&path);
    for (start, len, seed) in [(512, 1024, 1), (CLUSTER - 512, 1024, 2), (3 * CLUSTER, 1024, 3)] {
        let bytes = pattern(seed, len);
        write(&mut queue, start as u64, &bytes);
        model[start..start + len].copy_from_slice(&bytes);
    }
    assert!(read(&mut queue, 0, size) == model);
    drop(queue);
    assert_clean(&path);
    assert!(read_by_qemu(&path) == model);
    assert!(read(&mut open_to_read(&path), 0, size) == model);
}

#[test]
fn sixteen_tebibytes() {
    let folder = folder();
    let path = folder.path().join("a.qcow2");
    let size = 16u64 << 40;
    make(&path, size, None);
    let mut queue = open(&path);
    write(&mut queue, size - 512, &pattern(1, 512));
    drop(queue);
    assert_clean(&path);
    assert!(read(&mut open_to_read(&path), size - 1024, 1024)[512..] == pattern(1, 512));
}

/// Each of these with each version of QEMU.
fn every_version<T: Copy>(ways: &[T]) -> Vec<(Qemu, T)> {
    let all = Qemu::all().into_iter();
    all.flat_map(|qemu| ways.iter().map(move |&way| (qemu.clone(), way))).collect()
}

/// Images made by QEMU in all the ways that are supported read the same, before and after cohort
/// has written to them.
#[test]
fn images_of_qemu() {
    let size = 40 * CLUSTER + 512;
    let mut content = vec![0; size];
    for at in (0..40).filter(|at| at % 3 != 2) {
        content[at * CLUSTER..(at + 1) * CLUSTER]
            .copy_from_slice(&pattern(u8::try_from(at).unwrap(), CLUSTER));
    }
    let ways = [
        (false, "compat=1.1"),
        (false, "compat=0.10"),
        (false, "cluster_size=4k,refcount_bits=1"),
        (false, "cluster_size=2M,refcount_bits=64"),
        (false, "cluster_size=512,refcount_bits=8"),
        (false, "preallocation=metadata"),
        (false, "lazy_refcounts=on"),
        (true, "compat=1.1"),
        (true, "compat=0.10"),
        (true, "compression_type=zstd"),
        (true, "cluster_size=4k"),
        (true, "cluster_size=2M,compression_type=zstd"),
    ];
    for (qemu, (compress, options)) in every_version(&ways) {
        let folder = folder();
        let raw = folder.path().join("raw");
        let path = folder.path().join("a.qcow2");
        std::fs::write(&raw, &content).unwrap();
        let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", options];
        if compress {
            arguments.push("-c");
        }
        qemu.img(&[&arguments[..], &[text(&raw), text(&path)]].concat());
        assert!(read(&mut open_to_read(&path), 0, size) == content, "{options}");

        let mut model = content.clone();
        let mut queue = open(&path);
        let small = pattern(99, 1024);
        for at in (0..size - 1024).step_by(CLUSTER * 3 / 2) {
            write(&mut queue, at as u64, &small);
            model[at..at + 1024].copy_from_slice(&small);
        }
        for (start, len) in [(5 * CLUSTER, 3 * CLUSTER), (30 * CLUSTER + 512, 1024)] {
            let zero = Operation::WriteZeroes { unmap: true };
            ask(&mut queue, zero, start as u64, len as u64, Buffers::none()).unwrap();
            model[start..start + len].fill(0);
        }
        ask(&mut queue, Operation::Flush, 0, 0, Buffers::none()).unwrap();
        assert!(read(&mut queue, 0, size) == model, "{options}");
        drop(queue);
        assert_clean(&path);
        assert!(read_by_qemu(&path) == model, "{options}");
        assert_eq!(layer(&path, false).check(false).unwrap(), [], "{options}");
    }
}

/// Small clusters make the refcount table move.
#[test]
fn the_refcount_table_grows() {
    let folder = folder();
    let path = folder.path().join("a.qcow2");
    let size = 32 << 20;
    qemu_img(&["create", "-f", "qcow2", "-o", "cluster_size=512", text(&path), "32M"]);
    let mut queue = open(&path);
    let bytes = pattern(7, size);
    for at in (0..size).step_by(1 << 20) {
        write(&mut queue, at as u64, &bytes[at..at + (1 << 20)]);
        if at % (5 << 20) == 0 {
            ask(&mut queue, Operation::Flush, 0, 0, Buffers::none()).unwrap();
        }
    }
    drop(queue);
    assert_clean(&path);
    assert!(read_by_qemu(&path) == bytes);
}

#[test]
fn qemu_follows_chains_of_raw_and_qcow2() {
    let folder = folder();
    let [base, middle, top] = ["base", "middle.qcow2", "top.qcow2"].map(|n| folder.path().join(n));
    let size = 8 * CLUSTER;
    let mut model = pattern(1, size);
    std::fs::write(&base, &model).unwrap();
    make(&middle, size as u64, Some(link(&base, Format::Raw)));
    let mut queue = open(&middle);
    write(&mut queue, 1024, &pattern(50, 512));
    model[1024..1536].copy_from_slice(&pattern(50, 512));
    drop(queue);
    make(&top, size as u64, Some(link(&middle, Format::Qcow2)));
    let mut queue = open(&top);
    write(&mut queue, (2 * CLUSTER - 512) as u64, &pattern(60, 1024));
    model[2 * CLUSTER - 512..2 * CLUSTER + 512].copy_from_slice(&pattern(60, 1024));
    let zero = Operation::WriteZeroes { unmap: true };
    ask(&mut queue, zero, 4 * CLUSTER as u64 - 512, CLUSTER as u64 + 512, Buffers::none()).unwrap();
    model[4 * CLUSTER - 512..5 * CLUSTER].fill(0);
    assert!(read(&mut queue, 0, size) == model);
    drop(queue);
    assert_clean(&middle);
    assert_clean(&top);
    assert!(read_by_qemu(&top) == model);
}

/// Discards below a parent must not let the parent's bytes through, in version 2 either.
#[test]
fn what_is_erased_stays_erased() {
    for (qemu, compat) in every_version(&["compat=1.1", "compat=0.10"]) {
        let folder = folder();
        let [base, top] = ["base", "top.qcow2"].map(|name| folder.path().join(name));
        let size = 4 * CLUSTER;
        std::fs::write(&base, pattern(1, size)).unwrap();
        let options =
            ["create", "-f", "qcow2", "-o", compat, "-F", "raw", "-b", "base", text(&top)];
        qemu.img(&options);
        layer(&top, true).set_parent(&link(&base, Format::Raw)).unwrap();
        let mut queue = open(&top);
        ask(&mut queue, Operation::Discard, 512, 2 * CLUSTER as u64, Buffers::none()).unwrap();
        let mut model = pattern(1, size);
        model[512..512 + 2 * CLUSTER].fill(0);
        assert!(read(&mut queue, 0, size) == model, "{compat}");
        drop(queue);
        assert_clean(&top);
        assert!(read_by_qemu(&top) == model, "{compat}");
    }
}

#[test]
fn what_cannot_be_done_is_named() {
    let folder = folder();
    let path = folder.path().join("a.qcow2");
    let data = format!("data_file={}", text(&folder.path().join("data")));
    let raw_data = format!("{data},data_file_raw=on");
    let secret = "secret,id=s,data=abc";
    for (qemu, (options, word)) in every_version(&[
        (&*data, "external data file"),
        (&raw_data, "external data file"),
        ("extended_l2=on", "extended L2"),
        // LUKS is another number in the same field; making one takes seconds of an idle machine.
        ("encrypt.format=aes,encrypt.key-secret=s", "encryption"),
    ]) {
        let create = ["create", "-q", "-f", "qcow2", "--object", secret, "-o", options];
        qemu.img(&[&create[..], &[text(&path), "1M"]].concat());
        let file = layer_file(&path, false);
        let refusal = Qcow2Layer::open(file).err().expect("refused").to_string();
        assert!(refusal.contains(word) && refusal.contains("qemu-img convert"), "{refusal}");
    }

    qemu_img(&["create", "-q", "-f", "qcow2", text(&path), "1M"]);
    let file = File::options().write(true).open(&path).unwrap();
    let with = |bits: u64, writable| {
        file.write_all_at(&bits.to_be_bytes(), 72).unwrap();
        let file = layer_file(&path, writable);
        Qcow2Layer::open(file).err().map(|error| error.to_string())
    };
    assert!(with(1 << 40, false).unwrap().contains("feature bit 40"));
    assert!(with(1, true).unwrap().contains("qemu-img check -r all"));
    assert_eq!(with(1, false), None);
    assert!(with(2, true).unwrap().contains("marked as corrupt"));
    assert_eq!(with(2, false), None);
    assert_eq!(with(0, true), None);
}

#[test]
fn counts_are_mended_but_not_of_clusters_that_two_entries_use() {
    let folder = folder();
    let path = folder.path().join("a.qcow2");
    make(&path, 1 << 20, None);
    write(&mut open(&path), 0, &pattern(1, CLUSTER));
    assert_eq!(layer(&path, false).check(false).unwrap(), []);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    // The refcount block is the third cluster.
    file.write_all_at(&[0, 3], 2 * CLUSTER as u64 + 20).unwrap();
    let found = layer(&path, true).check(false).unwrap();
    assert!(matches!(&found[..], [one] if one.harmless && !one.repaired), "{found:?}");
    let broken = layer(&path, true);
    let found = broken.check(true).unwrap();
    assert!(matches!(&found[..], [one] if one.harmless && one.repaired), "{found:?}");
    broken.close().unwrap();
    assert_clean(&path);
    file.write_all_at(&[0, 0], 2 * CLUSTER as u64 + 2).unwrap();
    let uncounted = layer(&path, true);
    let found = uncounted.check(true).unwrap();
    assert!(matches!(&found[..], [one] if !one.harmless && one.repaired), "{found:?}");
    uncounted.close().unwrap();
    assert_clean(&path);
    // The second entry of the first table becomes the same as the first.
    let number = |at: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_be_bytes(bytes)
    };
    let table = number(number(40)) & 0x00ff_ffff_ffff_fe00;
    file.write_all_at(&number(table).to_be_bytes(), table + 8).unwrap();
    let found = layer(&path, true).check(true).unwrap();
    assert!(matches!(&found[..], [one] if !one.harmless && !one.repaired), "{found:?}");
}

/// What clusters held before they were taken never shows.
#[test]
fn old_bytes_do_not_show() {
    let folder = folder();
    let path = folder.path().join("a.qcow2");
    make(&path, 3 * CLUSTER as u64 + 512, None);
    // Behind the end: free clusters with something in them. And one that reads as zeroes and is
    // kept, with something in it.
    let file = File::options().write(true).open(&path).unwrap();
    let end = file.metadata().unwrap().len();
    file.write_all_at(&[0xaa; 8 * CLUSTER], end).unwrap();
    write(&mut open(&path), 0, &[0xbb; CLUSTER]);
    qemu("qemu-io", &["-f", "qcow2", "-c", "write -z 0 64k", text(&path)]).unwrap();
    let mut model = vec![0; 3 * CLUSTER + 512];
    let mut queue = open(&path);
    for at in [1024, 2 * CLUSTER - 512, 3 * CLUSTER] {
        let bytes = pattern(4, 512);
        write(&mut queue, at as u64, &bytes);
        model[at..at + 512].copy_from_slice(&bytes);
    }
    assert!(read(&mut queue, 0, model.len()) == model);
    drop(queue);
    assert_eq!(file.metadata().unwrap().len(), end + 8 * CLUSTER as u64, "free space is used");
    assert_clean(&path);
    assert!(read_by_qemu(&path) == model);
}

/// The present state is read beside internal snapshots, their references are counted, and nothing
/// is written that they share.
#[test]
fn internal_snapshots() {
    let ways = ["compat=1.1", "compat=0.10", "cluster_size=512,refcount_bits=8"];
    for (qemu, options) in every_version(&ways) {
        let folder = folder();
        let path = folder.path().join("a.qcow2");
        let io = |command: &str| {
            let (good, text) = qemu.run("qemu-io", &["-f", "qcow2", "-c", command, text(&path)]);
            assert!(good, "{text}");
        };
        qemu.img(&["create", "-q", "-f", "qcow2", "-o", options, text(&path), "4M"]);
        io("write -P 1 0 1M");
        io("write -c -P 2 1M 64k");
        qemu.img(&["snapshot", "-c", "one", text(&path)]);
        io("write -P 3 512k 1M");
        io("write -z 3M 64k");
        qemu.img(&["snapshot", "-c", "another with a longer name", text(&path)]);
        io("discard 0 64k");
        let model = read_by_qemu(&path);
        assert_eq!((model[64 << 10], model[600 << 10], model[1 << 20]), (1, 3, 3));
        assert!(read(&mut open_to_read(&path), 0, model.len()) == model, "{options}");
        assert_clean(&path);
        assert_eq!(layer(&path, false).check(false).unwrap(), [], "{options}");

        let file = layer_file(&path, true);
        let refusal = Qcow2Layer::open(file).err().expect("refused").to_string();
        assert!(refusal.contains("child") && refusal.contains("snapshot -d"), "{refusal}");
        let child = folder.path().join("child.qcow2");
        make(&child, model.len() as u64, Some(link(&path, Format::Qcow2)));
        write(&mut open(&child), 0, &pattern(9, 512));
        assert_clean(&path);

        // A cluster that the snapshots have as well, marked as the disk's alone.
        let bytes = std::fs::read(&path).unwrap();
        let number = |at: u64| be64(&bytes, index(at));
        let cluster = u64::from(layer(&path, false).info().granularity);
        let shared = (256 << 10) / cluster;
        let per_table = cluster / 8;
        let table = number(number(40) + shared / per_table * 8) & OFFSET;
        let entry = table + shared % per_table * 8;
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&(number(entry) | COPIED).to_be_bytes(), entry).unwrap();
        for judge in Qemu::all() {
            let (good, said) = judge.run("qemu-img", &["check", text(&path)]);
            assert!(!good && said.contains("1 errors were found"), "{options}: {said}");
        }
        let found = layer(&path, false).check(false).unwrap();
        assert!(matches!(&found[..], [one] if !one.harmless), "{options}: {found:?}");
    }
}

/// Bitmaps of QEMU's are void once cohort has written, and QEMU can tell.
#[test]
fn dirty_bitmaps_are_not_kept_up() {
    for qemu in Qemu::all() {
        let folder = folder();
        let path = folder.path().join("a.qcow2");
        qemu.img(&["create", "-q", "-f", "qcow2", text(&path), "4M"]);
        qemu.img(&["bitmap", "--add", text(&path), "bits"]);
        assert_eq!(layer(&path, false).check(false).unwrap(), []);
        assert!(read(&mut open_to_read(&path), 0, 4 << 20) == [0; 4 << 20]);
        drop(open(&path));
        assert!(qemu.img(&["info", text(&path)]).contains("bits"), "only opened");
        write(&mut open(&path), 0, &pattern(1, 512));
        let mut model = vec![0; 4 << 20];
        model[..512].copy_from_slice(&pattern(1, 512));
        assert!(read_by_qemu(&path) == model);
        assert!(!qemu.img(&["info", text(&path)]).contains("name: bits"));
        // Their clusters are lost until QEMU mends that.
        qemu.img(&["check", "-r", "leaks", text(&path)]);
        assert_clean(&path);
        assert!(read(&mut open_to_read(&path), 0, 4 << 20) == model);
    }
}
