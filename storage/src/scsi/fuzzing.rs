//! What fuzzers call: commands and task management of several initiators, in an order and with
//! fields that an input says.
//!
//! After each command that had the target to itself, the medium must be what the command makes of
//! it; whatever is in flight together, each command is answered once, and no memory is written
//! that it was not given.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::event::{PollFd, PollFlags, poll};

use super::opcodes::{COMMANDS, Kind};
use super::wake::lock;
use super::{Command, Nexus, Response, ScsiQueue, Status, Target, TaskManagement, UnitOptions};
use crate::engine::sys;
use crate::formats::LayerFile;
use crate::fuzzing::Script;
use crate::image::ImageFile;
use crate::reservation::{self, InitiatorPort, Reservations, Store};
use crate::{AlignedBuffer, Buffers, Disk, DiskOptions, EngineChoice, Format};

pub(crate) mod seeds;

pub(crate) const BLOCK: usize = 512;
pub(crate) const BLOCKS: usize = 16;
/// Most commands of an input, and most that are in flight together.
const COMMANDS_MAX: usize = 64;
const TOGETHER_MAX: usize = 8;
/// What lies in memory that nobody fills.
const UNTOUCHED: u8 = 0xa5;

/// The bits of the first byte: a store of reservations, a second unit that is read-only.
const STORE: u8 = 1;
const READ_ONLY: u8 = 2;

/// Codes from here on are raw CDBs, and task management functions.
pub(crate) const RAW: u8 = 0xf0;
pub(crate) const MANAGE: u8 = 0xf8;

/// A command as an input describes it.
pub(crate) struct Described {
    pub(crate) cdb: [u8; 32],
    pub(crate) cdb_len: u8,
    pub(crate) data_out: Vec<u8>,
    pub(crate) room: usize,
}

impl Described {
    /// Reads one; `current` is what the medium holds, for data that is to be found equal.
    pub(crate) fn read(code: u8, script: &mut Script<'_>, current: &[u8]) -> Described {
        let mut cdb = [0; 32];
        if code >= RAW {
            let len = script.byte() & 31;
            let bytes = script.bytes(len.into());
            cdb[..bytes.len()].copy_from_slice(bytes);
            let length = usize::from(script.byte());
            let data_out = script.bytes(length).to_vec();
            return Described { cdb, cdb_len: len, data_out, room: script.u16().into() };
        }
        let command = &COMMANDS[usize::from(code) % COMMANDS.len()];
        let [flags, at, count, pokes, data, fill] = script.array();
        cdb[0] = command.usage[0];
        cdb[1] = command.action.map_or(flags, |action| flags & 0xe0 | action);
        let (lba, blocks) = match command.usage.len() {
            6 => (3, 4),
            10 => (5, 8),
            12 => (5, 9),
            _ => (9, 13),
        };
        cdb[lba] = at;
        cdb[blocks] = count;
        for _ in 0..pokes & 3 {
            let [place, value] = script.array();
            cdb[usize::from(place) % command.usage.len()] = value;
        }
        let len = usize::from(count) * BLOCK;
        let data_out = match data & 7 {
            0 => Vec::new(),
            1 => vec![fill; len],
            2 => script.bytes(fill.into()).to_vec(),
            3 => keys(script, fill),
            4 => ranges(script, fill),
            // The medium as it is, then something else.
            5 => {
                let from = (usize::from(at) * BLOCK).min(current.len());
                let same = &current[from..(from + len).min(current.len())];
                [same, &vec![fill; len]].concat()
            }
            6 => vec![fill; BLOCK],
            _ => vec![fill; len.saturating_sub(1)],
        };
        let room = match data >> 3 & 3 {
            0 => len,
            1 => 0,
            2 => usize::from(fill),
            _ => usize::from(count),
        };
        let cdb_len = u8::try_from(command.usage.len()).unwrap_or(32);
        Described { cdb, cdb_len, data_out, room }
    }
}

/// The parameter list of PERSISTENT RESERVE OUT (SPC-4 6.16.3).
fn keys(script: &mut Script<'_>, flags: u8) -> Vec<u8> {
    let mut list = vec![0; 24];
    let [key, new] = script.array();
    (list[7], list[15], list[20]) = (key, new, flags);
    list
}

/// The parameter list of UNMAP (SBC-3 5.28).
fn ranges(script: &mut Script<'_>, count: u8) -> Vec<u8> {
    let count = count & 7;
    let mut list = vec![0, 6 + 16 * count, 0, 16 * count, 0, 0, 0, 0];
    for _ in 0..count {
        let [at, blocks] = script.array();
        list.extend([0, 0, 0, 0, 0, 0, 0, at, 0, 0, 0, blocks, 0, 0, 0, 0]);
    }
    list
}

/// A unit and the file that its disk is in.
pub(crate) struct Medium {
    pub(crate) file: File,
}

impl Medium {
    /// The file of a new disk, each block of which holds its number.
    fn new() -> Option<Medium> {
        let file = sys::memory_file().ok()?;
        let blocks = (0u8..).take(BLOCKS).flat_map(|number| [number; BLOCK]);
        file.write_all_at(&blocks.collect::<Vec<u8>>(), 0).ok()?;
        Some(Medium { file })
    }

    fn disk(&self, read_only: bool) -> Option<Disk> {
        let image = ImageFile::new(self.file.try_clone().ok()?, Path::new("image"), !read_only);
        let image = Arc::new(image);
        let layer = LayerFile::alone(Arc::clone(&image), 0);
        let top = crate::formats::open(Format::Raw, layer).ok()?;
        let engine = EngineChoice::Positional;
        let options = DiskOptions { read_only, engine, ..DiskOptions::default() };
        Disk::assemble(crate::chain::Chain::of_one(top.into()), &[image], &options).ok()
    }

    pub(crate) fn contents(&self) -> Vec<u8> {
        let mut contents = vec![0; BLOCK * BLOCKS];
        let read = self.file.read_exact_at(&mut contents, 0);
        assert!(read.is_ok(), "the file of the medium is cut");
        contents
    }
}

/// A target with two small units, and their files.
pub(crate) fn target(store: Option<Store>, read_only: bool) -> Option<(Target, [Medium; 2])> {
    let media = [Medium::new()?, Medium::new()?];
    let unit = |at: usize, read_only: bool| {
        Some(UnitOptions {
            disk: media[at].disk(read_only)?,
            identity: at.to_string(),
            reservations: Reservations::default(),
        })
    };
    let units = vec![unit(0, false)?, unit(1, read_only)?];
    Some((Target::new(units, store).ok()?, media))
}

/// A store of reservations in memory.
fn store() -> Option<Store> {
    static EMPTY: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let empty = EMPTY.get_or_init(|| {
        let name = format!("cohort-fuzz-store-{}", std::process::id());
        let path: PathBuf = std::env::temp_dir().join(name);
        drop(Store::open(&path).ok()?);
        let bytes = std::fs::read(&path).ok();
        let _ = std::fs::remove_file(&path);
        bytes
    });
    let file = sys::memory_file().ok()?;
    file.write_all_at(empty.as_ref()?, 0).ok()?;
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    Store::open(Path::new(&path)).ok()
}

/// The logical unit that two bits mean: the first, the second, or none.
pub(crate) fn lun(bits: u8, rest: u8) -> u64 {
    match bits & 3 {
        0 | 1 => 0,
        2 => 1 << 48,
        _ => u64::from(rest) << 48,
    }
}

pub(crate) fn management(what: u8, tag: u64) -> TaskManagement {
    match what % 5 {
        0 => TaskManagement::AbortTask(tag),
        1 => TaskManagement::AbortTaskSet,
        2 => TaskManagement::ClearTaskSet,
        3 => TaskManagement::LogicalUnitReset,
        _ => TaskManagement::TargetReset,
    }
}

/// A command that was submitted.
struct Sent {
    token: u64,
    described: Described,
    /// The unit, if there is one.
    unit: Option<usize>,
    room: Arc<AlignedBuffer>,
    /// Whether reservations permitted to read and to write when it came.
    may: (bool, bool),
}

struct Rig {
    target: Target,
    media: [Medium; 2],
    queues: [ScsiQueue; 2],
    nexuses: [Nexus; 3],
    together: Vec<Sent>,
    done: Vec<(u64, Response)>,
    /// The media as they were when the first of those came.
    before: [Vec<u8>; 2],
    good: usize,
}

/// Carries out what the input says; says how many commands ended with GOOD.
pub(crate) fn run(input: &[u8]) -> Option<usize> {
    let mut script = Script::new(input);
    let flags = script.byte();
    let store = if flags & STORE != 0 { Some(store()?) } else { None };
    let (target, media) = target(store, flags & READ_ONLY != 0)?;
    let nexus = |name| Some(target.nexus(InitiatorPort::new(name).ok()?));
    let mut rig = Rig {
        nexuses: [nexus("a")?, nexus("b")?, nexus("c")?],
        queues: [target.queue(4).ok()?, target.queue(4).ok()?],
        before: [media[0].contents(), media[1].contents()],
        together: Vec::new(),
        done: Vec::new(),
        target,
        media,
        good: 0,
    };
    for token in 0..COMMANDS_MAX {
        if script.is_over() {
            break;
        }
        rig.step(token as u64, &mut script);
    }
    rig.end_all();
    Some(rig.good)
}

impl Rig {
    fn step(&mut self, token: u64, script: &mut Script<'_>) {
        let [code, who] = script.array();
        let nexus = self.nexuses[usize::from(who & 3) % 3].clone();
        let lun = lun(who >> 2, code);
        let tag = u64::from(who >> 6);
        let at = usize::from(who >> 4 & 1);
        if code >= MANAGE {
            let mut managed = if code == u8::MAX {
                self.target.nexus_lost(&nexus)
            } else {
                self.target.manage(&nexus, lun, management(code - MANAGE, tag))
            };
            self.end_all();
            assert!(managed.settled(&self.queues[at]), "nothing is left to wait for");
            return;
        }
        let unit = super::unit_number(lun).filter(|&unit| unit < 2);
        let current = unit.map_or(&[][..], |unit| &self.before[unit]);
        let described = Described::read(code, script, current);
        let mut room = AlignedBuffer::new(described.room);
        room.bytes().fill(UNTOUCHED);
        let room = Arc::new(room);
        let mut data_out = AlignedBuffer::new(described.data_out.len());
        data_out.bytes().copy_from_slice(&described.data_out);
        let command = Command {
            lun,
            cdb: described.cdb,
            cdb_len: described.cdb_len,
            tag,
            data_out: Buffers::whole(&Arc::new(data_out)),
            data_in: Buffers::whole(&room),
        };
        let may = unit.map_or((true, true), |unit| self.may(unit, &nexus));
        self.together.push(Sent { token, described, unit, room, may });
        if let Some(response) = self.queues[at].submit(token, &nexus, command) {
            self.done.push((token, response));
        }
        if who & 0x20 == 0 || self.together.len() >= TOGETHER_MAX {
            self.end_all();
        }
    }

    /// Whether a port may read and write by the unit's persistent reservation (SPC-4 5.9.4).
    fn may(&self, unit: usize, nexus: &Nexus) -> (bool, bool) {
        let reservations = lock(&self.target.units()[unit].reservations);
        let is_registered = reservations.registrations().any(|(port, _)| port == nexus.port());
        let holds = reservations.holders().any(|port| port == nexus.port());
        match reservations.kind() {
            None => (true, true),
            Some(reservation::Kind::WriteExclusive) => (true, holds),
            Some(reservation::Kind::ExclusiveAccess) => (holds, holds),
            Some(kind) => {
                let is_exclusive = matches!(kind.code(), 6 | 8);
                (is_registered || !is_exclusive, is_registered)
            }
        }
    }

    /// Waits for all commands, and looks whether what happened is what they ask for.
    fn end_all(&mut self) {
        let mut done = std::mem::take(&mut self.done);
        // Those of one queue may wait for those of the other.
        while self.queues.iter().any(|queue| queue.in_flight() > 0) {
            for queue in &mut self.queues {
                queue.poll(&mut done);
            }
            let waits = |queue: &&ScsiQueue| queue.in_flight() > 0;
            let fds = self.queues.iter().filter(waits).map(ScsiQueue::ready_fd);
            let mut fds: Vec<_> =
                fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            if !fds.is_empty() {
                // Interrupted or not, the answers are looked at next.
                let _ = poll(&mut fds, None);
            }
        }
        let sent = std::mem::take(&mut self.together);
        assert_eq!(done.len(), sent.len(), "each command is answered once");
        let is_alone = sent.len() == 1;
        let after = [self.media[0].contents(), self.media[1].contents()];
        let mut changing = [false; 2];
        for mut sent in sent {
            let place = done.iter().position(|(token, _)| *token == sent.token);
            let Some(place) = place else { panic!("command {} is not answered", sent.token) };
            let (_, response) = done.swap_remove(place);
            let room = Arc::get_mut(&mut sent.room).map(AlignedBuffer::bytes);
            let Some(room) = room else { panic!("the memory of a command is still in use") };
            let described = &sent.described;
            check_answer(&response, described, room);
            let is_good = matches!(response.status, Status::Good | Status::ConditionMet);
            self.good += usize::from(is_good && !response.silent);
            let Some(unit) = sent.unit else { continue };
            let kind = kind_of(described);
            if is_good && !response.silent && is_alone {
                let (may_read, may_write) = sent.may;
                assert!(may_read || kind != Some(Kind::Read), "read against a reservation");
                assert!(may_write || !kind.is_some_and(changes), "written against a reservation");
            }
            changing[unit] |= kind.is_some_and(changes) && (is_good || !is_alone);
            if is_alone && is_good && !response.silent {
                check_medium(described, &response, room, &self.before[unit], &after[unit]);
            }
        }
        for (unit, after) in after.into_iter().enumerate() {
            assert!(changing[unit] || after == self.before[unit], "unit {unit} has changed");
            self.before[unit] = after;
        }
        self.check_reservations();
        done.clear();
        self.done = done;
    }

    fn check_reservations(&self) {
        for (number, unit) in self.target.units().iter().enumerate() {
            let reservations = lock(&unit.reservations);
            assert_eq!(reservations.kind().is_some(), reservations.holders().next().is_some());
            let is_registered = |holder| reservations.registrations().any(|(it, _)| it == holder);
            assert!(reservations.holders().all(is_registered), "a holder is not registered");
            let Some(store) = self.target.store() else { continue };
            let kept = store.load(&number.to_string()).unwrap_or_default();
            assert!(kept == reservations.after_power_loss(), "not what was answered is kept");
        }
    }
}

/// What a CDB asks for, if it is a command that there is.
fn kind_of(described: &Described) -> Option<Kind> {
    let found = super::opcodes::find(&super::cdb::Cdb(described.cdb), described.cdb_len);
    found.ok().map(|command| command.kind)
}

/// Whether a command of the kind may change the medium.
fn changes(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Write
            | Kind::WriteAndVerify
            | Kind::Unmap
            | Kind::WriteSame
            | Kind::CompareAndWrite
            | Kind::OrWrite
    )
}

fn check_answer(response: &Response, described: &Described, room: &[u8]) {
    assert!(response.data_in <= room.len() as u64, "more data than room");
    assert!(response.data_out <= described.data_out.len() as u64, "more data used than came");
    assert_eq!(response.status == Status::CheckCondition, response.sense.code().is_some());
    if response.status == Status::Good {
        let filled = usize::try_from(response.data_in).unwrap_or(usize::MAX);
        let rest = room.get(filled..).unwrap_or_default();
        assert!(rest.iter().all(|byte| *byte == UNTOUCHED), "written beyond what was filled");
        assert!(response.data_in <= response.wanted, "more data than the command has");
    }
}

/// What READ and WRITE with GOOD are about, where the CDB is plain.
fn check_medium(
    described: &Described,
    response: &Response,
    room: &[u8],
    before: &[u8],
    after: &[u8],
) {
    let cdb = &described.cdb;
    let number = |at: std::ops::Range<usize>| {
        cdb[at].iter().fold(0usize, |sum, &byte| sum.wrapping_shl(8) | usize::from(byte))
    };
    let (at, count, writes) = match cdb[0] {
        0x28 | 0x2a => (number(2..6), number(7..9), cdb[0] == 0x2a),
        0xa8 | 0xaa => (number(2..6), number(6..10), cdb[0] == 0xaa),
        0x88 | 0x8a => (number(2..10), number(10..14), cdb[0] == 0x8a),
        _ => return,
    };
    let range = at * BLOCK..(at + count) * BLOCK;
    assert!(range.end <= before.len(), "GOOD beyond the end of the medium");
    if writes {
        // Whole blocks, as many as came.
        let len = described.data_out.len().min(range.len()) / BLOCK * BLOCK;
        assert_eq!(response.data_out, len as u64, "not all data is used, or too much");
        let mut wanted = before.to_vec();
        wanted[range][..len].copy_from_slice(&described.data_out[..len]);
        assert!(after == wanted, "the medium is not what was written");
    } else {
        let filled = usize::try_from(response.data_in).unwrap_or(usize::MAX);
        assert!(room[..filled] == before[range][..filled], "not what the medium holds");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_carried_out() {
        let seeds = seeds::seeds();
        let good: Vec<usize> = seeds.iter().map(|seed| run(seed).unwrap()).collect();
        // Each but what has to be refused, and the unit attentions.
        assert!(good.iter().sum::<usize>() > 100, "{good:?}");
    }
}
