use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};

use super::*;

/// More than a pipe holds.
const MUCH: usize = 1 << 20;

fn pipe() -> (OwnedFd, File) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    (reader, writer.into())
}

#[test]
fn a_reader_that_is_slow_gets_everything() {
    let (signals, _sender) = pipe();
    let signals = StopSignals::from(signals);
    let (reader, writer) = pipe();
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        File::from(reader).read_to_end(&mut all).unwrap();
        all
    });
    let text: Vec<u8> = (0..MUCH).map(|at| at.to_le_bytes()[1]).collect();
    Sink::new(writer, &signals, None).write_all(&text).unwrap();
    assert!(reader.join().unwrap() == text);
}

#[test]
fn a_reader_that_does_not_read_holds_up_no_signal() {
    let (signals, mut sender) = pipe();
    let signals = StopSignals::from(signals);
    let (_reader, writer) = pipe();
    let mut sink = Sink::new(writer, &signals, None);
    let stop = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        sender.write_all(&[0; size_of::<libc::signalfd_siginfo>()]).unwrap();
        sender
    });
    sink.write_all(&vec![b'a'; MUCH]).unwrap();
    let _sender = stop.join().unwrap();
    signals.take();
    sink.write_all(b"nor afterwards").unwrap();
}

#[test]
fn a_reader_that_does_not_read_holds_up_no_timeout() {
    let (signals, _sender) = pipe();
    let signals = StopSignals::from(signals);
    let (_reader, writer) = pipe();
    let deadline = Instant::now().checked_add(Duration::from_millis(20));
    Sink::new(writer, &signals, deadline).write_all(&vec![b'a'; MUCH]).unwrap();
}

#[test]
fn a_reader_that_has_gone_is_an_error() {
    let (signals, _sender) = pipe();
    let signals = StopSignals::from(signals);
    let (reader, writer) = pipe();
    drop(reader);
    assert!(Sink::new(writer, &signals, None).write_all(b"x").is_err());
}
