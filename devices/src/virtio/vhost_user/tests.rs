//! Our front end and our back end, with a disk behind them.

use std::sync::Arc;
use std::time::Duration;

use memshare::GuestRam;
use storage::{Bytes as Size, Disk, DiskOptions};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::backend::BackEnd;
use super::frontend::{FrontEnd, Kind};
use crate::virtio::blk::Block;
use crate::virtio::device::VirtioDevice;
use crate::virtio::driver::{Driver, Told, activation};

#[test]
fn a_disk_behind_both_ends_survives_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let disk = Disk::scratch(Size::new(1 << 20), &DiskOptions::default()).unwrap();
    let serve = || {
        let block = Block::new(disk.clone(), 2, "serial");
        BackEnd::listen(&path, Box::new(block), Box::new(|| {})).unwrap()
    };
    let mut server = Some(serve());
    let patience = Duration::from_secs(10);
    let mut device = FrontEnd::connect(&path, Kind::Block, None, patience).unwrap();
    assert_eq!(device.request_queues(), 2);
    let ring_features = 1 << 28 | 1 << 29 | 1 << 32;
    let features = device.info().features | ring_features & device.ring_features();
    let ram = GuestRam::new(16 << 20, 8 << 20, 1 << 32).unwrap();
    let memory = ram.memory().memory().into_inner();
    let mut driver = Driver::new(memory.clone(), 0x1_0000, 16, features & 1 << 29 != 0);
    let told = Arc::new(Told::default());
    device.start(activation(ram.memory(), features, &[&driver], &told)).unwrap();
    for round in 0..6u64 {
        for write in [true, false] {
            let at = 0x10_0000;
            memory.write_obj([u32::from(write), 0], GuestAddress(at)).unwrap();
            memory.write_obj(round, GuestAddress(at + 8)).unwrap();
            memory.write_obj(if write { round + 7 } else { 0 }, GuestAddress(at + 0x1000)).unwrap();
            let before = driver.position();
            driver.want_interrupt();
            driver
                .add(&[(at, 16, false), (at + 0x1000, 512, !write), (at + 0x2000, 1, true)])
                .unwrap();
            driver.notify_since(before);
            driver.await_used();
            assert_eq!(memory.read_obj::<u8>(GuestAddress(at + 0x2000)).unwrap(), 0);
            assert_eq!(memory.read_obj::<u64>(GuestAddress(at + 0x1000)).unwrap(), round + 7);
        }
        drop(server.take());
        server = Some(serve());
    }
    assert_eq!(device.stop()[0].next_used, 12);
}
