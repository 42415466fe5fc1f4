use memshare::MemoryHandle;
use vm_memory::{GuestAddress, GuestAddressSpace};

use super::*;
use crate::input::ConsoleInput;
use crate::virtio::driver::{Driver, MEMORY, Told, activation, memory};

const DATA: u64 = 0x10_0000;

#[derive(Clone, Default)]
struct Sent(Arc<Mutex<Vec<u8>>>);

impl Write for Sent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Machine {
    device: Console,
    receive: Driver,
    transmit: Driver,
    sent: Sent,
    told: Arc<Told>,
    memory: MemoryHandle,
}

fn machine() -> Machine {
    let memory = memory();
    let guest = memory.memory().into_inner();
    let receive = Driver::new(guest.clone(), 0x1_0000, 8, true);
    let transmit = Driver::new(guest, 0x2_0000, 8, true);
    let (sent, told) = (Sent::default(), Arc::new(Told::default()));
    let mut device = Console::new(Box::new(sent.clone())).unwrap();
    device.start(activation(&memory, 0, &[&receive, &transmit], &told)).unwrap();
    Machine { device, receive, transmit, sent, told, memory }
}

#[test]
fn output_arrives_whole_and_in_order() {
    let mut machine = machine();
    let text: Vec<u8> = (0..20_000u32).map(|n| n.to_le_bytes()[0]).collect();
    machine.memory.memory().write_slice(&text, GuestAddress(DATA)).unwrap();
    let old = machine.transmit.position();
    machine.transmit.add(&[(DATA, 5, false), (DATA + 5, 9_995, false)]).unwrap();
    machine.transmit.add(&[(DATA + 10_000, 10_000, false)]).unwrap();
    machine.transmit.notify_since(old);
    machine.device.stop();
    assert_eq!(*lock(&machine.sent.0), text, "also what was sent just before the end");
    assert_eq!((machine.transmit.await_used().1, machine.transmit.await_used().1), (0, 0));
}

#[test]
fn input_waits_for_the_driver_and_is_bounded() {
    let mut machine = machine();
    let input = machine.device.input();
    let bytes: Vec<u8> = (0..5000u32).map(|n| n.to_le_bytes()[0]).collect();
    let mut pushed = input.push(&bytes);
    assert_eq!(pushed, 4096);
    assert!(input.room().read().is_err());
    let mut got = Vec::new();
    while got.len() < bytes.len() {
        let old = machine.receive.position();
        machine.receive.add(&[(DATA, 100, true), (DATA + 100, 900, true)]).unwrap();
        machine.receive.notify_since(old);
        let len = usize::try_from(machine.receive.await_used().1).unwrap();
        let mut data = vec![0; len];
        machine.memory.memory().read_slice(&mut data, GuestAddress(DATA)).unwrap();
        got.extend(data);
        if pushed < bytes.len() {
            assert!(input.room().read().is_ok(), "there is room");
            pushed += input.push(&bytes[pushed..]);
        }
    }
    assert_eq!(got, bytes);
}

#[test]
fn input_that_comes_later_wakes_the_device() {
    let mut machine = machine();
    machine.receive.add(&[(DATA, 16, true)]).unwrap();
    machine.receive.doorbell.write(1).unwrap();
    assert_eq!(machine.device.input().push(b"hello"), 5);
    assert_eq!(machine.receive.await_used().1, 5);
    machine.device.stop();
    assert_eq!(machine.device.input().push(b"later"), 5);
    let guest = machine.memory.memory().into_inner();
    let mut receive = Driver::new(guest.clone(), 0x1_0000, 8, false);
    receive.add(&[(DATA, 16, true)]).unwrap();
    let transmit = Driver::new(guest, 0x2_0000, 8, false);
    let with = activation(&machine.memory, 0, &[&receive, &transmit], &machine.told);
    machine.device.start(with).unwrap();
    assert_eq!(receive.await_used().1, 5, "input is kept while there is no driver");
}

#[test]
fn a_buffer_outside_of_memory_breaks_the_device() {
    for to_driver in [false, true] {
        let mut machine = machine();
        machine.device.input().push(b"x");
        let queue = if to_driver { &mut machine.receive } else { &mut machine.transmit };
        queue.add(&[(MEMORY, 1, to_driver)]).unwrap();
        queue.doorbell.write(1).unwrap();
        machine.told.await_needs_reset();
        assert_eq!(machine.device.stop().len(), 2);
    }
}

#[test]
fn what_came_before_a_broken_chain_is_sent_and_returned() {
    let memory = memory();
    let guest = memory.memory().into_inner();
    let mut receive = Driver::new(guest.clone(), 0x1_0000, 8, true);
    let mut transmit = Driver::new(guest, 0x2_0000, 8, true);
    memory.memory().write_slice(b"out", GuestAddress(DATA)).unwrap();
    transmit.add(&[(DATA, 3, false)]).unwrap();
    receive.add(&[(DATA + 64, 1, true)]).unwrap();
    receive.add(&[(MEMORY, 1, true)]).unwrap();
    let (sent, told) = (Sent::default(), Arc::new(Told::default()));
    let mut device = Console::new(Box::new(sent.clone())).unwrap();
    device.input().push(b"in");
    device.start(activation(&memory, 0, &[&receive, &transmit], &told)).unwrap();
    told.await_needs_reset();
    assert_eq!(*lock(&sent.0), b"out");
    assert_eq!(transmit.take_used().map(|(_, len)| len), Some(0));
    assert_eq!(receive.take_used().map(|(_, len)| len), Some(1));
    assert_eq!(told.used(), 2, "one interrupt for each queue");
}

#[test]
fn last_words_are_bounded_in_length_and_in_time() {
    let start = Instant::now();
    let mut quick = LastWords::new();
    assert_eq!((0..10_000).filter(|_| quick.permit(start)).count(), LAST_WORDS / CHUNK - 1);
    let mut slow = LastWords::new();
    let step = Duration::from_millis(100);
    let permitted = (0..10_000).filter(|&n| slow.permit(start + step * n)).count();
    assert_eq!(permitted, 5);
}

#[test]
fn a_driver_may_go_one_way_only() {
    let Machine { memory, told, mut transmit, .. } = machine();
    let sent = Sent::default();
    let mut device = Console::new(Box::new(sent.clone())).unwrap();
    let mut with = activation(&memory, 0, &[&transmit], &told);
    with.queues[0].index = TRANSMIT;
    device.start(with).unwrap();
    memory.memory().write_slice(b"out", GuestAddress(DATA)).unwrap();
    transmit.add(&[(DATA, 3, false)]).unwrap();
    transmit.doorbell.write(1).unwrap();
    transmit.await_used();
    device.input().push(b"in");
    assert_eq!(device.stop().len(), 1);
    assert_eq!(*lock(&sent.0), b"out");
}
