//! One entry of a guest's `pmem`: a path, or a table with more.

use super::fields::{Field, Fields};
use super::files;
use super::guest::Reader;
use super::tree::Value;
use crate::spec::{self, PmemSpec};

const KEYS: &[&str] = &["path", "mode", "seal", "on-change"];

/// Reads one file in a guest's memory; `None` when there is none that could be used.
pub(super) fn read(field: &Field<'_>, reader: &mut Reader<'_, '_>) -> Option<PmemSpec> {
    if matches!(field.node.value, Value::Text(_)) {
        return read_file(field, reader);
    }
    let fields = Fields::of(field.node, &field.path, KEYS, reader.mistakes)?;
    let file = match fields.get("path") {
        Some(path) => read_file(&path, reader),
        None => {
            let help = "write { path = \"app.erofs\" }";
            field.wrong(reader.mistakes, "the pmem device has no path", help);
            None
        }
    };
    let mistakes = &mut *reader.mistakes;
    let mode = fields.get("mode").and_then(|field| {
        let text = field.text(mistakes)?;
        field.taken(spec::pmem_mode(text), mistakes)
    });
    let seal = fields.get("seal").and_then(|field| field.boolean(mistakes));
    let on_change = fields.get("on-change").and_then(|field| {
        let text = field.text(mistakes)?;
        field.taken(spec::pmem_on_change(text), mistakes)
    });
    Some(PmemSpec {
        mode: mode.unwrap_or_default(),
        seal: seal.unwrap_or_default(),
        on_change: on_change.unwrap_or_default(),
        ..file?
    })
}

fn read_file(field: &Field<'_>, reader: &mut Reader<'_, '_>) -> Option<PmemSpec> {
    let path = reader.path(field)?;
    files::check_content(&path, field, reader.mistakes).then(|| PmemSpec::new(path))
}
