//! Taking names away and changing them: UNLINK, RMDIR, RENAME, RENAME2.

use rustix::fs::{AtFlags, RenameFlags, renameat_with, unlinkat};
use rustix::io::Errno;

use super::messages::{Body, Fields, Header, Result};
use super::names::name;
use super::server::Server;

impl Server {
    /// UNLINK and RMDIR.
    pub(super) fn remove(
        &self,
        header: &Header,
        mut fields: Fields<'_>,
        flags: AtFlags,
    ) -> Result<Body> {
        let folder = self.inodes.get(header.node)?;
        let name = name(&mut fields)?;
        unlinkat(&*self.inodes.descriptor(&folder)?, name, flags)?;
        Ok(Body::empty())
    }

    /// RENAME (without flags) and RENAME2.
    pub(super) fn rename(
        &self,
        header: &Header,
        mut fields: Fields<'_>,
        with_flags: bool,
    ) -> Result<Body> {
        let to = fields.u64()?;
        let mut flags = RenameFlags::empty();
        if with_flags {
            flags = RenameFlags::from_bits_retain(fields.u32()?);
            fields.u32()?;
        }
        if !(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE).contains(flags) {
            return Err(Errno::INVAL);
        }
        let (from, to) = (self.inodes.get(header.node)?, self.inodes.get(to)?);
        let (old, new) = (name(&mut fields)?, name(&mut fields)?);
        let (from, to) = (self.inodes.descriptor(&from)?, self.inodes.descriptor(&to)?);
        renameat_with(&from, old, &to, new, flags)?;
        Ok(Body::empty())
    }
}
