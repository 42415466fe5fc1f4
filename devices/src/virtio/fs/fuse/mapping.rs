//! Files mapped into the window for direct access: SETUPMAPPING and REMOVEMAPPING.

use std::io;
use std::sync::Arc;

use memshare::SharedRegion;

/// Where a guest reaches files without asking: a range of its physical memory. Offsets and
/// lengths are multiples of 4096.
pub trait DaxWindow: Send + Sync {
    /// Bytes in it.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts `len` bytes of `file` from `foffset` on at `moffset` of the window, in place of what
    /// is there; the guest's writes change the file if `write`.
    ///
    /// # Errors
    /// The guest is told the error's number, `EIO` when it has none.
    fn map(
        &self,
        moffset: u64,
        len: u64,
        file: &Arc<SharedRegion>,
        foffset: u64,
        write: bool,
    ) -> io::Result<()>;

    /// Takes away what is mapped there.
    ///
    /// # Errors
    /// As [`DaxWindow::map`].
    fn unmap(&self, moffset: u64, len: u64) -> io::Result<()>;
}
