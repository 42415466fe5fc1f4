//! Hostile commands: descriptor blocks of any bytes, with any data, to a small target.

use std::sync::Arc;

use crate::reservation::{InitiatorPort, Reservations};
use crate::scsi::{Command, Target, TaskManagement, UnitOptions};
use crate::{AlignedBuffer, Buffers, Bytes, Disk, DiskOptions};

/// Bytes of a command's description: unit and nexus, length of the CDB, a function, and how many
/// bytes of data go out and come in.
const DESCRIPTION: usize = 7;
/// Commands at a time.
const DEPTH: u16 = 4;

/// Has a target carry out the commands that `input` describes: each is answered exactly once, and
/// nobody uses its memory then.
pub fn scsi_commands(mut input: &[u8]) {
    let Ok(disk) = Disk::scratch(Bytes::new(300 * 512), &DiskOptions::default()) else { return };
    let unit =
        UnitOptions { disk, identity: "a disk".to_owned(), reservations: Reservations::default() };
    let Ok(target) = Target::new(vec![unit], None) else { return };
    let ports = ["a", "b"].map(InitiatorPort::new);
    let [Ok(a), Ok(b)] = ports else { return };
    let nexuses = [target.nexus(a), target.nexus(b)];
    let Ok(mut queue) = target.queue(DEPTH) else { return };
    let (mut memory, mut answers, mut asked) = (Vec::new(), 0, 0);
    let (mut done, mut functions) = (Vec::new(), Vec::new());
    while let Some((&[place, given, function, out_low, out_high, in_low, in_high], rest)) =
        input.split_first_chunk::<DESCRIPTION>()
    {
        let (cdb, rest) = rest.split_at(usize::from(given % 33).min(rest.len()));
        let data_out = usize::from(u16::from_le_bytes([out_low, out_high])) % 4096;
        let data_in = usize::from(u16::from_le_bytes([in_low, in_high])) % 4096;
        let (data, rest) = rest.split_at(data_out.min(rest.len()));
        input = rest;
        let nexus = if place & 1 == 0 { &nexuses[0] } else { &nexuses[1] };
        let mut from = AlignedBuffer::new(data_out);
        from.bytes().iter_mut().zip(data).for_each(|(to, from)| *to = *from);
        let (from, to) = (Arc::new(from), Arc::new(AlignedBuffer::new(data_in)));
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(cdb).for_each(|(to, from)| *to = *from);
        let lun = u64::from(place >> 6) << 48;
        let command = Command {
            lun,
            cdb: bytes,
            cdb_len: given % 33,
            tag: u64::from(place & 7),
            data_out: Buffers::whole(&from),
            data_in: Buffers::whole(&to),
        };
        memory.extend([from, to]);
        asked += 1;
        answers += u32::from(queue.submit(asked.into(), nexus, command).is_some());
        let what = match function {
            1 => TaskManagement::AbortTask(u64::from(place & 7)),
            2 => TaskManagement::AbortTaskSet,
            3 => TaskManagement::ClearTaskSet,
            4 => TaskManagement::LogicalUnitReset,
            5 => TaskManagement::TargetReset,
            _ => continue,
        };
        functions.push(target.manage(nexus, lun, what));
        queue.poll(&mut done);
    }
    queue.drain(&mut done);
    let later = u32::try_from(done.len()).unwrap_or(u32::MAX);
    assert_eq!(answers + later, asked, "one answer for each");
    for function in &mut functions {
        assert!(function.settled(&queue), "all tasks are over");
    }
    for mut memory in memory {
        assert!(Arc::get_mut(&mut memory).is_some(), "nobody uses it any more");
    }
}

/// Inputs to begin with: one command of each kind that has something to it.
pub fn scsi_seeds() -> Vec<Vec<u8>> {
    let mut seed = Vec::new();
    let mut command = |cdb: &[u8], function: u8, data_out: &[u8], data_in: u16| {
        let given = u8::try_from(cdb.len()).unwrap_or_default();
        let [out_low, out_high] = u16::try_from(data_out.len()).unwrap_or_default().to_le_bytes();
        let [in_low, in_high] = data_in.to_le_bytes();
        seed.extend_from_slice(&[0, given, function, out_low, out_high, in_low, in_high]);
        seed.extend_from_slice(cdb);
        seed.extend_from_slice(data_out);
    };
    command(&[0; 6], 0, &[], 0);
    command(&[0x12, 1, 0x83, 0, 255, 0], 0, &[], 255);
    command(&[0x1a, 0, 0x3f, 0, 255, 0], 0, &[], 255);
    command(&[0x28, 0, 0, 0, 0, 1, 0, 0, 4, 0], 0, &[], 2048);
    command(&[0x2a, 0, 0, 0, 0, 1, 0, 0, 2, 0], 0, &[3; 1024], 0);
    let mut compare = [0; 16];
    (compare[0], compare[13]) = (0x89, 1);
    command(&compare, 0, &[0; 1024], 0);
    let mut unmap = [0; 24];
    (unmap[1], unmap[3], unmap[15], unmap[19]) = (22, 16, 8, 8);
    command(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], 0, &unmap, 0);
    let mut same = [0; 16];
    (same[0], same[13]) = (0x93, 8);
    command(&same, 2, &[1; 512], 0);
    let mut key = [0; 24];
    key[15] = 9;
    command(&[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0], 0, &key, 0);
    command(&[0x5e, 0, 0, 0, 0, 0, 0, 0, 64, 0], 4, &[], 64);
    vec![seed]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_carried_out() {
        for seed in scsi_seeds() {
            scsi_commands(&seed);
        }
    }
}
