//! Block devices, by a loop device where one can be made.

use super::*;
use crate::DiskError;
use crate::testkit::{self, Loop};

#[test]
fn a_block_device_is_a_disk() {
    const LEN: usize = 1 << 20;
    for (engine, block) in ENGINES.into_iter().flat_map(|e| [(e, 512u32), (e, 4096)]) {
        let Some(device) = Loop::new(LEN as u64, block) else { return };
        for direct in [false, true] {
            let options = DiskOptions { direct, ..options(engine) };
            let disk = Disk::open(&device.0, &options).unwrap();
            assert_eq!(disk.size(), Bytes::new(LEN as u64));
            assert_eq!(disk.logical_block_size(), if direct { block } else { 512 });
            let mut queue = disk.queue(4).unwrap();
            let mut wanted = pattern(7, LEN);
            write(&mut queue, 0, &wanted).unwrap();
            for (start, unmap) in [(8192, true), (65536, false)] {
                let zeroes = Operation::WriteZeroes { unmap };
                ask(&mut queue, request(zeroes, start, 16384, Buffers::none())).unwrap();
                let start = usize::try_from(start).unwrap();
                wanted[start..start + 16384].fill(0);
            }
            ask(&mut queue, request(Operation::Discard, 1 << 19, 1 << 19, Buffers::none()))
                .unwrap();
            ask(&mut queue, request(Operation::Flush, 0, 0, Buffers::none())).unwrap();
            let found = read(&mut queue, 0, LEN).unwrap();
            assert!(found[..1 << 19] == wanted[..1 << 19], "{options:?}");
            assert!(matches!(
                Disk::open(&device.0, &options),
                Err(crate::DiskError::Locked { .. })
            ));
        }
    }
}

/// A child may have single sectors, whatever the blocks of the device: these are read all the same.
#[test]
fn sectors_of_a_child_on_a_device_with_larger_blocks() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let [base, child] = ["base.raw", "child.vhdx"].map(|name| folder.path().join(name));
    let mut model = pattern(1, 4 << 20);
    std::fs::write(&base, &model).unwrap();
    testkit::create(&child, 4 << 20, Some(&base)).unwrap();
    let mut queue = Disk::open(&child, &testkit::WRITABLE).unwrap().queue(1).unwrap();
    for at in [512, 2048, 8192, 3 << 20] {
        write(&mut queue, at as u64, &pattern(9, 1024)).unwrap();
        model[at..at + 1024].copy_from_slice(&pattern(9, 1024));
    }
    drop(queue);
    let direct = DiskOptions { direct: true, ..testkit::WRITABLE };
    let mut disk = match Disk::open(&child, &direct) {
        Err(error @ DiskError::NoDirect { .. }) => return println!("skipped: {error}"),
        disk => disk.unwrap(),
    };
    disk.pretend_blocks(4096);
    let mut queue = disk.queue_on(Faulty::new(&Script::default()), 4);
    assert!(read(&mut queue, 0, model.len()).unwrap() == model);
    write(&mut queue, 4096, &pattern(7, 4096)).unwrap();
    model[4096..8192].copy_from_slice(&pattern(7, 4096));
    assert!(read(&mut queue, 0, 64 << 10).unwrap() == model[..64 << 10]);
}
