//! Random requests against an image and against plain bytes in memory, with a parent and without.

use proptest::prelude::*;

use super::*;

const SIZE: usize = 6 * CLUSTER + 1536;
const BLOCKS: u64 = SIZE as u64 / 512;

#[derive(Clone, Debug)]
enum Step {
    Read { start: u64, len: u64 },
    Write { start: u64, len: u64, seed: u8 },
    Discard { start: u64, len: u64 },
    Zeroes { start: u64, len: u64, unmap: bool },
    Flush,
    Reopen,
}

/// Ranges of blocks, some of them of whole clusters.
fn range() -> impl Strategy<Value = (u64, u64)> {
    let any = (0..BLOCKS).prop_flat_map(|start| (Just(start), 1..=(BLOCKS - start).min(300)));
    let whole =
        (0u64..6).prop_flat_map(|start| (Just(start * 128), (1..=6 - start).prop_map(|n| n * 128)));
    let tail = Just((6 * 128, 3));
    prop_oneof![5 => any, 3 => whole, 1 => tail]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => range().prop_map(|(start, len)| Step::Read { start, len }),
        6 => (range(), any::<u8>())
            .prop_map(|((start, len), seed)| Step::Write { start, len, seed }),
        2 => range().prop_map(|(start, len)| Step::Discard { start, len }),
        2 => (range(), any::<bool>())
            .prop_map(|((start, len), unmap)| Step::Zeroes { start, len, unmap }),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ]
}

fn place((start, len): (u64, u64)) -> std::ops::Range<usize> {
    usize::try_from(start * 512).unwrap()..usize::try_from((start + len) * 512).unwrap()
}

fn run(path: &Path, model: Vec<u8>, steps: &[Step]) {
    run_with(path, &DiskOptions::default(), model, steps);
}

fn run_with(path: &Path, options: &DiskOptions, mut model: Vec<u8>, steps: &[Step]) {
    let open = |path| try_open(path, options).unwrap();
    let mut queue = open(path);
    for step in steps {
        match *step {
            Step::Read { start, len } => {
                let place = place((start, len));
                assert!(read(&mut queue, start * 512, place.len()) == model[place], "{step:?}");
            }
            Step::Write { start, len, seed } => {
                let place = place((start, len));
                let bytes = pattern(seed, place.len());
                write(&mut queue, start * 512, &bytes);
                model[place].copy_from_slice(&bytes);
            }
            Step::Discard { start, len } => {
                ask(&mut queue, Operation::Discard, start * 512, len * 512, Buffers::none())
                    .unwrap();
                let place = place((start, len));
                let now = read(&mut queue, start * 512, place.len());
                let old = &mut model[place];
                assert!(now.iter().zip(&*old).all(|(now, old)| now == old || *now == 0));
                old.copy_from_slice(&now);
            }
            Step::Zeroes { start, len, unmap } => {
                let zeroes = Operation::WriteZeroes { unmap };
                ask(&mut queue, zeroes, start * 512, len * 512, Buffers::none()).unwrap();
                model[place((start, len))].fill(0);
            }
            Step::Flush => ask(&mut queue, Operation::Flush, 0, 0, Buffers::none()).unwrap(),
            Step::Reopen => {
                drop(queue);
                queue = open(path);
            }
        }
    }
    assert!(read(&mut queue, 0, SIZE) == model, "at the end");
    drop(queue);
    assert!(read(&mut open_to_read(path), 0, SIZE) == model, "read again");
    assert_clean(path);
    assert!(read_by_qemu(path) == model, "by QEMU");
    assert_eq!(layer(path, false).check(false).unwrap(), []);
}

proptest! {
    #![proptest_config(testkit::cases(24))]

    #[test]
    fn alone(steps in proptest::collection::vec(step(), 1..30)) {
        let folder = folder();
        let path = folder.path().join("a.qcow2");
        make(&path, SIZE as u64, None);
        run(&path, vec![0; SIZE], &steps);
    }

    #[test]
    fn on_a_raw_parent(steps in proptest::collection::vec(step(), 1..30)) {
        let folder = folder();
        let [base, path] = ["base", "a.qcow2"].map(|name| folder.path().join(name));
        let model = pattern(77, SIZE);
        std::fs::write(&base, &model).unwrap();
        make(&path, SIZE as u64, Some(link(&base, Format::Raw)));
        run(&path, model.clone(), &steps);
        assert!(std::fs::read(&base).unwrap() == model);
    }

    /// Without the host's page cache, where the place has blocks as small as the guest's.
    #[test]
    fn direct(steps in proptest::collection::vec(step(), 1..20)) {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let [base, path] = ["base", "a.qcow2"].map(|name| folder.path().join(name));
        let model = pattern(80, SIZE);
        std::fs::write(&base, &model).unwrap();
        make(&path, SIZE as u64, Some(link(&base, Format::Raw)));
        let options = DiskOptions { direct: true, ..DiskOptions::default() };
        match Disk::open(&path, &options) {
            Ok(disk) => {
                assert_eq!(disk.logical_block_size(), 512);
                drop(disk);
                run_with(&path, &options, model, &steps);
            }
            Err(error) => println!("skipped: {error}"),
        }
    }

    #[test]
    fn compressed_by_qemu(steps in proptest::collection::vec(step(), 1..20), v2: bool) {
        let folder = folder();
        let [raw, path] = ["raw", "a.qcow2"].map(|name| folder.path().join(name));
        let model = pattern(78, SIZE);
        std::fs::write(&raw, &model).unwrap();
        let compat = if v2 { "compat=0.10" } else { "compat=1.1" };
        qemu_img(&["convert", "-c", "-O", "qcow2", "-o", compat, "-f", "raw", text(&raw), text(&path)]);
        run(&path, model, &steps);
    }

    #[test]
    fn version_2_on_a_raw_parent(steps in proptest::collection::vec(step(), 1..20)) {
        let folder = folder();
        let [base, path] = ["base", "a.qcow2"].map(|name| folder.path().join(name));
        let model = pattern(79, SIZE);
        std::fs::write(&base, &model).unwrap();
        qemu_img(&[
            "create", "-f", "qcow2", "-o", "compat=0.10", "-F", "raw", "-b", "base", text(&path),
        ]);
        layer(&path, true).set_parent(&link(&base, Format::Raw)).unwrap();
        run(&path, model, &steps);
    }
}
