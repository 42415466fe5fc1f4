//! Scripts to begin with: targets that are in order, and logins.

use super::*;
use crate::iscsi::keys;

const STATUS: u8 = 0x81;

fn read(len: u8) -> Vec<u8> {
    vec![0, 0x28, len, 0, 1]
}

/// `len` times a power of two, by the upper bits of `more`.
fn write(len: u8, more: u8) -> Vec<u8> {
    vec![2, 0x2a, len, more, 2]
}

/// Answers of the target: to the first command that is open.
fn data_in(all: bool, len: u8, flags: u8) -> Vec<u8> {
    vec![5, 0, len, u8::from(!all), flags]
}

fn response(status: u8) -> Vec<u8> {
    vec![6, 0, status, 0, 0]
}

fn r2t() -> Vec<u8> {
    vec![7, 0, 9, 0, 0]
}

/// Inputs to begin with.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for flags in [
        0,
        HEADER_DIGEST,
        DATA_DIGEST | SMALL,
        UNSOLICITED | SMALL,
        NO_IMMEDIATE,
        NO_IMMEDIATE | UNSOLICITED | HEADER_DIGEST | DATA_DIGEST,
    ] {
        let mut seed = |steps: &[Vec<u8>]| seeds.push([&[flags][..], &steps.concat()].concat());
        seed(&[
            read(32),
            data_in(true, 7, STATUS),
            read(9),
            data_in(false, 3, 0),
            data_in(true, 1, STATUS),
        ]);
        let halves = vec![5 | HALVES, 20, 7, 0, STATUS];
        seed(&[
            read(32),
            halves,
            read(3),
            read(4),
            data_in(true, 1, STATUS),
            data_in(true, 1, STATUS),
        ]);
        seed(&[write(200, 0), response(0), write(200, 0xa0), r2t(), r2t(), r2t(), response(0)]);
        seed(&[write(40, 0x41), r2t(), data_in(true, 1, 0x80), response(0)]);
        seed(&[read(8), vec![6, 0, 3, 18, 0], read(8), vec![6, 0, 0, 0, 10]]);
        for function in 0..5 {
            seed(&[
                read(8),
                vec![4, function, 1],
                vec![8, 0, 0, 0, 0],
                read(1),
                data_in(true, 1, STATUS),
            ]);
            seed(&[read(8), vec![4, function, 1], vec![8, 0, 1, 0, 0], response(0)]);
        }
        seed(&[vec![9, 0, 2, 9, 0], vec![9, 0, 1, 0, 0], read(1), data_in(true, 1, STATUS)]);
        for event in 0..5 {
            seed(&[vec![10, 0, event, 0, 0], read(2)]);
        }
        seed(&[vec![11, 0, 2, 5, 0], vec![11, 0, 4, 1, 0]]);
        // The connection is lost: what goes on in the next session, and what ends.
        for end in [4, 5, 6] {
            let again = [vec![14, 7], data_in(true, 1, STATUS), response(0), response(0)];
            seed(&[read(4), write(4, 0), vec![14, end], again.concat()]);
        }
    }
    seeds.extend([login(LOGIN, &["None"]), login(LOGIN | PROOF, &["CHAP"])]);
    seeds
}

/// A target's part of a login.
fn login(flags: u8, methods: &[&str]) -> Vec<u8> {
    let mut bytes = vec![flags];
    let mut stat_sn = 0;
    let mut push = |flags: u8, pairs: &[(&str, &str)]| {
        let mut text = Vec::new();
        pairs.iter().for_each(|(key, value)| keys::push(&mut text, key, value));
        let mut header = Header::new(opcode::LOGIN_RESPONSE, flags);
        header.set(8, &[0x80, 0, 0, 0, 0, 1]).set_u16(14, 1).set_u32(24, stat_sn);
        header.set_u32(28, 1).set_u32(32, 32);
        stat_sn += 1;
        pdu::push(&mut bytes, &mut header, &text, Digests::default());
    };
    for method in methods {
        if *method == "CHAP" {
            push(0x00, &[("AuthMethod", "CHAP")]);
            push(0x00, &[("CHAP_A", "5"), ("CHAP_I", "7"), ("CHAP_C", "0x0123456789abcdef")]);
            let proof = "0x00112233445566778899aabbccddeeff";
            push(0x81, &[("CHAP_N", "iqn.2026-01.example:disk"), ("CHAP_R", proof)]);
        } else {
            push(0x81, &[("AuthMethod", "None"), ("TargetPortalGroupTag", "1")]);
        }
    }
    let answers = [
        ("HeaderDigest", "None"),
        ("InitialR2T", "No"),
        ("ImmediateData", "Yes"),
        ("MaxRecvDataSegmentLength", "65536"),
        ("MaxBurstLength", "262144"),
        ("FirstBurstLength", "65536"),
        ("MaxOutstandingR2T", "4"),
    ];
    push(0x87, &answers);
    bytes
}
