//! Messages that no driver sends.

use std::fs;

use proptest::prelude::*;

use super::super::messages::{Opcode, ROOT};
use super::client::*;

/// Sends bytes, and checks that there is an answer, or none where there must be none.
fn survive(client: &Client, bytes: &[u8], room: usize) {
    let answer = send(&client.server, bytes, room).recv().unwrap();
    if bytes.len() < 40 {
        assert!(answer.is_empty());
        return;
    }
    let opcode = Opcode::new(u32_at(bytes, 4));
    if room < 16 || opcode.is_some_and(Opcode::is_silent) {
        assert!(answer.is_empty());
        return;
    }
    assert!(answer.len() <= room);
    let _ = open_answer(&answer, u64_at(bytes, 8));
}

#[test]
fn every_cut_of_every_message_is_answered() {
    let (folder, client) = share();
    fs::write(folder.path().join("a"), "a").unwrap();
    let node = client.lookup(ROOT, "a").unwrap();
    for opcode in Opcode::ALL.iter().filter(|opcode| **opcode != Opcode::SetLkW) {
        for len in (0..130).step_by(7) {
            let whole = message(*opcode as u32, 7, node, 0, &vec![0; len]);
            for cut in [0, 39, 40, whole.len()] {
                survive(&client, &whole[..cut.min(whole.len())], 256);
            }
            survive(&client, &whole, 15);
            survive(&client, &whole, 16);
        }
        client.init();
        client.walk("a").ok();
    }
    survive(&client, &message(9999, 7, node, 0, &[]), 100);
}

#[test]
fn a_message_is_as_long_as_it_says() {
    let (_folder, client) = share();
    let mut bytes = message(Opcode::MkDir as u32, 3, ROOT, 0, b"\0\0\0\0\0\0\0\0name\0");
    for len in [0u32, 39, 49, u32::MAX] {
        bytes[..4].copy_from_slice(&len.to_ne_bytes());
        let answer = send(&client.server, &bytes, 1000).recv().unwrap();
        assert_eq!(open_answer(&answer, 3), Err(libc::EINVAL), "{len}");
    }
    // More arguments than any message has.
    let bytes = message(Opcode::Lookup as u32, 3, ROOT, 0, &vec![b'a'; 200_000]);
    let answer = send(&client.server, &bytes, 1000).recv().unwrap();
    assert_eq!(open_answer(&answer, 3), Err(libc::E2BIG));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_messages_are_answered(
        opcode in 0u32..55,
        node in 0u64..4,
        arguments in proptest::collection::vec(
            prop_oneof![4 => Just(0u8), 2 => 1u8..4, 1 => Just(b'a'), 1 => any::<u8>()],
            0..120,
        ),
        room in 0usize..600,
    ) {
        // No lock is ever waited for: nobody else has one.
        let (folder, client) = share();
        fs::write(folder.path().join("a"), "a").unwrap();
        let file = client.lookup(ROOT, "a").unwrap();
        client.open(file, libc::O_RDWR).unwrap();
        survive(&client, &message(opcode, 7, node, 0, &arguments), room);
    }
}
