//! Messages as bytes (`include/uapi/linux/fuse.h` of Linux, version 7.38): numbers in the byte
//! order of the guest, which is this machine's, names that end in NUL.

use std::ffi::CStr;
use std::io;

use rustix::io::Errno;

/// What an operation ends in: the error's number goes to the guest.
pub(super) type Result<T> = std::result::Result<T, Errno>;

/// `FUSE_KERNEL_VERSION`.
pub(super) const MAJOR: u32 = 7;
/// `FUSE_KERNEL_MINOR_VERSION`.
pub(super) const MINOR: u32 = 38;
/// Bytes of `fuse_in_header`.
pub(super) const IN_HEADER: usize = 40;
/// Bytes of `fuse_out_header`.
pub(super) const OUT_HEADER: u32 = 16;
/// The node of the share's folder (`FUSE_ROOT_ID`).
pub(super) const ROOT: u64 = 1;

/// The number of an error of the standard library.
pub(super) fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

macro_rules! opcodes {
    ($($name:ident = $number:literal,)+) => {
        /// What a message asks for (`enum fuse_opcode`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Opcode { $($name = $number),+ }

        impl Opcode {
            /// The operation of that number.
            pub(super) fn new(number: u32) -> Option<Opcode> {
                match number { $($number => Some(Opcode::$name),)+ _ => None }
            }
        }

        #[cfg(test)]
        impl Opcode {
            /// Every one.
            pub(super) const ALL: &[Opcode] = &[$(Opcode::$name),+];
        }
    };
}

opcodes! {
    Lookup = 1,
    Forget = 2,
    GetAttr = 3,
    SetAttr = 4,
    ReadLink = 5,
    SymLink = 6,
    MkNod = 8,
    MkDir = 9,
    Unlink = 10,
    RmDir = 11,
    Rename = 12,
    Link = 13,
    Open = 14,
    Read = 15,
    Write = 16,
    StatFs = 17,
    Release = 18,
    FSync = 20,
    SetXattr = 21,
    GetXattr = 22,
    ListXattr = 23,
    RemoveXattr = 24,
    Flush = 25,
    Init = 26,
    OpenDir = 27,
    ReadDir = 28,
    ReleaseDir = 29,
    FSyncDir = 30,
    GetLk = 31,
    SetLk = 32,
    SetLkW = 33,
    Access = 34,
    Create = 35,
    Interrupt = 36,
    Destroy = 38,
    BatchForget = 42,
    FAllocate = 43,
    ReadDirPlus = 44,
    Rename2 = 45,
    LSeek = 46,
    CopyFileRange = 47,
    SetupMapping = 48,
    RemoveMapping = 49,
    SyncFs = 50,
    TmpFile = 51,
}

impl Opcode {
    /// Whether the message has no answer, not even an error.
    pub(super) fn is_silent(self) -> bool {
        matches!(self, Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt)
    }

    /// Whether it changes the share whatever its arguments are.
    pub(super) fn changes(self) -> bool {
        matches!(
            self,
            Opcode::SetAttr
                | Opcode::SymLink
                | Opcode::MkNod
                | Opcode::MkDir
                | Opcode::Unlink
                | Opcode::RmDir
                | Opcode::Rename
                | Opcode::Rename2
                | Opcode::Link
                | Opcode::Write
                | Opcode::SetXattr
                | Opcode::RemoveXattr
                | Opcode::Create
                | Opcode::FAllocate
                | Opcode::CopyFileRange
                | Opcode::TmpFile
        )
    }
}

/// `fuse_in_header`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// Bytes of the message, this header included.
    pub(super) len: u32,
    /// See [`Opcode`].
    pub(super) opcode: u32,
    /// The message's own number.
    pub(super) unique: u64,
    /// The file that it is about.
    pub(super) node: u64,
    /// Who asks.
    pub(super) uid: u32,
    /// The group of who asks.
    pub(super) gid: u32,
}

impl Header {
    /// Takes a header apart.
    pub(super) fn new(bytes: &[u8; IN_HEADER]) -> Result<Header> {
        let mut fields = Fields(bytes);
        Ok(Header {
            len: fields.u32()?,
            opcode: fields.u32()?,
            unique: fields.u64()?,
            node: fields.u64()?,
            uid: fields.u32()?,
            gid: fields.u32()?,
        })
    }
}

/// What is left of a message's arguments. Each call takes the next field; one that is not there
/// is `EINVAL`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// The next `len` bytes.
    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let (now, later) = self.0.split_at_checked(len).ok_or(Errno::INVAL)?;
        self.0 = later;
        Ok(now)
    }

    /// A number of 32 bits.
    pub(super) fn u32(&mut self) -> Result<u32> {
        let (now, later) = self.0.split_first_chunk().ok_or(Errno::INVAL)?;
        self.0 = later;
        Ok(u32::from_ne_bytes(*now))
    }

    /// A number of 64 bits.
    pub(super) fn u64(&mut self) -> Result<u64> {
        let (now, later) = self.0.split_first_chunk().ok_or(Errno::INVAL)?;
        self.0 = later;
        Ok(u64::from_ne_bytes(*now))
    }

    /// Text up to its NUL.
    pub(super) fn text(&mut self) -> Result<&'a CStr> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.bytes(text.count_bytes() + 1)?;
        Ok(text)
    }
}

/// An answer behind its header, field by field.
#[derive(Debug, Default)]
pub(super) struct Body(pub(super) Vec<u8>);

impl Body {
    /// An answer without content.
    pub(super) fn empty() -> Body {
        Body::default()
    }

    /// Appends a number of 16 bits.
    pub(super) fn u16(&mut self, value: u16) -> &mut Body {
        self.bytes(&value.to_ne_bytes())
    }

    /// Appends a number of 32 bits.
    pub(super) fn u32(&mut self, value: u32) -> &mut Body {
        self.bytes(&value.to_ne_bytes())
    }

    /// Appends a number of 64 bits.
    pub(super) fn u64(&mut self, value: u64) -> &mut Body {
        self.bytes(&value.to_ne_bytes())
    }

    /// Appends bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Body {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends zeroes up to a length that is a multiple of 8 (`FUSE_REC_ALIGN`).
    pub(super) fn pad(&mut self) -> &mut Body {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self
    }

    /// What was appended.
    pub(super) fn take(&mut self) -> Body {
        std::mem::take(self)
    }
}

/// `fuse_out_header` of an answer with `body` bytes.
pub(super) fn out_header(
    unique: u64,
    error: Option<Errno>,
    body: u32,
) -> [u8; OUT_HEADER as usize] {
    let mut header = [0; OUT_HEADER as usize];
    let error = error.map_or(0, |error| -error.raw_os_error());
    let len = body.saturating_add(OUT_HEADER);
    let (start, end) = header.split_at_mut(8);
    start[..4].copy_from_slice(&len.to_ne_bytes());
    start[4..].copy_from_slice(&error.to_ne_bytes());
    end.copy_from_slice(&unique.to_ne_bytes());
    header
}
