//! What mistakes in options of the command line have in common, for files that have the same options.

use std::fmt::Display;

/// A mistake in an option.
pub(crate) trait OptionError: Display {
    /// The value that cannot be used and what was expected, if that is the mistake.
    fn value(&self) -> Option<(&str, &str)>;
}
