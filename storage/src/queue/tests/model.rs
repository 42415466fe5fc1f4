//! Random requests against a disk and against plain bytes in memory: both must agree at every
//! step, and the file must hold the same at the end.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

const BLOCKS: u64 = 96;

/// A request in units of the disk's blocks; `shift` misaligns its memory.
#[derive(Clone, Debug)]
enum Step {
    Read { start: u64, len: u64, shift: usize },
    Write { start: u64, len: u64, shift: usize, seed: u8 },
    Discard { start: u64, len: u64 },
    Zeroes { start: u64, len: u64, unmap: bool },
    Flush,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0..BLOCKS).prop_flat_map(|start| (Just(start), 1..=BLOCKS - start));
    let shift = || prop_oneof![3 => Just(0usize), 1 => 1usize..600];
    prop_oneof![
        4 => (range(), shift())
            .prop_map(|((start, len), shift)| Step::Read { start, len, shift }),
        6 => (range(), shift(), any::<u8>())
            .prop_map(|((start, len), shift, seed)| Step::Write { start, len, shift, seed }),
        2 => range().prop_map(|(start, len)| Step::Discard { start, len }),
        2 => (range(), any::<bool>())
            .prop_map(|((start, len), unmap)| Step::Zeroes { start, len, unmap }),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ]
}

/// A disk and what it must hold.
struct Pair {
    queue: DiskQueue,
    model: Vec<u8>,
    block: u64,
}

impl Pair {
    fn new(path: &Path, options: &DiskOptions) -> Pair {
        let block = u64::from(Disk::open(path, options).unwrap().logical_block_size());
        File::options().write(true).open(path).unwrap().set_len(BLOCKS * block).unwrap();
        let mut queue = Disk::open(path, options).unwrap().queue(4).unwrap();
        let model = read(&mut queue, 0, usize::try_from(BLOCKS * block).unwrap()).unwrap();
        Pair { queue, model, block }
    }

    /// Asks for blocks of the disk, and gives the model's bytes of them.
    fn ask(&mut self, operation: Operation, start: u64, len: u64, buffers: Buffers) -> &mut [u8] {
        let (start, len) = (start * self.block, len * self.block);
        ask(&mut self.queue, request(operation, start, len, buffers)).unwrap();
        let start = usize::try_from(start).unwrap();
        &mut self.model[start..start + usize::try_from(len).unwrap()]
    }

    fn read(&mut self, start: u64, len: u64, shift: usize) -> (Vec<u8>, &mut [u8]) {
        let bytes = usize::try_from(len * self.block).unwrap();
        let mut memory = Arc::new(AlignedBuffer::new(bytes + shift));
        let mut buffers = Buffers::whole(&memory);
        buffers.advance(shift as u64);
        let model = self.ask(Operation::Read, start, len, buffers);
        (Arc::get_mut(&mut memory).unwrap().bytes()[shift..].to_vec(), model)
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Read { start, len, shift } => {
                let (bytes, model) = self.read(start, len, shift);
                assert!(bytes == *model, "{step:?}");
            }
            Step::Write { start, len, shift, seed } => {
                let data = pattern(seed, usize::try_from(len * self.block).unwrap());
                let memory = filled(&[vec![0; shift], data.clone()].concat());
                let mut buffers = Buffers::whole(&memory);
                buffers.advance(shift as u64);
                self.ask(Operation::Write, start, len, buffers).copy_from_slice(&data);
            }
            Step::Discard { start, len } => {
                self.ask(Operation::Discard, start, len, Buffers::none());
                // Undefined, but nobody else's data.
                let (bytes, model) = self.read(start, len, 0);
                assert!(bytes.iter().zip(&*model).all(|(now, old)| now == old || *now == 0));
                model.copy_from_slice(&bytes);
            }
            Step::Zeroes { start, len, unmap } => {
                self.ask(Operation::WriteZeroes { unmap }, start, len, Buffers::none()).fill(0);
            }
            Step::Flush => {
                self.ask(Operation::Flush, 0, 0, Buffers::none());
            }
            Step::Reopen => unreachable!("by whoever knows the path"),
        }
    }
}

fn run(path: &Path, options: &DiskOptions, steps: &[Step]) {
    let mut pair = Pair::new(path, options);
    for step in steps {
        if let Step::Reopen = step {
            let Pair { queue, model, block } = pair;
            drop(queue);
            let queue = Disk::open(path, options).unwrap().queue(4).unwrap();
            pair = Pair { queue, model, block };
        } else {
            pair.step(step);
        }
    }
    let (bytes, model) = pair.read(0, BLOCKS, 0);
    assert!(bytes == *model, "at the end");
    let Pair { queue, model, .. } = pair;
    drop(queue);
    assert!(std::fs::read(path).unwrap() == model, "the file itself");
}

/// A file of 1 MiB on a disk and, if there is such a place, one in memory.
fn places() -> Vec<(tempfile::TempDir, PathBuf)> {
    [Path::new(env!("CARGO_MANIFEST_DIR")), Path::new("/dev/shm")]
        .into_iter()
        .filter_map(|place| tempfile::tempdir_in(place).ok())
        .map(|folder| {
            let path = folder.path().join("disk");
            File::create(&path).unwrap().set_len(1 << 20).unwrap();
            (folder, path)
        })
        .collect()
}

/// The places where a disk can be opened this way.
fn disks(options: &DiskOptions) -> Vec<(tempfile::TempDir, PathBuf, Disk)> {
    let opened =
        places().into_iter().filter_map(|(folder, path)| match Disk::open(&path, options) {
            Err(error) if options.direct => {
                println!("skipped: {error}");
                None
            }
            disk => Some((folder, path, disk.unwrap())),
        });
    opened.collect()
}

fn everywhere(engine: EngineChoice, direct: bool, steps: &[Step]) {
    let options = DiskOptions { direct, ..options(engine) };
    for (_folder, path, disk) in disks(&options) {
        drop(disk);
        run(&path, &options, steps);
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..40)
}

proptest! {
    #![proptest_config(testkit::cases(24))]

    #[test]
    fn io_uring_buffered(steps in steps()) {
        everywhere(EngineChoice::IoUring, false, &steps);
    }

    #[test]
    fn io_uring_direct(steps in steps()) {
        everywhere(EngineChoice::IoUring, true, &steps);
    }

    #[test]
    fn positional_buffered(steps in steps()) {
        everywhere(EngineChoice::Positional, false, &steps);
    }

    #[test]
    fn positional_direct(steps in steps()) {
        everywhere(EngineChoice::Positional, true, &steps);
    }
}

/// More requests than the queue is deep, each with its own bytes, as many under way as can be.
#[test]
fn batches_in_flight() {
    for (engine, direct) in ENGINES.into_iter().flat_map(|e| [(e, false), (e, true)]) {
        for (_folder, _path, disk) in disks(&DiskOptions { direct, ..options(engine) }) {
            let mut queue = disk.queue(16).unwrap();
            let mut done = Vec::new();
            for token in 0..64u8 {
                let buffers = Buffers::whole(&filled(&pattern(token, 4096)));
                let store = request(Operation::Write, u64::from(token) * 4096, 4096, buffers);
                let token = u64::from(token);
                done.extend(queue.submit(token, store).map(|result| (token, result)));
            }
            queue.drain(&mut done);
            let mut memories = Vec::new();
            for token in 0..64u64 {
                let memory = Arc::new(AlignedBuffer::new(4096));
                let load = request(Operation::Read, token * 4096, 4096, Buffers::whole(&memory));
                memories.push(memory);
                done.extend(queue.submit(100 + token, load).map(|result| (100 + token, result)));
            }
            queue.drain(&mut done);
            assert!(done.iter().all(|(_, result)| result.is_ok()), "{done:?}");
            let mut tokens: Vec<u64> = done.into_iter().map(|(token, _)| token).collect();
            tokens.sort_unstable();
            assert_eq!(tokens, (0..64).chain(100..164).collect::<Vec<_>>());
            for (seed, memory) in (0..64).zip(&mut memories) {
                let bytes = Arc::get_mut(memory).unwrap().bytes();
                assert!(*bytes == pattern(seed, 4096), "block {seed}");
            }
        }
    }
}

#[test]
fn a_dropped_queue_leaves_no_memory_to_the_kernel() {
    let options = DiskOptions { direct: true, ..options(EngineChoice::IoUring) };
    for (_folder, _path, disk) in disks(&options) {
        let memory = Arc::new(AlignedBuffer::new(1 << 20));
        let mut queue = disk.queue(32).unwrap();
        for token in 0..32 {
            let load = request(Operation::Read, 0, 1 << 20, Buffers::whole(&memory));
            assert!(queue.submit(token, load).is_none());
        }
        queue.poll(&mut Vec::new());
        drop(queue);
        assert_eq!(Arc::strong_count(&memory), 1);
    }
}

#[test]
fn a_file_cut_short_is_an_error_and_not_old_memory() {
    for engine in ENGINES {
        for (_folder, path, disk) in disks(&options(engine)) {
            let mut queue = disk.queue(4).unwrap();
            File::options().write(true).open(&path).unwrap().set_len(8192 - 512).unwrap();
            let error = read(&mut queue, 4096, 8192).unwrap_err();
            assert!(matches!(error, IoError::UnexpectedEnd { offset: 7680 }), "{error:?}");
        }
    }
}

#[test]
fn the_ready_descriptor_wakes_a_sleeper() {
    use std::os::fd::AsRawFd;
    use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

    let options = DiskOptions { direct: true, ..options(EngineChoice::IoUring) };
    for (_folder, _path, disk) in disks(&options) {
        let mut queue = disk.queue(4).unwrap();
        let epoll = Epoll::new().unwrap();
        let fd = queue.ready_fd().unwrap().as_raw_fd();
        epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 1)).unwrap();
        let memory = Arc::new(AlignedBuffer::new(4096));
        let load = request(Operation::Read, 0, 4096, Buffers::whole(&memory));
        let mut done = Vec::from_iter(queue.submit(1, load).map(|result| (1, result)));
        queue.poll(&mut done);
        while done.is_empty() {
            match epoll.wait(10_000, &mut [EpollEvent::default()]) {
                Ok(count) => assert_eq!(count, 1, "nobody was woken"),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::Interrupted),
            }
            queue.poll(&mut done);
        }
        assert!(matches!(done[..], [(1, Ok(()))]));
    }
}
