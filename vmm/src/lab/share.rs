//! One entry of a guest's `shares`: a text as `--share` takes it, or a table.

use super::fields::{Field, Fields};
use super::files;
use super::guest::Reader;
use super::mistake::Collector;
use super::tree::Value;
use crate::spec::{ShareOptionError, ShareSpec, share_option, share_tag_of};

const KEYS: &[&str] = &["path", "tag", "rw", "dax", "ids", "cache", "mounts", "xattrs"];

/// Reads the shares of a guest, those that could be used.
pub(super) fn read_all(field: &Field<'_>, reader: &mut Reader<'_, '_>) -> Vec<ShareSpec> {
    let mut shares: Vec<ShareSpec> = Vec::new();
    for field in field.list(reader.mistakes) {
        let Some(share) = read(&field, reader) else { continue };
        if shares.iter().any(|other| other.tag == share.tag) {
            let message = format!("the guest has a share with the tag {:?} already", share.tag);
            let help = "give one of them another tag, as in \"DIR:TAG\"";
            field.wrong(reader.mistakes, message, help);
            continue;
        }
        shares.push(share);
    }
    shares
}

fn read(field: &Field<'_>, reader: &mut Reader<'_, '_>) -> Option<ShareSpec> {
    if matches!(field.node.value, Value::Text(_)) {
        let text = reader.text(field)?;
        let mut share: ShareSpec = field.taken(text.parse(), reader.mistakes)?;
        share.folder = reader.in_folder(&share.folder);
        return files::check_folder(&share.folder, field, reader.mistakes).then_some(share);
    }
    let fields = Fields::of(field.node, &field.path, KEYS, reader.mistakes)?;
    let folder = read_folder(field, &fields, reader);
    let tag = match (fields.get("tag"), &folder) {
        (Some(field), _) => {
            let text = reader.text(&field);
            text.and_then(|tag| field.taken(share_option::check_tag(tag), reader.mistakes))
        }
        (None, Some(folder)) => {
            field.taken(share_option::check_tag(share_tag_of(folder)), reader.mistakes)
        }
        (None, None) => None,
    };
    let mistakes = &mut *reader.mistakes;
    let writable = fields.get("rw").and_then(|field| field.boolean(mistakes));
    let dax = option(&fields, "dax", share_option::dax, mistakes);
    let ids = option(&fields, "ids", share_option::ids, mistakes);
    let cache = option(&fields, "cache", share_option::cache, mistakes);
    let mounts = option(&fields, "mounts", share_option::mounts, mistakes);
    let xattrs = option(&fields, "xattrs", share_option::xattrs, mistakes);
    Some(ShareSpec {
        writable: writable.unwrap_or_default(),
        dax: dax.unwrap_or_default(),
        ids: ids.unwrap_or_default(),
        cache: cache.unwrap_or_default(),
        cross_mounts: mounts.unwrap_or_default(),
        xattrs: xattrs.unwrap_or_default(),
        ..ShareSpec::new(folder?, tag?)
    })
}

fn read_folder(
    field: &Field<'_>,
    fields: &Fields<'_>,
    reader: &mut Reader<'_, '_>,
) -> Option<std::path::PathBuf> {
    let Some(path) = fields.get("path") else {
        let help = "write { path = \"data\" }";
        field.wrong(reader.mistakes, "the share has no path", help);
        return None;
    };
    let folder = reader.path(&path)?;
    files::check_folder(&folder, &path, reader.mistakes).then_some(folder)
}

/// An option that is a text.
fn option<T>(
    fields: &Fields<'_>,
    key: &str,
    read: impl FnOnce(&str) -> Result<T, ShareOptionError>,
    mistakes: &mut Collector<'_>,
) -> Option<T> {
    let field = fields.get(key)?;
    let text = field.text(mistakes)?;
    field.taken(read(text), mistakes)
}
