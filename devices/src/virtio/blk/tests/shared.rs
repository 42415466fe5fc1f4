//! Devices on one target with others.

use std::sync::Arc;

use storage::scsi::{Command, Initiator, LocalInitiator, ServiceResponse, Status};
use storage::{AlignedBuffer, Buffers};

use super::*;

/// Another initiator's command; how it ended.
fn run(initiator: &LocalInitiator, cdb: &[u8], data: &[u8]) -> Status {
    let mut queue = initiator.queue(1).unwrap();
    let mut memory = AlignedBuffer::new(data.len());
    memory.bytes().copy_from_slice(data);
    let mut bytes = [0; 32];
    bytes[..cdb.len()].copy_from_slice(cdb);
    let command = Command {
        lun: 0,
        cdb: bytes,
        cdb_len: u8::try_from(cdb.len()).unwrap(),
        tag: 1,
        data_out: Buffers::whole(&Arc::new(memory)),
        data_in: Buffers::none(),
    };
    let answer = queue.submit(0, command).unwrap_or_else(|| {
        let mut done = Vec::new();
        queue.drain(&mut done);
        done[0].1.clone()
    });
    match answer {
        ServiceResponse::Complete(response) => response.status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_another_initiator_reserved_is_an_io_error() {
    let (disk, file, folder) = disk(EngineChoice::Auto, false);
    let target = target(disk);
    let nexus = target.nexus(InitiatorPort::new("b").unwrap());
    let other = LocalInitiator::new(target.clone(), nexus);
    assert_eq!(run(&other, &[0; 6], &[]), Status::CheckCondition);
    let device = Box::new(Block::new(shared(&target, "a"), 1, ""));
    let mut machine = Machine::of(device, file, folder, 0);
    assert_eq!(machine.request(VIRTIO_BLK_T_OUT, 0, 512, true).0, 0);
    // REGISTER, then RESERVE of type write exclusive.
    let mut list = [0; 24];
    list[15] = 7;
    assert_eq!(run(&other, &[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0], &list), Status::Good);
    list[7] = 7;
    assert_eq!(run(&other, &[0x5f, 1, 1, 0, 0, 0, 0, 0, 24, 0], &list), Status::Good);
    machine.memory.write_slice(&[0xAB; 512], GuestAddress(DATA)).unwrap();
    assert_eq!(machine.request(VIRTIO_BLK_T_OUT, 5, 512, true).0, 1);
    assert_eq!(machine.on_disk(5 * 512, 1), [byte_at(5 * 512)]);
    assert_eq!(machine.range_request(VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 1), 1);
    assert_eq!(machine.range_request(VIRTIO_BLK_T_DISCARD, 8, 8, 0), 1);
    assert_eq!(machine.on_disk(8 * 512, 1), [byte_at(8 * 512)]);
    assert_eq!(machine.request(VIRTIO_BLK_T_IN, 0, 512, false).0, 0);
    // CLEAR, of which the device hears by a unit attention.
    assert_eq!(run(&other, &[0x5f, 3, 0, 0, 0, 0, 0, 0, 24, 0], &list), Status::Good);
    machine.memory.write_slice(&[0xAB; 512], GuestAddress(DATA)).unwrap();
    assert_eq!(machine.request(VIRTIO_BLK_T_OUT, 5, 512, true).0, 0);
    assert_eq!(machine.on_disk(5 * 512, 1), [0xAB]);
    assert_eq!(machine.told.needs_reset.load(std::sync::atomic::Ordering::SeqCst), 0);
}
