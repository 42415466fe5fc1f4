//! Random requests against a layer on a parent and against plain bytes.

use proptest::prelude::*;

use super::*;

/// Sectors of the disk, which ends within a block.
const SECTORS: u64 = 16 * 8 + 3;

#[derive(Clone, Debug)]
enum Step {
    Read { start: u64, len: u64 },
    Write { start: u64, len: u64, seed: u8 },
    Zeroes { start: u64, len: u64, unmap: bool },
    Discard { start: u64, len: u64 },
    Flush,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let range = || {
        prop_oneof![
            (0..SECTORS).prop_flat_map(|start| (Just(start), 1..=SECTORS - start)),
            (0..SECTORS).prop_flat_map(|start| (Just(start), 1..=(SECTORS - start).min(9))),
            (0..16u64)
                .prop_flat_map(|start| (Just(start * 8), (1..=(16 - start)).prop_map(|n| n * 8))),
        ]
    };
    prop_oneof![
        3 => range().prop_map(|(start, len)| Step::Read { start, len }),
        4 => (range(), any::<u8>()).prop_map(|((start, len), seed)| Step::Write { start, len, seed }),
        2 => (range(), any::<bool>())
            .prop_map(|((start, len), unmap)| Step::Zeroes { start, len, unmap }),
        2 => range().prop_map(|(start, len)| Step::Discard { start, len }),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ]
}

fn run(place: &Place, options: &DiskOptions, steps: &[Step]) {
    let mut model = place.below.clone();
    let mut queue = Some(place.queue_with(options));
    for step in steps {
        if let Step::Reopen = step {
            queue = None;
        }
        let queue = queue.get_or_insert_with(|| place.queue_with(options));
        let part = |start: u64, len: u64| {
            let (start, len) = (usize::try_from(start).unwrap(), usize::try_from(len).unwrap());
            start * 512..(start + len) * 512
        };
        match *step {
            Step::Read { start, len } => {
                let part = part(start, len);
                let found = read(queue, start * 512, part.len());
                assert!(found == model[part], "{step:?}");
            }
            Step::Write { start, len, seed } => {
                let part = part(start, len);
                let bytes = if seed < 40 { vec![0; part.len()] } else { pattern(seed, part.len()) };
                write(queue, start * 512, &bytes);
                model[part].copy_from_slice(&bytes);
            }
            Step::Zeroes { start, len, unmap } => {
                let operation = Operation::WriteZeroes { unmap };
                ask(queue, operation, start * 512, len * 512, Buffers::none());
                model[part(start, len)].fill(0);
            }
            // This format's choice among what a discard may do.
            Step::Discard { start, len } => {
                discard(queue, start * 512, len * 512);
                model[part(start, len)].fill(0);
            }
            Step::Flush => ask(queue, Operation::Flush, 0, 0, Buffers::none()),
            Step::Reopen => {}
        }
        assert!(read(queue, 0, model.len()) == model, "after {step:?}");
    }
    drop(queue);
    assert!(read(&mut place.queue_with(&READ_ONLY), 0, model.len()) == model, "at the end");
    assert_eq!(place.open().check(false).unwrap(), []);
}

proptest! {
    #![proptest_config(testkit::cases(16))]

    #[test]
    fn a_child_is_bytes_over_bytes(steps in proptest::collection::vec(step(), 1..30)) {
        for engine in [EngineChoice::Positional, EngineChoice::IoUring] {
            for place in Place::everywhere(SECTORS * 512, Some(100 * 512)) {
                run(&place, &DiskOptions { engine, ..WRITABLE }, &steps);
            }
        }
    }

    #[test]
    fn a_base_is_bytes(steps in proptest::collection::vec(step(), 1..30)) {
        for place in Place::everywhere(SECTORS * 512, None) {
            run(&place, &WRITABLE, &steps);
        }
    }
}

/// The same past the page cache, where the file system permits that.
#[test]
fn past_the_page_cache() {
    let place = Place::on_disk(1 << 20, Some(1 << 20));
    let options = DiskOptions { direct: true, engine: EngineChoice::IoUring, ..WRITABLE };
    let disk = match Disk::open(&place.layer, &options) {
        Err(error @ DiskError::NoDirect { .. }) => return println!("skipped: {error}"),
        disk => disk.unwrap(),
    };
    let block = u64::from(disk.logical_block_size());
    drop(disk);
    let mut model = place.below.clone();
    for round in 0..3u8 {
        let mut queue = place.queue_with(&options);
        for (seed, at) in (0u8..).zip([0, 5, 8, 31, 64]) {
            let (start, len) = (at * block, (u64::from(seed) * 3 + 1) * block);
            let part = usize::try_from(start).unwrap()..usize::try_from(start + len).unwrap();
            if seed == round {
                zero(&mut queue, start, len);
                model[part].fill(0);
            } else {
                let bytes = pattern(seed + round, part.len());
                write(&mut queue, start, &bytes);
                model[part].copy_from_slice(&bytes);
            }
            assert!(read(&mut queue, 0, model.len()) == model, "{round} {seed}");
        }
    }
    assert!(read(&mut place.queue(), 0, model.len()) == model);
}
