//! One entry of a guest's `disks`.

use storage::Format;

use super::fields::{Field, Fields};
use super::files;
use super::guest::Reader;
use super::mistake::Collector;
use crate::spec::{self, DiskOptionError, DiskSource, DiskSpec};
use crate::units::{parse_disk_size, parse_size};

const KEYS: &[&str] = &[
    "path",
    "parent",
    "scratch",
    "format",
    "allow-mismatch",
    "map-memory",
    "ro",
    "direct",
    "serial",
    "queues",
    "engine",
];

/// Reads one disk; `None` when it has none that could be used.
pub(super) fn read(field: &Field<'_>, reader: &mut Reader<'_, '_>) -> Option<DiskSpec> {
    let fields = Fields::of(field.node, &field.path, KEYS, reader.mistakes)?;
    let format = fields.get("format").and_then(|field| {
        let text = field.text(reader.mistakes)?;
        taken(&field, spec::format(text), reader.mistakes)
    });
    let source = read_source(field, &fields, format, reader);
    let serial = fields.get("serial").and_then(|field| {
        let text = reader.text(&field)?;
        taken(&field, spec::serial(&text), reader.mistakes)
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
        taken(&field, spec::engine(text), mistakes)
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
    format: Option<Format>,
    reader: &mut Reader<'_, '_>,
) -> Option<DiskSource> {
    let given: Vec<(&str, Field<'_>)> = ["path", "parent", "scratch"]
        .into_iter()
        .filter_map(|key| Some((key, fields.get(key)?)))
        .collect();
    let [(key, source)] = &given[..] else {
        match given.last() {
            Some((_, last)) => last.wrong(
                reader.mistakes,
                format!("the disk has a {} already", given[0].0),
                "keep path for a file, parent for a new layer on top of one, or scratch for zeroes; \
                 the last two are gone with the guest",
            ),
            None => field.wrong(
                reader.mistakes,
                "the disk has neither path nor parent nor scratch",
                "write { path = \"disk.img\" }, { parent = \"base.img\" } or { scratch = \"64M\" }",
            ),
        }
        return None;
    };
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

/// The value of an option, its mistake reported in the words of a lab file.
fn taken<T>(
    field: &Field<'_>,
    value: Result<T, DiskOptionError>,
    mistakes: &mut Collector<'_>,
) -> Option<T> {
    match value {
        Ok(value) => Some(value),
        Err(DiskOptionError::Value { value, expected, .. }) => {
            field.wrong(mistakes, format!("{value:?} cannot be used"), expected);
            None
        }
        Err(error) => {
            field.wrong(mistakes, error.to_string(), "");
            None
        }
    }
}
