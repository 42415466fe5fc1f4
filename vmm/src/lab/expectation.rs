//! How a guest should end.

use std::fmt;

use crate::outcome::Ending;

/// The endings that a lab accepts of a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expectation {
    /// A clean end: `exited` with status 0, or `poweroff`. What holds when a lab says nothing.
    #[default]
    Clean,
    /// An ending of one kind.
    Kind {
        /// Its word, one of [`ENDINGS`].
        word: &'static str,
        /// The exit status of the guest's program, for `exited`; 0 when the lab names none.
        status: Option<u8>,
    },
    /// Whatever gives `cohort run` this exit status.
    Status(u8),
}

/// The words for endings.
pub const ENDINGS: [&str; 8] =
    ["exited", "signaled", "poweroff", "reset", "panic", "crash", "timeout", "vmm-error"];

impl Expectation {
    /// Whether a guest that ended this way did what was expected of it.
    pub fn accepts(self, ending: Ending) -> bool {
        match self {
            Expectation::Clean => {
                matches!(ending, Ending::Poweroff | Ending::Exited { status: 0 })
            }
            Expectation::Kind { word, status } => match ending {
                Ending::Exited { status: found } => {
                    word == "exited" && found == status.unwrap_or(0)
                }
                _ => word == ending.word(),
            },
            // A host failure is never what a status meant: a guest may exit with 125 itself.
            Expectation::Status(status) => {
                ending.exit_status() == status && ending != Ending::VmmError
            }
        }
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expectation::Clean => f.write_str("a clean end"),
            Expectation::Kind { word: "exited", status } => {
                write!(f, "exited {}", status.unwrap_or(0))
            }
            Expectation::Kind { word, .. } => f.write_str(word),
            Expectation::Status(status) => write!(f, "status {status}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Ending; 9] = [
        Ending::Exited { status: 0 },
        Ending::Exited { status: 125 },
        Ending::Signaled { signal: 9 },
        Ending::Poweroff,
        Ending::Reset,
        Ending::Panic,
        Ending::Crash,
        Ending::Timeout,
        Ending::VmmError,
    ];

    fn accepted(expectation: Expectation) -> Vec<&'static str> {
        ALL.into_iter().filter(|e| expectation.accepts(*e)).map(Ending::word).collect()
    }

    #[test]
    fn nothing_said_means_a_clean_end() {
        assert_eq!(accepted(Expectation::default()), ["exited", "poweroff"]);
        assert!(!Expectation::Clean.accepts(Ending::Exited { status: 1 }));
    }

    #[test]
    fn a_word_accepts_only_itself() {
        for word in ENDINGS {
            assert_eq!(accepted(Expectation::Kind { word, status: None }), [word]);
        }
    }

    #[test]
    fn exited_means_status_0_unless_the_lab_says_which() {
        let three = Expectation::Kind { word: "exited", status: Some(3) };
        assert!(three.accepts(Ending::Exited { status: 3 }));
        assert!(!three.accepts(Ending::Exited { status: 0 }));
        let zero = Expectation::Kind { word: "exited", status: None };
        assert!(!zero.accepts(Ending::Exited { status: 3 }));
    }

    #[test]
    fn a_status_accepts_whatever_gives_it_but_not_a_host_failure() {
        assert_eq!(accepted(Expectation::Status(0)), ["exited", "poweroff"]);
        assert_eq!(accepted(Expectation::Status(137)), ["signaled"]);
        assert_eq!(accepted(Expectation::Status(125)), ["exited"]);
    }
}
