//! The words of one command, each with its place.
#![forbid(unsafe_code)]

use core::fmt;

use super::Problem;

/// Where a mistake is (byte offset in the command line), and what it is.
pub(super) type Mistake<'a> = (usize, Problem<'a>);

/// One command's words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Words<'a> {
    /// The words of `text`, which is found at byte `at` of the command line.
    pub(super) fn new(text: &'a str, at: usize) -> Words<'a> {
        Words { text, at }
    }

    fn words(self) -> impl Iterator<Item = (usize, &'a str)> {
        self.text.split_ascii_whitespace().map(move |word| {
            // `split_ascii_whitespace` gives parts of `text`.
            (self.at + (word.as_ptr().addr() - self.text.as_ptr().addr()), word)
        })
    }

    /// The command's name.
    pub(super) fn name(self) -> (usize, &'a str) {
        self.words().next().unwrap_or((self.at, ""))
    }

    /// Everything after the name.
    pub(super) fn text(self) -> Text<'a> {
        let text = self.text.trim_ascii_start();
        let name = text.find(|c: char| c.is_ascii_whitespace()).unwrap_or(text.len());
        Text(text.get(name..).unwrap_or_default().trim_ascii())
    }

    /// The positional argument `index` (0 follows the name), called `name` in messages.
    pub(super) fn positional<T>(
        self,
        index: usize,
        name: &'static str,
        expected: &'static str,
        parse: impl Fn(&'a str) -> Option<T>,
    ) -> Result<T, Mistake<'a>> {
        let missing = (self.name().0, Problem::Missing { name, expected });
        let (at, word) = self.arguments().nth(index).ok_or(missing)?;
        parse(word).ok_or((at, Problem::BadValue { name, found: word, expected }))
    }

    /// The value of `key=`, or `default` without it.
    pub(super) fn keyed<T>(
        self,
        key: &'static str,
        expected: &'static str,
        default: T,
        parse: impl Fn(&'a str) -> Option<T>,
    ) -> Result<T, Mistake<'a>> {
        let pair = self.words().skip(1).find_map(|(at, word)| {
            let (name, value) = word.split_once('=')?;
            (name == key).then_some((at + name.len() + 1, value))
        });
        let Some((at, value)) = pair else { return Ok(default) };
        parse(value).ok_or((at, Problem::BadValue { name: key, found: value, expected }))
    }

    /// The value of `key=`, which must be there.
    pub(super) fn required<T>(
        self,
        key: &'static str,
        expected: &'static str,
        parse: impl Fn(&'a str) -> Option<T>,
    ) -> Result<T, Mistake<'a>> {
        let missing = (self.name().0, Problem::Missing { name: key, expected });
        self.keyed(key, expected, None, |text| parse(text).map(Some))?.ok_or(missing)
    }

    /// Whether there are no positional arguments.
    pub(super) fn is_alone(self) -> bool {
        self.arguments().next().is_none()
    }

    /// Whether the positional argument `index`, which can only be `word`, is there.
    pub(super) fn flag(self, index: usize, word: &'static str) -> Result<bool, Mistake<'a>> {
        match self.arguments().nth(index) {
            None => Ok(false),
            Some((_, found)) if found == word => Ok(true),
            Some((at, found)) => Err((at, Problem::Surplus(found))),
        }
    }

    /// Refuses arguments beyond `positional` ones and these keys, and keys given twice.
    pub(super) fn only(
        self,
        positional: usize,
        keys: &'static [&'static str],
    ) -> Result<(), Mistake<'a>> {
        if let Some((at, word)) = self.arguments().nth(positional) {
            return Err((at, Problem::Surplus(word)));
        }
        let pairs = || {
            let words = self.words().skip(1);
            words.filter_map(|(at, word)| Some((at, word.split_once('=')?.0)))
        };
        for (index, (at, key)) in pairs().enumerate() {
            if !keys.contains(&key) {
                return Err((at, Problem::UnknownKey { found: key, known: keys }));
            }
            if pairs().take(index).any(|(_, earlier)| earlier == key) {
                return Err((at, Problem::Twice(key)));
            }
        }
        Ok(())
    }

    fn arguments(self) -> impl Iterator<Item = (usize, &'a str)> {
        self.words().skip(1).filter(|(_, word)| !word.contains('='))
    }
}

/// Text to print: as written, without the quotation marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.split('"').try_for_each(|part| f.write_str(part))
    }
}
