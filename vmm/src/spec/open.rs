//! A disk, from what the description says of it.

use storage::tools::{DiskName, ToolError, temporary_child};
use storage::{Bytes, Disk, DiskOptions};

use super::{DiskSource, DiskSpec, EngineChoice};

impl DiskSpec {
    /// Opens the disk.
    ///
    /// # Errors
    /// It cannot be used as described; one behind vhost-user is opened by its back end alone.
    pub fn open(&self) -> Result<Disk, ToolError> {
        let options = DiskOptions {
            read_only: self.read_only,
            direct: self.direct,
            engine: match self.engine {
                EngineChoice::Auto => storage::EngineChoice::Auto,
                EngineChoice::IoUring => storage::EngineChoice::IoUring,
                EngineChoice::Positional => storage::EngineChoice::Positional,
            },
            format: self.format,
            allow_mismatch: self.allow_mismatch,
            map_memory: self.map_memory.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
        };
        match &self.source {
            DiskSource::Path(path) => Disk::open(path, &options).map_err(Into::into),
            DiskSource::Scratch(size) => {
                Disk::scratch(Bytes::new(*size), &options).map_err(Into::into)
            }
            DiskSource::VhostUser { socket, .. } => Err(ToolError::Host {
                path: socket.clone(),
                action: "open the disk behind the vhost-user socket",
                source: std::io::ErrorKind::Unsupported.into(),
            }),
            DiskSource::Child(path) => {
                let (path, format, allow_mismatch) =
                    (path.clone(), self.format, self.allow_mismatch);
                temporary_child(&DiskName { path, format, allow_mismatch }, &options)
            }
        }
    }
}
