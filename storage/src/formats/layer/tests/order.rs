//! What is durable before what, what is remembered for how long, and many threads at once.

use super::*;
use crate::crash::{Change, Dice, Recorder};
use crate::engine::fault::{Fault as Broken, Faulty, Script};
use crate::image::fault::{Call, Fault, Faults};
use crate::testkit;

const SIZE: u64 = 64 * BLOCK;

/// The layer of a place, and what happens to its file.
fn recorded(place: &Place, memory: usize) -> (RuntimeLayer, Recorder) {
    let recorder = Recorder::default();
    let file = File::options().read(true).write(true).open(&place.layer).unwrap();
    let installed = recorder.install();
    let image = Arc::new(ImageFile::new(file, &place.layer, true));
    drop(installed);
    let layer = RuntimeLayer::open(LayerFile::alone(image, memory)).unwrap();
    (layer, recorder)
}

/// Offset and kind of everything that happened since the `known` first changes.
fn since(recorder: &Recorder, known: usize) -> Vec<(&'static str, u64)> {
    let changes = recorder.changes().split_off(known);
    let told = changes.into_iter().map(|(_, change)| match change {
        Change::Write { at, .. } => ("write", at),
        Change::Punch { at, .. } => ("punch", at),
        Change::ZeroRange { at, .. } => ("zero", at),
        Change::SetLen(len) => ("set length", len),
        Change::Sync => ("sync", 0),
        other => panic!("{other:?}"),
    });
    told.collect()
}

fn erase(layer: &RuntimeLayer, start: u64, len: u64) -> (Ticket, Vec<WriteStep>) {
    let mut steps = Vec::new();
    let range = DiskRange::new(start, len).unwrap();
    let ticket = layer.resolve_erase(range, Erase::Zero { unmap: true }, &mut steps).unwrap();
    (ticket, steps)
}

#[test]
fn what_is_erased_is_known_to_be_zero_before_it_is_taken_away() {
    let place = Place::on_disk(SIZE, Some(SIZE));
    write(&mut place.queue(), 0, &pattern(1, 2 * 4096));
    let (layer, recorder) = recorded(&place, 32 << 20);
    assert_eq!(since(&recorder, 0), []);
    let (ticket, steps) = erase(&layer, BLOCK, 2 * BLOCK);
    assert_eq!(since(&recorder, 0), [("write", geometry::MAP_OFFSET), ("sync", 0)]);
    let at = layer.geometry.offset(BLOCK).unwrap();
    let punch = WriteStep::ZeroFill { file: FileId(0), at, len: BLOCK, unmap: true };
    assert_eq!(steps, [punch]);
    // A crash now: the data is still there, and what was the parent's is zero.
    let found = states(&open(&place.layer, false).unwrap());
    assert_eq!(found[..4], [State::Data, State::Data, State::Zero, State::Transparent]);
    layer.finish(ticket, Outcome::Done).unwrap();
    // What is known already costs nothing.
    let (ticket, steps) = erase(&layer, BLOCK, 2 * BLOCK);
    layer.finish(ticket, Outcome::Done).unwrap();
    assert_eq!((since(&recorder, 2), steps), (vec![], vec![]));
}

#[test]
fn a_base_needs_no_zero_map() {
    let place = Place::on_disk(SIZE, None);
    write(&mut place.queue(), 0, &pattern(1, 4096));
    let (layer, recorder) = recorded(&place, 32 << 20);
    let (ticket, steps) = erase(&layer, 0, SIZE);
    layer.finish(ticket, Outcome::Done).unwrap();
    assert_eq!((since(&recorder, 0), steps.len()), (vec![], 1));
}

#[test]
fn an_erasure_that_fails_leaves_no_bytes_of_the_parent() {
    let place = Place::on_disk(SIZE, Some(SIZE));
    write(&mut place.queue(), 0, &pattern(1, 2 * 4096));
    let layer = place.open();
    layer.announce_change().unwrap();
    let (ticket, _) = erase(&layer, 512, 4 * BLOCK);
    // Of a copy-up that was not the only step.
    let copied = layer.geometry.body() + 4 * BLOCK;
    layer.image.write_at(&[9; 4096], copied).unwrap();
    layer.finish(ticket, Outcome::Abort).unwrap();
    let (data, zero, clear) = (State::Data, State::Zero, State::Transparent);
    assert_eq!(states(&layer)[..6], [data, zero, zero, zero, clear, clear]);
    layer.image.sync().unwrap();
    let found = states(&open(&place.layer, false).unwrap());
    assert_eq!(found[..6], [data, zero, zero, zero, clear, clear]);
}

#[test]
fn a_header_is_durable_when_it_counts() {
    let place = Place::on_disk(SIZE, Some(SIZE));
    let (layer, recorder) = recorded(&place, 32 << 20);
    let [even, odd] = header::SLOTS;
    layer.announce_change().unwrap();
    assert_eq!(since(&recorder, 0), [("write", odd), ("sync", 0)]);
    layer.close().unwrap();
    assert_eq!(since(&recorder, 2), [("sync", 0), ("write", even), ("sync", 0)]);
}

#[test]
fn what_is_under_way_is_not_forgotten() {
    let place = Place::on_disk(64 << 20, Some(BLOCK));
    // Room for one window in each part of the memory.
    let (layer, _) = recorded(&place, 0);
    let range = DiskRange::new(0, BLOCK).unwrap();
    let ticket = layer.resolve_write(range, &mut Vec::new()).unwrap();
    layer.image.write_at(&[1; 4096], layer.geometry.body()).unwrap();
    layer.image.sync().unwrap();
    // Those who ask meanwhile still get what was there before.
    assert!(states(&layer).iter().all(|&state| state == State::Transparent));
    assert!(states(&layer).iter().all(|&state| state == State::Transparent));
    layer.finish(ticket, Outcome::Done).unwrap();
    assert_eq!(states(&layer)[0], State::Data);
    assert_eq!(states(&layer)[0], State::Data);
}

/// Every thread has every fourth sector to itself, and shares all blocks with the others.
#[test]
fn threads_that_share_blocks_do_not_harm_each_other() {
    const THREADS: usize = 4;
    const SECTORS: usize = 64;
    for place in Place::everywhere(SECTORS as u64 * 512, Some(SECTORS as u64 * 512)) {
        let disk = Disk::open(&place.layer, &WRITABLE).unwrap();
        let work = |thread: usize| {
            let mut queue = disk.queue(2).unwrap();
            let mut dice = Dice::new(thread as u64);
            let mut held: Vec<Option<Vec<u8>>> = vec![None; SECTORS];
            for _ in 0..400 {
                let sector = dice.below(SECTORS / THREADS) * THREADS + thread;
                let (start, seed) = (sector as u64 * 512, u8::try_from(dice.below(256)).unwrap());
                if dice.chance(30) {
                    discard(&mut queue, start, 512);
                    held[sector] = Some(vec![0; 512]);
                } else {
                    write(&mut queue, start, &pattern(seed, 512));
                    held[sector] = Some(pattern(seed, 512));
                }
            }
            held
        };
        let mut wanted = place.below.clone();
        std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> =
                (0..THREADS).map(|thread| scope.spawn(move || work(thread))).collect();
            for thread in threads {
                for (sector, held) in thread.join().unwrap().into_iter().enumerate() {
                    if let Some(bytes) = held {
                        wanted[sector * 512..(sector + 1) * 512].copy_from_slice(&bytes);
                    }
                }
            }
        });
        drop(disk);
        assert!(read(&mut place.queue(), 0, wanted.len()) == wanted);
    }
}

/// A block that was copied from the parent is in the file, also where what should come after that
/// has failed: who erases it must know.
#[test]
fn what_was_copied_is_erased_with_the_block() {
    let mut failed = 0;
    for call in 0..6 {
        let place = Place::on_disk(SIZE, Some(SIZE));
        let faults = Faults::default();
        let installed = faults.install();
        let mut queue = place.queue();
        faults.fail_after(call, Fault { no_space: true, written: 0 });
        // Two blocks, each in part.
        let unmap = Operation::WriteZeroes { unmap: true };
        let torn = testkit::erase(&mut queue, unmap, BLOCK - 512, 1024);
        failed += usize::from(torn.is_err());
        zero(&mut queue, 0, 2 * BLOCK);
        testkit::flush(&mut queue).or_else(|_| testkit::flush(&mut queue)).unwrap();
        drop((queue, installed));
        assert!(read(&mut place.queue(), 0, 2 * 4096) == [0; 2 * 4096], "call {call}");
    }
    assert!(failed > 2, "{failed}");
}

/// The same of what a failed request leaves because it cannot be punched.
#[test]
fn what_cannot_be_taken_away_is_erased_with_the_block() {
    let place = Place::on_disk(SIZE, Some(SIZE));
    let faults = Faults::default();
    let installed = faults.install();
    let disk = Disk::open(&place.layer, &WRITABLE).unwrap();
    let mut queue = disk.queue_on(Faulty::new(&Script::new([Broken::Fail(libc::EIO)])), 4);
    // A header and its sync, and two blocks that are copied.
    faults.fail_after(4, Fault { no_space: false, written: 0 });
    testkit::write(&mut queue, BLOCK - 512, &[9; 1024]).unwrap_err();
    assert_eq!(faults.hit().map(|hit| hit.call), Some(Call::Punch));
    zero(&mut queue, 0, 2 * BLOCK);
    testkit::flush(&mut queue).unwrap();
    drop((queue, disk, installed));
    assert!(read(&mut place.queue(), 0, 2 * 4096) == [0; 2 * 4096]);
}

/// The kernel tells of what a sync has lost once, and payload may be among it.
#[test]
fn a_sync_that_failed_for_another_request_fails_the_next_flush() {
    let place = Place::on_disk(SIZE, Some(SIZE));
    let faults = Faults::default();
    let installed = faults.install();
    let mut queue = place.queue();
    write(&mut queue, 0, &[1; 512]);
    // The map is written, and not synced.
    faults.fail_after(1, Fault { no_space: false, written: 0 });
    let unmap = Operation::WriteZeroes { unmap: true };
    testkit::erase(&mut queue, unmap, 8 * BLOCK, BLOCK).unwrap_err();
    assert_eq!(faults.hit().map(|hit| hit.call), Some(Call::Sync));
    testkit::flush(&mut queue).unwrap_err();
    testkit::flush(&mut queue).unwrap();
    drop((queue, installed));
}
