//! `--pmem FILE[,mode=private][,seal=on][,on-change=stop]`: one file in guest memory on a command
//! line.

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::str::FromStr;

use super::{OnChange, OptionError, PmemMode, PmemSpec, split_commas};

/// A `--pmem` value that describes no file in guest memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PmemOptionError {
    /// Nothing before the first comma.
    #[error("the pmem device has no file (write ./ before a name that starts with a comma)")]
    NoPath,
    /// Not one of the options.
    #[error(
        "unknown pmem option {0:?} (known: mode, seal, on-change; write a comma inside a path twice)"
    )]
    Unknown(String),
    /// An option's value cannot be used.
    #[error("pmem option {option}={value:?}: {expected}")]
    Value {
        /// The option.
        option: &'static str,
        /// What it was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
}

impl OptionError for PmemOptionError {
    fn value(&self) -> Option<(&str, &str)> {
        match self {
            PmemOptionError::Value { value, expected, .. } => Some((value, expected)),
            _ => None,
        }
    }
}

impl FromStr for PmemSpec {
    type Err = PmemOptionError;

    fn from_str(text: &str) -> Result<PmemSpec, PmemOptionError> {
        let mut parts = split_commas(text).into_iter();
        let path = parts.next().filter(|path| !path.is_empty()).ok_or(PmemOptionError::NoPath)?;
        let mut pmem = PmemSpec::new(PathBuf::from(path));
        for part in parts {
            let (option, value) = part.split_once('=').unwrap_or((part.as_str(), ""));
            match option {
                "mode" => pmem.mode = mode(value)?,
                "seal" => pmem.seal = seal(&part)?,
                "on-change" => pmem.on_change = on_change(value)?,
                _ => return Err(PmemOptionError::Unknown(part)),
            }
        }
        Ok(pmem)
    }
}

fn seal(part: &str) -> Result<bool, PmemOptionError> {
    match part {
        "seal" | "seal=on" => Ok(true),
        "seal=off" => Ok(false),
        _ => Err(PmemOptionError::Value {
            option: "seal",
            value: part.trim_start_matches("seal=").into(),
            expected: "expected on or off",
        }),
    }
}

/// Reads what guests may do with the file's pages.
pub(crate) fn mode(value: &str) -> Result<PmemMode, PmemOptionError> {
    match value {
        "shared" => Ok(PmemMode::Shared),
        "private" => Ok(PmemMode::Private),
        _ => Err(PmemOptionError::Value {
            option: "mode",
            value: value.into(),
            expected: "expected shared or private",
        }),
    }
}

/// Reads what happens when the file is changed.
pub(crate) fn on_change(value: &str) -> Result<OnChange, PmemOptionError> {
    match value {
        "ignore" => Ok(OnChange::Ignore),
        "warn" => Ok(OnChange::Warn),
        "stop" => Ok(OnChange::Stop),
        _ => Err(PmemOptionError::Value {
            option: "on-change",
            value: value.into(),
            expected: "expected ignore, warn or stop",
        }),
    }
}
