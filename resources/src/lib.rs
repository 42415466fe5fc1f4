//! What guests are made of.

/// Gives the embedded image the alignment of the pages that it is loaded to.
#[repr(C, align(4096))]
struct PageAligned<T: ?Sized>(T);

static IMAGE: &PageAligned<[u8]> =
    &PageAligned(*include_bytes!(concat!(env!("OUT_DIR"), "/guest.elf")));

/// The built-in guest: an ELF kernel image with a PVH note and a 64-bit entry, which takes its
/// whole command line as a script. It starts on a page boundary of this program's image, so its
/// segments can be mapped from the executable file.
pub static BUILTIN_GUEST: &[u8] = &IMAGE.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_a_page_aligned_elf_image() {
        assert_eq!(BUILTIN_GUEST.get(..4), Some(&b"\x7fELF"[..]));
        assert_eq!(BUILTIN_GUEST.as_ptr().addr() % 4096, 0);
    }
}
