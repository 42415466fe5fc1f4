//! What can go wrong with shared files.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a file cannot be shared, or not be mapped.
#[derive(Debug, Error)]
pub enum ShareError {
    /// The file is a folder, a device or the like.
    #[error("{} is not a regular file, so its pages cannot be shared", .0.display())]
    NotRegular(PathBuf),
    /// There is nothing in the file.
    #[error("{} is empty, so there is nothing to map", .0.display())]
    Empty(PathBuf),
    /// The host does not do what is needed.
    #[error("cannot {what} {}", path.display())]
    Host {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// A descriptor that another process handed over is not what it was said to be.
    #[error("the copy of {} can still be changed by others: it lacks seals", .0.display())]
    NotSealed(PathBuf),
    /// A range that begins beyond the end of the file.
    #[error("byte {from} is beyond the end of {}, which has {len} bytes", path.display())]
    BeyondFile {
        /// The file.
        path: PathBuf,
        /// First byte asked for.
        from: u64,
        /// Bytes of the file.
        len: u64,
    },
    /// An offset that is no multiple of a page.
    #[error("byte {from} of {} is not at the start of a page", path.display())]
    Unaligned {
        /// The file.
        path: PathBuf,
        /// First byte asked for.
        from: u64,
    },
    /// No room in the address space.
    #[error("cannot reserve {len} bytes of address space for {name}")]
    Reserve {
        /// What for.
        name: String,
        /// Bytes asked for.
        len: u64,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// There would be more mappings than a window, or this process, may have.
    #[error(
        "{name} would need more than {max} mappings; a larger vm.max_map_count, or fewer and \
         larger ranges, help"
    )]
    TooMany {
        /// The window.
        name: String,
        /// Most mappings.
        max: usize,
    },
}

impl ShareError {
    pub(super) fn host(
        what: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| ShareError::Host { what, path, source }
    }
}
