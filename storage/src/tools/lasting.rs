//! An identity that any later change is sure to change, and a crash is sure to keep.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::disk::Disk;
use crate::error::DiskError;
use crate::identity::Identity;

/// More than the step in which kernels count the times of files (a timer tick, at most 10 ms).
const TICK: Duration = Duration::from_millis(20);
/// Most times that someone else's changes are waited for.
const TRIES: u32 = 10;

/// The identity of a disk's top layer. Where it rests on the times of a file that has only just
/// been changed, waits until those have moved on: another change in the same step of the kernel's
/// clock would leave them as they are. Then makes them durable, which a flush of the disk does not:
/// a crash would otherwise give the file older times, and whoever recorded these a false alarm. (What
/// the kernel says of a device does not outlast a crash anyway.)
pub(super) fn identity(disk: &Disk) -> Result<Identity, DiskError> {
    let (path, top) = (disk.path(), disk.state().chain.top());
    let ask = || top.identity().map_err(|source| layer_error(path, source));
    let mut identity = ask()?;
    for _ in 0..TRIES {
        let Some(changed) = identity.last_change() else { break };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i128::try_from(now.as_nanos()).unwrap_or(i128::MAX);
        let tick = i128::try_from(TICK.as_nanos()).unwrap_or_default();
        // A time in the future tells nothing; waiting would not help.
        if !(0..tick).contains(&now.saturating_sub(changed)) {
            break;
        }
        thread::sleep(TICK);
        identity = ask()?;
    }
    if let (Identity::File(_), Some(file)) = (&identity, disk.state().files.first()) {
        match file.image().sync_all() {
            // Nothing can be synced there, or nothing has changed.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::ReadOnlyFilesystem
                ) => {}
            result => result.map_err(|error| DiskError::host(path, "sync", error))?,
        }
    }
    Ok(identity)
}

fn layer_error(path: &Path, source: crate::layer::LayerError) -> DiskError {
    DiskError::Layer { path: path.to_owned(), source }
}
