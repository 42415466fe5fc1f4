//! Copies that keep the difference between zeroes and holes, and copies that do not.

use std::process::Command;

use super::*;

const SIZE: u64 = 16 * BLOCK;

fn copy(arguments: &[&str], from: &Path, to: &Path) {
    let status = Command::new("cp").args(arguments).arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// A layer in which some blocks of zeroes were written over the parent's bytes.
fn with_zeroes(place: &Place) -> Vec<u8> {
    let mut queue = place.queue();
    write(&mut queue, 2 * BLOCK, &pattern(1, 4096));
    write(&mut queue, 4 * BLOCK, &[0; 2 * 4096]);
    read(&mut queue, 0, usize::try_from(SIZE).unwrap())
}

#[test]
fn a_copy_that_mixes_up_holes_and_zeroes_is_refused() {
    for place in Place::everywhere(SIZE, Some(SIZE)) {
        let before = with_zeroes(&place);
        for how in ["--sparse=always", "--sparse=never"] {
            let to = place.layer.with_file_name("copy.layer");
            copy(&["--reflink=never", how], &place.layer, &to);
            let copied = Place { layer: to.clone(), ..Place::on_disk(512, None) };
            let error = copied.refused();
            assert!(matches!(error, FormatError::Damaged { .. }), "{how}: {error}");
            assert!(error.to_string().contains("tar --sparse"), "{error}");
            std::fs::remove_file(to).unwrap();
        }
        assert!(read(&mut place.queue(), 0, before.len()) == before);
    }
}

#[test]
fn so_is_such_a_copy_of_a_layer_that_was_not_closed() {
    let place = Place::on_disk(SIZE, Some(SIZE));
    let layer = place.open();
    layer.announce_change().unwrap();
    drop(layer);
    for how in ["--sparse=always", "--sparse=never"] {
        let to = place.layer.with_file_name("copy.layer");
        copy(&["--reflink=never", how], &place.layer, &to);
        assert!(matches!(open(&to, true), Err(FormatError::Damaged { .. })), "{how}");
        std::fs::remove_file(to).unwrap();
    }
    open(&place.layer, true).unwrap();
}

#[test]
fn a_copy_that_keeps_the_difference_is_as_good() {
    let place = Place::on_disk(SIZE, Some(SIZE));
    let before = with_zeroes(&place);
    let folder = place.layer.parent().unwrap();
    let moved = folder.join("moved");
    std::fs::create_dir(&moved).unwrap();
    let script = "tar --sparse -cf - top.layer | tar -C moved -xf - && mv top.layer old && mv moved/top.layer .";
    let status = Command::new("sh").args(["-c", script]).current_dir(folder).status().unwrap();
    assert!(status.success());
    assert!(read(&mut place.queue(), 0, before.len()) == before);
}

#[test]
fn a_copy_without_written_zeroes_may_lose_the_witness_and_gets_it_back() {
    let place = Place::on_disk(SIZE, Some(SIZE));
    write(&mut place.queue(), 2 * BLOCK, &pattern(1, 4096));
    let to = place.layer.with_file_name("copy.layer");
    copy(&["--reflink=never", "--sparse=always"], &place.layer, &to);
    let layer = open(&to, true).unwrap();
    assert!(!seal::witness_holds(&layer.image).unwrap());
    assert_eq!(layer.check(false).unwrap().len(), 1);
    layer.announce_change().unwrap();
    assert!(seal::witness_holds(&layer.image).unwrap());
    layer.close().unwrap();
    assert_eq!(open(&to, true).unwrap().check(false).unwrap(), []);
}

#[test]
fn every_copy_of_a_base_is_as_good() {
    let place = Place::on_disk(SIZE, None);
    let before = with_zeroes(&place);
    for how in ["--sparse=always", "--sparse=never"] {
        let to = place.layer.with_file_name("copy.layer");
        copy(&["--reflink=never", how], &place.layer, &to);
        let mut queue = Disk::open(&to, &READ_ONLY).unwrap().queue(1).unwrap();
        assert!(read(&mut queue, 0, before.len()) == before);
        std::fs::remove_file(to).unwrap();
    }
}

#[test]
fn holes_dug_into_the_file_itself_are_noticed() {
    let place = Place::on_disk(SIZE, Some(SIZE));
    with_zeroes(&place);
    let status = Command::new("fallocate").arg("--dig-holes").arg(&place.layer).status();
    assert!(status.unwrap().success());
    assert!(matches!(place.refused(), FormatError::Damaged { .. }));
}

/// By the file's space, if its witness was left alone.
#[test]
fn what_others_punch_or_fill_is_noticed() {
    for place in Place::everywhere(SIZE, Some(SIZE)) {
        with_zeroes(&place);
        let layer = place.open();
        let at = |block| layer.geometry.body() + block * BLOCK;
        assert!(seal::is_untouched(&layer.image, &layer.header().seal.unwrap()).unwrap());
        layer.image.punch(at(2), BLOCK).unwrap();
        if seal::is_untouched(&layer.image, &layer.header().seal.unwrap()).unwrap() {
            println!("skipped: space is counted in larger units than blocks here");
            continue;
        }
        assert!(matches!(place.refused(), FormatError::Damaged { .. }));
        let findings = layer.check(true).unwrap();
        assert!(matches!(&findings[..], [Finding { harmless: false, repaired: false, .. }]));
        layer.image.write_at(&pattern(1, 4096), at(2)).unwrap();
        place.open();
        layer.image.write_at(&[0; 4096], at(9)).unwrap();
        assert!(matches!(place.refused(), FormatError::Damaged { .. }));
    }
}

/// Neither a new layer nor one that was written looks as if somebody had been at it.
#[test]
fn a_layer_that_was_left_alone_is_not_looked_through() {
    for place in Place::everywhere(SIZE, Some(SIZE)) {
        for block in 0..8 {
            let layer = place.open();
            assert!(seal::is_untouched(&layer.image, &layer.header().seal.unwrap()).unwrap());
            drop(layer);
            write(&mut place.queue(), 2 * block * BLOCK, &pattern(1, 4096));
        }
    }
}

#[test]
fn a_seal_is_about_as_many_blocks_as_it_says() {
    let place = Place::on_disk(SIZE, Some(SIZE));
    write(&mut place.queue(), 2 * BLOCK, &pattern(1, 4096));
    let layer = place.open();
    // As if there had been too many runs behind the sixth block.
    layer.announce_change().unwrap();
    let mut seal = seal::make(&layer.image, &layer.geometry).unwrap();
    assert_eq!((seal.written.covered, seal.written.blocks), (16, 1));
    seal.written.covered = 6;
    layer.change_header(|header| header.seal = Some(seal)).unwrap();
    let at = layer.geometry.body();
    layer.image.write_at(&[0; 4096], at + 8 * BLOCK).unwrap();
    layer.image.sync().unwrap();
    assert_eq!(layer.check(false).unwrap(), []);
    // Without its witness, a copy needs all of a seal.
    let to = place.layer.with_file_name("copy.layer");
    copy(&["--reflink=never", "--sparse=always"], &place.layer, &to);
    assert!(matches!(open(&to, true), Err(FormatError::Damaged { .. })));
    layer.image.write_at(&[0; 4096], at + 5 * BLOCK).unwrap();
    assert_eq!(layer.check(false).unwrap().len(), 1);
}
