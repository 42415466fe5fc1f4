//! The kernel command line.

use memshare::GuestRam;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddressSpace};

use super::error::KernelError;
use crate::machine::layout;

/// Why a command line cannot be passed on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CmdlineError {
    /// It is longer than there is room for.
    #[error("it has {len} bytes, but {taker} takes at most {max}")]
    TooLong {
        /// Its length in bytes.
        len: u64,
        /// Longest that is taken, without the closing NUL.
        max: u64,
        /// Who sets the limit.
        taker: &'static str,
    },
    /// It holds a NUL byte, where the guest would see it end.
    #[error("byte {at} of it is a NUL, where the guest would see it end")]
    Nul {
        /// Where.
        at: usize,
    },
}

impl CmdlineError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            CmdlineError::TooLong { .. } => {
                "shorten it, or put a part of it into the initrd or on a disk"
            }
            CmdlineError::Nul { .. } => "remove the NUL byte",
        };
        Some(help.to_owned())
    }
}

/// Puts the command line, with its closing NUL, at [`layout::CMDLINE`]. `kernel_max` is the
/// kernel's own limit, where it states one.
pub(super) fn write(
    ram: &GuestRam,
    text: &str,
    kernel_max: Option<u64>,
) -> Result<(), KernelError> {
    check(text, kernel_max)?;
    let mut bytes = Vec::with_capacity(text.len() + 1);
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    ram.memory()
        .memory()
        .write_slice(&bytes, layout::CMDLINE)
        .map_err(|source| KernelError::Parameters { what: "command line", source: source.into() })
}

fn check(text: &str, kernel_max: Option<u64>) -> Result<(), CmdlineError> {
    if let Some(at) = text.bytes().position(|byte| byte == 0) {
        return Err(CmdlineError::Nul { at });
    }
    let len = text.len() as u64;
    let limits = [(layout::CMDLINE_MAX - 1, "cohort"), (kernel_max.unwrap_or(len), "this kernel")];
    match limits.into_iter().find(|&(max, _)| len > max) {
        Some((max, taker)) => Err(CmdlineError::TooLong { len, max, taker }),
        None => Ok(()),
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "lengths of small test data")]
mod tests;
