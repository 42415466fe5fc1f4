//! Garbage in the headers of requests that are good otherwise. Their buffers are, too: whatever a
//! device makes of a header, it can only write to memory set aside.
#![forbid(unsafe_code)]

use super::chains::Victim;
use super::{REACTION, Target};
use crate::machine::clock;
use crate::pattern::Random;
use crate::virtio::DeviceError;
use crate::virtio::queue::{Descriptor, NEXT, WRITE};
use crate::virtio::transport::Platform;

/// Bytes of a header that are changed at once at most.
const CHANGES_MAX: u8 = 8;
/// virtio-scsi's queue for task management; its requests' length, and their answer's place and
/// length (virtio 1.3, 5.6.6.2).
const CONTROL_QUEUE: u16 = 0;
const CONTROL_LEN: u32 = 24;
const CONTROL_ANSWER: u64 = 64;
const CONTROL_ANSWER_LEN: u32 = 8;

/// `count` reads, some bytes of whose headers are garbage.
pub(super) fn requests(
    target: Target,
    seed: u64,
    count: u64,
    platform: &mut Platform,
) -> Result<(), DeviceError> {
    let start = |platform: &mut Platform| {
        let victim = Victim::start(target, platform)?;
        let chain = victim.good();
        Ok((victim, chain))
    };
    garbage(target, seed, count, platform, start)
}

/// `count` requests to the control queue, some bytes of which are garbage.
pub(super) fn task_management(
    target: Target,
    seed: u64,
    count: u64,
    platform: &mut Platform,
) -> Result<(), DeviceError> {
    let start = |platform: &mut Platform| {
        let victim = Victim::start_queue(target, CONTROL_QUEUE, platform)?;
        let address = victim.memory.address();
        let answer = address + CONTROL_ANSWER;
        let chain = [
            Descriptor { address, len: CONTROL_LEN, flags: NEXT, next: 1 },
            Descriptor { address: answer, len: CONTROL_ANSWER_LEN, flags: WRITE, next: 0 },
        ];
        Ok((victim, chain))
    };
    garbage(target, seed, count, platform, start)
}

/// Offers a chain `count` times, its first part changed each time, to a device that is started
/// anew when it did not answer.
fn garbage<const N: usize>(
    target: Target,
    seed: u64,
    count: u64,
    platform: &mut Platform,
    start: impl Fn(&mut Platform) -> Result<(Victim, [Descriptor; N]), DeviceError>,
) -> Result<(), DeviceError> {
    let mark = platform.pool.mark();
    let mut random = Random::new(seed);
    let mut running = None;
    for _ in 0..count {
        let (mut victim, chain) = match running.take() {
            Some(running) => running,
            None => {
                target.transport.reset()?;
                platform.pool.release(mark);
                start(platform)?
            }
        };
        let header = chain.first().map_or(0, |header| u64::from(header.len));
        // The good bytes come back afterwards: changes that add up would soon be all garbage.
        let mut saved = [None; CHANGES_MAX as usize];
        let changes = 1 + random.below(CHANGES_MAX.into());
        for (_, place) in (0..changes).zip(&mut saved) {
            let at = random.below(header);
            *place = Some((at, victim.memory.read8(at)));
            victim.memory.write8(at, random.number().to_le_bytes()[0]);
        }
        (0..).zip(chain).for_each(|(index, part)| victim.queue.describe(index, part));
        victim.queue.push(0);
        victim.queue.kick();
        let begin = clock::now();
        let answered = loop {
            if victim.queue.pop().is_some() {
                break true;
            }
            if clock::now().wrapping_sub(begin) > REACTION {
                break false;
            }
            core::hint::spin_loop();
        };
        // The last one first: a byte may have been changed twice.
        let saved = saved.iter().rev().flatten();
        saved.for_each(|(at, byte)| victim.memory.write8(*at, *byte));
        running = answered.then_some((victim, chain));
    }
    target.transport.reset()
}
