//! Paths in commands that messages give to copy.

use std::fmt;
use std::path::Path;

/// A path as a word of the shell's that is no option either. What a layer names as its parent can
/// hold anything.
pub(crate) struct Quoted<'p>(pub(crate) &'p Path);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string_lossy();
        if text.starts_with('-') {
            f.write_str("./")?;
        }
        let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
        match text.chars().all(plain) && !text.is_empty() {
            true => f.write_str(&text),
            false => write!(f, "'{}'", text.replace('\'', r"'\''")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_shell_would_take_apart_is_quoted() {
        for (path, word) in [
            ("/images/base-1.raw", "/images/base-1.raw"),
            ("ü.raw", "ü.raw"),
            ("-f.raw", "./-f.raw"),
            ("a b.raw", "'a b.raw'"),
            ("a;reboot", "'a;reboot'"),
            ("it's", r"'it'\''s'"),
            ("~", "'~'"),
            ("", "''"),
        ] {
            assert_eq!(Quoted(path.as_ref()).to_string(), word);
        }
    }
}
