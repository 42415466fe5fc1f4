//! Whose a file is: numbers of users and groups of the guest and of the host.

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, capabilities, set_capabilities, set_thread_res_gid, set_thread_res_uid,
};

use super::messages::Result;
use super::{IdRange, Ids};

/// Who owns what the guest cannot name (`overflowuid` of Linux).
const NOBODY: u32 = 65534;

/// How numbers are translated, and as whom this process runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Translation {
    ids: Ids,
    uid: u32,
    gid: u32,
}

impl Translation {
    pub(super) fn new(ids: Ids) -> Translation {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Translation { ids, uid: uid.as_raw(), gid: gid.as_raw() }
    }

    /// The guest's number of a user of the host.
    pub(super) fn guest_uid(&self, host: u32) -> u32 {
        self.guest(host, self.uid)
    }

    /// The guest's number of a group of the host.
    pub(super) fn guest_gid(&self, host: u32) -> u32 {
        self.guest(host, self.gid)
    }

    fn guest(&self, host: u32, own: u32) -> u32 {
        match self.ids {
            Ids::Same => host,
            Ids::Squash if host == own => 0,
            Ids::Squash => NOBODY,
            Ids::Range(IdRange { guest, host: first, count }) => host
                .checked_sub(first)
                .filter(|at| *at < count)
                .and_then(|at| guest.checked_add(at))
                .unwrap_or(NOBODY),
        }
    }

    /// The host's number of a user of the guest, to whom a file is to be given.
    pub(super) fn host_uid(&self, guest: u32) -> Result<u32> {
        self.host(guest, self.uid)
    }

    /// The host's number of a group of the guest.
    pub(super) fn host_gid(&self, guest: u32) -> Result<u32> {
        self.host(guest, self.gid)
    }

    fn host(&self, guest: u32, own: u32) -> Result<u32> {
        let host = match self.ids {
            Ids::Same => Some(guest),
            Ids::Squash => return if guest == 0 { Ok(own) } else { Err(Errno::PERM) },
            Ids::Range(IdRange { guest: first, host, count }) => guest
                .checked_sub(first)
                .filter(|at| *at < count)
                .and_then(|at| host.checked_add(at)),
        };
        // The highest number means "nobody in particular" to system calls.
        host.filter(|id| *id != u32::MAX).ok_or(Errno::OVERFLOW)
    }

    /// Makes the calling thread act as a user of the guest until the result is dropped, so that
    /// what it makes belongs to that user, by the kernel's own rules (folders with the set-group
    /// bit, default ACLs, quotas). Only root can, and only `Ids::Squash` does not want it.
    pub(super) fn act_as(&self, uid: u32, gid: u32) -> Result<Acting> {
        if self.uid != 0 || self.ids == Ids::Squash {
            return Ok(Acting { uid: None, gid: None });
        }
        let (uid, gid) = (self.host_uid(uid)?, self.host_gid(gid)?);
        let mut acting = Acting { uid: None, gid: None };
        if gid != self.gid {
            set_thread_res_gid(None::<Gid>, Some(Gid::from_raw(gid)), None::<Gid>)?;
            acting.gid = Some(self.gid);
        }
        if uid != self.uid {
            set_thread_res_uid(None::<Uid>, Some(Uid::from_raw(uid)), None::<Uid>)?;
            acting.uid = Some(self.uid);
            // Whether the user may is for the guest's kernel to say, which knows all groups of
            // the user. Everything else is done with this right as well.
            let mut sets = capabilities(None)?;
            sets.effective |= sets.permitted & CapabilitySet::DAC_OVERRIDE;
            set_capabilities(None, sets)?;
        }
        Ok(acting)
    }
}

/// While it lives, the thread acts as somebody else.
#[must_use]
pub(super) struct Acting {
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Drop for Acting {
    fn drop(&mut self) {
        let uid = self.uid.map(Uid::from_raw);
        let gid = self.gid.map(Gid::from_raw);
        // The user first: only root may change its group.
        let back = uid
            .map_or(Ok(()), |uid| set_thread_res_uid(None::<Uid>, Some(uid), None::<Uid>))
            .and_then(|()| {
                gid.map_or(Ok(()), |gid| set_thread_res_gid(None::<Gid>, Some(gid), None::<Gid>))
            });
        if back.is_err() {
            // A thread must not go on with the rights of a user of the guest.
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_translated_both_ways() {
        let same = Translation { ids: Ids::Same, uid: 7, gid: 8 };
        assert_eq!((same.guest_uid(5), same.host_uid(5)), (5, Ok(5)));
        assert_eq!(same.host_uid(u32::MAX), Err(Errno::OVERFLOW));
        let squash = Translation { ids: Ids::Squash, ..same };
        assert_eq!((squash.guest_uid(7), squash.guest_gid(8), squash.guest_gid(7)), (0, 0, NOBODY));
        assert_eq!((squash.host_uid(0), squash.host_gid(0)), (Ok(7), Ok(8)));
        assert_eq!(squash.host_uid(1), Err(Errno::PERM));
        let range = IdRange { guest: 0, host: 100_000, count: 10 };
        let range = Translation { ids: Ids::Range(range), ..same };
        assert_eq!((range.guest_uid(100_009), range.guest_uid(100_010)), (9, NOBODY));
        assert_eq!((range.guest_uid(0), range.host_gid(9)), (NOBODY, Ok(100_009)));
        assert_eq!(range.host_gid(10), Err(Errno::OVERFLOW));
    }
}
