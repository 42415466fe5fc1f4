//! Random requests against a disk and against plain bytes in memory.

use proptest::prelude::*;

use super::*;

/// Bytes of the disks, the last block being a part of one.
const SIZE: u64 = 5 * MIB + 12 * 4096;

#[derive(Clone, Debug)]
enum Step {
    Write { start: u64, len: u64, seed: u8 },
    Discard { start: u64, len: u64 },
    Zeroes { start: u64, len: u64, unmap: bool },
    Flush,
    Reopen,
}

/// Ranges that begin and end near the ends of blocks, in units of 4096 bytes.
fn place() -> impl Strategy<Value = (u64, u64)> {
    let edge = || {
        (0..6u64, -2..3i64)
            .prop_map(|(block, near)| block.wrapping_mul(256).saturating_add_signed(near))
    };
    let end = SIZE / 4096;
    let short = (edge(), 1..5u64).prop_map(|(start, len)| (start, start + len));
    prop_oneof![3 => short, 2 => (edge(), edge()), 1 => (0..end, 0..end)].prop_map(
        move |(one, other)| {
            let (start, stop) = (one.min(other).min(end - 1), one.max(other).min(end));
            (start * 4096, (stop.max(start + 1) - start) * 4096)
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (place(), any::<u8>())
            .prop_map(|((start, len), seed)| Step::Write { start, len, seed }),
        2 => place().prop_map(|(start, len)| Step::Discard { start, len }),
        3 => (place(), any::<bool>())
            .prop_map(|((start, len), unmap)| Step::Zeroes { start, len, unmap }),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ]
}

fn run(path: &Path, mut model: Vec<u8>, steps: &[Step]) -> Vec<u8> {
    let engine = EngineChoice::Auto;
    let options = DiskOptions { engine, ..DiskOptions::default() };
    let mut disk = queue(path, &options);
    for step in steps {
        let at = |start: u64, len: u64| {
            let start = usize::try_from(start).unwrap();
            start..start + usize::try_from(len).unwrap()
        };
        match *step {
            Step::Write { start, len, seed } => {
                let bytes = pattern(seed, usize::try_from(len).unwrap());
                write(&mut disk, start, &bytes);
                model[at(start, len)].copy_from_slice(&bytes);
            }
            Step::Discard { start, len } => {
                ask(&mut disk, Operation::Discard, start, len, Buffers::none()).unwrap();
                let bytes = read(&mut disk, start, usize::try_from(len).unwrap());
                let old = &mut model[at(start, len)];
                // Undefined, but nobody else's data.
                assert!(bytes.iter().zip(&*old).all(|(now, old)| now == old || *now == 0));
                old.copy_from_slice(&bytes);
            }
            Step::Zeroes { start, len, unmap } => {
                let zeroes = Operation::WriteZeroes { unmap };
                ask(&mut disk, zeroes, start, len, Buffers::none()).unwrap();
                model[at(start, len)].fill(0);
            }
            Step::Flush => ask(&mut disk, Operation::Flush, 0, 0, Buffers::none()).unwrap(),
            Step::Reopen => {
                drop(disk);
                disk = queue(path, &options);
            }
        }
        let bytes = read(&mut disk, 0, model.len());
        assert!(bytes == model, "after {step:?}");
    }
    drop(disk);
    let reopened = read(&mut queue(path, &options), 0, model.len());
    assert!(reopened == model, "after all");
    let layer = layer_of(&read_only(path));
    let damage = layer.check(false).unwrap().into_iter().find(|finding| !finding.harmless);
    assert_eq!(damage, None);
    model
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..24)
}

proptest! {
    #![proptest_config(testkit::cases(16))]

    #[test]
    fn dynamic_disks(steps in steps()) {
        let (_folder, path) = make(&dynamic(SIZE), MIB);
        let model = run(&path, vec![0; usize::try_from(SIZE).unwrap()], &steps);
        assert!(as_qemu_reads(&path) == model, "as QEMU reads it");
    }

    #[test]
    fn fixed_disks_with_large_sectors(steps in steps()) {
        let new = NewLayer { fixed: true, sector: 4096, ..dynamic(SIZE) };
        let (_folder, path) = make(&new, 2 * MIB);
        run(&path, vec![0; usize::try_from(SIZE).unwrap()], &steps);
    }

    #[test]
    fn differencing_disks(steps in steps()) {
        let folder = TempDir::new().unwrap();
        let base = pattern(77, usize::try_from(SIZE).unwrap());
        let path = make_over_raw(folder.path(), &base, MIB);
        run(&path, base.clone(), &steps);
        assert!(fs::read(folder.path().join("base.raw")).unwrap() == base);
    }
}

/// Many requests under way at once, which allocate the same blocks.
#[test]
fn requests_that_are_in_each_others_way() {
    for engine in [EngineChoice::Auto, EngineChoice::Positional] {
        let options = DiskOptions { engine, ..DiskOptions::default() };
        let folder = TempDir::new().unwrap();
        let base = pattern(1, 4 << 20);
        let path = make_over_raw(folder.path(), &base, MIB);
        let disk = Disk::open(&path, &options).unwrap();
        let mut model = base;
        std::thread::scope(|threads| {
            for thread in 0..3u64 {
                let mut queue = disk.queue(16).unwrap();
                threads.spawn(move || {
                    let mut done = Vec::new();
                    for number in 0..128u64 {
                        let mut memory = AlignedBuffer::new(4096);
                        let seed = u8::try_from(number + thread * 50).unwrap();
                        memory.bytes().copy_from_slice(&pattern(seed, 4096));
                        let buffers = Buffers::whole(&Arc::new(memory));
                        let range = range((number * 6 + thread) * 4096, 4096);
                        let operation = Operation::Write;
                        let request = DiskRequest { operation, range, buffers };
                        done.extend(queue.submit(number, request).map(|it| (number, it)));
                        if number % 16 == 0 {
                            let (operation, range) = (Operation::Flush, DiskRange::EMPTY);
                            let buffers = Buffers::none();
                            let request = DiskRequest { operation, range, buffers };
                            done.extend(queue.submit(1000, request).map(|it| (1000, it)));
                        }
                        queue.poll(&mut done);
                    }
                    queue.drain(&mut done);
                    assert!(done.iter().all(|(_, result)| result.is_ok()), "{done:?}");
                });
            }
        });
        for (thread, number) in (0..3usize).flat_map(|it| (0..128usize).map(move |at| (it, at))) {
            let at = (number * 6 + thread) * 4096;
            let seed = u8::try_from(number + thread * 50).unwrap();
            model[at..at + 4096].copy_from_slice(&pattern(seed, 4096));
        }
        assert!(read(&mut disk.queue(4).unwrap(), 0, model.len()) == model);
        drop(disk);
        assert!(read(&mut queue(&path, &options), 0, model.len()) == model);
    }
}
