//! One entry of a guest's `disks`.

use storage::Format;

use super::fields::{Field, Fields};
use super::files;
use super::guest::Reader;
use crate::spec::{self, DiskSource, DiskSpec, VhostUserKind};
use crate::units::{parse_disk_size, parse_size};

const KEYS: &[&str] = &[
    "path",
    "parent",
    "scratch",
    "shared",
    "vhost-user",
    "kind",
    "format",
    "allow-mismatch",
    "map-memory",
    "ro",
    "direct",
    "serial",
    "queues",
    "engine",
];

/// The keys that say what a disk's bytes are kept in.
const SOURCES: &[&str] = &["path", "parent", "scratch", "shared", "vhost-user"];
/// The keys about what another process does for disks that it serves.
const OWNERS: &[&str] =
    &["format", "allow-mismatch", "map-memory", "ro", "direct", "serial", "engine"];

/// Reads disk `number` of a guest; `None` when it has none that could be used.
pub(super) fn read(
    field: &Field<'_>,
    number: usize,
    reader: &mut Reader<'_, '_>,
) -> Option<DiskSpec> {
    let fields = Fields::of(field.node, &field.path, KEYS, reader.mistakes)?;
    let format = fields.get("format").and_then(|field| {
        let text = field.text(reader.mistakes)?;
        field.taken(spec::format(text), reader.mistakes)
    });
    let source = read_source(field, &fields, number, format, reader);
    let serial = fields.get("serial").and_then(|field| {
        let text = reader.text(&field)?;
        field.taken(spec::serial(&text), reader.mistakes)
    });
    let mistakes = &mut *reader.mistakes;
    let allow_mismatch = fields.get("allow-mismatch").and_then(|field| field.boolean(mistakes));
    let map_memory =
        fields.get("map-memory").and_then(|field| field.text_with_unit(mistakes, parse_size));
    let read_only = fields.get("ro").and_then(|field| field.boolean(mistakes));
    let direct = fields.get("direct").and_then(|field| field.boolean(mistakes));
    let queues = fields
        .get("queues")
        .and_then(|field| field.integer(mistakes, 1, spec::QUEUES_MAX.into()))
        .and_then(|queues| u16::try_from(queues).ok());
    let engine = fields.get("engine").and_then(|field| {
        let text = field.text(mistakes)?;
        field.taken(spec::engine(text), mistakes)
    });
    Some(DiskSpec {
        format,
        allow_mismatch: allow_mismatch.unwrap_or_default(),
        map_memory,
        read_only: read_only.unwrap_or_default(),
        direct: direct.unwrap_or_default(),
        serial,
        queues,
        engine: engine.unwrap_or_default(),
        ..DiskSpec::new(source?)
    })
}

/// What the disk's bytes are kept in.
fn read_source(
    field: &Field<'_>,
    fields: &Fields<'_>,
    number: usize,
    format: Option<Format>,
    reader: &mut Reader<'_, '_>,
) -> Option<DiskSource> {
    let given: Vec<(&str, Field<'_>)> =
        SOURCES.iter().filter_map(|key| Some((*key, fields.get(key)?))).collect();
    let [(key, source)] = &given[..] else {
        match given.last() {
            Some((_, last)) => last.wrong(
                reader.mistakes,
                format!("the disk has a {} already", given[0].0),
                "keep path for a file, parent for a new layer on top of one, scratch for zeroes (the \
                 last two are gone with the guest), shared for a disk of the lab, or vhost-user for \
                 another process's",
            ),
            None => field.wrong(
                reader.mistakes,
                "the disk has neither path nor parent nor scratch nor shared",
                "write { path = \"disk.img\" }, { parent = \"base.img\" }, { scratch = \"64M\" } or \
                 { shared = \"NAME\" }",
            ),
        }
        return None;
    };
    if let "shared" | "vhost-user" = *key {
        for owner in OWNERS {
            if let Some(field) = fields.get(owner) {
                let message = format!("a disk that another process serves takes no {owner}");
                field.wrong(reader.mistakes, message, "set it where the disk is served");
            }
        }
        return match *key {
            "shared" => read_shared(source, number, reader),
            _ => read_vhost_user(source, fields, reader),
        };
    }
    if *key == "scratch" {
        for key in ["format", "allow-mismatch", "map-memory"] {
            if let Some(field) = fields.get(key) {
                let message = format!("a scratch disk takes no {key}");
                field.wrong(reader.mistakes, message, "remove it, or name a file with path");
            }
        }
        return source.text_with_unit(reader.mistakes, parse_disk_size).map(DiskSource::Scratch);
    }
    let file = reader.path(source)?;
    let raw = format.unwrap_or_else(|| Format::of_name(&file)) == Format::Raw;
    if !files::check_disk(&file, raw, source, reader.mistakes) {
        return None;
    }
    Some(if *key == "path" { DiskSource::Path(file) } else { DiskSource::Child(file) })
}

/// One of the lab's shared disks, whose socket is known when the lab runs.
fn read_shared(
    source: &Field<'_>,
    number: usize,
    reader: &mut Reader<'_, '_>,
) -> Option<DiskSource> {
    let name = reader.text(source)?;
    if !reader.shared_disks.iter().any(|disk| disk.name == name) {
        let help = format!("add a table [shared-disk.{name}]");
        source.wrong(reader.mistakes, format!("the lab has no shared disk {name:?}"), help);
        return None;
    }
    if reader.shared.values().any(|other| *other == name) {
        let message = format!("the guest has the shared disk {name:?} already");
        source.wrong(reader.mistakes, message, "name it once");
        return None;
    }
    reader.shared.insert(number, name.clone());
    Some(DiskSource::VhostUser { socket: name.into(), kind: VhostUserKind::Scsi })
}

/// A disk of a process that the lab does not start.
fn read_vhost_user(
    source: &Field<'_>,
    fields: &Fields<'_>,
    reader: &mut Reader<'_, '_>,
) -> Option<DiskSource> {
    let socket = reader.path(source)?;
    let Some(kind) = fields.get("kind") else {
        let help = "add kind = \"scsi\" or kind = \"blk\"";
        source.wrong(reader.mistakes, "it does not say what is behind the socket", help);
        return None;
    };
    let text = kind.text(reader.mistakes)?;
    let kind = kind.taken(spec::vhost_user_kind(text), reader.mistakes)?;
    Some(DiskSource::VhostUser { socket, kind })
}
