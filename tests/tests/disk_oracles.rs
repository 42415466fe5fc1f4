//! `cohort disk convert` from and to every format, with QEMU's tools as the judges.

use std::fs;
use std::os::unix::fs::MetadataExt;

use cohort_tests::disks::Disks;
use cohort_tests::oracles::Qemu;

const FORMATS: [&str; 4] = ["raw", "layer", "qcow2", "vhdx"];
/// Those that QEMU knows.
const COMMON: [&str; 3] = ["raw", "qcow2", "vhdx"];

/// Bytes that are neither zero nor alike from sector to sector.
fn noise(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at / 512 * 7 + at % 251) % 255).expect("small") + 1).collect()
}

/// A raw disk with data at the start, in the middle and in the last sector.
fn sample(disks: &Disks, size: u64) {
    disks.raw("sample.raw", &[]);
    let file = fs::File::options().write(true).open(disks.at("sample.raw")).expect("the disk");
    file.set_len(size).expect("room");
    let len = usize::try_from(size.min(70_000)).expect("small");
    let bytes = noise(len);
    let middle = size / 2 / 512 * 512;
    let half = &bytes[..usize::try_from((size - middle).min(2048)).expect("small")];
    disks.write("sample.raw", &[(0, &bytes), (middle, half), (size - 512, &bytes[..512])]);
}

/// QEMU, in every version, finds nothing wrong with a disk and the same in it as in the sample,
/// and copies it to the same.
#[track_caller]
fn judge(disks: &Disks, name: &str, format: &str) {
    if format != "raw" {
        disks.qemu_done(&format!("check -f {format} @{name}"));
    }
    disks.qemu_done(&format!("compare -f {format} -F raw @{name} @sample.raw"));
    disks.qemu_done(&format!("convert -f {format} -O raw @{name} @judged.raw"));
    let [ours, theirs] = ["sample.raw", "judged.raw"].map(|name| fs::read(disks.at(name)));
    assert!(ours.expect("a disk") == theirs.expect("a disk"), "{name}");
}

#[test]
fn every_format_becomes_every_other() {
    for size in [512, (10 << 20) + 1536, (4 << 20) - 512] {
        let disks = Disks::new();
        sample(&disks, size);
        for from in FORMATS {
            disks.done(&format!("convert @sample.raw @from.{from}"));
            for to in FORMATS {
                let copy = format!("{from}-{to}.{to}");
                disks.done(&format!("convert @from.{from} @{copy}"));
                disks.done(&format!("check @{copy}"));
                disks.done(&format!("compare @{copy} @sample.raw"));
                if COMMON.contains(&to) {
                    judge(&disks, &copy, to);
                }
            }
        }
        disks.done("convert @sample.raw @fixed.vhdx --fixed");
        judge(&disks, "fixed.vhdx", "vhdx");
    }
}

#[test]
fn what_qemu_made_becomes_every_format() {
    for size in [512, (10 << 20) + 1536] {
        let disks = Disks::new();
        sample(&disks, size);
        for qemu in Qemu::all() {
            for how in [
                "-O qcow2",
                "-O qcow2 -o compat=0.10",
                "-O qcow2 -c",
                "-O qcow2 -c -o compression_type=zstd,cluster_size=4k",
                "-O vhdx",
                "-O vhdx -o subformat=fixed,block_size=1M",
                "-O vhdx -o block_size=256M",
            ] {
                let format = how.split(' ').nth(1).expect("a format");
                let line = format!("convert -f raw {how} @sample.raw @theirs.{format}");
                let (good, text) = disks.qemu_img(&qemu, &line);
                assert!(good, "{line} ({qemu:?}): {text}");
                disks.done(&format!("check @theirs.{format}"));
                for to in FORMATS {
                    disks.done(&format!("convert @theirs.{format} @ours.{to}"));
                    disks.done(&format!("compare @ours.{to} @sample.raw"));
                    if to == "raw" {
                        judge(&disks, "ours.raw", to);
                    }
                    fs::remove_file(disks.at(&format!("ours.{to}"))).expect("a file");
                }
            }
        }
    }
}

/// As large as the disks of servers, and nearly empty: copies take no more space than the data.
#[test]
fn a_huge_disk_stays_sparse() {
    const SIZE: u64 = 100 << 30;
    let disks = Disks::new();
    sample(&disks, SIZE);
    for to in FORMATS {
        let copy = format!("copy.{to}");
        disks.done(&format!("convert @sample.raw @{copy}"));
        disks.done(&format!("convert @{copy} @back.raw"));
        // To compare a VHDX, QEMU reads every byte, of holes too.
        if to == "vhdx" || to == "layer" {
            disks.done(&format!("compare @{copy} @sample.raw"));
        } else {
            disks.qemu_done(&format!("compare -f {to} -F raw @{copy} @sample.raw"));
        }
        disks.qemu_done("compare -f raw -F raw @back.raw @sample.raw");
        for name in [&*copy, "back.raw"] {
            let held = fs::metadata(disks.at(name)).expect("a file").blocks() * 512;
            assert!(held < 4 << 20, "{name}: {held} bytes");
            fs::remove_file(disks.at(name)).expect("a file");
        }
    }
    for (qemu, format) in Qemu::all().iter().flat_map(|q| [(q, "qcow2"), (q, "vhdx")]) {
        let theirs = format!("theirs.{format}");
        let line = format!("convert -f raw -O {format} @sample.raw @{theirs}");
        assert!(disks.qemu_img(qemu, &line).0, "{line}");
        disks.done(&format!("compare @{theirs} @sample.raw"));
    }
}
