//! One entry of a guest's `disks`.

use super::fields::{Field, Fields};
use super::files;
use super::guest::Reader;
use super::mistake::Collector;
use crate::spec::{self, DiskOptionError, DiskSource, DiskSpec};
use crate::units::parse_disk_size;

const KEYS: &[&str] = &["path", "scratch", "ro", "direct", "serial", "queues", "engine"];

/// Reads one disk; `None` when it has none that could be used.
pub(super) fn read(field: &Field<'_>, reader: &mut Reader<'_, '_>) -> Option<DiskSpec> {
    let fields = Fields::of(field.node, &field.path, KEYS, reader.mistakes)?;
    let source = match (fields.get("path"), fields.get("scratch")) {
        (Some(path), None) => {
            let file = reader.path(&path);
            file.filter(|file| files::check_disk(file, &path, reader.mistakes))
                .map(DiskSource::Path)
        }
        (None, Some(scratch)) => {
            scratch.text_with_unit(reader.mistakes, parse_disk_size).map(DiskSource::Scratch)
        }
        (Some(_), Some(scratch)) => {
            let help = "keep path for a file, or scratch for a disk that is gone with the guest";
            scratch.wrong(reader.mistakes, "the disk has a path already", help);
            None
        }
        (None, None) => {
            let help = "write { path = \"disk.img\" } or { scratch = \"64M\" }";
            field.wrong(reader.mistakes, "the disk has neither path nor scratch", help);
            None
        }
    };
    let serial = fields.get("serial").and_then(|field| {
        let text = reader.text(&field)?;
        taken(&field, spec::serial(&text), reader.mistakes)
    });
    let mistakes = &mut *reader.mistakes;
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
        read_only: read_only.unwrap_or_default(),
        direct: direct.unwrap_or_default(),
        serial,
        queues,
        engine: engine.unwrap_or_default(),
        ..DiskSpec::new(source?)
    })
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
