//! A disk that the lab's guests share: the keys of `[shared-disk.NAME]`, and the command that
//! serves it.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use storage::Format;
use storage::tools::{self, Create, ToolError};

use super::Lab;
use super::fields::{Field, Fields};
use super::files;
use super::mistake::Collector;
use crate::spec::{self, DiskSource};
use crate::units::parse_disk_size;

const KEYS: &[&str] = &["path", "scratch", "url", "size", "format", "ro", "direct", "reservations"];

/// A disk that guests share.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedDisk {
    /// The name by which guests ask for it.
    pub name: String,
    /// Where it is kept.
    pub source: SharedSource,
    /// Whether reservations that are to outlive a server outlive the lab too.
    pub persistent: bool,
}

/// Where a shared disk is kept.
#[derive(Clone, Debug, PartialEq)]
pub enum SharedSource {
    /// In an image file or block device.
    Path {
        /// Which.
        path: PathBuf,
        /// Bytes of the file that the lab makes where there is none.
        size: Option<u64>,
        /// How it keeps its bytes; by default, its name tells.
        format: Option<Format>,
        /// Nobody may write.
        read_only: bool,
        /// Bypass the host's page cache.
        direct: bool,
    },
    /// Nowhere: this many bytes of zeroes, gone with the lab.
    Scratch(u64),
    /// At a target that is there already, as `iscsi://HOST:PORT/IQN/LUN`.
    Url(String),
}

/// Reads `[shared-disk]`.
pub(super) fn read(field: &Field<'_>, dir: &Path, mistakes: &mut Collector<'_>) -> Vec<SharedDisk> {
    let Some(disks) = Fields::of(field.node, &field.path, &[], mistakes) else {
        return Vec::new();
    };
    let mut read: Vec<SharedDisk> = Vec::new();
    for (name, field) in disks.all() {
        let Some(disk) = read_one(name, &field, dir, mistakes) else { continue };
        // The server of the second would find the file locked by that of the first.
        if let Some(file) = disk.file()
            && let Some(first) = read.iter().find(|other| other.file() == Some(file))
        {
            let message = format!("the file is that of the shared disk {:?} too", first.name);
            field.wrong(mistakes, message, "one table is enough for all guests that share it");
        }
        read.push(disk);
    }
    read
}

fn read_one(
    name: &str,
    field: &Field<'_>,
    dir: &Path,
    mistakes: &mut Collector<'_>,
) -> Option<SharedDisk> {
    if let Some(problem) = super::schema::name_problem(name) {
        let message = format!("{name:?} cannot be a shared disk's name");
        mistakes.add(field.key, &field.path, message, problem);
    }
    let fields = Fields::of(field.node, &field.path, KEYS, mistakes)?;
    let persistent = match fields.get("reservations") {
        None => None,
        Some(field) => match field.text(mistakes)? {
            "persistent" => Some(true),
            "volatile" => Some(false),
            other => {
                let message = format!("{other:?} is no way to keep reservations");
                field.wrong(mistakes, message, "write \"persistent\" or \"volatile\"");
                None
            }
        },
    };
    let source = read_source(field, &fields, dir, mistakes)?;
    let has_place = matches!(source, SharedSource::Path { .. });
    if !has_place {
        for key in ["size", "format", "ro", "direct", "reservations"] {
            if let Some(field) = fields.get(key) {
                let message = format!("a disk without a path takes no {key}");
                field.wrong(mistakes, message, "remove it");
            }
        }
    }
    Some(SharedDisk { name: name.to_owned(), source, persistent: persistent.unwrap_or(has_place) })
}

fn read_source(
    field: &Field<'_>,
    fields: &Fields<'_>,
    dir: &Path,
    mistakes: &mut Collector<'_>,
) -> Option<SharedSource> {
    let given: Vec<(&str, Field<'_>)> = ["path", "scratch", "url"]
        .into_iter()
        .filter_map(|key| Some((key, fields.get(key)?)))
        .collect();
    let [(key, source)] = &given[..] else {
        match given.last() {
            Some((_, last)) => last.wrong(
                mistakes,
                format!("the disk has a {} already", given[0].0),
                "keep path for a file, scratch for zeroes that are gone with the lab, or url for \
                 a target that is there already",
            ),
            None => field.wrong(
                mistakes,
                "the disk has neither path nor scratch nor url",
                "add a line: path = \"FILE\", scratch = \"64M\", or url = \
                 \"iscsi://HOST:PORT/IQN/LUN\"",
            ),
        }
        return None;
    };
    match *key {
        "scratch" => source.text_with_unit(mistakes, parse_disk_size).map(SharedSource::Scratch),
        "url" => {
            let text = source.text(mistakes)?;
            if let Err(error) = text.parse::<storage::iscsi::IscsiUrl>() {
                source.wrong(mistakes, error.to_string(), "");
                return None;
            }
            Some(SharedSource::Url(text.to_owned()))
        }
        _ => {
            let path = dir.join(source.text(mistakes)?);
            let format = fields.get("format").and_then(|field| {
                let text = field.text(mistakes)?;
                field.taken(spec::format(text), mistakes)
            });
            let size = fields
                .get("size")
                .and_then(|field| field.text_with_unit(mistakes, parse_disk_size));
            let raw = format.unwrap_or_else(|| Format::of_name(&path)) == Format::Raw;
            if size.is_none() || path.exists() {
                files::check_disk(&path, raw, source, mistakes);
            }
            let read_only = fields.get("ro").and_then(|field| field.boolean(mistakes));
            let direct = fields.get("direct").and_then(|field| field.boolean(mistakes));
            Some(SharedSource::Path {
                path,
                size,
                format,
                read_only: read_only.unwrap_or_default(),
                direct: direct.unwrap_or_default(),
            })
        }
    }
}

impl SharedDisk {
    /// Device and inode of its file, if that is there.
    fn file(&self) -> Option<(u64, u64)> {
        let SharedSource::Path { path, .. } = &self.source else { return None };
        let facts = std::fs::metadata(path).ok()?;
        Some((facts.dev(), facts.ino()))
    }

    /// Makes the disk's file where it has none and is to have one.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn create(&self) -> Result<(), ToolError> {
        let SharedSource::Path { path, size: Some(size), format, .. } = &self.source else {
            return Ok(());
        };
        if path.exists() {
            return Ok(());
        }
        let order = Create {
            path: path.clone(),
            format: *format,
            size: Some(*size),
            parent: None,
            fixed: false,
            protect: false,
            digest: false,
        };
        tools::create(&order, &tools::Unwatched).map(drop)
    }

    /// The arguments of `cohort` that serve the disk to the guests of `lab` that ask for it. The
    /// server's files are in `folder`.
    pub(super) fn command(&self, lab: &Lab, folder: &Path) -> Vec<OsString> {
        let serve = |disk: String| vec!["shared-disk".into(), "serve".into(), disk.into()];
        let mut args: Vec<OsString> = match &self.source {
            SharedSource::Url(url) => vec!["shared-disk".into(), "connect".into(), url.into()],
            SharedSource::Scratch(size) => serve(format!("scratch={size}B")),
            SharedSource::Path { path, format, read_only, direct, .. } => {
                let mut disk = path.display().to_string().replace(',', ",,");
                for (set, option) in [(read_only, ",ro"), (direct, ",direct=on")] {
                    disk += if *set { option } else { "" };
                }
                if let Some(format) = format {
                    disk += &format!(",format={format}");
                }
                let mut args = serve(disk);
                if !self.persistent {
                    let state = folder.join(format!("{}.state", self.name));
                    args.extend(["--state".into(), state.into()]);
                }
                args
            }
        };
        args.extend(["--control".into(), folder.join(format!("{}.control", self.name)).into()]);
        for (guest, socket) in sockets(lab, &self.name) {
            let socket = folder.join(socket).display().to_string().replace(',', ",,");
            let option = format!("{socket},initiator={}.{guest}", lab.name);
            args.extend(["--vhost-user-scsi".into(), option.into()]);
        }
        args
    }
}

/// The guests that ask for a shared disk, and the names of the sockets by which they use it.
fn sockets<'a>(lab: &'a Lab, disk: &'a str) -> impl Iterator<Item = (&'a str, String)> {
    let asks = move |of: &String| of == disk;
    lab.guests.iter().enumerate().filter(move |(_, guest)| guest.shared.values().any(asks)).map(
        move |(at, guest)| {
            let number = lab.shared_disks.iter().position(|shared| shared.name == disk);
            (guest.spec.name.as_str(), socket_name(number.unwrap_or_default(), at))
        },
    )
}

/// Short, since paths of sockets must be.
fn socket_name(disk: usize, guest: usize) -> String {
    format!("{disk}-{guest}.sock")
}

impl Lab {
    /// The description of guest number `at`, with the sockets in `folder` for what it shares.
    pub(super) fn spec_with_sockets(&self, at: usize, folder: &Path) -> crate::spec::VmSpec {
        let guest = &self.guests[at];
        let mut spec = guest.spec.clone();
        for (disk, name) in &guest.shared {
            let number = self.shared_disks.iter().position(|shared| shared.name == *name);
            if let (Some(number), Some(disk)) = (number, spec.disks.get_mut(*disk)) {
                disk.source = DiskSource::VhostUser {
                    socket: folder.join(socket_name(number, at)),
                    kind: spec::VhostUserKind::Scsi,
                };
            }
        }
        spec
    }
}
