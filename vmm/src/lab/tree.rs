//! A lab file as a tree of values that each know where they were written, `--set` laid over it.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::Collector;

/// Where a value was written.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// These bytes of the lab file.
    File(Range<usize>),
    /// This argument of `--set`.
    Set(String),
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// The values that a lab file can hold.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Node>),
    Table(Vec<Entry>),
    /// A kind of value that no key takes.
    Other(&'static str),
}

/// One `key = value` of a table.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Where the key was written.
    pub(super) origin: Origin,
    pub(super) node: Node,
}

impl Value {
    /// What the value is, in a message.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Boolean(_) => "a boolean",
            Value::List(_) => "an array",
            Value::Table(_) => "a table",
            Value::Other(kind) => kind,
        }
    }
}

/// Reads `source`; what is no TOML goes to `mistakes`, and what could be read is returned.
pub(super) fn parse(source: &str, mistakes: &mut Collector<'_>) -> Node {
    let (table, errors) = DeTable::parse_recoverable(source);
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        mistakes.add(&Origin::File(span), "", error.message(), "");
    }
    let mut origin = |span: Range<usize>| Origin::File(span);
    let span = table.span();
    Node {
        value: Value::Table(entries(table.into_inner(), &mut origin)),
        origin: Origin::File(span),
    }
}

/// Lays one `--set KEY=VALUE` over `root`: the value as TOML if it is TOML, else as a string.
///
/// # Errors
/// What is wrong with the argument.
pub(super) fn set(root: &mut Node, argument: &str) -> Result<(), String> {
    let (key, value) = argument
        .split_once('=')
        .ok_or("it has no `=`: write --set KEY=VALUE, as in --set vm.node.memory=128M")?;
    let literal = toml::Value::String(value.into()).to_string();
    let documents = [format!("{key}={value}"), format!("{key}={literal}")];
    let table = documents
        .iter()
        .find_map(|document| {
            let table = DeTable::parse(document).ok()?.into_inner();
            // A value with a newline in it could smuggle in further keys.
            (!document.trim_end().contains('\n'))
                .then(|| entries(table, &mut |_| Origin::Set(argument.to_owned())))
        })
        .ok_or_else(|| format!("{key:?} is no key: write a path such as vm.node.memory"))?;
    lay(root, table, &Origin::Set(argument.to_owned()));
    Ok(())
}

/// Lays `over` over the table `under`, table by table; everything else is replaced.
fn lay(under: &mut Node, over: Vec<Entry>, origin: &Origin) {
    let Value::Table(entries) = &mut under.value else {
        *under = Node { value: Value::Table(over), origin: origin.clone() };
        return;
    };
    for entry in over {
        match entries.iter_mut().find(|known| known.key == entry.key) {
            Some(known) => match entry.node.value {
                Value::Table(inner) => lay(&mut known.node, inner, origin),
                _ => known.node = entry.node,
            },
            None => entries.push(entry),
        }
    }
}

fn entries(table: DeTable<'_>, origin: &mut dyn FnMut(Range<usize>) -> Origin) -> Vec<Entry> {
    let mut entries: Vec<(usize, Entry)> = table
        .into_iter()
        .map(|(key, value)| {
            let span = key.span();
            let start = span.start;
            let key_origin = origin(span);
            (
                start,
                Entry {
                    key: key.into_inner().into(),
                    origin: key_origin,
                    node: node(value, origin),
                },
            )
        })
        .collect();
    entries.sort_by_key(|(start, _)| *start);
    entries.into_iter().map(|(_, entry)| entry).collect()
}

fn node(value: Spanned<DeValue<'_>>, origin: &mut dyn FnMut(Range<usize>) -> Origin) -> Node {
    let at = origin(value.span());
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into()),
        DeValue::Boolean(boolean) => Value::Boolean(boolean),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(integer) => Value::Integer(integer),
            Err(_) => Value::Other("an integer beyond 64 bits"),
        },
        DeValue::Array(array) => {
            Value::List(array.into_iter().map(|value| node(value, origin)).collect())
        }
        DeValue::Table(table) => Value::Table(entries(table, origin)),
        DeValue::Float(_) => Value::Other("a float"),
        DeValue::Datetime(_) => Value::Other("a date"),
    };
    Node { value, origin: at }
}
