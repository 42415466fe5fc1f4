//! The guest's disks, from what the description says of them.

use std::path::Path;
use std::time::Duration;

use devices::virtio::blk::Block;
use devices::virtio::vhost_user::frontend::{FrontEnd, Kind};
use storage::Disk;

use super::MachineError;
use crate::spec::{DiskSource, DiskSpec, EngineChoice, VhostUserKind};

/// Most request queues that a disk has by default.
const QUEUES_DEFAULT_MAX: u16 = 8;
/// How long a back end may take to listen: who starts it together with the guest cannot know when
/// it does.
const BACK_END_PATIENCE: Duration = Duration::from_secs(5);

/// A disk's device.
pub(super) enum Opened {
    /// On a disk of this process.
    Block(Disk, Block),
    /// On another process.
    VhostUser(FrontEnd),
}

/// Opens disk `number` and makes the device that shows it to a guest with `cpus` processors.
pub(super) fn open(number: usize, spec: &DiskSpec, cpus: u8) -> Result<Opened, MachineError> {
    if let DiskSource::VhostUser { socket, kind } = &spec.source {
        return connect(number, socket, *kind, spec.queues, cpus).map(Opened::VhostUser);
    }
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
    let queues = spec.queues.unwrap_or_else(|| queues_default(cpus));
    let block = Block::new(disk.clone(), queues, spec.serial.as_deref().unwrap_or_default());
    Ok(Opened::Block(disk, block))
}

/// Connects to the back end of disk `number`.
fn connect(
    number: usize,
    socket: &Path,
    kind: VhostUserKind,
    queues: Option<u16>,
    cpus: u8,
) -> Result<FrontEnd, MachineError> {
    let kind = match kind {
        VhostUserKind::Blk => Kind::Block,
        VhostUserKind::Scsi => Kind::Scsi,
    };
    let wanted = queues.unwrap_or_else(|| queues_default(cpus));
    let device = FrontEnd::connect(socket, kind, Some(wanted), BACK_END_PATIENCE)
        .map_err(|source| MachineError::BackEnd { number, source })?;
    let has = device.request_queues();
    if queues.is_some() && has < wanted {
        tracing::warn!("disk {number} has {has} queues: its back end has no more");
    }
    Ok(device)
}

fn queues_default(cpus: u8) -> u16 {
    QUEUES_DEFAULT_MAX.min(cpus.into())
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
