//! Commands that read and change the medium, against a flat model.

use super::*;

const BLOCKS: usize = 4096;
const SIZE: u64 = (BLOCKS * BLOCK) as u64;

#[test]
fn every_form_of_read_and_write_moves_the_same_blocks() {
    let mut rig = Rig::new(SIZE);
    let forms = |write: bool, flags: u8| -> Vec<Vec<u8>> {
        let code = |read: u8| if write { read + 2 } else { read };
        vec![
            vec![code(0x08), 0, 0, 9, 3, 0],
            cdb10(code(0x28), flags, 9, 3).to_vec(),
            cdb12(code(0xa8), flags, 9, 3).to_vec(),
            cdb16(code(0x88), flags, 9, 3).to_vec(),
        ]
    };
    for (number, write) in forms(true, 0x18).into_iter().enumerate() {
        let data = pattern(u8::try_from(number).unwrap(), 3);
        let got = rig.run(&write, &data, 0);
        assert_eq!((got.response.data_out, got.response.wanted), (1536, 1536));
        got.good();
        for read in forms(false, 0x18) {
            assert_eq!(rig.run(&read, &[], 1536).good(), data);
        }
    }
    assert_eq!(rig.read(8, 1), [0; BLOCK]);
    assert_eq!(rig.read(12, 1), [0; BLOCK]);
    // 0 is 256 in a CDB of 6 bytes.
    assert_eq!(rig.run(&[0x08, 0, 0, 0, 0, 0], &[], 1 << 20).good().len(), 256 * BLOCK);
}

#[test]
fn what_does_not_fit_is_a_residual() {
    let mut rig = Rig::new(SIZE);
    rig.write(0, &pattern(1, 4)).good();
    for room in [0, 1, 200, 512, 700, 1024, 5000] {
        let got = rig.run(&cdb10(0x28, 0, 0, 2), &[], room);
        assert_eq!((got.response.wanted, got.response.data_in), (1024, room.min(1024) as u64));
        assert_eq!(got.good(), pattern(1, 2)[..room.min(1024)]);
    }
    for (sent, blocks) in [(0, 0), (200, 0), (512, 1), (1000, 1), (1024, 2), (3000, 2)] {
        rig.write(0, &pattern(1, 4)).good();
        let got = rig.run(&cdb10(0x2a, 0, 0, 2), &vec![7; sent], 0);
        assert_eq!(got.response.wanted, 1024);
        assert_eq!(got.response.data_out, blocks * 512);
        got.good();
        let mut model = pattern(1, 4);
        model[..usize::try_from(blocks).unwrap() * BLOCK].fill(7);
        assert_eq!(rig.read(0, 4), model);
    }
}

#[test]
fn blocks_that_are_not_there_are_refused() {
    let mut rig = Rig::new(SIZE);
    let end = BLOCKS as u64;
    let data = vec![0; 4 * BLOCK];
    for opcode in [0x88, 0x8a, 0x8b, 0x8e, 0x8f, 0x90, 0x91, 0x93] {
        for (lba, count) in
            [(end, 1), (end - 1, 2), (end + 1, 0), (u64::MAX, 1), (1 << 63, 1), (u64::MAX, 0)]
        {
            let data = if opcode == 0x93 { &data[..BLOCK] } else { &data };
            rig.run(&cdb16(opcode, 0, lba, count), data, 4 * BLOCK).check(5, 0x21, 0);
        }
    }
    rig.run(&compare_and_write(end, 1), &data[..2 * BLOCK], 0).check(5, 0x21, 0);
    rig.run(&cdb10(0x28, 0, u32::MAX, 1), &[], 512).check(5, 0x21, 0);
    rig.run(&[0x08, 0x1f, 0xff, 0xff, 1, 0], &[], 512).check(5, 0x21, 0);
    // Nothing at the very end is nothing.
    for opcode in [0x88, 0x8a, 0x8b, 0x8e, 0x8f, 0x90, 0x91] {
        rig.run(&cdb16(opcode, 0, end, 0), &[], 0).good();
    }
}

#[test]
fn more_than_a_command_may_move_is_refused_with_a_pointer() {
    let mut rig = Rig::new(SIZE);
    let got = rig.run(&cdb16(0x88, 0, 0, 65537), &[], 512);
    assert_eq!(got.check(5, 0x24, 0)[15..18], [0xc0, 0, 10]);
    let got = rig.run(&cdb12(0xa8, 0x20, 0, 1), &[], 512);
    assert_eq!(got.check(5, 0x24, 0)[15..18], [0xcf, 0, 1]);
    for opcode in [0x2a, 0x2e, 0x2f, 0x28] {
        rig.run(&cdb10(opcode, 0xe0, 0, 1), &[0; BLOCK], 512).check(5, 0x24, 0);
    }
}

#[test]
fn verify_finds_the_byte_that_differs() {
    let mut rig = Rig::new(SIZE);
    let blocks = 1200;
    let data = pattern(3, blocks);
    rig.write(5, &data).good();
    let count = u16::try_from(blocks).unwrap();
    rig.run(&cdb10(0x2f, 0, 5, count), &[], 0).good();
    rig.run(&cdb10(0x2f, 2, 5, count), &data, 0).good();
    let mut other = data.clone();
    // In the second of the pieces that it is compared in.
    other[300_001] ^= 1;
    let got = rig.run(&cdb12(0xaf, 2, 5, u32::from(count)), &other, 0);
    let sense = got.check(0xe, 0x1d, 0);
    assert_eq!((sense[0], sense[3..7].to_vec()), (0xf0, 300_001u32.to_be_bytes().to_vec()));
    rig.run(&cdb10(0x2f, 2, 5, count), &data[..512], 0).check(5, 0x0e, 3);
    rig.run(&cdb10(0x2f, 4, 5, 1), &data[..512], 0).check(5, 0x24, 0);
    rig.write(0, &[9; 4 * BLOCK]).good();
    rig.run(&cdb16(0x8f, 6, 0, 4), &[9; BLOCK], 0).good();
    rig.run(&cdb16(0x8f, 6, 0, 6), &[9; BLOCK], 0).check(0xe, 0x1d, 0);
    rig.run(&cdb16(0x8f, 0, 0, 4), &[], 0).good();
}

#[test]
fn unmapped_blocks_read_as_zeroes() {
    let mut rig = Rig::new(SIZE);
    rig.write(0, &pattern(1, 64)).good();
    let list = |ranges: &[(u64, u32)]| {
        let mut list = vec![0; 8];
        for (lba, count) in ranges {
            list.extend(lba.to_be_bytes());
            list.extend(count.to_be_bytes());
            list.extend([0; 4]);
        }
        let described = u16::try_from(list.len() - 8).unwrap();
        list[..2].copy_from_slice(&(described + 6).to_be_bytes());
        list[2..4].copy_from_slice(&described.to_be_bytes());
        list
    };
    let mut unmap =
        |list: &[u8]| rig.run(&cdb10(0x42, 0, 0, u16::try_from(list.len()).unwrap()), list, 0);
    unmap(&list(&[(3, 1), (8, 16), (60, 0)])).good();
    unmap(&list(&[(0, 0)])).good();
    unmap(&[]).good();
    unmap(&list(&[(4090, 7)])).check(5, 0x21, 0);
    unmap(&list(&[(u64::MAX, u32::MAX)])).check(5, 0x21, 0);
    unmap(&[0; 7]).check(5, 0x1a, 0);
    unmap(&list(&vec![(0, 1); 257])).check(5, 0x26, 0);
    let mut model = pattern(1, 64);
    model[3 * BLOCK..4 * BLOCK].fill(0);
    model[8 * BLOCK..24 * BLOCK].fill(0);
    assert_eq!(rig.read(0, 64), model);
    rig.run(&cdb10(0x42, 1, 0, 24), &list(&[(0, 1)]), 0).check(5, 0x24, 0);
    rig.run(&cdb10(0x42, 0, 0, 24), &[], 0).check(5, 0x0e, 3);
}

#[test]
fn write_same_writes_one_block_everywhere() {
    let mut rig = Rig::new(SIZE);
    let block = pattern(9, 1);
    rig.write(0, &pattern(1, 1024)).good();
    rig.run(&cdb10(0x41, 0, 2, 700), &block, 0).good();
    let mut model = pattern(1, 1024);
    model[2 * BLOCK..702 * BLOCK].copy_from_slice(&block.repeat(700));
    // Not zero, hence written, whatever UNMAP says.
    rig.run(&cdb16(0x93, 8, 800, 2), &block, 0).good();
    model[800 * BLOCK..802 * BLOCK].copy_from_slice(&block.repeat(2));
    // NDOB; zeroes; zeroes that may be unmapped.
    rig.run(&cdb16(0x93, 1, 810, 2), &[], 0).good();
    rig.run(&cdb16(0x93, 0, 812, 2), &[0; BLOCK], 0).good();
    rig.run(&cdb10(0x41, 8, 814, 2), &[0; BLOCK], 0).good();
    model[810 * BLOCK..816 * BLOCK].fill(0);
    assert_eq!(rig.read(0, 1024), model);
    for sent in [0, 256, 1024] {
        rig.run(&cdb16(0x93, 0, 0, 1), &vec![0; sent], 0).check(5, 0x0e, 3);
    }
    rig.run(&cdb16(0x93, 0x18, 0, 1), &block, 0).check(5, 0x24, 0);
    rig.run(&cdb16(0x93, 0x02, 0, 1), &block, 0).check(5, 0x24, 0);
    // 0 is all up to the end.
    rig.run(&cdb16(0x93, 8, 100, 0), &[0; BLOCK], 0).good();
    model.truncate(100 * BLOCK);
    assert_eq!(rig.read(0, 100), model);
    for lba in (100..4096).step_by(999) {
        assert_eq!(rig.read(lba, 1), [0; BLOCK]);
    }
}

#[test]
fn compare_and_write_writes_only_what_it_found() {
    let mut rig = Rig::new(SIZE);
    rig.write(7, &[1; 3 * BLOCK]).good();
    let mut data = [[1; 3 * BLOCK], [2; 3 * BLOCK]].concat();
    data[2 * BLOCK + 5] = 3;
    let got = rig.run(&compare_and_write(7, 3), &data, 0);
    assert_eq!(got.check(0xe, 0x1d, 0)[3..7], 1029u32.to_be_bytes());
    assert_eq!(rig.read(7, 3), [1; 3 * BLOCK]);
    data[2 * BLOCK + 5] = 1;
    let mut cdb = compare_and_write(7, 3);
    cdb[1] = 0x18;
    rig.run(&cdb, &data, 0).good();
    assert_eq!(rig.read(7, 3), [2; 3 * BLOCK]);
    rig.run(&compare_and_write(7, 2), &data, 0).check(5, 0x0e, 3);
    rig.run(&compare_and_write(7, 4), &data, 0).check(5, 0x0e, 3);
    rig.run(&compare_and_write(7, 0), &[0; BLOCK], 0).good();
    rig.run(&compare_and_write(7, 0), &[0; 512 * BLOCK], 0).check(5, 0x24, 0);
}

#[test]
fn orwrite_and_write_and_verify_leave_what_they_should() {
    let mut rig = Rig::new(SIZE);
    let (one, other) = (pattern(1, 900), pattern(77, 900));
    rig.run(&cdb10(0x2e, 0, 1, 900), &one, 0).good();
    rig.run(&cdb16(0x8b, 0x18, 1, 900), &other, 0).good();
    let both: Vec<u8> = one.iter().zip(&other).map(|(one, other)| one | other).collect();
    assert_eq!(rig.read(1, 900), both);
    rig.run(&cdb12(0xae, 2, 0, 2), &one[..1024], 0).good();
    rig.run(&cdb16(0x8e, 2, 2, 2), &one[..512], 0).good();
    rig.run(&cdb10(0x2e, 4, 1, 1), &one[..512], 0).check(5, 0x24, 0);
    assert_eq!(rig.read(0, 3), [&one[..1024], &one[..512]].concat());
}

#[test]
fn what_needs_no_data_moves_none() {
    let mut rig = Rig::new(SIZE);
    for (opcode, flags) in [(0x35, 0), (0x35, 2), (0x34, 0), (0x34, 2)] {
        rig.run(&cdb10(opcode, flags, 0, 0), &[], 0).good();
        rig.run(&cdb10(opcode, flags, 9, 9), &[], 0).good();
    }
    rig.run(&cdb16(0x91, 2, 0, 0), &[], 0).good();
    rig.run(&cdb16(0x90, 2, 0, 0), &[], 0).good();
}

#[test]
fn nothing_is_written_to_a_disk_that_is_read_only() {
    let disk =
        Disk::scratch(Bytes::new(SIZE), &DiskOptions { read_only: true, ..DiskOptions::default() })
            .unwrap();
    let unit =
        UnitOptions { disk, identity: "a".to_owned(), reservations: Reservations::default() };
    let mut rig = Rig::on(&Target::new(vec![unit], None).unwrap(), "a");
    let data = [0; 2 * BLOCK];
    for cdb in [
        &cdb10(0x2a, 0, 0, 1)[..],
        &cdb12(0xaa, 0, 0, 1),
        &cdb16(0x8a, 0, 0, 1),
        &cdb16(0x8b, 0, 0, 1),
        &cdb10(0x2e, 0, 0, 1),
        &cdb10(0x42, 0, 0, 24),
        &compare_and_write(0, 1),
        &[0x0a, 0, 0, 0, 1, 0],
    ] {
        rig.run(cdb, &data, 0).check(7, 0x27, 0);
    }
    rig.run(&cdb16(0x93, 0, 0, 1), &data[..512], 0).check(7, 0x27, 0);
    assert_eq!(rig.read(0, 1), [0; BLOCK]);
    rig.run(&cdb10(0x35, 0, 0, 0), &[], 0).good();
    assert_eq!(rig.run(&[0x1a, 8, 0x3f, 0, 255, 0], &[], 255).good()[2] & 0x80, 0x80);
}
