use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A program could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: PathBuf,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// Watching a child process failed.
    #[error("cannot {what} of {who}")]
    Watch {
        /// What was to be read or awaited.
        what: &'static str,
        /// Whose process.
        who: String,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// A child did not do in time what was expected of it.
    #[error("{who} did not {what} within {limit:?}; its last output: {output}")]
    Late {
        /// Whose process.
        who: String,
        /// What was awaited.
        what: String,
        /// How long it was given.
        limit: Duration,
        /// The end of what it printed.
        output: String,
    },
    /// A child ended in an unexpected way.
    #[error("{who} ended with {status}; its last output: {output}")]
    Ended {
        /// Whose process.
        who: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed.
        output: String,
    },
    /// A child's output lacks the figure that is looked for.
    #[error("{who} printed no {what}; its last output: {output}")]
    NoFigure {
        /// Whose process.
        who: String,
        /// The figure that is missing.
        what: &'static str,
        /// The end of what it printed.
        output: String,
    },
    /// A file for the measurement could not be made or used.
    #[error("cannot {what} {path}")]
    File {
        /// What was to be done.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// A shared disk did not do what it should.
    #[error("{what}")]
    Scsi {
        /// What happened.
        what: String,
    },
    /// A figure of the host's `/proc` could not be read.
    #[error("cannot read {path}")]
    Proc {
        /// The file under `/proc`.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
}

impl BenchError {
    /// What a disk or target said.
    pub(super) fn scsi(error: impl std::error::Error + Send + Sync + 'static) -> BenchError {
        BenchError::Scsi { what: format!("{:#}", anyhow::Error::new(error)) }
    }

    /// What to do about it, where that is known.
    pub fn help(&self) -> Option<String> {
        match self {
            BenchError::Start { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Some("`cargo xtask setup` installs the programs that are compared with".to_owned())
            }
            BenchError::File { what: "make a file in", .. } => {
                Some("set TMPDIR to a folder with room, on the file system to measure".to_owned())
            }
            _ => None,
        }
    }
}
