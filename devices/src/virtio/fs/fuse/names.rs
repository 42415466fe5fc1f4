//! Names of a guest.

use std::ffi::CStr;

use rustix::io::Errno;

use super::messages::{Fields, Result};

/// Bytes of a name at most (`NAME_MAX` of Linux).
pub(super) const NAME_MAX: usize = 255;

/// The next argument, as the name of something in a folder: one component, and neither the folder
/// itself nor the one above.
pub(super) fn name<'a>(fields: &mut Fields<'a>) -> Result<&'a CStr> {
    let name = fields.text()?;
    match name.to_bytes() {
        b"" | b"." | b".." => Err(Errno::INVAL),
        bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
        bytes if bytes.len() > NAME_MAX => Err(Errno::NAMETOOLONG),
        _ => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_components_are_names() {
        let of = |bytes: &[u8]| name(&mut Fields(bytes)).map(|name| name.to_bytes().to_vec());
        assert_eq!(of(b"a\0"), Ok(b"a".to_vec()));
        assert_eq!(of(b"...\0rest"), Ok(b"...".to_vec()));
        for bad in [&b"\0"[..], b".\0", b"..\0", b"a/b\0", b"/\0", b"../x\0", b"unended", b""] {
            assert_eq!(of(bad), Err(Errno::INVAL), "{bad:?}");
        }
        assert_eq!(of(&[[b'a'; 256].as_slice(), b"\0"].concat()), Err(Errno::NAMETOOLONG));
    }
}
