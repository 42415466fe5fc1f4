//! `cohort run --interactive`: what is typed, or piped in, on its way to the guest's console.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::thread;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcsetattr};

use super::tell;

/// Ctrl-A, which begins an escape.
const ESCAPE: u8 = 1;

/// The terminal's settings from before, for the guard and for a panic.
static BEFORE: OnceLock<Termios> = OnceLock::new();

/// Standard input connected to a guest; dropped, the terminal is as it was.
#[derive(Debug)]
pub(super) struct Input {
    raw: bool,
}

impl Input {
    /// Connects standard input. The returned descriptor is what the guest's console reads; it
    /// ends when standard input does. A terminal is set raw, and Ctrl-A x on it stops the guest.
    ///
    /// Input goes through a pipe, so that the machine can poll it whatever it is.
    pub(super) fn connect() -> io::Result<(Input, OwnedFd)> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut input = Input { raw: false };
        if io::stdin().is_terminal() {
            let mut raw = tcgetattr(io::stdin())?;
            let _ = BEFORE.set(raw.clone());
            raw.make_raw();
            // Messages on the same terminal still need their newlines made whole.
            raw.output_modes |= OutputModes::OPOST;
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                hook(info);
            }));
            tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
            input.raw = true;
            tell("Ctrl-A x stops the guest, Ctrl-A Ctrl-A sends Ctrl-A\n");
        }
        let mut keys = input.raw.then(Keys::default);
        thread::Builder::new().name("input".into()).stack_size(128 << 10).spawn(move || {
            let _ = forward(&mut io::stdin().lock(), writer.into(), keys.as_mut());
        })?;
        Ok((input, reader))
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if self.raw {
            restore();
        }
    }
}

fn restore() {
    if let Some(before) = BEFORE.get() {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
    }
}

fn forward(
    from: &mut impl Read,
    mut to: std::fs::File,
    mut keys: Option<&mut Keys>,
) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let Some(keys) = &mut keys else {
            to.write_all(&buffer[..read])?;
            continue;
        };
        let (typed, stop) = keys.take(&buffer[..read]);
        to.write_all(&typed)?;
        if stop {
            // The same way as Ctrl-C without a raw terminal.
            return Ok(kill_process(getpid(), Signal::INT)?);
        }
    }
}

/// Finds escapes in what is typed.
#[derive(Debug, Default)]
struct Keys {
    escaped: bool,
}

impl Keys {
    /// What of `typed` is for the guest, and whether it is to be stopped.
    fn take(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(typed.len() + 1);
        for &key in typed {
            if !std::mem::take(&mut self.escaped) {
                if key == ESCAPE {
                    self.escaped = true;
                } else {
                    out.push(key);
                }
                continue;
            }
            match key {
                b'x' | b'X' => return (out, true),
                ESCAPE => out.push(ESCAPE),
                _ => out.extend([ESCAPE, key]),
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_found_wherever_reads_cut_them() {
        let mut keys = Keys::default();
        assert_eq!(keys.take(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(keys.take(b"c\x01"), (b"c".to_vec(), false));
        assert_eq!(keys.take(b"\x01d"), (b"\x01d".to_vec(), false));
        assert_eq!(keys.take(b"\x01e"), (b"\x01e".to_vec(), false));
        assert_eq!(keys.take(b"f\x01"), (b"f".to_vec(), false));
        assert_eq!(keys.take(b"xg"), (Vec::new(), true));
    }

    #[test]
    fn piped_input_goes_through_untouched_and_ends() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        forward(&mut b"\x01x\0end".as_slice(), writer.into(), None).unwrap();
        let mut text = Vec::new();
        std::fs::File::from(reader).read_to_end(&mut text).unwrap();
        assert_eq!(text, b"\x01x\0end");
    }
}
