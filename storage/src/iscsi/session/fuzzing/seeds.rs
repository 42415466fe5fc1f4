//! Scripts to begin with: sessions in order, and the bytes of logins.

use super::*;
use crate::scsi::fuzzing::seeds::command as described;

/// A SCSI command: the bits of the step, of the command, and what is described.
fn command(bits: u8, flags: u8, opcode: u8, rest: [u8; 5]) -> Vec<u8> {
    let [at, count, pokes, data, fill] = rest;
    // Who sends it is no part of it here.
    let mut bytes = described(opcode, None, [0, 0, at, count, pokes, data, fill]);
    bytes.remove(1);
    [&[bits, flags][..], &bytes].concat()
}

/// Inputs to begin with.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let ready = || command(TURN, 0, 0x00, [0; 5]);
    let inquiry = || command(TURN, 0, 0x12, [0, 96, 0, 24, 0]);
    let read = |bits, count| command(bits, 0, 0x28, [3, count, 0, 0, 0]);
    let write = |bits, flags, count| command(bits, flags, 0x2a, [3, count, 0, 1, 7]);
    let data = || vec![6 | TURN, 0];
    let mut seeds = Vec::new();
    for flags in [0, HEADER_DIGEST, DATA_DIGEST, HEADER_DIGEST | DATA_DIGEST, SMALL] {
        let session =
            |steps: &[Vec<u8>]| [&[flags][..], &ready(), &ready(), &steps.concat()].concat();
        seeds.push(session(&[inquiry(), write(TURN, 0, 2), read(TURN, 4)]));
        let late =
            [write(TURN, 0x10, 8), data(), data(), data(), data(), read(0, 8), read(TURN, 1)];
        seeds.push(session(&late));
        let halves = [write(0, 0x30, 4), write(TURN, 0x10, 2), data(), data(), data()];
        seeds.push(session(&halves));
    }
    for flags in [UNSOLICITED, UNSOLICITED | NO_IMMEDIATE | DATA_DIGEST] {
        let burst = [write(0, 0x11, 1), vec![6, 0x80, 3, 0x80, 0, 32], vec![15]];
        seeds.push([&[flags][..], &ready(), &ready(), &burst.concat()].concat());
    }
    for function in 1..9 {
        let aborted = [write(TURN, 0x10, 4), vec![8 | IMMEDIATE | TURN, function, 3, 2], data()];
        let after = [ready(), ready(), read(TURN, 1)];
        seeds.push([&[0][..], &ready(), &ready(), &aborted.concat(), &after.concat()].concat());
    }
    let others = [
        vec![9 | TURN, 0, 40],
        vec![10 | TURN, 0x80, 0],
        vec![12 | TURN, 0],
        vec![9 | IMMEDIATE | TURN, 3, 4],
        read(AHEAD, 1),
        ready(),
        vec![11 | TURN, 0],
    ];
    seeds.push([&[0][..], &ready(), &others.concat()].concat());
    seeds.push([&[DISCOVERY][..], &[10 | TURN, 0x80, 0], &[11 | TURN, 0]].concat());
    // Bytes as they are.
    for flags in [0, HEADER_DIGEST | DATA_DIGEST, DISCOVERY] {
        let mut client = Client::new(flags);
        client.log_in(1);
        let mut header = Header::new(opcode::NOP_OUT | 0x40, 0x80);
        header.set_u32(16, 5).set_u32(20, NO_TAG).set_u32(24, FIRST_COMMAND);
        pdu::push(&mut client.bytes, &mut header, b"ping", Digests::default());
        seeds.push([&[WILD][..], &client.bytes].concat());
    }
    let mut bytes = vec![WILD];
    for (flags, pairs) in [
        (
            0x81,
            &[("InitiatorName", INITIATOR), ("TargetName", TARGET), ("AuthMethod", "CHAP,None")],
        ),
        (0x87, &[("MaxBurstLength", "8192"), ("ErrorRecoveryLevel", "2"), ("X-a", "b")]),
    ] {
        let mut text = Vec::new();
        pairs.iter().for_each(|(key, value)| keys::push(&mut text, key, value));
        let mut header = Header::new(opcode::LOGIN | 0x40, flags);
        header.set(8, &[0x80, 0, 0, 0, 0, 1]).set_u32(16, 7).set_u16(20, 1).set_u32(24, 1);
        pdu::push(&mut bytes, &mut header, &text, Digests::default());
    }
    seeds.push(bytes);
    seeds
}
