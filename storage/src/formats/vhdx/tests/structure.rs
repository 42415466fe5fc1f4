//! What is where in a new file, byte by byte.

use super::*;

fn bytes_at(path: &Path, at: usize, len: usize) -> Vec<u8> {
    fs::read(path).unwrap()[at..at + len].to_vec()
}

#[test]
fn a_new_file() {
    let (_folder, path) = make(&dynamic(10 * MIB), 2 * MIB);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 4 << 20);
    assert_eq!(bytes[..8], *b"vhdxfile");
    for (at, sequence) in [(64 << 10, 1), (128 << 10, 2)] {
        let header = &bytes[at..at + 4096];
        assert_eq!(header[..4], *b"head");
        let mut summed = header.to_vec();
        summed[4..8].fill(0);
        assert_eq!(header[4..8], crc32c::crc32c(&summed).to_le_bytes());
        assert_eq!(header[8], sequence);
        assert_eq!(header[48..64], [0; 16], "no log");
        assert_eq!(header[64..68], [0, 0, 1, 0], "versions");
        assert_eq!(header[68..80], [0, 0, 16, 0, 0, 0, 16, 0, 0, 0, 0, 0], "log");
    }
    assert_eq!(bytes[(64 << 10) + 32..][..16], bytes[(128 << 10) + 32..][..16]);
    for at in [192 << 10, 256 << 10] {
        let table = &bytes[at..at + (64 << 10)];
        assert_eq!(table[..4], *b"regi");
        let mut summed = table.to_vec();
        summed[4..8].fill(0);
        assert_eq!(table[4..8], crc32c::crc32c(&summed).to_le_bytes());
        assert_eq!(table[8..16], [2, 0, 0, 0, 0, 0, 0, 0]);
        // 2DC27766-F623-4200-9D64-115E9BFD4A08, at 3 MiB, of 1 MiB, required.
        let bat = "6677c22d23f600429d64115e9bfd4a0800003000000000000000100001000000";
        assert_eq!(hex(&table[16..48]), bat);
    }
    let region = &bytes[2 << 20..3 << 20];
    assert_eq!(region[..12], *b"metadata\0\0\x05\0");
    // CAA16737-FA36-4D43-B3B6-33F0AA44E76B at 64 KiB, 8 bytes, required.
    let entry = "3767a1ca36fa434db3b633f0aa44e76b00000100080000000400000000000000";
    assert_eq!(hex(&region[32..64]), entry);
    assert_eq!(region[64 << 10..][..8], [0, 0, 32, 0, 0, 0, 0, 0]);
    assert!(bytes[3 << 20..].iter().all(|&byte| byte == 0));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_fixed_file_has_all_its_blocks() {
    let (_folder, path) = make(&NewLayer { fixed: true, ..dynamic(3 * MIB) }, MIB);
    assert_eq!(fs::metadata(&path).unwrap().len(), 7 << 20);
    let entries: Vec<u8> = [4u8, 5, 6].map(|mib| [6, 0, mib << 4, 0, 0, 0, 0, 0]).concat();
    assert_eq!(bytes_at(&path, 3 << 20, 24), entries);
    assert_eq!(bytes_at(&path, (2 << 20) + (64 << 10) + 4, 1), [1], "LeaveBlockAllocated");
}

/// The entry of a block, and where that says it is.
fn entry(path: &Path, number: usize) -> (u8, u64) {
    let bytes = bytes_at(path, (3 << 20) + 8 * number, 8);
    let value = u64::from_le_bytes(bytes.try_into().unwrap());
    (u8::try_from(value & 7).unwrap(), value >> 20)
}

#[test]
fn entries_after_writes_and_erasures() {
    let (_folder, path) = make(&dynamic(6 * MIB), MIB);
    let mut disk = queue(&path, &options());
    write(&mut disk, MIB, &[1; 512]);
    write(&mut disk, 2 * MIB, &[1; 512]);
    write(&mut disk, 3 * MIB, &[1; 512]);
    ask(&mut disk, Operation::Discard, 2 * MIB, MIB, Buffers::none()).unwrap();
    let zeroes = Operation::WriteZeroes { unmap: true };
    ask(&mut disk, zeroes, 3 * MIB, MIB, Buffers::none()).unwrap();
    drop(disk);
    let entries: Vec<_> = (0..5).map(|number| entry(&path, number)).collect();
    assert_eq!(entries, [(0, 0), (6, 4), (3, 0), (2, 0), (0, 0)]);
    // What was given back is taken again, once nothing refers to it.
    let mut disk = queue(&path, &options());
    ask(&mut disk, Operation::Discard, MIB, MIB, Buffers::none()).unwrap();
    ask(&mut disk, Operation::Flush, 0, 0, Buffers::none()).unwrap();
    write(&mut disk, 5 * MIB, &[2; 512]);
    assert!(read(&mut disk, 5 * MIB + 512, (1 << 20) - 512).iter().all(|&byte| byte == 0));
    // Also what an earlier session gave up.
    write(&mut disk, 4 * MIB, &[2; 512]);
    assert!(read(&mut disk, 4 * MIB + 512, (1 << 20) - 512).iter().all(|&byte| byte == 0));
    drop(disk);
    let entries = [1, 4, 5].map(|number| entry(&path, number));
    assert_eq!(entries, [(3, 0), (6, 6), (6, 4)]);
    assert_eq!(fs::metadata(&path).unwrap().len(), 7 * MIB);
}

/// A block that was unmapped may read as what it was, which its entry may still lead to
/// (MS-VHDX 2.5.1.1). Not so once zeroes were written to it.
#[test]
fn zeroes_over_what_was_unmapped_are_zeroes_to_all() {
    for unmap in [false, true] {
        let (_folder, path) = make(&dynamic(4 * MIB), MIB);
        write(&mut queue(&path, &options()), 0, &pattern(1, 3 << 20));
        let file = image(&path);
        for (number, mib) in [4u64, 5, 6].into_iter().enumerate() {
            let entry = (mib << 20 | 3).to_le_bytes();
            file.write_at(&entry, 3 * MIB + 8 * number as u64).unwrap();
        }
        drop(file);
        let mut disk = queue(&path, &options());
        let zeroes = Operation::WriteZeroes { unmap };
        // All of a block, a part, and what needs no mark.
        for (at, len) in [(0, MIB), (MIB + 4096, 4096), (3 * MIB, MIB)] {
            ask(&mut disk, zeroes, at, len, Buffers::none()).unwrap();
        }
        ask(&mut disk, Operation::Discard, 2 * MIB, MIB, Buffers::none()).unwrap();
        assert!(read(&mut disk, 0, 4 << 20) == vec![0; 4 << 20]);
        drop(disk);
        let entries = [0, 1, 2, 3].map(|number| entry(&path, number));
        assert_eq!(entries, [(2, 0), (2, 0), (3, 6), (0, 0)]);
    }
}

/// What blocks keep although they do not use it is nobody else's, and what was cut off the file
/// is nobody's any more (MS-VHDX 2.5.1: no two entries lead to the same place).
#[test]
fn space_that_blocks_keep_is_not_given_to_others() {
    let (_folder, path) = make(&dynamic(5 * MIB), MIB);
    write(&mut queue(&path, &options()), 0, &pattern(1, 1 << 20));
    write(&mut queue(&path, &options()), MIB, &pattern(1, 1 << 20));
    let file = image(&path);
    // The first one is in the file, the second one's place and the third one's are not.
    for (number, entry) in [4 << 20 | 3, 5 << 20 | 3u64, 9 << 20 | 1].into_iter().enumerate() {
        file.write_at(&entry.to_le_bytes(), 3 * MIB + 8 * number as u64).unwrap();
    }
    file.set_len(5 * MIB).unwrap();
    drop(file);
    write(&mut queue(&path, &options()), 3 * MIB, &pattern(2, 1 << 20));
    let entries = [0, 1, 2, 3].map(|number| entry(&path, number));
    assert_eq!(entries, [(3, 4), (3, 0), (1, 0), (6, 5)]);
}

#[test]
fn a_partial_block_becomes_a_full_one() {
    let folder = TempDir::new().unwrap();
    let base = pattern(5, 4 << 20);
    let path = make_over_raw(folder.path(), &base, MIB);
    let mut disk = queue(&path, &options());
    write(&mut disk, MIB + 512, &[1; 512]);
    drop(disk);
    // A chunk has 4096 blocks of 1 MiB: its bitmap's entry is the one after them.
    assert_eq!(entry(&path, 1), (7, 4));
    assert_eq!(entry(&path, 4096), (6, 5));
    let bits = (5 << 20) + 2048 / 8;
    assert_eq!(bytes_at(&path, bits - 1, 3), [0, 2, 0]);
    let mut disk = queue(&path, &options());
    write(&mut disk, MIB, &[2; 512]);
    write(&mut disk, MIB + 1024, &vec![3; (1 << 20) - 1024]);
    let mut wanted = base.clone();
    wanted[1 << 20..2 << 20].fill(3);
    wanted[1 << 20..][..512].fill(2);
    wanted[(1 << 20) + 512..][..512].fill(1);
    assert!(read(&mut disk, 0, 4 << 20) == wanted);
    drop(disk);
    assert_eq!(entry(&path, 1), (6, 4));
}
