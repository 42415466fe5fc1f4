//! Several threads on one image: requests of different threads share clusters, never sectors.

use super::*;
use crate::crash::Dice;

const THREADS: usize = 4;
const SIZE: usize = 4 * CLUSTER;
/// Bytes of the pieces that belong to the threads in turn.
const PIECE: usize = 4096;

/// Uses the pieces of one thread, and gives what it has left in them.
fn work(disk: &Disk, thread: usize, mut model: Vec<u8>) -> Vec<u8> {
    let mut dice = Dice::new(thread as u64);
    let mut queue = disk.queue(4).unwrap();
    for step in 0..150u8 {
        let piece = dice.below(SIZE / PIECE / THREADS) * THREADS + thread;
        let from = piece * PIECE + dice.below(PIECE / 512) * 512;
        let len = (1 + dice.below((piece * PIECE + PIECE - from) / 512)) * 512;
        let part = from..from + len;
        let (start, count) = (from as u64, len as u64);
        match dice.below(8) {
            0 => {
                let zeroes = Operation::WriteZeroes { unmap: dice.chance(50) };
                ask(&mut queue, zeroes, start, count, Buffers::none()).unwrap();
                model[part].fill(0);
            }
            1 => ask(&mut queue, Operation::Flush, 0, 0, Buffers::none()).unwrap(),
            2 | 3 => assert!(read(&mut queue, start, len) == model[part], "{thread}, {step}"),
            4 => {
                // Everybody's clusters, of which only some bytes are this thread's.
                let all = read(&mut queue, 0, SIZE);
                for own in (thread..SIZE / PIECE).step_by(THREADS) {
                    let part = own * PIECE..(own + 1) * PIECE;
                    assert!(all[part.clone()] == model[part], "{thread}, {step}, piece {own}");
                }
            }
            _ => {
                let bytes = pattern(step.wrapping_mul(7), len);
                write(&mut queue, start, &bytes);
                model[part].copy_from_slice(&bytes);
            }
        }
    }
    model
}

fn run(path: &Path, mut model: Vec<u8>) {
    let disk = Disk::open(path, &DiskOptions::default()).unwrap();
    let left: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let (disk, model) = (&disk, &model);
        let start = |thread| scope.spawn(move || work(disk, thread, model.clone()));
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    drop(disk);
    for piece in 0..SIZE / PIECE {
        let part = piece * PIECE..(piece + 1) * PIECE;
        model[part.clone()].copy_from_slice(&left[piece % THREADS][part]);
    }
    assert_clean(path);
    assert!(read_by_qemu(path) == model);
}

#[test]
fn on_a_raw_parent() {
    for _ in 0..8 {
        let folder = folder();
        let [base, path] = ["base", "a.qcow2"].map(|name| folder.path().join(name));
        let model = pattern(81, SIZE);
        std::fs::write(&base, &model).unwrap();
        make(&path, SIZE as u64, Some(link(&base, Format::Raw)));
        run(&path, model);
    }
}

#[test]
fn compressed() {
    for _ in 0..8 {
        let folder = folder();
        let [raw, path] = ["raw", "a.qcow2"].map(|name| folder.path().join(name));
        let model = pattern(82, SIZE);
        std::fs::write(&raw, &model).unwrap();
        qemu_img(&["convert", "-c", "-O", "qcow2", "-f", "raw", text(&raw), text(&path)]);
        run(&path, model);
    }
}
