use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::*;

const DATA: u64 = 0;
const INTERRUPT_ENABLE: u64 = 1;
const LINE_STATUS: u64 = 5;

/// Keeps every write apart.
#[derive(Clone, Default)]
struct Writes(Arc<Mutex<Vec<Vec<u8>>>>);

impl Write for Writes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).push(bytes.to_vec());
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Writes {
    fn all(&self) -> Vec<u8> {
        lock(&self.0).concat()
    }
}

fn port() -> (Serial, Writes, EventFd) {
    let irq = EventFd::new(EFD_NONBLOCK).unwrap();
    let writes = Writes::default();
    let serial = Serial::new(irq.try_clone().unwrap(), Box::new(writes.clone())).unwrap();
    (serial, writes, irq)
}

fn send(serial: &mut Serial, bytes: &[u8]) {
    for &byte in bytes {
        serial.write(DATA, &[byte]);
    }
}

fn receive(serial: &mut Serial) -> Option<u8> {
    let mut byte = [0];
    serial.read(LINE_STATUS, &mut byte);
    (byte[0] & 1 != 0).then(|| {
        serial.read(DATA, &mut byte);
        byte[0]
    })
}

#[test]
fn what_the_guest_sends_reaches_the_output_in_order() {
    let (mut serial, writes, _irq) = port();
    let text = "x".repeat(3000) + "\nlogin: ";
    send(&mut serial, text.as_bytes());
    assert_eq!(writes.all(), text.as_bytes());
}

#[test]
fn an_output_that_fails_does_not_disturb_the_guest() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let irq = EventFd::new(EFD_NONBLOCK).unwrap();
    let mut serial = Serial::new(irq, Box::new(Broken)).unwrap();
    send(&mut serial, b"one\ntwo\n");
    let mut status = [0];
    serial.read(LINE_STATUS, &mut status);
    assert_eq!(status[0] & 0x60, 0x60, "ready to send");
}

#[test]
fn input_larger_than_the_fifo_arrives_whole_and_in_order() {
    let (mut serial, _writes, irq) = port();
    let input = serial.input();
    serial.write(INTERRUPT_ENABLE, &[1]);
    let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
    let (mut pushed, mut got) = (0, Vec::new());
    while got.len() < bytes.len() {
        let taken = input.push(&bytes[pushed..]);
        pushed += taken;
        assert!(irq.read().is_ok(), "the guest is told");
        if pushed < bytes.len() {
            assert!(input.room().read().is_err(), "no room before the guest reads");
            got.extend(receive(&mut serial));
            assert!(input.room().read().is_ok(), "room after that");
        }
        while let Some(byte) = receive(&mut serial) {
            got.push(byte);
        }
        assert!(input.room().read().is_err(), "nobody waits");
    }
    assert_eq!(got, bytes);
}

#[test]
fn wide_accesses_do_nothing() {
    let (mut serial, writes, _irq) = port();
    serial.write(DATA, b"ab");
    let mut data = [0xFF; 4];
    serial.read(DATA, &mut data);
    assert_eq!(data, [0xFF; 4]);
    assert!(writes.all().is_empty());
}

#[test]
fn input_refused_in_loopback_mode_is_wanted_afterwards() {
    const LOOP: u8 = 1 << 4;
    let (mut serial, _writes, _irq) = port();
    let input = serial.input();
    serial.write(MODEM_CONTROL.into(), &[LOOP]);
    assert_eq!(input.push(b"x"), 0);
    serial.write(MODEM_CONTROL.into(), &[0]);
    assert!(input.room().read().is_ok(), "the host is told to try again");
    assert_eq!(input.push(b"x"), 1);
    assert_eq!(receive(&mut serial), Some(b'x'));
}
