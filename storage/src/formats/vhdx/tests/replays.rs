//! Logs that were left behind.

use uuid::Uuid;

use super::super::bytes::{get64, put, put16, put32, put64, seal};
use super::super::header::Headers;
use super::super::log;
use super::super::pages::Bytes;
use super::super::{PAGE, PAGE_BYTES};
use super::*;

const LOG: u64 = MIB;
const BAT: u64 = 3 * MIB;
const GUID: Uuid = Uuid::from_u128(0x1234);

/// A disk of three blocks, the first of which is at 4 MiB, holds `bytes`, and is not in the BAT.
/// The log matters, and is empty.
fn disk() -> (TempDir, PathBuf, Vec<u8>) {
    let (folder, path) = make(&dynamic(3 * MIB), MIB);
    let bytes = pattern(8, 1 << 20);
    let image = image(&path);
    image.set_len(6 * MIB).unwrap();
    image.write_at(&bytes, 4 * MIB).unwrap();
    let mut headers = Headers::read(&image).unwrap();
    headers.update(&image, |header| header.log = GUID).unwrap();
    (folder, path, bytes)
}

/// A page of the BAT whose first entries are these.
fn bat(entries: &[u64]) -> (u64, Bytes) {
    let mut page = Box::new([0xa5; PAGE_BYTES]);
    page[..24].fill(0);
    for (number, entry) in entries.iter().enumerate() {
        put64(&mut page[..], number * 8, *entry);
    }
    (BAT, page)
}

const FIRST: u64 = 4 << 20 | 6;
const SECOND: u64 = 5 << 20 | 6;

fn entry(pages: &[(u64, Bytes)], sequence: u64, at: u64, tail: u64, len: u64) -> Vec<u8> {
    let at = u32::try_from(at).unwrap();
    let mut entry = log::encode(pages, GUID, sequence, at, len);
    put32(&mut entry, 12, u32::try_from(tail).unwrap());
    seal(&mut entry);
    entry
}

fn header(path: &Path) -> super::super::header::Header {
    Headers::read(&read_only(path)).unwrap().current().clone()
}

/// What the disk reads as without being changed, and then when it is open for writing.
fn both_ways(path: &Path) -> Vec<u8> {
    let before = fs::read(path).unwrap();
    let old = header(path);
    let (image, file) = (read_only(path), image(path));
    let bytes = contents(&layer_of(&image), &image, &[]);
    assert!(fs::read(path).unwrap() == before, "changed though opened for reading only");
    let layer = layer_of(&file);
    assert!(contents(&layer, &file, &[]) == bytes);
    layer.close().unwrap();
    let new = header(path);
    assert!(new.log.is_nil());
    assert_ne!(new.file_write, old.file_write);
    assert_eq!(new.data_write, old.data_write, "replay is no change of what is read");
    assert!(contents(&layer_of(&image), &image, &[]) == bytes, "after replay");
    bytes
}

fn zeroes(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

#[test]
fn an_entry_is_replayed_and_a_torn_one_is_not() {
    let (_folder, path, bytes) = disk();
    let log = image(&path);
    log.write_at(&entry(&[bat(&[FIRST])], 7, 0, 0, 6 * MIB), LOG).unwrap();
    // The next one is torn in its last page, the one after it is whole but not to be reached.
    let mut torn = entry(&[bat(&[FIRST, SECOND])], 8, 2 * PAGE, 0, 6 * MIB);
    torn[6000] ^= 1;
    log.write_at(&torn, LOG + 2 * PAGE).unwrap();
    // One that another log left is nothing.
    let old = log::encode(&[bat(&[0, SECOND])], Uuid::from_u128(1), 99, 16 << 12, 6 * MIB);
    log.write_at(&old, LOG + 16 * PAGE).unwrap();
    let found = both_ways(&path);
    assert!(found[..1 << 20] == bytes && zeroes(&found[1 << 20..]));
    // All of the page came through, also what the entry keeps elsewhere.
    let page = &fs::read(&path).unwrap()[3 << 20..][..PAGE_BYTES];
    assert_eq!(page[..], bat(&[FIRST]).1[..]);
}

#[test]
fn a_run_is_replayed_from_its_tail_and_may_go_round() {
    let (_folder, path, bytes) = disk();
    let log = image(&path);
    let mut whole = vec![0; 1 << 20];
    let end = (1 << 20) - 3 * PAGE_BYTES;
    let first = entry(&[bat(&[FIRST])], 7, end as u64, end as u64, 6 * MIB);
    put(&mut whole, end, &first);
    // From the last page of the log to its first one. Its tail is the entry before.
    let after = end + first.len();
    let (page, mut data) = bat(&[FIRST]);
    let other = (page + PAGE, Box::new([7; PAGE_BYTES]));
    put64(&mut data[..], 2040, 0xfeed);
    let second = entry(&[(page, data), other], 8, after as u64, end as u64, 6 * MIB);
    put(&mut whole, after, &second[..PAGE_BYTES]);
    put(&mut whole, 0, &second[PAGE_BYTES..]);
    log.write_at(&whole, LOG).unwrap();
    let found = both_ways(&path);
    assert!(found[..1 << 20] == bytes);
    let file = fs::read(&path).unwrap();
    assert_eq!(file[(3 << 20) + 2040..][..2], [0xed, 0xfe]);
    assert_eq!(file[(3 << 20) + PAGE_BYTES..][..PAGE_BYTES], [7; PAGE_BYTES]);
}

#[test]
fn the_run_with_the_highest_number_counts() {
    let (_folder, path, bytes) = disk();
    let log = image(&path);
    log.write_at(&entry(&[bat(&[SECOND])], 3, 0, 0, 6 * MIB), LOG).unwrap();
    let at = 8 * PAGE;
    log.write_at(&entry(&[bat(&[FIRST])], 9, at, at, 6 * MIB), LOG + at).unwrap();
    // The tail of this one is in no run with it.
    let lone = 12 * PAGE;
    log.write_at(&entry(&[bat(&[0, FIRST])], 20, lone, 0, 6 * MIB), LOG + lone).unwrap();
    let found = both_ways(&path);
    assert!(found[..1 << 20] == bytes && zeroes(&found[1 << 20..]));
}

#[test]
fn ranges_of_zeroes() {
    let (_folder, path, _) = disk();
    let log = image(&path);
    log.write_at(&[0xff; 8192], BAT).unwrap();
    let mut bytes = entry(&[], 1, 0, 0, 6 * MIB);
    put32(&mut bytes, 24, 1);
    put(&mut bytes, 64, b"zero");
    put64(&mut bytes, 72, 2 * PAGE);
    put64(&mut bytes, 80, BAT);
    put64(&mut bytes, 88, 1);
    seal(&mut bytes);
    log.write_at(&bytes, LOG).unwrap();
    assert!(zeroes(&both_ways(&path)));
    assert!(zeroes(&fs::read(&path).unwrap()[3 << 20..][..8192]));
}

fn refused(path: &Path) -> FormatError {
    let open_as = |image| open(LayerFile::alone(image, 32 << 20)).err().unwrap();
    let before = fs::read(path).unwrap();
    open_as(read_only(path));
    let error = open_as(image(path));
    assert!(fs::read(path).unwrap() == before, "nothing is half replayed");
    error
}

#[test]
fn logs_that_cannot_be_replayed() {
    let (_folder, path, _) = disk();
    assert!(refused(&path).to_string().contains("no entry is valid"));
    let log = image(&path);
    // The file was longer.
    log.write_at(&entry(&[bat(&[FIRST])], 7, 0, 0, 7 * MIB), LOG).unwrap();
    assert!(refused(&path).to_string().contains("has only"));
    // Headers, the log itself, and what no file can have are no place for an entry.
    for at in [0, 64 << 10, LOG, LOG + PAGE, 1 << 63, u64::MAX - PAGE + 1] {
        log.write_at(&entry(&[(at, bat(&[]).1)], 7, 0, 0, 6 * MIB), LOG).unwrap();
        assert!(matches!(refused(&path), FormatError::Damaged { .. }), "{at:#x}");
    }
    // A log of a later version.
    let mut headers = fs::read(&path).unwrap()[64 << 10..192 << 10].to_vec();
    for at in [0, 64 << 10] {
        put16(&mut headers, at + 64, 1);
        seal(&mut headers[at..at + PAGE_BYTES]);
    }
    log.write_at(&headers, 64 << 10).unwrap();
    assert!(matches!(refused(&path), FormatError::Unsupported { .. }));
}

/// What is not replayed is not written either.
#[test]
fn a_log_that_is_too_long() {
    let (_folder, path) = make(&dynamic(3 * MIB), MIB);
    let image = image(&path);
    image.set_len(70 * MIB).unwrap();
    let longer = |header: &mut super::super::header::Header| {
        (header.log_offset, header.log_len) = (4 * MIB, 65 << 20);
    };
    Headers::read(&image).unwrap().update(&image, longer).unwrap();
    let file = LayerFile::alone(Arc::clone(&image), 32 << 20);
    assert!(matches!(open(file), Err(FormatError::Unsupported { .. })));
    assert!(zeroes(&contents(&layer_of(&read_only(&path)), &image, &[])));
    Headers::read(&image).unwrap().update(&image, |header| header.log = GUID).unwrap();
    assert!(matches!(refused(&path), FormatError::Unsupported { .. }));
}

#[test]
fn a_log_may_lengthen_the_file() {
    let (_folder, path, bytes) = disk();
    let log = image(&path);
    let mut made = entry(&[bat(&[FIRST, 7 << 20 | 6])], 7, 0, 0, 6 * MIB);
    put64(&mut made, 56, 8 * MIB);
    seal(&mut made);
    log.write_at(&made, LOG).unwrap();
    let found = both_ways(&path);
    assert_eq!(fs::metadata(&path).unwrap().len(), 8 * MIB);
    assert!(found[..1 << 20] == bytes && zeroes(&found[1 << 20..]));
}

/// As where a file is cut while the log matters: what was described before may be behind its end
/// (MS-VHDX 2.3.3).
#[test]
fn an_entry_may_be_for_what_was_cut_off() {
    let (_folder, path, bytes) = disk();
    let log = image(&path);
    let first = entry(&[(7 * MIB, bat(&[]).1)], 7, 0, 0, 8 * MIB);
    let second = entry(&[bat(&[FIRST])], 8, first.len() as u64, 0, 6 * MIB);
    log.write_at(&[first, second].concat(), LOG).unwrap();
    let found = both_ways(&path);
    assert!(found[..1 << 20] == bytes && zeroes(&found[1 << 20..]));
    assert_eq!(fs::metadata(&path).unwrap().len(), 7 * MIB + PAGE);
}

/// Whatever the file's length is.
#[test]
fn an_entry_tells_lengths_in_whole_mib() {
    let lengths = |len| {
        let entry = log::encode(&[bat(&[])], GUID, 1, 0, len);
        [48, 56].map(|at| get64(&entry, at))
    };
    assert_eq!(lengths(6 * MIB), [6 * MIB, 6 * MIB]);
    assert_eq!(lengths(6 * MIB + 512), [6 * MIB, 7 * MIB]);
}

/// A block, and the bits of its sectors, that are in part or not at all in the file yet.
#[test]
fn what_a_log_adds_to_the_file_is_zero() {
    let folder = TempDir::new().unwrap();
    let parent = pattern(5, 4 << 20);
    let path = make_over_raw(folder.path(), &parent, 2 * MIB);
    let image = image(&path);
    image.set_len(5 * MIB).unwrap();
    image.write_at(&[0xd3; 1 << 20], 4 * MIB).unwrap();
    Headers::read(&image).unwrap().update(&image, |header| header.log = GUID).unwrap();
    // The first block is at 4 MiB, and the bits of the second one's chunk, which is at 8 MiB,
    // are at 6 MiB: 2048 blocks share them.
    let page = |at, entries: &[u64]| {
        let mut bytes = Box::new([0; PAGE_BYTES]);
        entries.iter().enumerate().for_each(|(it, entry)| put64(&mut bytes[..], it * 8, *entry));
        (at, bytes)
    };
    let blocks = page(BAT, &[4 << 20 | 6, 8 << 20 | 7]);
    let bits = page(BAT + 2048 * 8, &[6 << 20 | 6]);
    let mut made = entry(&[blocks, bits], 7, 0, 0, 5 * MIB);
    put64(&mut made, 56, 10 * MIB);
    seal(&mut made);
    image.write_at(&made, LOG).unwrap();
    let read_only = read_only(&path);
    let found = contents(&layer_of(&read_only), &read_only, &parent);
    assert!(found[..1 << 20] == [0xd3; 1 << 20] && zeroes(&found[1 << 20..2 << 20]));
    assert!(found[2 << 20..] == parent[2 << 20..]);
    assert!(contents(&layer_of(&image), &image, &parent) == found);
}
