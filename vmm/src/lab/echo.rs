//! A guest's text on the terminal of whoever runs the lab: whole lines, each with the guest's
//! name before it, and nothing in them that a terminal would obey.
//!
//! The console itself goes straight from the guest to its file, untouched. A [`Follower`] reads
//! the file behind the guest's back: a slow terminal never slows a guest, and what a killed guest
//! wrote is still there.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

#[cfg(test)]
mod tests;

/// A line is passed on when it is this long in bytes, ended or not.
const LINE_MAX: usize = 1024;
/// Bytes of an escape sequence that are passed over; a longer one is shown as text.
const ESCAPE_MAX: usize = 32;
/// Bytes read at a time.
const CHUNK: usize = 64 << 10;

/// Cuts a stream of bytes into lines for a terminal.
#[derive(Debug)]
pub(super) struct Lines {
    prefix: String,
    line: Vec<u8>,
    /// A carriage return was seen and its line not yet passed on: a newline may follow.
    returned: bool,
    escape: Escape,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Escape {
    None,
    /// After ESC.
    Started,
    /// After `ESC [`, this many bytes in.
    Sequence(usize),
}

impl Lines {
    /// Lines that start with `prefix`.
    pub(super) fn new(prefix: String) -> Lines {
        Lines { prefix, line: Vec::new(), returned: false, escape: Escape::None }
    }

    /// Takes more of the stream and writes the lines it completes.
    pub(super) fn feed(&mut self, bytes: &[u8], out: &mut dyn Write) {
        for &byte in bytes {
            match (self.escape, byte) {
                (Escape::Started, b'[') => self.escape = Escape::Sequence(0),
                (Escape::Sequence(len), b' '..=b'?') if len < ESCAPE_MAX => {
                    self.escape = Escape::Sequence(len + 1);
                }
                (Escape::Sequence(len), b'@'..=b'~') if len < ESCAPE_MAX => {
                    self.escape = Escape::None;
                }
                _ => {
                    if self.escape == Escape::Started {
                        self.push(b'\x1b', out);
                    }
                    self.escape = Escape::None;
                    self.take(byte, out);
                }
            }
        }
    }

    fn take(&mut self, byte: u8, out: &mut dyn Write) {
        match byte {
            b'\n' => self.pass_on(out),
            b'\r' => self.returned = true,
            b'\x1b' => self.escape = Escape::Started,
            _ => self.push(byte, out),
        }
    }

    fn push(&mut self, byte: u8, out: &mut dyn Write) {
        // A lone carriage return starts the line over (a progress bar): both states are shown.
        let over = self.returned && !self.line.is_empty();
        // A long line is cut between characters: not before a continuation byte of UTF-8,
        // unless there are more of them than any character has.
        let full =
            self.line.len() >= LINE_MAX && (byte & 0xC0 != 0x80 || self.line.len() >= LINE_MAX + 4);
        if over || full {
            self.pass_on(out);
        }
        self.returned = false;
        self.line.push(byte);
    }

    /// Passes on a last line that no newline ended.
    pub(super) fn finish(&mut self, out: &mut dyn Write) {
        if !self.line.is_empty() {
            self.pass_on(out);
        }
    }

    fn pass_on(&mut self, out: &mut dyn Write) {
        let mut text = String::with_capacity(self.prefix.len() + self.line.len() + 1);
        text.push_str(&self.prefix);
        for c in String::from_utf8_lossy(&self.line).chars() {
            match c {
                '\t' => text.push(c),
                '\0'..='\x1f' | '\x7f' => {
                    text.push('^');
                    text.push(char::from(c as u8 ^ 0x40));
                }
                // C1 controls, and what reorders the text around it.
                '\u{80}'..='\u{9f}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}' => text.push(char::REPLACEMENT_CHARACTER),
                _ => text.push(c),
            }
        }
        text.push('\n');
        // Whoever reads may have gone; the files have everything.
        let _ = out.write_all(text.as_bytes());
        self.line.clear();
        self.returned = false;
    }
}

/// Passes on what is written to a console's file.
#[derive(Debug)]
pub(super) struct Follower {
    file: File,
    lines: Lines,
}

impl Follower {
    /// Follows the file at `path` from its start.
    pub(super) fn open(path: &Path, prefix: String) -> io::Result<Follower> {
        Ok(Follower { file: File::open(path)?, lines: Lines::new(prefix) })
    }

    /// Passes on at most one chunk; says whether there may be more.
    pub(super) fn advance(&mut self, out: &mut dyn Write) -> bool {
        let mut chunk = vec![0; CHUNK];
        let read = self.file.read(&mut chunk).unwrap_or(0);
        self.lines.feed(&chunk[..read], out);
        read == CHUNK
    }

    /// Passes on the rest, when nobody writes any more.
    pub(super) fn finish(mut self, out: &mut dyn Write) {
        while self.advance(out) {}
        self.lines.finish(out);
    }
}
