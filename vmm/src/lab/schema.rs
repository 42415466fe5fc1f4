//! From a lab file's tree to a [`Lab`]: the keys of schema 1 and what they may hold.

use std::collections::HashMap;
use std::path::Path;

use super::expand::Scope;
use super::expectation::{ENDINGS, Expectation};
use super::fields::{Field, Fields};
use super::guest::{self, Reader};
use super::mistake::Collector;
use super::shared_disk;
use super::tree::Node;
use super::{Guest, Lab, SharedDisk};
use crate::units::parse_duration;

/// Most guests that one `count` can make.
const COUNT_MAX: i64 = 1024;

/// Reads the whole lab; `None` when there was a mistake that left nothing to go on with.
pub(super) fn read(path: &Path, root: &Node, mistakes: &mut Collector<'_>) -> Option<Lab> {
    let fields = Fields::of(root, "", &["schema", "lab", "shared-disk", "vm", "expect"], mistakes)?;
    match fields.get("schema") {
        Some(schema) => {
            if let Some(version) = schema.integer(mistakes, i64::MIN, i64::MAX)
                && version != 1
            {
                let message = format!("there is no schema {version} in this version of cohort");
                schema.wrong(mistakes, message, "write schema = 1");
            }
        }
        None => mistakes.add(
            fields.origin,
            "schema",
            "the file does not say which schema it follows",
            "start it with the line: schema = 1",
        ),
    }
    let mut lab = Lab {
        path: path.to_path_buf(),
        name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        timeout: None,
        share_domain: None,
        shared_disks: Vec::new(),
        guests: Vec::new(),
    };
    if let Some(field) = fields.get("lab") {
        read_lab(&field, &mut lab, mistakes);
    } else if let Some(problem) = name_problem(&lab.name) {
        mistakes.add(
            fields.origin,
            "lab.name",
            format!("the file's name gives the lab none: {problem}"),
            "give it one with: lab.name = \"NAME\"",
        );
    }
    let expected = match fields.get("expect") {
        Some(field) => read_expectation(&field, mistakes),
        None => Expectation::default(),
    };
    let guests = fields
        .get("vm")
        .and_then(|field| Fields::of(field.node, &field.path, &[], mistakes))
        .map(|guests| guests.all().collect::<Vec<_>>())
        .unwrap_or_default();
    if guests.is_empty() && mistakes.is_empty() {
        mistakes.add(
            fields.origin,
            "vm",
            "the lab has no guests",
            "add a table [vm.NAME] for each",
        );
    }
    let mut makers = HashMap::new();
    let dir = path.parent().unwrap_or(Path::new(""));
    if let Some(field) = fields.get("shared-disk") {
        lab.shared_disks = shared_disk::read(&field, dir, mistakes);
    }
    for (key, field) in &guests {
        let made =
            read_guests(key, field, (dir, &lab.shared_disks), expected, &mut makers, mistakes);
        lab.guests.extend(made);
    }
    guest::refuse_shared_writers(&lab, &guests, mistakes);
    Some(lab)
}

fn read_lab(field: &Field<'_>, lab: &mut Lab, mistakes: &mut Collector<'_>) {
    let Some(fields) =
        Fields::of(field.node, &field.path, &["name", "timeout", "share-domain"], mistakes)
    else {
        return;
    };
    if let Some(field) = fields.get("name") {
        if let Some(name) = field.text(mistakes) {
            if let Some(problem) = name_problem(name) {
                field.wrong(mistakes, format!("{name:?} cannot be a lab's name"), problem);
            }
            lab.name = name.to_owned();
        }
    } else if let Some(problem) = name_problem(&lab.name) {
        let message = format!("the file's name gives the lab none: {problem}");
        mistakes.add(fields.origin, "lab.name", message, "add a line: name = \"NAME\"");
    }
    if let Some(field) = fields.get("timeout") {
        lab.timeout = field.text_with_unit(mistakes, parse_duration);
    }
    if let Some(field) = fields.get("share-domain")
        && let Some(name) = field.text(mistakes)
    {
        if name.is_empty() {
            let help = "write a name, or remove it: then the lab's guests share with each other";
            field.wrong(mistakes, "a share domain has a name", help);
        }
        lab.share_domain = Some(name.to_owned());
    }
}

/// Reads one `[vm.NAME]` into the guests that it makes.
fn read_guests(
    key: &str,
    field: &Field<'_>,
    (dir, shared_disks): (&Path, &[SharedDisk]),
    expected: Expectation,
    makers: &mut HashMap<String, String>,
    mistakes: &mut Collector<'_>,
) -> Vec<Guest> {
    let mut guests = Vec::new();
    if let Some(problem) = name_problem(key) {
        mistakes.add(field.key, &field.path, format!("{key:?} cannot be a guest's name"), problem);
        return guests;
    }
    let Some(fields) = Fields::of(field.node, &field.path, guest::KEYS, mistakes) else {
        return guests;
    };
    let count = match fields.get("count") {
        Some(count) => match count.integer(mistakes, 1, COUNT_MAX) {
            Some(count) => Some(count),
            // Go on as if for one guest, so that its other mistakes are found too.
            None => Some(1),
        },
        None => None,
    };
    let expected = match fields.get("expect") {
        Some(field) => read_expectation(&field, mistakes),
        None => expected,
    };
    for index in 0..count.unwrap_or(1) {
        let name = if count.is_some() { format!("{key}-{index}") } else { key.to_owned() };
        let index = u32::try_from(index).unwrap_or(0);
        // Read in any case, for the mistakes in it.
        let scope = Scope { name: &name, index };
        let mut reader = Reader::new(scope, dir, shared_disks, mistakes);
        let spec = guest::read(&fields, &mut reader);
        let shared = reader.shared;
        if let Some(maker) = makers.get(&name) {
            mistakes.add(
                field.key,
                &field.path,
                format!("the guest {name} is already made by vm.{maker}"),
                "give one of them another name",
            );
            continue;
        }
        makers.insert(name, key.to_owned());
        guests.push(Guest { spec, expected, shared, table: key.to_owned() });
    }
    guests
}

fn read_expectation(field: &Field<'_>, mistakes: &mut Collector<'_>) -> Expectation {
    let Some(fields) = Fields::of(field.node, &field.path, &["outcome", "status"], mistakes) else {
        return Expectation::default();
    };
    let status = fields
        .get("status")
        .and_then(|field| field.integer(mistakes, 0, 255))
        .and_then(|status| u8::try_from(status).ok());
    let Some(outcome) = fields.get("outcome") else {
        return status.map_or(Expectation::Clean, Expectation::Status);
    };
    let Some(text) = outcome.text(mistakes) else {
        return Expectation::default();
    };
    let Some(word) = ENDINGS.into_iter().find(|word| *word == text) else {
        outcome.wrong(
            mistakes,
            format!("{text:?} is no outcome"),
            format!("write one of {}", ENDINGS.join(", ")),
        );
        return Expectation::default();
    };
    if let Some(field) = fields.get("status")
        && word != "exited"
    {
        field.wrong(
            mistakes,
            format!("a guest whose outcome is {word} has no status of its own"),
            "leave status out, or expect outcome = \"exited\"",
        );
    }
    Expectation::Kind { word, status }
}

/// Why `name` cannot name a lab or a guest, and files after it.
pub(super) fn name_problem(name: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if name == "lab" || name == "memory" {
        // The whole lab's own, beside those that are called after guests.
        return Some(format!("`{name}` is taken by the report {name}.json"));
    }
    if !starts || !name.chars().all(fits) || name.len() > 64 {
        return Some(
            "use 1 to 64 letters, digits, '-', '_' and '.', a letter or digit first".into(),
        );
    }
    None
}
