use std::io::Read;
use std::os::fd::OwnedFd;

use super::*;
use crate::machine::ending::End;

fn pipe() -> (File, File) {
    let (reader, writer) = io::pipe().expect("pipe");
    (File::from(OwnedFd::from(reader)), File::from(OwnedFd::from(writer)))
}

fn output(file: File) -> (Output, Arc<Ending>) {
    let ending = Arc::new(Ending::new().expect("eventfd"));
    (Output::new(file, ending.clone()).expect("eventfd"), ending)
}

fn read(mut from: &File) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 17];
    let len = from.read(&mut bytes).expect("readable");
    bytes.truncate(len);
    bytes
}

#[test]
fn lines_are_written_whole() {
    let (reader, writer) = pipe();
    let (mut output, _) = output(writer);
    for byte in b"hello\nwor" {
        output.write_all(&[*byte]).expect("taken");
    }
    assert_eq!(read(&reader), b"hello\n");
    output.write_all(b"ld\n").expect("taken");
    assert_eq!(read(&reader), b"world\n");
}

#[test]
fn a_prompt_wakes_the_loop_once_and_settles() {
    let (reader, writer) = pipe();
    let (mut output, _) = output(writer);
    output.write_all(b"logi").expect("taken");
    output.write_all(b"n: ").expect("taken");
    assert_eq!(output.wake().read().expect("woken"), 1);
    assert!(output.settle());
    assert_eq!(read(&reader), b"login: ");
    assert!(output.wake().read().is_err(), "nothing more to settle");
    output.write_all(b"x").expect("taken");
    assert_eq!(output.wake().read().expect("woken again"), 1);
}

#[test]
fn the_last_words_are_written() {
    let (reader, writer) = pipe();
    let (mut output, _) = output(writer);
    output.write_all(b"bye").expect("taken");
    output.finish();
    assert_eq!(read(&reader), b"bye");
}

#[test]
fn a_reader_that_does_not_read_cannot_keep_a_guest_from_stopping() {
    let (_reader, writer) = pipe();
    let (mut output, ending) = output(writer);
    ending.report(End::Timeout);
    // More than a pipe holds.
    output.write_all(&[b'\n'; 1 << 18]).expect("taken");
    assert!(!output.settle());
}

#[test]
fn a_reader_that_went_away_is_no_error_for_the_guest() {
    let (reader, writer) = pipe();
    drop(reader);
    let (mut output, _) = output(writer);
    output.write_all(b"anyone?\n").expect("taken");
    output.write_all(b"no\n").expect("taken");
    assert!(output.settle());
    output.finish();
}
