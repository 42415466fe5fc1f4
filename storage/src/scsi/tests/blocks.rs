//! Units with blocks of 4096 bytes: every number of blocks is one of those.

use super::*;
use crate::Format;
use crate::formats::NewLayer;
use crate::testkit;

const BLOCK: usize = 4096;
const BLOCKS: u64 = 5000;

/// A disk of this format, and an initiator.
fn rig(format: Format) -> (tempfile::TempDir, Rig) {
    let folder = tempfile::tempdir().unwrap();
    let path = testkit::file_in(folder.path(), "disk", format);
    let size = BLOCKS * BLOCK as u64;
    let new = NewLayer { size, sector: 4096, parent: None, fixed: false, traits: None };
    testkit::create_linked(&path, &new).unwrap();
    let disk = Disk::open(&path, &testkit::WRITABLE).unwrap();
    let unit =
        UnitOptions { disk, identity: "a".to_owned(), reservations: Reservations::default() };
    (folder, Rig::on(&Target::new(vec![unit], None).unwrap(), "a"))
}

fn both() -> [(tempfile::TempDir, Rig); 2] {
    [Format::Vhdx, Format::Layer].map(rig)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[test]
fn everything_that_counts_blocks_says_how_long_they_are() {
    for (_folder, mut rig) in both() {
        let data = rig.run(&cdb10(0x25, 0, 0, 0), &[], 8).good();
        assert_eq!((number(&data[..4]), number(&data[4..])), (BLOCKS - 1, 4096));
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[13]) = (0x9e, 0x10, 32);
        let data = rig.run(&cdb, &[], 32).good();
        assert_eq!((number(&data[..8]), number(&data[8..12])), (BLOCKS - 1, 4096));
        // A physical block is no shorter than a logical one.
        assert_eq!((data[13] & 0xf, data[14] & 0xc0), (0, 0xc0));
        // The block descriptors of MODE SENSE.
        let data = rig.run(&[0x1a, 0, 8, 0, 255, 0], &[], 255).good();
        assert_eq!((number(&data[4..8]), number(&data[9..12])), (BLOCKS, 4096));
        let mut cdb = cdb10(0x5a, 0, 0, 255);
        (cdb[1], cdb[2]) = (0x10, 8);
        let data = rig.run(&cdb, &[], 255).good();
        assert_eq!((number(&data[8..16]), number(&data[20..24])), (BLOCKS, 4096));
        // Block limits: COMPARE AND WRITE of 128 KiB, transfers of 32 MiB.
        let data = rig.run(&[0x12, 1, 0xb0, 0, 255, 0], &[], 255).good();
        assert_eq!((data[5], number(&data[8..12])), (32, 8192));
    }
}

#[test]
fn transfers_are_counted_in_long_blocks() {
    for (_folder, mut rig) in both() {
        let data = bytes(7, 300 * BLOCK);
        for (write, read) in [
            (cdb10(0x2a, 8, 11, 300).to_vec(), cdb10(0x28, 0, 11, 300).to_vec()),
            (cdb12(0xaa, 0, 411, 300).to_vec(), cdb12(0xa8, 8, 411, 300).to_vec()),
            (cdb16(0x8a, 0, 811, 300).to_vec(), cdb16(0x88, 0, 811, 300).to_vec()),
            (cdb10(0x2e, 2, 1211, 300).to_vec(), cdb10(0x28, 0, 1211, 300).to_vec()),
        ] {
            let got = rig.run(&write, &data, 0);
            assert_eq!(got.response.wanted, data.len() as u64);
            got.good();
            assert!(rig.run(&read, &[], data.len()).good() == data);
        }
        // Half a block is none.
        let got = rig.run(&cdb10(0x2a, 0, 0, 2), &vec![9; BLOCK + 512], 0);
        assert_eq!((got.response.wanted, got.response.data_out), (8192, 4096));
        let got = rig.run(&cdb10(0x28, 0, 0, 2), &[], BLOCK + 512);
        let model = [&[9; BLOCK][..], &[0; 512]].concat();
        assert!(got.good() == model);
        // The longest there is, and one more.
        let last = u32::try_from(BLOCKS).unwrap();
        rig.run(&cdb10(0x28, 0, last - 1, 1), &[], BLOCK).good();
        rig.run(&cdb10(0x28, 0, last, 1), &[], BLOCK).check(5, 0x21, 0);
        rig.run(&cdb10(0x2a, 0, last - 1, 2), &[0; 2 * BLOCK], 0).check(5, 0x21, 0);
        rig.run(&cdb16(0x88, 0, 0, 8193), &[], BLOCK).check(5, 0x24, 0);
    }
}

#[test]
fn verifying_and_comparing_take_long_blocks() {
    for (_folder, mut rig) in both() {
        let data = bytes(7, 100 * BLOCK);
        rig.run(&cdb10(0x2a, 0, 5, 100), &data, 0).good();
        rig.run(&cdb10(0x2f, 0, 5, 100), &[], 0).good();
        rig.run(&cdb10(0x2f, 2, 5, 100), &data, 0).good();
        let mut other = data.clone();
        other[300_001] ^= 1;
        let got = rig.run(&cdb10(0x2f, 2, 5, 100), &other, 0);
        assert_eq!(number(&got.check(0xe, 0x1d, 0)[3..7]), 300_001);
        rig.run(&cdb10(0x2f, 2, 5, 1), &data[..512], 0).check(5, 0x0e, 3);
        rig.run(&cdb16(0x8f, 6, 5, 1), &data[..BLOCK], 0).good();
        rig.run(&cdb16(0x8f, 6, 5, 2), &data[..BLOCK], 0).check(0xe, 0x1d, 0);
        // Up to the limit, and beyond.
        let new = bytes(99, 32 * BLOCK);
        let pair = [&data[..32 * BLOCK], &new].concat();
        rig.run(&compare_and_write(5, 32), &pair, 0).good();
        rig.run(&compare_and_write(5, 32), &pair, 0).check(0xe, 0x1d, 0);
        rig.run(&compare_and_write(5, 33), &vec![0; 66 * BLOCK], 0).check(5, 0x24, 0);
        rig.run(&compare_and_write(5, 1), &[0; 1024], 0).check(5, 0x0e, 3);
        let all = rig.run(&cdb10(0x28, 0, 5, 100), &[], 100 * BLOCK).good();
        assert!(all[..32 * BLOCK] == new && all[32 * BLOCK..] == data[32 * BLOCK..]);
    }
}

#[test]
fn write_same_and_unmap_take_long_blocks() {
    for (_folder, mut rig) in both() {
        let mut model = bytes(7, 1000 * BLOCK);
        rig.run(&cdb10(0x2a, 0, 0, 1000), &model, 0).good();
        let block = bytes(55, BLOCK);
        rig.run(&cdb10(0x41, 0, 10, 200), &block, 0).good();
        model[10 * BLOCK..210 * BLOCK].copy_from_slice(&block.repeat(200));
        rig.run(&cdb16(0x93, 8, 300, 10), &[0; BLOCK], 0).good();
        rig.run(&cdb16(0x93, 1, 310, 10), &[], 0).good();
        model[300 * BLOCK..320 * BLOCK].fill(0);
        // A block of another length is none.
        rig.run(&cdb10(0x41, 0, 10, 1), &block[..512], 0).check(5, 0x0e, 3);
        let mut list = vec![0, 38, 0, 32, 0, 0, 0, 0];
        for (lba, count) in [(400u64, 3u32), (999, 1)] {
            list.extend(lba.to_be_bytes());
            list.extend(count.to_be_bytes());
            list.extend([0; 4]);
        }
        rig.run(&cdb10(0x42, 0, 0, 40), &list, 0).good();
        model[400 * BLOCK..403 * BLOCK].fill(0);
        model[999 * BLOCK..].fill(0);
        assert!(rig.run(&cdb10(0x28, 0, 0, 1000), &[], 1000 * BLOCK).good() == model);
        // 0 is all up to the end.
        rig.run(&cdb16(0x93, 0, 900, 0), &block, 0).good();
        let last = u32::try_from(BLOCKS).unwrap() - 1;
        assert!(rig.run(&cdb10(0x28, 0, last, 1), &[], BLOCK).good() == block);
    }
}
