//! The queue.

use std::sync::Arc;

use crate::{AlignedBuffer, Buffers, Bytes, Disk, DiskOptions, DiskRange, DiskRequest, Operation};

#[test]
fn what_was_written_is_read() {
    let disk = Disk::scratch(Bytes::new(1 << 20), &DiskOptions::default()).unwrap();
    let mut queue = disk.queue(4).unwrap();
    let mut memory = AlignedBuffer::new(4096);
    memory.bytes().fill(7);
    let range = DiskRange::new(4096, 4096).unwrap();
    let mut done = Vec::new();
    for (token, operation, memory) in [
        (1, Operation::Write, Arc::new(memory)),
        (2, Operation::Read, Arc::new(AlignedBuffer::new(4096))),
    ] {
        let mut memory = memory;
        let request = DiskRequest { operation, range, buffers: Buffers::whole(&memory) };
        done.extend(queue.submit(token, request).map(|result| (token, result)));
        queue.drain(&mut done);
        assert!(Arc::get_mut(&mut memory).unwrap().bytes().iter().all(|&byte| byte == 7));
    }
    assert!(matches!(done[..], [(1, Ok(())), (2, Ok(()))]));
}
