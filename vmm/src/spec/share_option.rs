//! `--share DIR[:TAG][,rw][,dax=SIZE]…`: one folder on a command line, or in a lab's list.

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::str::FromStr;

use devices::virtio::fs::{TAG_MAX, Tag};

use super::share::{DAX_GRANULE, DaxSpec, ShareCache, ShareIds, ShareSpec, ShareXattrs, tag_of};
use super::{OptionError, split_commas};
use crate::units::parse_size;

/// A `--share` value that describes no share.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShareOptionError {
    /// Nothing before the first comma or colon.
    #[error("the share has no folder (write ./ before a name that starts with a comma or a colon)")]
    NoFolder,
    /// The folder's name is none for a tag.
    #[error(
        "the guest cannot mount the share as {0:?}: expected 1 to {TAG_MAX} bytes without control \
         characters (give it another name with DIR:TAG)"
    )]
    Tag(String),
    /// Not one of the options.
    #[error(
        "unknown share option {0:?} (known: ro, rw, dax, ids, cache, mounts, xattrs; write a comma \
         inside a path twice)"
    )]
    Unknown(String),
    /// An option's value cannot be used.
    #[error("share option {option}={value:?}: {expected}")]
    Value {
        /// The option.
        option: &'static str,
        /// What it was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
}

impl OptionError for ShareOptionError {
    fn value(&self) -> Option<(&str, &str)> {
        match self {
            ShareOptionError::Value { value, expected, .. } => Some((value, expected)),
            _ => None,
        }
    }
}

impl FromStr for ShareSpec {
    type Err = ShareOptionError;

    fn from_str(text: &str) -> Result<ShareSpec, ShareOptionError> {
        let mut parts = split_commas(text).into_iter();
        let folder = parts.next().unwrap_or_default();
        // A name with a slash in it is more of the path.
        let (folder, tag) = match folder.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((folder, tag)) => (folder.to_owned(), Some(tag.to_owned())),
            None => (folder, None),
        };
        if folder.is_empty() {
            return Err(ShareOptionError::NoFolder);
        }
        let folder = PathBuf::from(folder);
        let tag = check_tag(tag.unwrap_or_else(|| tag_of(&folder)))?;
        let mut share = ShareSpec::new(folder, tag);
        for part in parts {
            let (option, value) = part.split_once('=').unwrap_or((part.as_str(), ""));
            match (option, part.as_str()) {
                (_, "ro") => share.writable = false,
                (_, "rw") => share.writable = true,
                ("dax", _) => share.dax = dax(value)?,
                ("ids", _) => share.ids = ids(value)?,
                ("cache", _) => share.cache = cache(value)?,
                ("mounts", _) => share.cross_mounts = mounts(value)?,
                ("xattrs", _) => share.xattrs = xattrs(value)?,
                _ => return Err(ShareOptionError::Unknown(part)),
            }
        }
        Ok(share)
    }
}

/// Checks that a guest can mount by this name.
pub(crate) fn check_tag(tag: String) -> Result<String, ShareOptionError> {
    if tag.parse::<Tag>().is_ok() { Ok(tag) } else { Err(ShareOptionError::Tag(tag)) }
}

/// Reads the size of the window for direct access.
pub(crate) fn dax(value: &str) -> Result<DaxSpec, ShareOptionError> {
    if value == "off" {
        return Ok(DaxSpec::Off);
    }
    let size = parse_size(value).ok().filter(|size| *size > 0 && size.is_multiple_of(DAX_GRANULE));
    size.map(DaxSpec::Size).ok_or_else(|| {
        wrong("dax", value, "expected off, or a size that is a multiple of 2M, as in 1G")
    })
}

/// Reads how numbers of users belong together.
pub(crate) fn ids(value: &str) -> Result<ShareIds, ShareOptionError> {
    match value {
        "same" => return Ok(ShareIds::Same),
        "squash" => return Ok(ShareIds::Squash),
        _ => {}
    }
    let numbers: Option<Vec<u32>> = value.split(':').map(|number| number.parse().ok()).collect();
    if let Some(&[guest, host, count]) = numbers.as_deref()
        && count > 0
        && guest.checked_add(count - 1).is_some()
        && host.checked_add(count - 1).is_some()
    {
        return Ok(ShareIds::Range { guest, host, count });
    }
    Err(wrong("ids", value, "expected same, squash or GUEST:HOST:COUNT, as in 0:100000:65536"))
}

/// Reads how long a guest may rely on what it was told.
pub(crate) fn cache(value: &str) -> Result<ShareCache, ShareOptionError> {
    match value {
        "never" => Ok(ShareCache::Never),
        "auto" => Ok(ShareCache::Auto),
        "always" => Ok(ShareCache::Always),
        _ => Err(wrong("cache", value, "expected never, auto or always")),
    }
}

/// Reads whether other file systems inside of the folder are part of the share.
pub(crate) fn mounts(value: &str) -> Result<bool, ShareOptionError> {
    match value {
        "refuse" => Ok(false),
        "cross" => Ok(true),
        _ => Err(wrong("mounts", value, "expected refuse or cross")),
    }
}

/// Reads which extended attributes a guest sees.
pub(crate) fn xattrs(value: &str) -> Result<ShareXattrs, ShareOptionError> {
    match value {
        "none" => Ok(ShareXattrs::None),
        "user" => Ok(ShareXattrs::User),
        "all" => Ok(ShareXattrs::All),
        _ => Err(wrong("xattrs", value, "expected none, user or all")),
    }
}

fn wrong(option: &'static str, value: &str, expected: &'static str) -> ShareOptionError {
    ShareOptionError::Value { option, value: value.into(), expected }
}
