//! The load generator.
#![forbid(unsafe_code)]

use super::disk::fill;
use super::{Guest, Stop};
use crate::machine::clock::{self, Clock};
use crate::pattern::{Pattern, Random, SECTOR};
use crate::script::{Bench, Bus};
use crate::virtio::DeviceError;
use crate::virtio::requests::Requests;
use crate::virtio::transport::PATIENCE;

/// What came of a benchmark.
struct Load {
    operations: u64,
    counts: u64,
}

impl Guest<'_> {
    /// Keeps random requests under way for a while and prints one line of `key=value`s.
    pub(super) fn bench(&mut self, bench: Bench) -> Result<(), Stop> {
        let name = if bench.write { "bench.randwrite" } else { "bench.randread" };
        let clock = self.clock()?;
        let done = match bench.on {
            Bus::Blk => self.open(bench.disk).and_then(|mut disk| {
                let done = self.load(&mut disk, bench, clock);
                self.keep(bench.disk, disk);
                done
            }),
            Bus::Scsi => self.unit(bench.disk, |guest, unit| guest.load(unit, bench, clock)),
        };
        let Load { operations, counts } = done.map_err(|error| self.device(name, error))?;
        let nanoseconds = clock.nanoseconds(counts);
        let iops = u128::from(operations) * 1_000_000_000 / u128::from(nanoseconds.max(1));
        let Bench { sectors, depth, queues, disk, .. } = bench;
        let size = sectors * SECTOR;
        let on = if bench.on == Bus::Scsi { "on=scsi " } else { "" };
        self.say(format_args!(
            "{name}: {on}disk={disk} size={size} qd={depth} queues={queues} operations={operations} \
             nanoseconds={nanoseconds} iops={iops}"
        ));
        Ok(())
    }

    fn load<R: Requests>(
        &mut self,
        disk: &mut R,
        bench: Bench,
        clock: Clock,
    ) -> Result<Load, DeviceError> {
        let Bench { write, sectors, depth, queues, nanoseconds, seed, .. } = bench;
        let operation = if write { R::WRITE } else { R::READ };
        let all = u64::from(disk.check_depth(queues, depth)?);
        disk.check_granule(0, sectors)?;
        let places = disk.capacity() / sectors;
        if places == 0 {
            return Err(DeviceError::Lacks("room for one request of this size"));
        }
        let pool = &mut self.platform.pool;
        let mark = pool.mark();
        let size = sectors * SECTOR;
        let buffers = pool.take(size * all, 4096).ok_or(DeviceError::Memory)?;
        let mut random = Random::new(seed);
        for queue in 0..queues {
            for slot in 0..depth {
                let number = u64::from(queue) * u64::from(depth) + u64::from(slot);
                let data = buffers.part(number * size, size);
                if write {
                    fill(Pattern { seed }, data, number * sectors, sectors);
                }
                disk.prepare(queue, slot, operation, data);
                disk.submit(queue, slot, random.below(places) * sectors);
            }
        }
        let start = clock::now();
        (0..queues).for_each(|queue| disk.kick(queue));
        let (mut operations, mut under_way, mut last) = (0, all, start);
        let mut going_on = true;
        let counts = loop {
            let before = operations;
            for queue in 0..queues {
                while let Some((slot, _)) = disk.poll(queue, operation)? {
                    operations += 1;
                    if going_on {
                        disk.submit(queue, slot, random.below(places) * sectors);
                    } else {
                        under_way -= 1;
                    }
                }
                disk.kick(queue);
            }
            let now = clock::now();
            going_on = going_on && clock.nanoseconds(now.wrapping_sub(start)) < nanoseconds;
            if under_way == 0 {
                break now.wrapping_sub(start);
            }
            if operations > before {
                last = now;
            } else {
                core::hint::spin_loop();
                if now.wrapping_sub(last) > PATIENCE {
                    return Err(disk.transport().silence("requests of a benchmark"));
                }
            }
        };
        pool.release(mark);
        Ok(Load { operations, counts })
    }
}
