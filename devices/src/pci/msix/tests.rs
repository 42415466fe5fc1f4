use proptest::prelude::*;

use super::*;
use crate::platform::Platform;
use crate::platform::fake::FakePlatform;

const VECTORS: u16 = 5;

fn table() -> (Msix, FakePlatform) {
    let platform = FakePlatform::default();
    (Msix::new(platform.msi_vectors(VECTORS).unwrap()), platform)
}

fn write(msix: &Msix, vector: u64, word: u64, value: u32) {
    msix.write_table(16 * vector + 4 * word, &value.to_le_bytes());
}

fn pending(msix: &Msix) -> u8 {
    let mut bits = [0xFF; 8];
    msix.read_pending(0, &mut bits);
    assert_eq!(bits[1..], [0; 7]);
    bits[0]
}

#[test]
fn an_interrupt_waits_behind_every_mask() {
    let (msix, platform) = table();
    let vector = platform.vector(1);
    write(&msix, 1, 0, 0xFEE0_1000);
    write(&msix, 1, 1, 1);
    write(&msix, 1, 2, 0x4041);
    msix.signal(1);
    assert_eq!(pending(&msix), 2, "MSI-X is off");
    write(&msix, 1, 3, 0);
    msix.set_control(FUNCTION_MASK | ENABLE);
    assert_eq!((pending(&msix), vector.take_sent().len()), (2, 0), "all are masked");
    msix.set_control(ENABLE);
    let message = MsiMessage { address: 0x1_FEE0_1000, data: 0x4041 };
    assert_eq!((pending(&msix), vector.take_sent()), (0, vec![message]));
    msix.signal(1);
    assert_eq!(vector.take_sent(), [message]);
    write(&msix, 1, 2, 0x4042);
    msix.signal(1);
    assert_eq!(vector.take_sent(), [MsiMessage { data: 0x4042, ..message }], "routed anew");
    write(&msix, 1, 3, 1);
    msix.signal(1);
    assert_eq!((pending(&msix), vector.take_sent().len()), (2, 0));
    msix.clear_pending();
    write(&msix, 1, 3, 0);
    assert_eq!(vector.take_sent(), [], "forgotten by a reset");
    msix.signal(VECTORS);
    msix.signal(u16::MAX);
}

/// Neither masks nor MSI-X being off are the hypervisor's to know of: it has the event only while
/// it may raise the interrupt.
#[test]
fn events_are_the_hypervisors_while_nothing_is_masked() {
    let (msix, platform) = table();
    let vector = platform.vector(1);
    let event = Arc::new(EventFd::new(0).unwrap());
    msix.attach(VECTORS, &event);
    msix.detach(VECTORS, &event);
    msix.attach(1, &event);
    assert!(!vector.takes(&event), "MSI-X is off");
    msix.set_control(ENABLE);
    assert!(!vector.takes(&event), "masked");
    write(&msix, 1, 3, 0);
    assert!(vector.takes(&event));
    msix.set_control(ENABLE | FUNCTION_MASK);
    assert!(!vector.takes(&event), "all are masked");
    msix.set_control(ENABLE);
    write(&msix, 1, 2, 77);
    assert!(vector.takes(&event), "with another message");
    let other = Arc::new(EventFd::new(0).unwrap());
    msix.attach(1, &other);
    msix.detach(1, &event);
    assert_eq!((vector.takes(&event), vector.takes(&other)), (false, true));
    write(&msix, 1, 3, 1);
    msix.detach(1, &other);
    write(&msix, 1, 3, 0);
    assert!(!vector.takes(&other));
}

#[test]
fn the_capability_tells_size_and_place() {
    let (msix, _platform) = table();
    let (body, writable) = msix.capability(2, 0x4000, 0x5000);
    assert_eq!(body, [4, 0, 2, 0x40, 0, 0, 2, 0x50, 0, 0]);
    assert_eq!(writable, [0, 0xC0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Control(u16),
    Signal(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let data = prop_oneof![
        8 => proptest::collection::vec(0u8..4, 4),
        2 => proptest::collection::vec(0u8..4, 8),
        1 => proptest::collection::vec(0u8..4, 1..4),
    ];
    let offset =
        prop_oneof![8 => (0u64..20).prop_map(|word| 4 * word), 1 => 0u64..100, 1 => any::<u64>()];
    let control = prop_oneof![Just(ENABLE), Just(0), Just(ENABLE | FUNCTION_MASK), any::<u16>()];
    prop_oneof![
        6 => (offset, data).prop_map(|(offset, data)| Step::Write(offset, data)),
        1 => control.prop_map(Step::Control),
        4 => (0..VECTORS + 1).prop_map(Step::Signal),
    ]
}

proptest! {
    /// The table against words in an array, and the rule that an interrupt is sent when its
    /// vector is or becomes unmasked, with what the entry says then.
    #[test]
    fn the_table_agrees_with_a_model(steps in proptest::collection::vec(step(), 0..120)) {
        let (msix, platform) = table();
        let mut words = [[0u32, 0, 0, 1]; VECTORS as usize];
        let mut waiting = [false; VECTORS as usize];
        let mut control = 0;
        for step in steps {
            match step {
                Step::Write(offset, data) => {
                    msix.write_table(offset, &data);
                    let words = words.as_flattened_mut();
                    let at = usize::try_from(offset).unwrap();
                    let aligned = matches!(data.len(), 4 | 8) && at.is_multiple_of(data.len());
                    for (n, bytes) in data.chunks_exact(4).enumerate().filter(|_| aligned) {
                        if let Some(word) = words.get_mut(at / 4 + n) {
                            let mask = if (at / 4 + n) % 4 == 3 { 1 } else { u32::MAX };
                            *word = u32::from_le_bytes(bytes.try_into().unwrap()) & mask;
                        }
                    }
                }
                Step::Control(value) => {
                    msix.set_control(value);
                    control = value & (ENABLE | FUNCTION_MASK);
                }
                Step::Signal(vector) => {
                    msix.signal(vector);
                    if let Some(waiting) = waiting.get_mut(usize::from(vector)) {
                        *waiting = true;
                    }
                }
            }
            let mut bits = 0;
            for (number, (words, waiting)) in words.iter().zip(&mut waiting).enumerate() {
                let open = control == ENABLE && words[3] == 0;
                let mut wanted = Vec::new();
                if open && std::mem::take(waiting) {
                    let address = u64::from(words[1]) << 32 | u64::from(words[0]);
                    wanted.push(MsiMessage { address, data: words[2] });
                }
                prop_assert_eq!(platform.vector(number).take_sent(), wanted);
                bits |= u8::from(*waiting) << number;
                let mut read = [0; 16];
                msix.read_table(16 * number as u64, &mut read);
                prop_assert_eq!(read.to_vec(), words.map(u32::to_le_bytes).concat());
            }
            prop_assert_eq!(pending(&msix), bits);
        }
    }
}
