//! What writing changes beside the data: identities, records of parents, space.

use super::super::PAGE_BYTES;
use super::super::header::Headers;
use super::super::journal::Journal;
use super::super::region::Region;
use super::*;
use crate::image::fault::{Fault, Faults};

#[test]
fn only_changes_change_the_file() {
    let (_folder, path) = make(&dynamic(4 * MIB), MIB);
    let recorder = Recorder::default();
    let recording = recorder.install();
    let image = image(&path);
    drop(recording);
    let layer = layer_of(&image);
    let identity = layer.identity().unwrap();
    contents(&layer, &image, &[]);
    layer.flush_metadata().unwrap();
    layer.close().unwrap();
    assert_eq!(recorder.changes(), []);
    let old = Headers::read(&image).unwrap().current().clone();
    layer.announce_change().unwrap();
    let new = Headers::read(&image).unwrap().current().clone();
    assert_eq!(layer.identity().unwrap(), Identity::Id(new.data_write));
    assert_ne!(layer.identity().unwrap(), identity);
    assert_ne!(new.file_write, old.file_write);
}

#[test]
fn what_was_aborted_is_not_there() {
    let (_folder, path) = make(&dynamic(4 * MIB), MIB);
    let image = image(&path);
    let layer = layer_of(&image);
    let (mut steps, place) = (Vec::new(), range(MIB, 512));
    let ticket = layer.resolve_write(place, &mut steps).unwrap();
    let WriteStep::Store { at, .. } = steps[0] else { panic!("{steps:?}") };
    image.write_at(&[0xee; 512], at.get()).unwrap();
    // Meanwhile nobody else gets the block.
    let busy = layer.resolve_read(place, &mut Vec::new());
    assert!(matches!(busy, Err(LayerError::Busy)));
    layer.finish(ticket, Outcome::Abort).unwrap();
    layer.flush_metadata().unwrap();
    assert!(contents(&layer, &image, &[]).iter().all(|&byte| byte == 0));
    // Its space is taken again, without what was written to it.
    let next = range(2 * MIB, 512);
    change(&layer, &image, |steps| layer.resolve_write(next, steps), &[1; 512]);
    assert_eq!(fs::metadata(&path).unwrap().len(), 5 * MIB);
    assert_eq!(contents(&layer, &image, &[]).iter().filter(|&&byte| byte != 0).count(), 512);
}

#[test]
fn a_chain_of_vhdx_files() {
    let (folder, base) = make(&dynamic(4 * MIB), MIB);
    write(&mut queue(&base, &options()), 0, &pattern(1, 8192));
    let identity = layer_of(&read_only(&base)).identity().unwrap();
    let child = folder.path().join("child.avhdx");
    let parent = link(Format::Vhdx, "disk.vhdx", identity.clone());
    let new = NewLayer { parent: Some(parent.clone()), ..dynamic(4 * MIB) };
    super::super::create(&image(&child), &new).unwrap();
    assert_eq!(layer_of(&read_only(&child)).info().parent, Some(parent));
    let mut disk = queue(&child, &options());
    write(&mut disk, 512, &[9; 512]);
    ask(&mut disk, Operation::Discard, 4096, 512, Buffers::none()).unwrap();
    let mut wanted = pattern(1, 8192);
    wanted[512..1024].fill(9);
    wanted[4096..4608].fill(0);
    assert!(read(&mut disk, 0, 8192) == wanted);
    drop(disk);
    assert!(read(&mut queue(&child, &options()), 0, 8192) == wanted);
    assert_eq!(layer_of(&read_only(&base)).identity().unwrap(), identity);
    // A base that changes is noticed; opening it is no change.
    drop(queue(&base, &options()));
    drop(queue(&child, &options()));
    write(&mut queue(&base, &options()), 0, &[3; 512]);
    Disk::open(&child, &options()).unwrap_err();
    let insist = DiskOptions { allow_mismatch: true, ..options() };
    drop(queue(&child, &insist));
    let found = layer_of(&read_only(&base)).identity().unwrap();
    let recorded = layer_of(&read_only(&child)).info().parent.clone().unwrap();
    assert_eq!((recorded.identity, recorded.overridden), (Some(identity), Some(found)));
}

/// Windows makes no such chains; what others make reads as it should.
#[test]
fn sectors_smaller_than_the_parents() {
    let folder = TempDir::new().unwrap();
    let raw = pattern(5, 2 << 20);
    let [base, middle, top] =
        ["base.raw", "middle.vhdx", "top.vhdx"].map(|it| folder.path().join(it));
    fs::write(&base, &raw).unwrap();
    for (child, parent, sector) in [(&middle, &base, 4096), (&top, &middle, 512)] {
        let parent = Some(testkit::link_to(parent));
        let new = NewLayer { sector, parent, ..dynamic(2 * MIB) };
        create_with_blocks(&image(child), &new, MIB).unwrap();
        if child == &middle {
            write(&mut queue(child, &options()), 8192, &[9; 4096]);
        }
    }
    let mut wanted = raw;
    wanted[8192..12288].fill(9);
    write(&mut queue(&top, &options()), 7680, &[3; 1024]);
    wanted[7680..8704].fill(3);
    // For reading only, all layers answer for their own sectors.
    let mut disk = queue(&top, &DiskOptions { read_only: true, ..options() });
    for (at, len) in [(0, 2 << 20), (4608, 4096), (8704, 512), (11776, 1024), (12288, 512)] {
        assert!(read(&mut disk, at, len) == wanted[usize::try_from(at).unwrap()..][..len], "{at}");
    }
}

#[test]
fn the_record_of_the_parent_can_be_replaced_often() {
    let folder = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
    let path = make_over_raw(folder.path(), &pattern(5, 1 << 20), MIB);
    let image = image(&path);
    let layer = layer_of(&image);
    let identity = layer.identity().unwrap();
    for number in 0..300 {
        let next = link(Format::Raw, &format!("base-{number}"), Identity::fresh());
        layer.set_parent(&next).unwrap();
        if number % 100 == 99 {
            // As it is when the process ends here, and when it goes on.
            assert_eq!(layer_of(&read_only(&path)).info().parent, Some(next));
        }
    }
    assert_eq!(layer.identity().unwrap(), identity, "not a change of what is read");
    layer.close().unwrap();
    let (_other, lone) = make(&dynamic(MIB), MIB);
    let parent = link(Format::Raw, "base", Identity::fresh());
    layer_of(&super::image(&lone)).set_parent(&parent).unwrap_err();
}

#[test]
fn nothing_is_written_to_a_file_open_for_reading() {
    let (_folder, path) = make(&dynamic(MIB), MIB);
    let layer = layer_of(&read_only(&path));
    assert!(layer.info().read_only);
    layer.resolve_write(range(0, 512), &mut Vec::new()).unwrap_err();
    layer.resolve_erase(range(0, 512), Erase::Discard, &mut Vec::new()).unwrap_err();
    layer.announce_change().unwrap_err();
    layer.close().unwrap();
}

/// More changed pages than fit into one entry, more entries than fit into the log.
#[test]
fn many_pages_at_once() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("disk.vhdx");
    let parent = Some(link(Format::Vhdx, "base.vhdx", Identity::fresh()));
    let size = 4 << 40;
    create_with_blocks(&image(&path), &NewLayer { parent, ..dynamic(size) }, MIB).unwrap();
    let image = image(&path);
    let layer = layer_of(&image);
    let places: Vec<u64> =
        (0..300).map(|number| number * (size / 300) / MIB * MIB + 4096).collect();
    for &at in &places {
        change(&layer, &image, |steps| layer.resolve_write(range(at, 512), steps), &[1; 512]);
    }
    layer.flush_metadata().unwrap();
    // As a crash leaves it, and as it is left in order.
    for _ in 0..2 {
        let found = layer_of(&read_only(&path));
        for &at in &places {
            let mut extents = Vec::new();
            let ticket = found.resolve_read(range(at - 512, 1536), &mut extents).unwrap();
            found.finish(ticket, Outcome::Done).unwrap();
            assert!(matches!(
                extents[..],
                [
                    Extent { source: Source::Transparent, .. },
                    Extent { source: Source::Data { .. }, .. },
                    Extent { source: Source::Transparent, .. },
                ]
            ));
        }
        layer.close().unwrap();
    }
}

/// The log is sparse: there may be no room for an entry, and some again later.
#[test]
fn an_entry_for_which_there_was_no_room_is_written_later() {
    let (_folder, path) = make(&dynamic(4 * MIB), MIB);
    let image = image(&path);
    let mut headers = Headers::read(&image).unwrap();
    let mut journal = Journal::new(Region { offset: MIB, len: MIB });
    let full = ImageFile::new(File::open(&path).unwrap(), &path, true);
    for byte in 1..4 {
        let pages = [(3 * MIB, Box::new([byte; PAGE_BYTES]))];
        let error = journal.write(&full, &mut headers, &pages).unwrap_err();
        assert!(matches!(error, FormatError::Host { action: "write", .. }), "{error}");
        let before = fs::read(&path).unwrap();
        assert!(before[3 << 20..][..PAGE_BYTES] == [byte - 1; PAGE_BYTES]);
        journal.write(&image, &mut headers, &pages).unwrap();
        assert!(fs::read(&path).unwrap()[3 << 20..][..PAGE_BYTES] == [byte; PAGE_BYTES]);
    }
}

#[test]
fn space_of_no_use_is_found_and_given_back() {
    let (_folder, path) = make(&dynamic(4 * MIB), MIB);
    write(&mut queue(&path, &options()), 0, &[1; 512]);
    File::options().write(true).open(&path).unwrap().set_len(9 * MIB).unwrap();
    let image = image(&path);
    let layer = layer_of(&image);
    let found = layer.check(false).unwrap();
    assert!(matches!(&found[..], [finding] if finding.harmless && !finding.repaired));
    let mended = layer.check(true).unwrap();
    assert!(matches!(&mended[..], [finding] if finding.repaired), "{mended:?}");
    assert_eq!(fs::metadata(&path).unwrap().len(), 5 * MIB);
    assert_eq!(layer.check(false).unwrap(), []);
    // Blocks that overlap are damage, which nobody can mend.
    image.write_at(&(4u64 << 20 | 6).to_le_bytes(), 3 * MIB + 8).unwrap();
    let found = layer_of(&image).check(true).unwrap();
    assert!(matches!(&found[..], [finding] if !finding.harmless && !finding.repaired));
}

/// The file ends where the disk does, which is early in its last block.
#[test]
fn a_last_block_that_is_cut_short_gets_all_its_space() {
    let (last, first) = (pattern(1, 1 << 20), pattern(2, 1 << 20));
    let short = || {
        let (folder, path) = make(&dynamic(33 * MIB), 32 * MIB);
        write(&mut queue(&path, &options()), 32 * MIB, &last);
        File::options().write(true).open(&path).unwrap().set_len(5 * MIB).unwrap();
        (folder, path)
    };
    let (_folder, path) = short();
    write(&mut queue(&path, &options()), 0, &first);
    assert_eq!(layer_of(&read_only(&path)).check(false).unwrap(), []);
    let bytes = as_qemu_reads(&path);
    assert!(bytes[..1 << 20] == first && zeroes(&bytes[1 << 20..32 << 20]));
    assert!(bytes[32 << 20..] == last);
    // Another block that gets the space gets all of it, too.
    let (_folder, path) = short();
    let mut disk = queue(&path, &options());
    ask(&mut disk, Operation::Discard, 32 * MIB, MIB, Buffers::none()).unwrap();
    ask(&mut disk, Operation::Flush, 0, 0, Buffers::none()).unwrap();
    write(&mut disk, 0, &first);
    assert_eq!(fs::metadata(&path).unwrap().len(), 36 * MIB);
    let bytes = read(&mut disk, 0, 33 << 20);
    assert!(bytes[..1 << 20] == first && zeroes(&bytes[1 << 20..]));
}

fn zeroes(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// Space that a flush could not set free is set free by the next one.
#[test]
fn space_outlives_a_flush_that_fails() {
    let (_folder, path) = make(&dynamic(4 * MIB), MIB);
    let faults = Faults::default();
    let failing = faults.install();
    let image = image(&path);
    drop(failing);
    let layer = layer_of(&image);
    let mut steps = Vec::new();
    let ticket = layer.resolve_write(range(MIB, 512), &mut steps).unwrap();
    layer.finish(ticket, Outcome::Abort).unwrap();
    faults.fail_after(0, Fault { no_space: false, written: 0 });
    layer.flush_metadata().unwrap_err();
    layer.flush_metadata().unwrap();
    let next = range(2 * MIB, 512);
    change(&layer, &image, |steps| layer.resolve_write(next, steps), &[1; 512]);
    assert_eq!(fs::metadata(&path).unwrap().len(), 5 * MIB);
}
