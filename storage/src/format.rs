//! The formats that layers are kept in.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How a layer keeps its bytes.
///
/// A format is stated by whoever opens a disk, recorded by a child, or told by the file's name. It
/// is never guessed from content: a guest can write anything into a raw disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Byte *n* of the disk is byte *n* of the file. Base of a chain only.
    Raw,
    /// cohort's runtime format (`docs/layer-format.md`).
    Layer,
    /// QEMU's format, versions 2 and 3.
    Qcow2,
    /// The format of Hyper-V (MS-VHDX).
    Vhdx,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 4] = [Format::Raw, Format::Layer, Format::Qcow2, Format::Vhdx];

    /// Its name on the command line, and the extension of its files.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Layer => "layer",
            Format::Qcow2 => "qcow2",
            Format::Vhdx => "vhdx",
        }
    }

    /// The format that a file's name tells; raw where it tells none.
    pub fn of_name(path: &Path) -> Format {
        let extension = path.extension().and_then(|text| text.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "layer" => Format::Layer,
            "qcow2" => Format::Qcow2,
            "vhdx" | "avhdx" => Format::Vhdx,
            _ => Format::Raw,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no disk format (known: raw, layer, qcow2, vhdx)")]
pub struct UnknownFormat(String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Format, UnknownFormat> {
        let known = Format::ALL.into_iter().find(|format| format.name() == text);
        known.ok_or_else(|| UnknownFormat(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_formats() {
        for format in Format::ALL {
            assert_eq!(format.name().parse(), Ok(format));
            assert_eq!(
                Format::of_name(Path::new("a").with_extension(format.name()).as_path()),
                format
            );
        }
        assert_eq!(Format::of_name(Path::new("a.AVHDX")), Format::Vhdx);
        assert_eq!(Format::of_name(Path::new("vhdx")), Format::Raw);
        assert_eq!(Format::of_name(Path::new("disk.img")), Format::Raw);
        "img".parse::<Format>().unwrap_err();
    }
}
