//! `SOCK[,initiator=NAME][,lun=N]`: one vhost-user socket on a command line.

use std::path::PathBuf;
use std::str::FromStr;

use storage::iscsi::BadName;

use super::guest_name::GuestName;
use crate::spec::split_commas;

/// A Unix socket by which one guest uses shared disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketSpec {
    /// Where it is.
    pub path: PathBuf,
    /// Who comes over it.
    pub guest: GuestName,
    /// The disk that is behind it, where that is one alone.
    pub lun: Option<u16>,
}

/// What describes no socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocketOptionError {
    /// Nothing before the first comma.
    #[error("the socket has no path")]
    NoPath,
    /// Longer than the kernel takes.
    #[error("{} is too long for a socket's path, which has at most {PATH_MAX} bytes", .0.display())]
    Long(PathBuf),
    /// Not one of the options.
    #[error(
        "unknown socket option {0:?} (known: initiator, lun; write a comma inside a path twice)"
    )]
    Unknown(String),
    /// No name of a guest.
    #[error("{0:?} names no guest (a name has 1 to about 190 bytes, or is an iSCSI name: iqn.…)")]
    Name(String),
    /// No logical unit.
    #[error("lun={0:?}: expected a number from 0 to 255")]
    Lun(String),
}

/// Most bytes of a socket's path (`sockaddr_un`, less the zero at the end).
const PATH_MAX: usize = 107;

impl FromStr for SocketSpec {
    type Err = SocketOptionError;

    fn from_str(text: &str) -> Result<SocketSpec, SocketOptionError> {
        let mut parts = split_commas(text).into_iter();
        let path = parts.next().filter(|path| !path.is_empty()).ok_or(SocketOptionError::NoPath)?;
        if path.len() > PATH_MAX {
            return Err(SocketOptionError::Long(path.into()));
        }
        let path = PathBuf::from(path);
        let bad = |name: &str| {
            let name = name.to_owned();
            move |_: BadName| SocketOptionError::Name(name)
        };
        let (mut guest, mut lun) = (None, None);
        for part in parts {
            match part.split_once('=') {
                Some(("initiator", name)) => {
                    guest = Some(GuestName::new(name).map_err(bad(name))?);
                }
                Some(("lun", number)) => {
                    let parsed = number.parse::<u8>();
                    let wrong = |_| SocketOptionError::Lun(number.to_owned());
                    lun = Some(parsed.map_err(wrong)?.into());
                }
                _ => return Err(SocketOptionError::Unknown(part)),
            }
        }
        let guest = match guest {
            Some(guest) => guest,
            None => GuestName::of_socket(&path).map_err(bad(&path.display().to_string()))?,
        };
        Ok(SocketSpec { path, guest, lun })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_its_guests_unless_told_otherwise() {
        let socket: SocketSpec = "/run/a,,b.sock,lun=3".parse().unwrap();
        assert_eq!((socket.path, socket.lun), ("/run/a,b.sock".into(), Some(3)));
        assert_eq!(socket.guest, GuestName::new("a,b").unwrap());
        let socket: SocketSpec = "x,initiator=node-1".parse().unwrap();
        assert_eq!((socket.guest, socket.lun), (GuestName::new("node-1").unwrap(), None));
    }

    #[test]
    fn what_describes_no_socket_is_told() {
        let told = |text: &str| text.parse::<SocketSpec>().unwrap_err().to_string();
        assert_eq!(told(""), "the socket has no path");
        assert!(told(&"x".repeat(108)).contains("at most 107 bytes"));
        assert!(told("x,ro").contains("\"ro\""));
        assert!(told("x,initiator=").contains("\"\" names no guest"));
        assert!(told("x,lun=256").contains("0 to 255"));
        assert!(told("/").contains("\"/\" names no guest"));
    }
}
