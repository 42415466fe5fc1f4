//! The control socket of a server: who may open it sees everything and may clear reservations.
//!
//! A Unix socket that only its user can connect to. A request is one line of JSON, and so is
//! the answer.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

/// Longest request and longest answer.
const REQUEST_MAX: u64 = 4 << 10;
const ANSWER_MAX: u64 = 64 << 20;
/// How long the other side may take for its line.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nobody is heard after the host could not accept.
const REST: Duration = Duration::from_millis(100);
/// Questions that may wait to be heard.
const BACKLOG: i32 = 16;

/// What is asked of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Everything there is to see.
    Status,
    /// End all registrations and reservations of a logical unit.
    Clear {
        /// Its number.
        lun: u64,
    },
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// What was asked for.
    Done(serde_json::Value),
    /// Why it was not done.
    Failed(String),
}

/// Why a server cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens there.
    #[error("no server answers at {}", path.display())]
    Nobody {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is no server, or has ended.
    #[error("what listens at {} does not answer as a server does: {what}", path.display())]
    Nonsense {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It says no.
    #[error("{0}")]
    Refused(String),
    /// It cannot be made.
    #[error("cannot listen on the control socket {}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ControlError {
    /// What to do about it, where there is something.
    pub fn help(&self) -> Option<String> {
        match self {
            ControlError::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                Some("another server listens there, or it is no socket: name another".into())
            }
            _ => None,
        }
    }
}

/// What names of control sockets begin with.
const PREFIX: &str = "cohort-shared-disk-";

/// Where this process's control socket is, if no other place is named.
///
/// # Errors
/// This user has no folder for sockets.
pub fn own_path() -> io::Result<PathBuf> {
    Ok(folder()?.join(format!("{PREFIX}{}.sock", std::process::id())))
}

/// A folder in which nobody else can put sockets.
fn folder() -> io::Result<PathBuf> {
    let own = rustix::process::geteuid().as_raw();
    if let Some(folder) = std::env::var_os("XDG_RUNTIME_DIR") {
        return Ok(folder.into());
    }
    if own == 0 {
        return Ok("/run".into());
    }
    let folder = std::env::temp_dir().join(format!("cohort-{own}"));
    match fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let facts = fs::symlink_metadata(&folder)?;
    if !facts.is_dir() || facts.uid() != own || facts.mode() & 0o077 != 0 {
        let what = format!("{} is open to other users (chmod 700 it)", folder.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    Ok(folder)
}

/// The control sockets of this user's servers, in order. Those of servers that were killed are
/// removed.
///
/// # Errors
/// The folder cannot be read.
pub fn servers() -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder()?)? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        if !name.to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        match UnixStream::connect(&path) {
            Ok(_) => found.push(path),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(&path)?;
            }
            Err(_) => {}
        }
    }
    found.sort();
    Ok(found)
}

/// Asks the server with the control socket at `path`.
///
/// # Errors
/// There is none, or it says no.
pub fn ask(path: &Path, request: Request) -> Result<serde_json::Value, ControlError> {
    let nobody = |source| ControlError::Nobody { path: path.to_owned(), source };
    let nonsense = |what: &dyn ToString| ControlError::Nonsense {
        path: path.to_owned(),
        what: what.to_string(),
    };
    let mut stream = UnixStream::connect(path).map_err(nobody)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(nobody)?;
    let line = serde_json::to_string(&request).map_err(|error| nonsense(&error))?;
    stream.write_all(format!("{line}\n").as_bytes()).map_err(nobody)?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer).map_err(|error| nonsense(&error))?;
    match serde_json::from_str(&answer).map_err(|error| nonsense(&error))? {
        Answer::Done(value) => Ok(value),
        Answer::Failed(why) => Err(ControlError::Refused(why)),
    }
}

/// A control socket that is listened on. It goes when this is dropped.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    listener: Arc<UnixListener>,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Listens at `path`, or where this process has its own; `serve` answers.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn open(
        path: Option<&Path>,
        serve: impl Fn(Request) -> Answer + Send + 'static,
    ) -> Result<Control, ControlError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| ControlError::Listen { path, source }
        };
        let path = match path {
            Some(path) => path.to_owned(),
            None => own_path().map_err(failed(Path::new("of this user")))?,
        };
        Control::listen(&path, serve).map_err(failed(&path))
    }

    /// Listens at `path`; `serve` answers.
    ///
    /// # Errors
    /// The socket cannot be made, as when one is there.
    fn listen(
        path: &Path,
        serve: impl Fn(Request) -> Answer + Send + 'static,
    ) -> io::Result<Control> {
        let (listener, ending) = (Arc::new(bind(path)?), Arc::default());
        let (heard, is_over) = (Arc::clone(&listener), Arc::clone(&ending));
        let body = move || hear(&heard, &is_over, &serve);
        let thread = thread::Builder::new().name("control".to_owned()).spawn(body)?;
        Ok(Control { path: path.to_owned(), listener, ending, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Answers one question after the other until the end.
fn hear(listener: &UnixListener, ending: &AtomicBool, serve: &impl Fn(Request) -> Answer) {
    loop {
        let answered = listener.accept().map(|(stream, _)| answer(&stream, serve));
        if ending.load(Ordering::Acquire) {
            return;
        }
        match answered {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a question on the control socket"),
            Err(error) => {
                // The host is short of descriptors, say, and may be for long.
                tracing::debug!(%error, "cannot accept a question on the control socket");
                thread::sleep(REST);
            }
        }
    }
}

/// Listens at `path`, also where a server that was killed left its socket: it has to start again
/// with the same arguments.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let is_left_over = || {
        fs::symlink_metadata(path).is_ok_and(|facts| facts.file_type().is_socket())
            && UnixStream::connect(path)
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    match bind_private(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_over() => {
            fs::remove_file(path)?;
            bind_private(path)
        }
        bound => bound,
    }
}

/// Listens at `path`, to which nobody else can connect, not even for a moment: the file gets the
/// socket's mode.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Answers one question.
fn answer(mut stream: &UnixStream, serve: &impl Fn(Request) -> Answer) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(REQUEST_MAX)).read_line(&mut line)?;
    // Who only looks whether somebody is here says nothing.
    if line.is_empty() {
        return Ok(());
    }
    let answer = match serde_json::from_str(&line) {
        Ok(request) => serve(request),
        Err(error) => Answer::Failed(format!("that is no request: {error}")),
    };
    let text = serde_json::to_string(&answer)?;
    stream.write_all(text.as_bytes())
}

impl Drop for Control {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        // Not by the path, where there may be nothing any more: what the thread uses must be given
        // back in any case. Fails for none that listens.
        let _ = rustix::net::shutdown(&*self.listener, Shutdown::Both);
        let _ = fs::remove_file(&self.path);
        if let Some(thread) = self.thread.take() {
            // A panic has told of itself.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(request: Request) -> Answer {
        match request {
            Request::Status => Answer::Done(serde_json::json!({ "units": [] })),
            Request::Clear { lun } => Answer::Failed(format!("there is no logical unit {lun}")),
        }
    }

    #[test]
    fn what_is_asked_is_answered_until_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let control = Control::listen(&path, echo).unwrap();
        // Somebody who looks, somebody who talks nonsense, somebody who talks too much.
        drop(UnixStream::connect(&path).unwrap());
        for line in ["{\"explode\":{}}\n".to_owned(), "x".repeat(8 << 10)] {
            let mut stream = UnixStream::connect(&path).unwrap();
            let _ = stream.write_all(line.as_bytes());
            let mut text = String::new();
            let _ = stream.read_to_string(&mut text);
            assert!(text.is_empty() || text.contains("no request"), "{text}");
        }
        assert_eq!(ask(&path, Request::Status).unwrap(), serde_json::json!({ "units": [] }));
        let refused = ask(&path, Request::Clear { lun: 7 }).unwrap_err();
        assert_eq!(refused.to_string(), "there is no logical unit 7");
        // One that was killed is not in the way, one that is there is, and so is what is no socket.
        assert!(Control::listen(&path, echo).is_err());
        drop(control);
        assert!(!path.exists());
        drop(UnixListener::bind(&path).unwrap());
        drop(Control::listen(&path, echo).unwrap());
        fs::write(&path, "a file").unwrap();
        assert!(Control::listen(&path, echo).is_err());
        fs::remove_file(&path).unwrap();
        assert!(matches!(ask(&path, Request::Status), Err(ControlError::Nobody { .. })));
    }

    #[test]
    fn it_ends_and_gives_back_what_it_used_although_its_socket_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let used = Arc::new(());
        let kept = Arc::clone(&used);
        let serve = move |_| Answer::Failed(format!("{}", Arc::strong_count(&kept)));
        let control = Control::listen(&path, serve).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o7777, 0o600);
        fs::remove_file(&path).unwrap();
        drop(control);
        assert_eq!(Arc::strong_count(&used), 1);
    }
}
