//! The file with the secrets of CHAP, which are never on a command line or in a log.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::names::IscsiName;

/// Most bytes of the file.
const FILE_MAX: u64 = 1 << 20;

/// Fewest and most bytes of a secret: shorter ones can be guessed from what a listener hears
/// (RFC 7143 section 12.1.3: 96 bits).
const SECRET_LEN: std::ops::RangeInclusive<usize> = 12..=128;

/// A secret, which no message shows.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(Vec<u8>);

impl Secret {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// One that no initiator has.
    pub(super) fn nobody() -> Secret {
        Secret(vec![0; *SECRET_LEN.start()])
    }

    #[cfg(test)]
    pub(super) fn of_test(text: &str) -> Secret {
        Secret(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Who may log in, by what they must know, and what the target itself knows.
///
/// A line of the file is `name:secret`, divided at the last colon, because names have some; lines
/// that are empty or start with `#` mean nothing. The line whose name is the target's own is what
/// the target proves itself with to initiators that ask (mutual CHAP); all others are initiators.
#[derive(Clone, Debug)]
pub struct ChapSecrets {
    initiators: HashMap<String, Secret>,
    target: Option<(String, Secret)>,
}

/// What is wrong with a file of secrets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretsError {
    /// It cannot be read.
    #[error("cannot read the file of secrets {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others may read it.
    #[error(
        "others than its owner may read or change the file of secrets {path} (mode {mode:03o})"
    )]
    Permissions {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is not a file, too long, or belongs to someone else.
    #[error("the file of secrets {path} {what}")]
    NotOurs {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A line makes no sense. The line itself is not shown: it may hold a secret.
    #[error("line {line} of the file of secrets {path} {what}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl SecretsError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            SecretsError::Permissions { path, .. } => {
                Some(format!("run `chmod 600 {}`", crate::quoted::Quoted(path)))
            }
            SecretsError::Line { .. } => {
                Some("write one `name:secret` on each line, secrets of 12 to 128 characters".into())
            }
            _ => None,
        }
    }
}

impl ChapSecrets {
    /// Reads a file that only its owner may read: this user, or the super-user.
    pub fn read(path: &Path, target: &IscsiName) -> Result<ChapSecrets, SecretsError> {
        let failed = |source| SecretsError::Read { path: path.to_owned(), source };
        let not_ours = |what| SecretsError::NotOurs { path: path.to_owned(), what };
        let file = File::open(path).map_err(failed)?;
        // Of the open file, so that it cannot be exchanged after it was looked at.
        let facts = file.metadata().map_err(failed)?;
        if !facts.is_file() {
            return Err(not_ours("is not a file"));
        }
        let mode = facts.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SecretsError::Permissions { path: path.to_owned(), mode });
        }
        let own = std::fs::metadata("/proc/self").map_err(failed)?.uid();
        if ![0, own].contains(&facts.uid()) {
            return Err(not_ours("belongs to someone else"));
        }
        if facts.len() > FILE_MAX {
            return Err(not_ours("is longer than 1 MiB"));
        }
        let mut text = String::new();
        file.take(FILE_MAX).read_to_string(&mut text).map_err(failed)?;
        ChapSecrets::parse(&text, target).map_err(|(line, what)| SecretsError::Line {
            path: path.to_owned(),
            line,
            what,
        })
    }

    /// Takes the content of a file; else says which line is wrong and why.
    pub(super) fn parse(
        text: &str,
        target: &IscsiName,
    ) -> Result<ChapSecrets, (usize, &'static str)> {
        let mut found = ChapSecrets { initiators: HashMap::new(), target: None };
        for (line, number) in text.lines().map(str::trim_end).zip(1..) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, secret) = line.rsplit_once(':').ok_or((number, "has no colon"))?;
            if !(1..=255).contains(&name.len()) || name.chars().any(char::is_control) {
                return Err((number, "has no name that can be used"));
            }
            if !SECRET_LEN.contains(&secret.len()) {
                return Err((number, "has a secret of fewer than 12 or more than 128 bytes"));
            }
            let secret = Secret(secret.into());
            let twice = if name.eq_ignore_ascii_case(target.as_str()) {
                found.target.replace((name.to_owned(), secret)).is_some()
            } else {
                found.initiators.insert(name.to_owned(), secret).is_some()
            };
            if twice {
                return Err((number, "has a name for the second time"));
            }
            // Who knows both could have one side answer the other's question.
            if let Some((_, own)) = &found.target
                && found.initiators.values().any(|secret| secret == own)
            {
                return Err((number, "gives the target and an initiator the same secret"));
            }
        }
        if found.initiators.is_empty() {
            return Err((text.lines().count(), "is the last, and there is no initiator"));
        }
        Ok(found)
    }

    /// What the initiator of this name must know.
    pub(super) fn of_initiator(&self, name: &str) -> Option<&Secret> {
        self.initiators.get(name)
    }

    /// The only initiator there is; `None` when there are several.
    pub(super) fn only_initiator(&self) -> Option<(&str, &Secret)> {
        let mut all = self.initiators.iter().map(|(name, secret)| (name.as_str(), secret));
        let first = all.next()?;
        all.next().is_none().then_some(first)
    }

    /// The target's own name and secret.
    pub(super) fn of_target(&self) -> Option<(&str, &Secret)> {
        self.target.as_ref().map(|(name, secret)| (name.as_str(), secret))
    }

    #[cfg(test)]
    pub(super) fn of_test(text: &str, target: &str) -> ChapSecrets {
        ChapSecrets::parse(text, &IscsiName::new(target).unwrap()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "iqn.2026-01.example:disk";

    #[test]
    fn lines_are_taken_apart_at_the_last_colon() {
        let text = "# who may\n\niqn.2026-01.example:one:0123456789ab\njoe:secret-of-joe\n\
                    iqn.2026-01.EXAMPLE:disk:the-target-says\n";
        let secrets = ChapSecrets::of_test(text, TARGET);
        let of = |name| secrets.of_initiator(name).map(Secret::bytes);
        assert_eq!(of("iqn.2026-01.example:one"), Some(&b"0123456789ab"[..]));
        assert_eq!(of("joe"), Some(&b"secret-of-joe"[..]));
        assert_eq!(of("jo"), None);
        assert_eq!(secrets.of_target().map(|(_, own)| own.bytes()), Some(&b"the-target-says"[..]));
        assert!(!format!("{secrets:?}").contains("0123456789ab"));
    }

    #[test]
    fn bad_lines_are_named_and_not_shown() {
        let target = IscsiName::new(TARGET).unwrap();
        for (text, line) in [
            ("joe", 1),
            ("joe:short", 1),
            ("a:0123456789ab\n:0123456789ab", 2),
            ("a:0123456789ab\na:0123456789ab", 2),
            ("a:0123456789ab\niqn.2026-01.example:disk:0123456789ab", 2),
            ("# nobody", 1),
        ] {
            assert_eq!(ChapSecrets::parse(text, &target).unwrap_err().0, line, "{text}");
        }
    }

    #[test]
    fn files_that_others_can_read_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets");
        let target = IscsiName::new(TARGET).unwrap();
        std::fs::write(&path, "joe:0123456789ab\n").unwrap();
        let allow =
            |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o644] {
            allow(mode);
            let error = ChapSecrets::read(&path, &target).unwrap_err();
            assert!(matches!(error, SecretsError::Permissions { .. }), "{error}");
            assert!(error.help().is_some_and(|help| help.contains("chmod 600")));
        }
        allow(0o600);
        assert!(ChapSecrets::read(&path, &target).is_ok());
        assert!(ChapSecrets::read(folder.path(), &target).is_err());
        assert!(ChapSecrets::read(&folder.path().join("none"), &target).is_err());
    }
}
