//! How blocks get from state to state, and that they stay there.

use std::process::Command;

use super::*;
use State::{Data, Transparent, Zero};

const SIZE: u64 = 8 * BLOCK;

/// What the layer's file says when nobody remembers anything.
fn on_file(place: &Place) -> Vec<State> {
    states(&open(&place.layer, false).unwrap())
}

#[test]
fn a_new_layer_is_its_parent_and_a_new_base_is_zero() {
    for place in Place::everywhere(SIZE, Some(SIZE - 1024)) {
        assert_eq!(on_file(&place), [Transparent; 8]);
        assert!(read(&mut place.queue(), 0, 8 * 4096) == place.below);
    }
    for place in Place::everywhere(SIZE, None) {
        assert!(read(&mut place.queue(), 0, 8 * 4096) == vec![0; 8 * 4096]);
    }
}

#[test]
fn whole_blocks_become_data_and_zero_and_data_again() {
    for place in Place::everywhere(SIZE, Some(SIZE)) {
        let mut queue = place.queue();
        write(&mut queue, BLOCK, &pattern(1, 2 * 4096));
        zero(&mut queue, 2 * BLOCK, 3 * BLOCK);
        discard(&mut queue, 6 * BLOCK, BLOCK);
        write(&mut queue, 4 * BLOCK, &vec![0; 4096]);
        let mut wanted = place.below.clone();
        wanted[4096..2 * 4096].copy_from_slice(&pattern(1, 4096));
        wanted[2 * 4096..5 * 4096].fill(0);
        wanted[6 * 4096..7 * 4096].fill(0);
        assert!(read(&mut queue, 0, 8 * 4096) == wanted);
        drop(queue);
        let found = on_file(&place);
        assert_eq!(found, [Transparent, Data, Zero, Zero, Data, Transparent, Zero, Transparent]);
        assert!(read(&mut place.queue(), 0, 8 * 4096) == wanted);
    }
}

#[test]
fn a_part_of_a_block_takes_the_rest_from_where_it_was() {
    for place in Place::everywhere(SIZE, Some(SIZE)) {
        let mut wanted = place.below.clone();
        let mut queue = place.queue();
        zero(&mut queue, 3 * BLOCK, BLOCK);
        wanted[3 * 4096..4 * 4096].fill(0);
        // Parts of a transparent block, a whole one, and a part of a zero one.
        let bytes = pattern(7, 2 * 4096);
        write(&mut queue, BLOCK + 1536, &bytes);
        wanted[4096 + 1536..3 * 4096 + 1536].copy_from_slice(&bytes);
        // Of data.
        write(&mut queue, BLOCK + 512, &pattern(9, 512));
        wanted[4096 + 512..4096 + 1024].copy_from_slice(&pattern(9, 512));
        // Within one block.
        write(&mut queue, 6 * BLOCK + 512, &pattern(11, 1024));
        wanted[6 * 4096 + 512..6 * 4096 + 1536].copy_from_slice(&pattern(11, 1024));
        assert!(read(&mut queue, 0, 8 * 4096) == wanted);
        drop(queue);
        let found = on_file(&place);
        let t = Transparent;
        assert_eq!(found, [t, Data, Data, Data, t, t, Data, t]);
        assert!(read(&mut place.queue(), 0, 8 * 4096) == wanted);
    }
}

#[test]
fn erasing_parts_of_blocks_keeps_the_rest() {
    for place in Place::everywhere(SIZE, Some(SIZE)) {
        for operation in [Operation::Discard, Operation::WriteZeroes { unmap: false }] {
            let mut queue = place.queue();
            write(&mut queue, 0, &place.below);
            let mut wanted = place.below.clone();
            ask(&mut queue, operation, 512, 2 * BLOCK, Buffers::none());
            wanted[512..2 * 4096 + 512].fill(0);
            ask(&mut queue, operation, 4 * BLOCK + 1024, 512, Buffers::none());
            wanted[4 * 4096 + 1024..4 * 4096 + 1536].fill(0);
            assert!(read(&mut queue, 0, 8 * 4096) == wanted);
            drop(queue);
            assert_eq!(on_file(&place)[..5], [Data, Zero, Data, Data, Data]);
            assert!(read(&mut place.queue(), 0, 8 * 4096) == wanted);
        }
    }
}

#[test]
fn erasing_parts_of_what_is_the_parents_copies_it_up() {
    for place in Place::everywhere(SIZE, Some(SIZE)) {
        let mut queue = place.queue();
        discard(&mut queue, 512, 2 * BLOCK);
        zero(&mut queue, 5 * BLOCK + 512, 512);
        let mut wanted = place.below.clone();
        wanted[512..2 * 4096 + 512].fill(0);
        wanted[5 * 4096 + 512..5 * 4096 + 1024].fill(0);
        assert!(read(&mut queue, 0, 8 * 4096) == wanted);
        drop(queue);
        let found = on_file(&place);
        let t = Transparent;
        assert_eq!(found, [Data, Zero, Data, t, t, Data, t, t]);
        assert!(read(&mut place.queue(), 0, 8 * 4096) == wanted);
    }
}

#[test]
fn a_disk_may_end_within_a_block() {
    let size = 2 * BLOCK + 1536;
    for place in Place::everywhere(size, Some(size)) {
        let mut queue = place.queue();
        let mut wanted = place.below.clone();
        write(&mut queue, 2 * BLOCK + 1024, &pattern(3, 512));
        wanted[2 * 4096 + 1024..].copy_from_slice(&pattern(3, 512));
        assert!(read(&mut queue, 0, wanted.len()) == wanted);
        drop(queue);
        assert_eq!(on_file(&place), [Transparent, Transparent, Data]);
        let mut queue = place.queue();
        zero(&mut queue, 2 * BLOCK + 512, 1024);
        wanted[2 * 4096 + 512..].fill(0);
        assert!(read(&mut queue, 0, wanted.len()) == wanted);
        discard(&mut queue, BLOCK, BLOCK + 1536);
        wanted[4096..].fill(0);
        assert!(read(&mut queue, 0, wanted.len()) == wanted);
        drop(queue);
        assert_eq!(on_file(&place), [Transparent, Zero, Zero]);
        let len = std::fs::metadata(&place.layer).unwrap().len();
        assert_eq!(len, place.open().geometry.file_len());
    }
}

/// The steps of a request that is under way, and its ticket.
fn plan(layer: &RuntimeLayer, start: u64, len: u64) -> Result<Ticket, LayerError> {
    layer.resolve_write(DiskRange::new(start, len).unwrap(), &mut Vec::new())
}

#[test]
fn requests_that_change_states_exclude_each_other() {
    let place = Place::on_disk(SIZE, Some(SIZE));
    write(&mut place.queue(), 0, &pattern(1, 2 * 4096));
    let layer = place.open();
    let erase = |start, len| {
        let range = DiskRange::new(start, len).unwrap();
        layer.resolve_erase(range, Erase::Discard, &mut Vec::new())
    };
    // Overwriting is shared, and keeps erasures out.
    let (one, two) = (plan(&layer, 0, 512).unwrap(), plan(&layer, 512, 512).unwrap());
    assert!(matches!(erase(0, BLOCK), Err(LayerError::Busy)));
    layer.finish(one, Outcome::Done).unwrap();
    layer.finish(two, Outcome::Abort).unwrap();
    let erasing = erase(0, BLOCK).unwrap();
    assert!(matches!(plan(&layer, 0, BLOCK), Err(LayerError::Busy)));
    layer.finish(erasing, Outcome::Done).unwrap();
    assert_eq!(states(&layer)[..2], [Zero, Data]);
    // A first write becomes visible when it is done, and not when it fails.
    let first = plan(&layer, 4 * BLOCK, BLOCK).unwrap();
    assert!(matches!(plan(&layer, 4 * BLOCK + 512, 512), Err(LayerError::Busy)));
    assert_eq!(states(&layer)[4], Transparent);
    let at = layer.geometry.body() + 4 * BLOCK;
    layer.image.write_at(&pattern(1, 4096), at).unwrap();
    layer.finish(first, Outcome::Abort).unwrap();
    assert_eq!(states(&layer)[4], Transparent);
    layer.image.sync().unwrap();
    assert_eq!(on_file(&place)[4], Transparent);
    let again = plan(&layer, 4 * BLOCK, BLOCK).unwrap();
    layer.image.write_at(&pattern(1, 4096), at).unwrap();
    layer.finish(again, Outcome::Done).unwrap();
    assert_eq!(states(&layer)[4], Data);
}

#[test]
fn a_first_write_that_was_cut_short_never_was() {
    // Allocated and not written, as after a crash in the middle.
    let place = Place::on_disk(SIZE, Some(SIZE));
    let body = place.open().geometry.body();
    let file = File::options().write(true).open(&place.layer).unwrap();
    crate::engine::sys::fallocate(&file, libc::FALLOC_FL_KEEP_SIZE, body, 3 * BLOCK).unwrap();
    assert_eq!(on_file(&place), [Transparent; 8]);
    assert!(read(&mut place.queue(), 0, 8 * 4096) == place.below);
}

#[test]
fn what_is_forgotten_is_what_the_file_knows() {
    // Room for one window in each part of the memory: most windows are forgotten at once.
    for place in Place::everywhere(256 << 20, Some(BLOCK)) {
        let file = File::options().read(true).write(true).open(&place.layer).unwrap();
        let image = Arc::new(ImageFile::new(file, &place.layer, true));
        let layer = RuntimeLayer::open(LayerFile::alone(image, 0)).unwrap();
        layer.announce_change().unwrap();
        let mut steps = Vec::new();
        for round in 0..2 {
            for window in 0..128u64 {
                let start = window * (2 << 20) + round * 3 * BLOCK;
                let range = DiskRange::new(start, BLOCK).unwrap();
                let ticket = layer.resolve_write(range, &mut steps).unwrap();
                layer.image.write_at(&[1; 4096], layer.geometry.body() + start).unwrap();
                layer.finish(ticket, Outcome::Done).unwrap();
            }
        }
        assert_eq!(layer.blocks.remembered(), 16);
        let found = states(&layer);
        for (block, state) in found.iter().enumerate() {
            let wanted = if matches!(block % 512, 0 | 3) { Data } else { Transparent };
            assert_eq!(*state, wanted, "block {block}");
        }
    }
}

/// A block's first write would take the parent's bytes around it away.
#[test]
fn memory_in_huge_pages_is_refused() {
    let Some(huge) = testkit::Tmpfs::new("huge=always,size=32m") else { return };
    let path = huge.path().join("top.layer");
    let parent = Some(ParentLink::new(Format::Raw, None));
    let child = NewLayer { size: 8 << 20, sector: 512, parent, fixed: false, traits: None };
    let image = new_image(&path);
    let error = formats::create(Format::Layer, &image, &child).unwrap_err();
    assert!(error.to_string().contains("huge=never"), "{error}");
    // So is one that has come there from elsewhere, unless it is only read.
    let place = Place::on_disk(8 << 20, Some(8 << 20));
    let status = Command::new("cp").arg(&place.layer).arg(&path).status().unwrap();
    assert!(status.success());
    let error = open(&path, true).err().unwrap();
    assert!(error.to_string().contains("huge=never"), "{error}");
    assert_eq!(states(&open(&path, false).unwrap())[0], Transparent);
    // Without a parent there is nothing to hide.
    image.set_len(0).unwrap();
    formats::create(Format::Layer, &image, &NewLayer { parent: None, ..child }).unwrap();
}
