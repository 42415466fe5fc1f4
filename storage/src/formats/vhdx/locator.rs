//! The parent locator (MS-VHDX 2.6.2.6): keys and values in UTF-16 that say where the parent is.
//!
//! The standard's keys name a parent that is a VHDX. Beside them, and alone where the parent is of
//! another format, stands a key of ours with all of the [`ParentLink`]. In the latter case the
//! locator also has a type of its own, so that others refuse what they cannot follow.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::bytes::{get_guid, get16, get32, put_guid, put16, put32};
use super::guid;
use crate::format::Format;
use crate::formats::FormatError;
use crate::identity::Identity;
use crate::link::ParentLink;

const LINKAGE: &str = "parent_linkage";
const LINKAGE2: &str = "parent_linkage2";
const RELATIVE: &str = "relative_path";
const VOLUME: &str = "volume_path";
const WIN32: &str = "absolute_win32_path";
/// Our key: the [`ParentLink`] as JSON.
const COHORT: &str = "cohort_parent";

/// What separates the names of a path.
const SLASHES: [char; 2] = ['\\', '/'];

/// Keys of a locator at most.
const KEYS_MAX: u16 = 64;

/// What a locator says. `at` is where it is in the file.
pub(super) fn decode(bytes: &[u8], at: u64) -> Result<ParentLink, FormatError> {
    let damaged = |what: &str| FormatError::damaged(at, what);
    if bytes.len() < 20 {
        return Err(damaged("the parent locator is too short"));
    }
    let (kind, count) = (get_guid(bytes, 0), get16(bytes, 18));
    if count > KEYS_MAX {
        return Err(damaged("the parent locator has too many keys"));
    }
    let mut pairs = Vec::new();
    for number in 0..usize::from(count) {
        let entry = bytes.get(20 + 12 * number..).and_then(|rest| rest.get(..12));
        let entry = entry.ok_or_else(|| damaged("the parent locator ends within its table"))?;
        let text = |start: u32, len: u16| {
            let start = usize::try_from(start).ok()?;
            let bytes = bytes.get(start..start.checked_add(usize::from(len))?)?;
            let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| get16(pair, 0)).collect();
            let text = String::from_utf16(&units).ok()?;
            Some(text.trim_end_matches('\0').to_owned())
        };
        let key = text(get32(entry, 0), get16(entry, 8));
        let value = text(get32(entry, 4), get16(entry, 10));
        let (key, value) =
            key.zip(value).ok_or_else(|| damaged("a key of the parent locator is broken"))?;
        if pairs.iter().any(|(other, _)| *other == key) {
            return Err(damaged("the parent locator has a key twice"));
        }
        pairs.push((key, value));
    }
    let value = |key: &str| pairs.iter().find(|(name, _)| name == key).map(|(_, value)| &**value);
    let ours = value(COHORT).map(|json| ParentLink::from_json(json.as_bytes())).transpose()?;
    match kind {
        guid::OTHER_PARENT => ours.ok_or_else(|| damaged("the parent locator lacks our key")),
        guid::VHDX_PARENT => standard(value, ours, at),
        _ => Err(FormatError::Unsupported { what: format!("a parent locator of type {kind}") }),
    }
}

/// What the standard's keys say, completed by `ours`.
fn standard<'a>(
    value: impl Fn(&str) -> Option<&'a str>,
    ours: Option<ParentLink>,
    at: u64,
) -> Result<ParentLink, FormatError> {
    let linkage = |key| {
        let id = value(key).map(|text| Uuid::parse_str(text.trim())).transpose();
        id.map_err(|_| FormatError::damaged(at, format!("{key} of the parent locator is no GUID")))
    };
    // Windows writes the nil GUID where it means none.
    if linkage(LINKAGE2)?.is_some_and(|id| !id.is_nil()) {
        let what = "a parent locator with a second identity (parent_linkage2)";
        return Err(FormatError::Unsupported { what: what.to_owned() });
    }
    let identity = linkage(LINKAGE)?.map(Identity::Id);
    let written = value(RELATIVE).filter(|path| !path.is_empty());
    // What was recorded of another parent than the standard's keys name is out of date.
    let ours = ours.filter(|link| {
        let path = link.relative.as_deref().map(to_windows);
        link.identity == identity && link.format == Format::Vhdx && path.as_deref() == written
    });
    // Without a path from the child's folder, the parent may be in that folder.
    let name = |key| value(key).and_then(|path| path.rsplit(SLASHES).next());
    let relative = || written.or_else(|| name(VOLUME)).or_else(|| name(WIN32));
    // A path that begins with a drive, a volume or a server is none of this host.
    let hosts = |path: &&str| {
        let rest = path.strip_prefix(SLASHES);
        rest.is_some_and(|rest| !rest.starts_with(SLASHES))
    };
    let absolute = || [VOLUME, WIN32].into_iter().filter_map(&value).find(hosts);
    Ok(match ours {
        Some(link) => link,
        None => ParentLink {
            relative: relative().filter(|path| !path.is_empty()).map(from_windows),
            absolute: absolute().map(from_windows),
            ..ParentLink::new(Format::Vhdx, identity)
        },
    })
}

/// The locator that says `link`.
pub(super) fn encode(link: &ParentLink) -> Result<Vec<u8>, FormatError> {
    let json = String::from_utf8(link.to_json()?).unwrap_or_default();
    let mut pairs = Vec::new();
    let kind = if link.format == Format::Vhdx {
        match link.identity {
            Some(Identity::Id(id)) => pairs.push((LINKAGE, format!("{{{id}}}"))),
            None => {}
            Some(Identity::File(_) | Identity::Device(_)) => {
                let what = "a VHDX parent that is known by its file only".to_owned();
                return Err(FormatError::Unsupported { what });
            }
        }
        // There must be some path. An absolute one of this host means little on Windows.
        let absolute = link.absolute.iter().filter(|_| link.relative.is_none());
        let absolute = absolute.map(|path| (WIN32, to_windows(path)));
        let relative = link.relative.iter().map(|path| (RELATIVE, to_windows(path)));
        pairs.extend(relative.chain(absolute));
        guid::VHDX_PARENT
    } else {
        guid::OTHER_PARENT
    };
    pairs.push((COHORT, json));
    let mut bytes = vec![0; 20 + 12 * pairs.len()];
    put_guid(&mut bytes, 0, kind);
    put16(&mut bytes, 18, u16::try_from(pairs.len()).unwrap_or(u16::MAX));
    for (number, (key, value)) in pairs.iter().enumerate() {
        let entry = 20 + 12 * number;
        for (text, place, len_place) in [(*key, 0, 8), (&**value, 4, 10)] {
            let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let len = u16::try_from(units.len()).map_err(|_| FormatError::Unsupported {
                what: format!("a record of the parent of {} bytes", units.len()),
            })?;
            let start = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            put32(&mut bytes, entry + place, start);
            put16(&mut bytes, entry + len_place, len);
            bytes.extend_from_slice(&units);
        }
    }
    Ok(bytes)
}

fn from_windows(path: &str) -> PathBuf {
    PathBuf::from(path.replace('\\', "/"))
}

fn to_windows(path: &Path) -> String {
    let text = path.to_string_lossy().replace('/', "\\");
    // As Windows writes them.
    if path.is_absolute() || text.starts_with('.') { text } else { format!(".\\{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(format: Format) -> ParentLink {
        ParentLink {
            relative: Some("../bases/base".into()),
            absolute: Some("/images/bases/base".into()),
            format,
            identity: Some(Identity::fresh()),
            digest: Some(crate::identity::Digest([3; 32])),
            overridden: Some(Identity::fresh()),
            overridden_below: vec![crate::link::Overridden {
                child: "/images/child.layer".into(),
                parent: "/images/bases/base".into(),
                recorded: None,
                found: Identity::fresh(),
            }],
        }
    }

    #[test]
    fn links_survive() {
        for format in Format::ALL {
            let link = link(format);
            assert_eq!(decode(&encode(&link).unwrap(), 0).unwrap(), link);
        }
        let nameless = ParentLink { identity: None, ..link(Format::Vhdx) };
        assert_eq!(decode(&encode(&nameless).unwrap(), 0).unwrap(), nameless);
    }

    /// A locator as others write them.
    fn locator(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = vec![0; 20 + 12 * pairs.len()];
        put_guid(&mut bytes, 0, guid::VHDX_PARENT);
        put16(&mut bytes, 18, u16::try_from(pairs.len()).unwrap());
        for (number, (key, value)) in pairs.iter().enumerate() {
            for (text, place, len) in [(key, 0, 8), (value, 4, 10)] {
                let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
                let start = u32::try_from(bytes.len()).unwrap();
                put32(&mut bytes, 20 + 12 * number + place, start);
                put16(&mut bytes, 20 + 12 * number + len, u16::try_from(units.len()).unwrap());
                bytes.extend(units);
            }
        }
        bytes
    }

    #[test]
    fn what_windows_writes_is_understood() {
        let id = "{83ed0ec3-24c8-49a6-a959-5e4bd1288e35}";
        let nil = "{00000000-0000-0000-0000-000000000000}";
        let found = decode(
            &locator(&[
                (LINKAGE, id),
                (LINKAGE2, nil),
                (RELATIVE, ".\\bases\\base.vhdx"),
                (WIN32, "C:\\disks\\bases\\base.vhdx"),
            ]),
            0,
        );
        let found = found.unwrap();
        assert_eq!(found.relative, Some("./bases/base.vhdx".into()));
        assert_eq!(found.identity, Some(Identity::Id(id.parse().unwrap())));
        assert_eq!(found.format, Format::Vhdx);
        let absolute = decode(&locator(&[(LINKAGE, id), (WIN32, "C:\\disks\\base.vhdx")]), 0);
        assert_eq!(absolute.unwrap().relative, Some("base.vhdx".into()));
        decode(&locator(&[(LINKAGE, id), (LINKAGE2, id)]), 0).unwrap_err();
        decode(&locator(&[(LINKAGE, id), (LINKAGE, nil)]), 0).unwrap_err();
        decode(&locator(&[(LINKAGE, "base")]), 0).unwrap_err();
    }

    /// As programs on hosts like this one write them.
    #[test]
    fn absolute_paths_are_tried_where_they_are_paths_of_this_host() {
        let absolute = |key, path| decode(&locator(&[(RELATIVE, "b"), (key, path)]), 0).unwrap();
        let wanted = Some("/images/base.vhdx".into());
        for path in ["/images/base.vhdx", "\\images\\base.vhdx"] {
            assert_eq!(absolute(WIN32, path).absolute, wanted);
            assert_eq!(absolute(VOLUME, path).absolute, wanted);
        }
        for path in ["C:\\base", "\\\\?\\Volume{1}\\base", "\\\\server\\base", "//server/base", ""]
        {
            assert_eq!(absolute(WIN32, path).absolute, None);
        }
    }

    #[test]
    fn the_standard_key_tells_the_identity() {
        let link = link(Format::Vhdx);
        let json = String::from_utf8(link.to_json().unwrap()).unwrap();
        let id = Uuid::from_u128(7).to_string();
        let found = decode(&locator(&[(LINKAGE, &id), (RELATIVE, "b"), (COHORT, &json)]), 0);
        let found = found.unwrap();
        assert_eq!(found.identity, Some(Identity::Id(Uuid::from_u128(7))));
        assert_eq!((found.digest, found.overridden), (None, None));
    }
}
