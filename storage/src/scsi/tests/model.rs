//! Random commands against a flat array of bytes, on disks of all kinds and with blocks of both
//! sizes. After the last of them all is durable: a crash then leaves what the array has.

use std::path::{Path, PathBuf};

use proptest::test_runner::{TestCaseError, TestCaseResult};
use tempfile::TempDir;

use super::*;
use crate::Format;
use crate::crash::{Files, Recorder, Walk};
use crate::testkit::{self, READ_ONLY, WRITABLE, cases};

/// Blocks of the disks.
const BLOCKS: usize = 1000;

#[derive(Clone, Debug)]
enum Step {
    Write { lba: u32, count: u16, form: u8 },
    Same { lba: u32, count: u16, zero: bool, unmap: bool, long: bool },
    Unmap { lba: u32, count: u16 },
    Compare { lba: u32, count: u8, fits: bool },
    Or { lba: u32, count: u16 },
    Verify { lba: u32, count: u16, fits: bool },
    Read { lba: u32, count: u16, form: u8 },
    Sync,
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let (lba, count) = (0..900u32, 1..100u16);
    let at = || (lba.clone(), count.clone());
    let step = prop_oneof![
        (at(), 0..5u8).prop_map(|((lba, count), form)| Step::Write { lba, count, form }),
        (at(), any::<[bool; 3]>()).prop_map(|((lba, count), [zero, unmap, long])| Step::Same {
            lba,
            count,
            zero,
            unmap,
            long
        }),
        at().prop_map(|(lba, count)| Step::Unmap { lba, count }),
        (lba.clone(), 1..20u8, any::<bool>()).prop_map(|(lba, count, fits)| Step::Compare {
            lba,
            count,
            fits
        }),
        at().prop_map(|(lba, count)| Step::Or { lba, count }),
        (at(), any::<bool>()).prop_map(|((lba, count), fits)| Step::Verify { lba, count, fits }),
        (at(), 0..3u8).prop_map(|((lba, count), form)| Step::Read { lba, count, form }),
        Just(Step::Sync),
    ];
    proptest::collection::vec(step, 1..most)
}

/// Carries the steps out, on the disk and on the array.
fn follow(rig: &mut Rig, model: &mut [u8], steps: Vec<Step>) -> TestCaseResult {
    let block = model.len() / BLOCKS;
    for (seed, step) in steps.into_iter().enumerate() {
        let seed = u8::try_from(seed).unwrap();
        let data = |count: u16| bytes(seed, usize::from(count) * block);
        let span = |lba: u32, count: u16| {
            let lba = usize::try_from(lba).unwrap();
            lba * block..(lba + usize::from(count)) * block
        };
        match step {
            Step::Write { lba, count, form } => {
                let data = data(count);
                let cdb = match form {
                    0 => cdb10(0x2a, 0, lba, count).to_vec(),
                    1 => cdb12(0xaa, 8, lba, count.into()).to_vec(),
                    2 => cdb16(0x8a, 0, lba.into(), count.into()).to_vec(),
                    3 => cdb10(0x2e, 2, lba, count).to_vec(),
                    _ => cdb16(0x8e, 0, lba.into(), count.into()).to_vec(),
                };
                rig.run(&cdb, &data, 0).good();
                model[span(lba, count)].copy_from_slice(&data);
            }
            Step::Same { lba, count, zero, unmap, long } => {
                let data = if zero { vec![0; block] } else { data(1) };
                let flags = u8::from(unmap) << 3;
                let cdb = match long {
                    true => cdb16(0x93, flags, lba.into(), count.into()).to_vec(),
                    false => cdb10(0x41, flags, lba, count).to_vec(),
                };
                rig.run(&cdb, &data, 0).good();
                // With UNMAP the short form does not look at the block.
                let data = if unmap && !long { vec![0; block] } else { data };
                model[span(lba, count)].copy_from_slice(&data.repeat(count.into()));
            }
            Step::Unmap { lba, count } => {
                unmap(rig, lba, count).good();
                model[span(lba, count)].fill(0);
            }
            Step::Compare { lba, count, fits } => {
                let span = span(lba, count.into());
                let mut both = model[span.clone()].to_vec();
                if !fits {
                    both[11] ^= 4;
                }
                let new = data(count.into());
                both.extend(&new);
                let got = rig.run(&compare_and_write(lba.into(), count), &both, 0);
                if fits {
                    got.good();
                    model[span].copy_from_slice(&new);
                } else {
                    prop_assert_eq!(&got.check(0xe, 0x1d, 0)[3..7], [0, 0, 0, 11]);
                }
            }
            Step::Or { lba, count } => {
                let data = data(count);
                rig.run(&cdb16(0x8b, 0, lba.into(), count.into()), &data, 0).good();
                for (byte, bits) in model[span(lba, count)].iter_mut().zip(data) {
                    *byte |= bits;
                }
            }
            Step::Verify { lba, count, fits } => {
                let mut data = model[span(lba, count)].to_vec();
                let last = data.len() - 1;
                data[last] ^= u8::from(!fits);
                let got = rig.run(&cdb10(0x2f, 2, lba, count), &data, 0);
                if fits {
                    got.good();
                } else {
                    let last = u32::try_from(last).unwrap().to_be_bytes();
                    prop_assert_eq!(&got.check(0xe, 0x1d, 0)[3..7], last);
                }
            }
            Step::Read { lba, count, form } => {
                let room = usize::from(count) * block;
                let cdb = match form {
                    0 => cdb10(0x28, 8, lba, count).to_vec(),
                    1 => cdb12(0xa8, 0, lba, count.into()).to_vec(),
                    _ => cdb16(0x88, 0, lba.into(), count.into()).to_vec(),
                };
                prop_assert!(rig.run(&cdb, &[], room).good() == model[span(lba, count)]);
            }
            Step::Sync => drop(rig.run(&cdb10(0x35, 0, 0, 0), &[], 0).good()),
        }
    }
    let count = u16::try_from(BLOCKS).unwrap();
    let all = rig.run(&cdb10(0x28, 0, 0, count), &[], model.len()).good();
    prop_assert!(all == model, "first at {:?}", all.iter().zip(&*model).position(|(a, b)| a != b));
    Ok(())
}

fn unmap(rig: &mut Rig, lba: u32, count: u16) -> Got {
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend(u64::from(lba).to_be_bytes());
    list.extend(u32::from(count).to_be_bytes());
    list.extend([0; 4]);
    rig.run(&cdb10(0x42, 0, 0, 24), &list, 0)
}

proptest! {
    #![proptest_config(cases(24))]
    #[test]
    fn a_flat_disk_would_do_the_same(steps in steps(60), ring: bool) {
        let engine = if ring { EngineChoice::Auto } else { EngineChoice::Positional };
        let target = Target::new(vec![unit((BLOCKS * BLOCK) as u64, engine)], None).unwrap();
        let mut rig = Rig::on(&target, "a");
        follow(&mut rig, &mut vec![0; BLOCKS * BLOCK], steps)?;
    }
}

/// A disk in a folder of its own.
struct Medium {
    _folder: TempDir,
    top: PathBuf,
    /// All that has happened to the top layer's file.
    recorder: Recorder,
    /// What is on it.
    model: Vec<u8>,
}

impl Medium {
    /// A disk of one layer, with nothing on it.
    fn plain(format: Format, sector: u32) -> Medium {
        let folder = folder();
        let top = testkit::file_in(folder.path(), "disk", format);
        let block = usize::try_from(sector).unwrap();
        let recorder = make_recorded(&top, sector, None);
        Medium { _folder: folder, top, recorder, model: vec![0; BLOCKS * block] }
    }

    /// A disk of this format on one that is full of data.
    fn on(parent: Format, child: Format, sector: u32) -> Medium {
        let folder = folder();
        let [below, top] = [("base", parent), ("disk", child)]
            .map(|(name, format)| testkit::file_in(folder.path(), name, format));
        make(&below, sector, None);
        let model = bytes(3, BLOCKS * usize::try_from(sector).unwrap());
        let disk = Disk::open(&below, &WRITABLE).unwrap();
        let mut queue = disk.queue(8).unwrap();
        testkit::write(&mut queue, 0, &model).unwrap();
        testkit::flush(&mut queue).unwrap();
        drop((queue, disk));
        let recorder = make_recorded(&top, sector, Some(&below));
        Medium { _folder: folder, top, recorder, model }
    }

    fn unit(&self, engine: EngineChoice) -> UnitOptions {
        let disk = Disk::open(&self.top, &DiskOptions { engine, ..WRITABLE }).unwrap();
        UnitOptions { disk, identity: "a".to_owned(), reservations: Reservations::default() }
    }
}

/// In memory, where there is such a place.
fn folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

fn make(path: &Path, sector: u32, parent: Option<&Path>) {
    let size = BLOCKS as u64 * u64::from(sector);
    if Format::of_name(path) == Format::Raw {
        return std::fs::File::create(path).unwrap().set_len(size).unwrap();
    }
    let parent = parent.map(testkit::link_to);
    let new = crate::formats::NewLayer { size, sector, parent, fixed: false, traits: None };
    testkit::create_linked(path, &new).unwrap();
}

fn make_recorded(path: &Path, sector: u32, parent: Option<&Path>) -> Recorder {
    let recorder = Recorder::default();
    let _installed = recorder.install();
    make(path, sector, parent);
    recorder
}

/// All kinds of disks, by number.
fn medium(number: usize) -> Medium {
    match number {
        0 => Medium::plain(Format::Vhdx, 512),
        1 => Medium::plain(Format::Vhdx, 4096),
        2 => Medium::plain(Format::Qcow2, 512),
        3 => Medium::plain(Format::Layer, 4096),
        4 => Medium::on(Format::Raw, Format::Layer, 512),
        5 => Medium::on(Format::Vhdx, Format::Layer, 4096),
        6 => Medium::on(Format::Qcow2, Format::Layer, 512),
        7 => Medium::on(Format::Layer, Format::Layer, 4096),
        8 => Medium::on(Format::Vhdx, Format::Vhdx, 4096),
        _ => Medium::on(Format::Raw, Format::Qcow2, 512),
    }
}

const MEDIA: usize = 10;

/// How the last change is made durable.
#[derive(Clone, Copy, Debug)]
enum Last {
    SynchronizeCache,
    Fua,
    WriteAndVerify,
    /// The write cache is switched off, and blocks are unmapped.
    NoCache,
}

impl Last {
    fn carry_out(self, rig: &mut Rig, model: &mut [u8]) {
        let block = model.len() / BLOCKS;
        let data = bytes(201, 3 * block);
        let span = 700 * block..703 * block;
        match self {
            Last::SynchronizeCache => {
                rig.run(&cdb16(0x91, 0, 0, 0), &[], 0).good();
                return;
            }
            Last::Fua => drop(rig.run(&cdb10(0x2a, 8, 700, 3), &data, 0).good()),
            Last::WriteAndVerify => drop(rig.run(&cdb10(0x2e, 2, 700, 3), &data, 0).good()),
            Last::NoCache => {
                let mut page = rig.run(&[0x1a, 8, 8, 0, 255, 0], &[], 255).good();
                (page[0], page[2], page[4], page[6]) = (0, 0, page[4] & 0x7f, page[6] & !4);
                let len = u8::try_from(page.len()).unwrap();
                rig.run(&[0x15, 0x10, 0, 0, len, 0], &page, 0).good();
                unmap(rig, 700, 3).good();
                model[span].fill(0);
                return;
            }
        }
        model[span].copy_from_slice(&data);
    }
}

/// Carries the steps out; then the host loses its power.
fn power_goes(medium: &Medium, steps: Vec<Step>, last: Last) -> TestCaseResult {
    let mut model = medium.model.clone();
    let installed = medium.recorder.install();
    let target = Target::new(vec![medium.unit(EngineChoice::Positional)], None).unwrap();
    let mut rig = Rig::on(&target, "a");
    follow(&mut rig, &mut model, steps)?;
    last.carry_out(&mut rig, &mut model);
    let changes = medium.recorder.changes();
    drop((rig, target, installed));
    // As if nothing had come after the last answer.
    let walk = Walk { changes: &changes, begin: 0, samples: 4, seed: 1 };
    let look = walk.end(Files::default(), || {
        let disk = Disk::open(&medium.top, &READ_ONLY).map_err(|error| format!("{error:?}"))?;
        let mut queue = disk.queue(8).map_err(|error| format!("{error:?}"))?;
        let found =
            testkit::read(&mut queue, 0, model.len()).map_err(|error| format!("{error:?}"))?;
        match found.iter().zip(&model).position(|(found, wanted)| found != wanted) {
            None => Ok(()),
            Some(at) => Err(format!("byte {at:#x} is not what was answered")),
        }
    });
    look.map_err(|what| TestCaseError::fail(format!("{last:?}: {what}")))
}

proptest! {
    #![proptest_config(cases(16))]
    #[test]
    fn chains_do_what_a_flat_disk_would_and_keep_it(
        steps in steps(30),
        number in 0..MEDIA,
        last in prop_oneof![
            Just(Last::SynchronizeCache),
            Just(Last::Fua),
            Just(Last::WriteAndVerify),
            Just(Last::NoCache),
        ],
    ) {
        power_goes(&medium(number), steps, last)?;
    }
}

/// What a parent has does not show through where blocks were unmapped, nor after a restart.
#[test]
fn unmapped_blocks_over_a_parent_read_as_zeroes() {
    for number in 0..MEDIA {
        for engine in [EngineChoice::Auto, EngineChoice::Positional] {
            let medium = medium(number);
            let mut model = medium.model.clone();
            let block = model.len() / BLOCKS;
            let count = u16::try_from(BLOCKS).unwrap();
            let target = Target::new(vec![medium.unit(engine)], None).unwrap();
            let mut rig = Rig::on(&target, "a");
            rig.run(&cdb10(0x2a, 0, 90, 20), &bytes(9, 20 * block), 0).good();
            model[90 * block..110 * block].copy_from_slice(&bytes(9, 20 * block));
            for (lba, count) in [(1, 1), (95, 7), (100, 300), (999, 1)] {
                unmap(&mut rig, lba, count).good();
                let lba = usize::try_from(lba).unwrap();
                model[lba * block..(lba + usize::from(count)) * block].fill(0);
            }
            rig.run(&cdb16(0x93, 9, 500, 100), &[], 0).good();
            model[500 * block..600 * block].fill(0);
            let read = cdb10(0x28, 0, 0, count);
            assert!(rig.run(&read, &[], model.len()).good() == model, "{number}");
            drop((rig, target));
            let target = Target::new(vec![medium.unit(engine)], None).unwrap();
            let mut rig = Rig::on(&target, "a");
            assert!(rig.run(&read, &[], model.len()).good() == model, "{number}");
        }
    }
}

/// Each kind of disk, and each way to make things durable on disks of several kinds.
#[test]
fn every_way_to_be_durable_reaches_the_metadata_of_every_layer() {
    let ways = [Last::SynchronizeCache, Last::Fua, Last::WriteAndVerify, Last::NoCache];
    for number in 0..MEDIA {
        for last in [ways[number % 4], ways[(number + 1) % 4]] {
            let steps = vec![
                Step::Write { lba: 3, count: 70, form: 0 },
                Step::Same { lba: 40, count: 60, zero: false, unmap: false, long: true },
                Step::Unmap { lba: 60, count: 80 },
            ];
            power_goes(&medium(number), steps, last)
                .unwrap_or_else(|what| panic!("{number}: {what}"));
        }
    }
}
