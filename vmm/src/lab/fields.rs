//! The fields of one table: typed access that reports what it cannot give.

use super::mistake::Collector;
use super::tree::{Entry, Node, Origin, Value};
use crate::spec::OptionError;

/// A table being read.
pub(super) struct Fields<'n> {
    /// The table's key path; empty for the whole file.
    path: String,
    entries: &'n [Entry],
    pub(super) origin: &'n Origin,
}

/// One value being read, and its key path.
pub(super) struct Field<'n> {
    pub(super) path: String,
    pub(super) node: &'n Node,
    /// Where the key was written.
    pub(super) key: &'n Origin,
}

impl<'n> Fields<'n> {
    /// The fields of `node`, which is found under `path`; not a table is a mistake. So is every
    /// key that is none of `known`.
    pub(super) fn of(
        node: &'n Node,
        path: &str,
        known: &[&str],
        mistakes: &mut Collector<'_>,
    ) -> Option<Fields<'n>> {
        let Value::Table(entries) = &node.value else {
            let found = node.value.kind();
            mistakes.add(&node.origin, path, format!("expected a table, found {found}"), "");
            return None;
        };
        let fields = Fields { path: path.to_owned(), entries, origin: &node.origin };
        for entry in entries {
            if !known.is_empty() && !known.contains(&entry.key.as_str()) {
                mistakes.add(
                    &entry.origin,
                    &fields.path_of(&entry.key),
                    "unknown key",
                    format!("known here: {}", known.join(", ")),
                );
            }
        }
        Some(fields)
    }

    /// The value of `key`, if the table has it.
    pub(super) fn get(&self, key: &str) -> Option<Field<'n>> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| self.field(entry))
    }

    /// All fields, in the order of the file.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'n str, Field<'n>)> {
        self.entries.iter().map(|entry| (entry.key.as_str(), self.field(entry)))
    }

    fn field(&self, entry: &'n Entry) -> Field<'n> {
        Field { path: self.path_of(&entry.key), node: &entry.node, key: &entry.origin }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

impl<'n> Field<'n> {
    /// Reports that this value is wrong.
    pub(super) fn wrong(
        &self,
        mistakes: &mut Collector<'_>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        mistakes.add(&self.node.origin, &self.path, message, help);
    }

    fn expected(&self, mistakes: &mut Collector<'_>, what: &str) {
        let found = self.node.value.kind();
        self.wrong(mistakes, format!("expected {what}, found {found}"), "");
    }

    /// The value as a string.
    pub(super) fn text(&self, mistakes: &mut Collector<'_>) -> Option<&'n str> {
        match &self.node.value {
            Value::Text(text) => return Some(text),
            _ => self.expected(mistakes, "a string"),
        }
        None
    }

    /// The value as a string that carries a unit; a bare number is told which to write.
    pub(super) fn text_with_unit<T>(
        &self,
        mistakes: &mut Collector<'_>,
        parse: impl Fn(&str) -> Result<T, crate::units::UnitError>,
    ) -> Option<T> {
        let text = match &self.node.value {
            Value::Text(text) => text.clone(),
            // The reader of the unit says what to write for a number without one.
            Value::Integer(number) => number.to_string(),
            _ => {
                self.expected(mistakes, "a string with a unit");
                return None;
            }
        };
        match parse(&text) {
            Ok(value) if matches!(self.node.value, Value::Text(_)) => Some(value),
            Ok(_) => None,
            Err(error) => {
                self.wrong(mistakes, error.to_string(), error.help_in_file());
                None
            }
        }
    }

    /// The value of an option of the command line, its mistake reported in the words of a lab file.
    pub(super) fn taken<T>(
        &self,
        value: Result<T, impl OptionError>,
        mistakes: &mut Collector<'_>,
    ) -> Option<T> {
        match value {
            Ok(value) => return Some(value),
            Err(error) => match error.value() {
                Some((value, expected)) => {
                    self.wrong(mistakes, format!("{value:?} cannot be used"), expected);
                }
                None => self.wrong(mistakes, error.to_string(), ""),
            },
        }
        None
    }

    /// The value as an integer from `min` to `max`.
    pub(super) fn integer(&self, mistakes: &mut Collector<'_>, min: i64, max: i64) -> Option<i64> {
        match self.node.value {
            Value::Integer(integer) if (min..=max).contains(&integer) => return Some(integer),
            Value::Integer(integer) => self.wrong(
                mistakes,
                format!("{integer} is out of range"),
                format!("write a number from {min} to {max}"),
            ),
            _ => self.expected(mistakes, "an integer"),
        }
        None
    }

    /// The value as a boolean.
    pub(super) fn boolean(&self, mistakes: &mut Collector<'_>) -> Option<bool> {
        match self.node.value {
            Value::Boolean(boolean) => return Some(boolean),
            _ => self.expected(mistakes, "true or false"),
        }
        None
    }

    /// The value as an array, each item under its own path.
    pub(super) fn list(&self, mistakes: &mut Collector<'_>) -> Vec<Field<'n>> {
        match &self.node.value {
            Value::List(items) => items
                .iter()
                .enumerate()
                .map(|(i, node)| Field {
                    path: format!("{}[{i}]", self.path),
                    node,
                    key: &node.origin,
                })
                .collect(),
            _ => {
                self.expected(mistakes, "an array");
                Vec::new()
            }
        }
    }
}
