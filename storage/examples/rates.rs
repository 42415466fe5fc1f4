//! Rates of 4 KiB requests at random places of a disk, without a guest: what a queue can do.
//!
//! `cargo run --release -p storage --example rates -- FILE read|write DEPTH [direct] [positional]`

use std::error::Error;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use storage::{
    AlignedBuffer, Buffers, Disk, DiskOptions, DiskRange, DiskRequest, EngineChoice, Operation,
};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

const BLOCK: u64 = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, operation, depth, flags @ ..] = &arguments[..] else {
        return Err("usage: rates FILE read|write DEPTH [direct] [positional]".into());
    };
    let operation = match &**operation {
        "read" => Operation::Read,
        "write" => Operation::Write,
        other => return Err(format!("{other} is neither read nor write").into()),
    };
    let depth: u16 = depth.parse()?;
    let has = |flag: &str| flags.iter().any(|given| given == flag);
    let engine = if has("positional") { EngineChoice::Positional } else { EngineChoice::Auto };
    let options = DiskOptions { direct: has("direct"), engine, ..DiskOptions::default() };
    let disk = Disk::open(Path::new(path), &options)?;
    let blocks = disk.size().get() / BLOCK;
    let mut queue = disk.queue(depth)?;
    let memory: Vec<_> = (0..depth).map(|_| Arc::new(AlignedBuffer::new(4096))).collect();

    let epoll = Epoll::new()?;
    if let Some(ready) = queue.ready_fd() {
        let event = EpollEvent::new(EventSet::IN, 0);
        epoll.ctl(ControlOperation::Add, ready.as_raw_fd(), event)?;
    }

    // Brings what the disk knows of its layers into memory, and what these hold.
    for at in (0..blocks).step_by(256) {
        let range = DiskRange::new(at * BLOCK, BLOCK).ok_or("range")?;
        let memory = memory.first().ok_or("depth")?;
        let request =
            DiskRequest { operation: Operation::Read, range, buffers: Buffers::whole(memory) };
        if queue.submit(0, request).is_none() {
            queue.drain(&mut Vec::new());
        }
    }

    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    let (mut done, mut free) = (Vec::new(), (0..u64::from(depth)).collect::<Vec<_>>());
    let (mut count, start) = (0u64, Instant::now());
    while start.elapsed() < Duration::from_secs(2) {
        for token in std::mem::take(&mut free) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let range = DiskRange::new(random % blocks * BLOCK, BLOCK).ok_or("range")?;
            let memory = memory.get(usize::try_from(token)?).ok_or("token")?;
            let request = DiskRequest { operation, range, buffers: Buffers::whole(memory) };
            if let Some(result) = queue.submit(token, request) {
                done.push((token, result));
            }
        }
        queue.poll(&mut done);
        while done.is_empty() {
            match epoll.wait(-1, &mut [EpollEvent::default()]) {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => Err(error)?,
                _ => queue.poll(&mut done),
            }
        }
        for (token, result) in done.drain(..) {
            result?;
            count += 1;
            free.push(token);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = count as f64 / seconds;
    println!("{}: {:.0} requests a second at depth {depth}", disk.engine_name(), rate);
    Ok(())
}
