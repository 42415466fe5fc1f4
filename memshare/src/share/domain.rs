//! Who may share pages with whom.
//!
//! A page that two guests share tells each of them whether the other has used it: by whether it is
//! in memory, and by how fast it is read. So guests share only within a domain: a lab, or guests
//! that were given the same name for it. Whoever opens a file locks a byte of it that stands for
//! the domain, far behind anything that a file can hold, and then looks whether bytes of others
//! are locked. Of two that do this at the same time, at least one sees the other.
#![expect(unsafe_code, reason = "locks of open file descriptions, which have no wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Where the bytes that stand for domains begin: beyond the largest file that Linux's file systems
/// take (2^63 - 1 is the last byte that can be locked).
const BASE: u64 = 1 << 62;
/// How many there are.
const SPAN: u64 = 1 << 40;

/// Guests that may share pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain(u64);

/// That a file is used within a domain, for as long as it lives.
#[derive(Debug)]
pub struct Claim {
    file: File,
    domain: Domain,
}

impl Domain {
    /// All that use this name, on this host.
    pub fn named(name: &str) -> Domain {
        Domain::of(blake3::hash(name.as_bytes()).as_bytes())
    }

    fn of(bytes: &[u8; 32]) -> Domain {
        let [b0, b1, b2, b3, b4, b5, b6, b7, ..] = *bytes;
        Domain(u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]) % SPAN)
    }

    /// One of its own, which nobody else is in.
    ///
    /// # Errors
    /// The host has no random numbers.
    pub fn own() -> io::Result<Domain> {
        let mut bytes = [0; 32];
        let (mut filled, len) = (0, bytes.len());
        while filled < len {
            let rest = bytes.get_mut(filled..).unwrap_or_default();
            filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())?;
        }
        Ok(Domain::of(&bytes))
    }

    /// Says that a file, or a folder, is used within the domain. The locks are those of `file`'s
    /// open file description: open it for this.
    ///
    /// # Errors
    /// The file system has no locks.
    pub fn claim(self, file: File) -> io::Result<Claim> {
        let mut lock = lock(libc::F_RDLCK, BASE + self.0, 1);
        // SAFETY: the structure is valid, and the call writes nothing else.
        let got = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) };
        if got < 0 { Err(io::Error::last_os_error()) } else { Ok(Claim { file, domain: self }) }
    }
}

impl Claim {
    /// Whether nobody of another domain uses the file.
    ///
    /// # Errors
    /// The host does not tell.
    pub fn is_alone(&self) -> io::Result<bool> {
        // Read locks do not stand in each other's way, so it is asked for a write lock, of all
        // bytes but the domain's own.
        let own = BASE + self.domain.0;
        for (start, len) in [(BASE, self.domain.0), (own + 1, SPAN - self.domain.0 - 1)] {
            // A length of 0 would be all up to the end.
            if len == 0 {
                continue;
            }
            let mut lock = lock(libc::F_WRLCK, start, len);
            // SAFETY: as in `claim`; the call writes to the structure.
            let got =
                unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
            if got < 0 {
                return Err(io::Error::last_os_error());
            }
            if i32::from(lock.l_type) != libc::F_UNLCK {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "lock types and whence are small constants")]
fn lock(kind: libc::c_int, start: u64, len: u64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: libc::off_t::try_from(start).unwrap_or(libc::off_t::MAX),
        l_len: libc::off_t::try_from(len).unwrap_or(libc::off_t::MAX),
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn see_each_other(path: &Path) {
        let open = || File::open(path).unwrap();
        let lab = Domain::named("lab");
        let one = lab.claim(open()).unwrap();
        assert!(one.is_alone().unwrap());
        let two = Domain::named("lab").claim(open()).unwrap();
        assert!(one.is_alone().unwrap() && two.is_alone().unwrap());
        let stranger = Domain::own().unwrap().claim(open()).unwrap();
        assert!(!stranger.is_alone().unwrap() && !one.is_alone().unwrap());
        drop(stranger);
        assert!(one.is_alone().unwrap());
    }

    #[test]
    fn other_domains_are_seen_on_files_and_folders() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "x").unwrap();
        see_each_other(&path);
        see_each_other(folder.path());
    }

    #[test]
    fn other_processes_are_seen_until_they_end() {
        use crate::share::alone::{again, is_again};
        use std::io::{BufRead, BufReader};
        const TEST: &str = "share::domain::tests::other_processes_are_seen_until_they_end";
        const AT: &str = "MEMSHARE_TEST_CLAIM";
        if is_again(TEST) {
            // What the parent process has claimed is here as a path.
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).unwrap();
            let (domain, path) = line.trim_end().split_once(' ').unwrap();
            let claim = Domain::named(domain).claim(File::open(path).unwrap()).unwrap();
            println!("{AT} {}", claim.is_alone().unwrap());
            // Until it is killed.
            std::io::stdin().read_line(&mut line).unwrap();
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        for path in [file.as_path(), folder.path()] {
            let ours = Domain::named("ours").claim(File::open(path).unwrap()).unwrap();
            for (domain, alone) in [("ours", true), ("theirs", false)] {
                let mut child = again(TEST);
                let mut input = child.stdin.take().unwrap();
                std::io::Write::write_all(
                    &mut input,
                    format!("{domain} {}\n", path.display()).as_bytes(),
                )
                .unwrap();
                let said = BufReader::new(child.stdout.take().unwrap()).lines();
                let said = said.map(Result::unwrap).find(|line| line.contains(AT)).unwrap();
                assert!(said.contains(&format!("{AT} {alone}")), "{said}");
                assert_eq!(ours.is_alone().unwrap(), alone);
                child.kill().unwrap();
                child.wait().unwrap();
                assert!(ours.is_alone().unwrap());
            }
        }
    }

    #[test]
    fn of_two_that_claim_at_once_at_least_one_knows() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for round in 0..200 {
            let start = std::sync::Barrier::new(2);
            let end = std::sync::Barrier::new(2);
            let claim = |name: &str| {
                let file = file.reopen().unwrap();
                start.wait();
                let claim = Domain::named(name).claim(file).unwrap();
                let alone = claim.is_alone().unwrap();
                end.wait();
                alone
            };
            let both = std::thread::scope(|scope| {
                let one = scope.spawn(|| claim("one"));
                let other = scope.spawn(|| claim("other"));
                (one.join().unwrap(), other.join().unwrap())
            });
            assert_ne!(both, (true, true), "round {round}");
        }
    }

    #[test]
    fn the_first_and_the_last_byte_are_domains_too() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (one, other) in [(0, 1), (0, SPAN - 1), (SPAN - 1, SPAN - 2)] {
            let claim = |number| Domain(number).claim(file.reopen().unwrap()).unwrap();
            let (one, other) = (claim(one), claim(other));
            assert!(!one.is_alone().unwrap() && !other.is_alone().unwrap());
            drop(other);
            assert!(one.is_alone().unwrap());
        }
    }

    #[test]
    fn domains_of_their_own_differ() {
        assert_ne!(Domain::own().unwrap(), Domain::own().unwrap());
        assert_ne!(Domain::named("a"), Domain::named("b"));
    }
}
