//! The server: from a message to the operation that it asks for, and back to an answer.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use storage::Buffers;

use super::credentials::Translation;
use super::handles::Handles;
use super::init::{INITIALISED, WRITE_MAX};
use super::inodes::Inodes;
use super::locks::{Attempt, Locks};
use super::mapping::Mapped;
use super::messages::{Body, Fields, Header, IN_HEADER, OUT_HEADER, Opcode, Result, out_header};
use super::waiting::Waiting;
use super::{FsOptions, Reply, Request};

/// Bytes of arguments at most, data of WRITE not counted: an attribute's value, its name, and
/// what goes before them; lists of nodes to forget and of ranges to unmap have no more.
const ARGUMENTS_MAX: u64 = (128 << 10) + 4096;
/// Bytes of `fuse_write_in`.
const WRITE_IN: u64 = 40;

/// Why a share cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The folder cannot be opened.
    #[error("cannot share the folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Files cannot be opened through their descriptors.
    #[error("cannot share folders without /proc/self/fd")]
    Proc(#[source] io::Error),
}

/// Serves one folder to one guest. Dropping it ends what waits (`EINTR`).
pub struct Server {
    pub(super) options: FsOptions,
    pub(super) ids: Translation,
    pub(super) inodes: Inodes,
    pub(super) handles: Handles,
    pub(super) locks: Locks,
    pub(super) waiting: Arc<Waiting>,
    pub(super) mapped: Mapped,
    /// `/proc/self/fd`, through which a pinned file is opened.
    pub(super) proc: OwnedFd,
    /// What INIT agreed on; see [`super::init::Feature`].
    pub(super) features: AtomicU64,
}

/// What an operation leaves to do.
enum Outcome {
    /// Send this.
    Body(Body),
    /// So many bytes are behind the place of the header already.
    Filled(u64),
    /// Wait until this succeeds.
    Wait(Attempt),
}

impl Server {
    /// Opens the folder.
    ///
    /// # Errors
    /// [`ServerError`] when it is no folder, or may not be opened.
    pub fn new(options: FsOptions) -> std::result::Result<Server, ServerError> {
        let fail = |source: Errno| ServerError::Folder {
            path: options.folder.clone(),
            source: source.into(),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, &options.folder, flags, Mode::empty()).map_err(fail)?;
        // Whoever may not list it has nothing to share.
        let list = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&root, c".", list, Mode::empty()).map_err(fail)?;
        let inodes = Inodes::new(root, options.limits).map_err(fail)?;
        let proc = openat(CWD, c"/proc/self/fd", flags, Mode::empty())
            .map_err(|error| ServerError::Proc(error.into()))?;
        Ok(Server {
            ids: Translation::new(options.ids),
            inodes,
            handles: Handles::new(options.limits.handles),
            locks: Locks::new(options.limits.locks),
            waiting: Waiting::new(options.limits.locks),
            mapped: Mapped::default(),
            proc,
            features: AtomicU64::new(0),
            options,
        })
    }

    /// Forgets all that the guest knows, has open, has locked and has mapped, as after a reset of
    /// its machine.
    pub fn restart(&self) {
        self.reset();
    }

    /// Carries out one request. May be called from several threads at once; it waits for the
    /// host's files, but never for locks of files. The calling thread gets a umask of its own.
    pub fn handle<R: Reply>(&self, request: Request, reply: R) {
        let Request { mut input, mut output } = request;
        let Some(header) = header(&mut input) else { return reply.done(0) };
        let opcode = Opcode::new(header.opcode);
        let silent = opcode.is_some_and(Opcode::is_silent);
        let mut head = output.split_to(OUT_HEADER.into());
        // Without room for a header there can be no answer, but FORGET and such want none.
        if head.len() < OUT_HEADER.into() && !silent {
            return reply.done(0);
        }
        let unique = header.unique;
        let result = opcode
            .ok_or(Errno::NOSYS)
            .and_then(|opcode| self.carry_out(opcode, &header, &mut input, &mut output));
        let result = match result {
            _ if silent => return reply.done(0),
            Ok(Outcome::Body(body)) => fill(&mut output, &body),
            Ok(Outcome::Filled(bytes)) => u32::try_from(bytes).map_err(|_| Errno::IO),
            Err(error) => Err(error),
            Ok(Outcome::Wait(attempt)) => {
                let finish = move |result: Result<()>| {
                    let written = put_header(&mut head, unique, result.map(|()| 0));
                    drop(head);
                    reply.done(written);
                };
                drop((input, output));
                return self.waiting.add(unique, attempt, Box::new(finish));
            }
        };
        let written = put_header(&mut head, unique, result);
        // Whoever is told may take the memory back.
        drop((head, input, output));
        reply.done(written);
    }

    fn carry_out(
        &self,
        opcode: Opcode,
        header: &Header,
        input: &mut Buffers,
        output: &mut Buffers,
    ) -> Result<Outcome> {
        // The message ends where its header says, whatever memory follows.
        let len = u64::from(header.len).checked_sub(IN_HEADER as u64).ok_or(Errno::INVAL)?;
        if len > input.len() {
            return Err(Errno::INVAL);
        }
        let mut message = input.split_to(len);
        let arguments = if opcode == Opcode::Write { len.min(WRITE_IN) } else { len };
        if arguments > ARGUMENTS_MAX {
            return Err(Errno::TOOBIG);
        }
        let mut bytes = vec![0; usize::try_from(arguments).map_err(|_| Errno::TOOBIG)?];
        message.copy_to(&mut bytes);
        let fields = Fields(&bytes);

        if opcode == Opcode::Init {
            return self.init(fields).map(Outcome::Body);
        }
        if !self.has(INITIALISED) {
            return Err(Errno::PROTO);
        }
        if opcode.changes() && !self.options.writable {
            return Err(Errno::ROFS);
        }
        match opcode {
            Opcode::Read => self.read(fields, output).map(Outcome::Filled),
            Opcode::Write if message.len() > WRITE_MAX.into() => Err(Errno::INVAL),
            Opcode::Write => self.write(fields, &mut message).map(Outcome::Body),
            Opcode::ReadDir => self.read_dir(fields, output.len(), false).map(Outcome::Body),
            Opcode::ReadDirPlus => self.read_dir(fields, output.len(), true).map(Outcome::Body),
            // Locks of a read-only share are the guest's own business.
            Opcode::GetLk | Opcode::SetLk | Opcode::SetLkW if !self.options.writable => {
                Err(Errno::NOSYS)
            }
            Opcode::SetLk | Opcode::SetLkW => self.lock(opcode, header, fields),
            _ => self.simple(opcode, header, fields).map(Outcome::Body),
        }
    }

    /// SETLK and SETLKW: at once if possible.
    fn lock(&self, opcode: Opcode, header: &Header, fields: Fields<'_>) -> Result<Outcome> {
        let mut attempt = self.set_lk(header, fields)?;
        match attempt() {
            Err(Errno::AGAIN | Errno::ACCESS) if opcode == Opcode::SetLkW => {
                Ok(Outcome::Wait(attempt))
            }
            Err(Errno::ACCESS) => Err(Errno::AGAIN),
            result => {
                self.waiting.retry();
                result.map(|()| Outcome::Body(Body::empty()))
            }
        }
    }

    /// Operations whose answer is small.
    fn simple(&self, opcode: Opcode, header: &Header, fields: Fields<'_>) -> Result<Body> {
        match opcode {
            Opcode::Lookup => self.lookup(header, fields),
            Opcode::Forget => self.forget(header, fields),
            Opcode::BatchForget => self.batch_forget(fields),
            Opcode::GetAttr => self.get_attr(header, fields),
            Opcode::SetAttr => self.set_attr(header, fields),
            Opcode::ReadLink => self.read_link(header),
            Opcode::SymLink => self.sym_link(header, fields),
            Opcode::MkNod => self.mk_nod(header, fields),
            Opcode::MkDir => self.mk_dir(header, fields),
            Opcode::Unlink => self.remove(header, fields, AtFlags::empty()),
            Opcode::RmDir => self.remove(header, fields, AtFlags::REMOVEDIR),
            Opcode::Rename => self.rename(header, fields, false),
            Opcode::Rename2 => self.rename(header, fields, true),
            Opcode::Link => self.link_node(header, fields),
            Opcode::Open => self.open(header, fields),
            Opcode::StatFs => self.stat_fs(header),
            Opcode::Release => self.release(fields),
            Opcode::FSync => self.f_sync(fields),
            Opcode::SetXattr => self.set_xattr(header, fields),
            Opcode::GetXattr => self.get_xattr(header, fields),
            Opcode::ListXattr => self.list_xattr(header, fields),
            Opcode::RemoveXattr => self.remove_xattr(header, fields),
            Opcode::Flush => self.flush(header, fields),
            Opcode::OpenDir => self.open_dir(header),
            Opcode::ReleaseDir => self.release_dir(fields),
            Opcode::FSyncDir => self.f_sync_dir(fields),
            Opcode::GetLk => self.get_lk(header, fields),
            Opcode::Access => self.access(header, fields),
            Opcode::Create => self.create(header, fields),
            Opcode::Interrupt => self.interrupt(fields),
            Opcode::Destroy => {
                self.reset();
                Ok(Body::empty())
            }
            Opcode::FAllocate => self.f_allocate(fields),
            Opcode::LSeek => self.l_seek(fields),
            Opcode::CopyFileRange => self.copy_file_range(fields),
            Opcode::SetupMapping => self.setup_mapping(header, fields),
            Opcode::RemoveMapping => self.remove_mapping(fields),
            Opcode::SyncFs => self.sync_fs(),
            Opcode::TmpFile => self.tmp_file(header, fields),
            // Those with a way of their own.
            Opcode::Init
            | Opcode::Read
            | Opcode::Write
            | Opcode::ReadDir
            | Opcode::ReadDirPlus
            | Opcode::SetLk
            | Opcode::SetLkW => Err(Errno::NOSYS),
        }
    }

    /// INTERRUPT: only waiting for a lock can be interrupted.
    fn interrupt(&self, mut fields: Fields<'_>) -> Result<Body> {
        self.waiting.interrupt(fields.u64()?);
        Ok(Body::empty())
    }

    /// Pins the file that was just opened.
    pub(super) fn pinned(&self, file: &OwnedFd) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat(self.proc.as_fd(), self.link(file), flags, Mode::empty())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.waiting.end();
    }
}

/// Takes a message's header.
fn header(input: &mut Buffers) -> Option<Header> {
    let mut bytes = [0; IN_HEADER];
    if input.len() < IN_HEADER as u64 {
        return None;
    }
    input.copy_to(&mut bytes);
    Header::new(&bytes).ok()
}

/// Puts an answer's body behind the place of its header.
fn fill(output: &mut Buffers, body: &Body) -> Result<u32> {
    let len = body.0.len();
    if output.len() < len as u64 {
        return Err(Errno::IO);
    }
    output.copy_from(&body.0);
    u32::try_from(len).map_err(|_| Errno::IO)
}

/// Puts the header in its place; says how long the answer is.
fn put_header(head: &mut Buffers, unique: u64, result: Result<u32>) -> u32 {
    let (error, body) = match result {
        Ok(body) => (None, body),
        Err(error) => (Some(error), 0),
    };
    head.copy_from(&out_header(unique, error, body));
    body.saturating_add(OUT_HEADER)
}
