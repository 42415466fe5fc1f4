//! The guest's disks, from what the description says of them.

use devices::virtio::blk::Block;
use storage::Disk;

use super::MachineError;
use crate::spec::{DiskSpec, EngineChoice};

/// Most request queues that a disk has by default.
const QUEUES_DEFAULT_MAX: u16 = 8;

/// Opens disk `number` and makes the device that shows it to a guest with `cpus` processors.
pub(super) fn open(
    number: usize,
    spec: &DiskSpec,
    cpus: u8,
) -> Result<(Disk, Block), MachineError> {
    let disk = spec.open().map_err(|source| MachineError::Disk { number, source })?;
    tracing::info!(
        disk = number,
        engine = disk.engine_name(),
        size = disk.size().get(),
        direct = spec.direct,
        "disk opened"
    );
    if falls_back(spec.engine, disk.engine_name()) {
        tracing::warn!(
            "disk {number} uses positional reads and writes, which are slower: io_uring does not \
             work here (see cohort doctor)"
        );
    }
    let queues = spec.queues.unwrap_or(QUEUES_DEFAULT_MAX.min(cpus.into()));
    let block = Block::new(disk.clone(), queues, spec.serial.as_deref().unwrap_or_default());
    Ok((disk, block))
}

/// Whether a disk has a slower engine than it would have on another host.
fn falls_back(wanted: EngineChoice, engine: &str) -> bool {
    wanted == EngineChoice::Auto && engine == "positional"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_chose_the_engine_is_not_warned() {
        assert!(falls_back(EngineChoice::Auto, "positional"));
        assert!(!falls_back(EngineChoice::Auto, "io_uring"));
        assert!(!falls_back(EngineChoice::Positional, "positional"));
    }
}
