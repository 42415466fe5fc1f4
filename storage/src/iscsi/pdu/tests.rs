//! Round trips, and bytes that nobody meant as a PDU.

use proptest::prelude::*;

use super::*;
use crate::testkit::cases;

const LIMIT: u32 = 4096;

fn any_digests() -> impl Strategy<Value = Digests> {
    (any::<bool>(), any::<bool>()).prop_map(|(header, data)| Digests { header, data })
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn what_is_written_is_read_again(
        fields in any::<[u8; HEADER_LEN]>(),
        data in proptest::collection::vec(any::<u8>(), 0..600),
        rest in proptest::collection::vec(any::<u8>(), 0..60),
        on in any_digests(),
    ) {
        let mut header = Header::from_bytes(fields);
        header.set(4, &[0]);
        let mut bytes = Vec::new();
        push(&mut bytes, &mut header, &data, on);
        let len = bytes.len();
        for end in 0..len {
            match decode(&bytes[..end], on, LIMIT) {
                Ok(Decoded::Partial(wanted)) => prop_assert!(wanted > end && wanted <= len),
                other => prop_assert!(false, "{other:?}"),
            }
        }
        bytes.extend(rest);
        let Ok(Decoded::Whole(pdu, taken)) = decode(&bytes, on, LIMIT) else {
            return Err(TestCaseError::fail("not a PDU"));
        };
        prop_assert_eq!(taken, len);
        prop_assert_eq!(pdu.header, header);
        prop_assert_eq!(pdu.data, &data[..]);
    }

    #[test]
    fn random_bytes_ask_for_bounded_memory(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        on in any_digests(),
    ) {
        let most = HEADER_LEN + AHS_MAX + 2 * DIGEST_LEN + 4096 + 3;
        match decode(&bytes, on, LIMIT) {
            Ok(Decoded::Partial(wanted)) => prop_assert!(wanted > bytes.len() && wanted <= most),
            Ok(Decoded::Whole(pdu, taken)) => {
                prop_assert!(taken <= bytes.len());
                let _ = additional(pdu.ahs);
            }
            Err(_) => {}
        }
    }

    #[test]
    fn additional_segments_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1020)) {
        if let Some(found) = additional(&bytes) {
            prop_assert!(found.cdb.len() <= bytes.len());
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed(
        data in proptest::collection::vec(any::<u8>(), 1..200),
        bit in any::<prop::sample::Index>(),
    ) {
        let on = Digests { header: true, data: true };
        let mut bytes = Vec::new();
        push(&mut bytes, &mut Header::new(opcode::NOP_OUT, 0x80), &data, on);
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        // A length of additional segments that grew asks for more bytes first.
        bytes.resize(bytes.len() + AHS_MAX, 0);
        prop_assert!(decode(&bytes, on, LIMIT).is_err());
    }
}

#[test]
fn additional_segments_are_told_apart() {
    let read = [0, 5, 2, 0, 0, 1, 0, 2];
    let cdb = [0, 5, 1, 0, 0xa, 0xb, 0xc, 0xd];
    let both = [read, cdb].concat();
    let wanted = Additional { cdb: &[0xa, 0xb, 0xc, 0xd], read_len: Some(0x0001_0002) };
    assert_eq!(additional(&both), Some(wanted));
    assert_eq!(additional(&[]), Some(Additional::default()));
    for wrong in [
        &[0, 5, 2, 0][..],         // cut short
        &[0, 0, 1, 0],             // not even the reserved byte
        &[0, 4, 2, 0, 1, 2, 3, 0], // a length of three bytes
        &[0, 5, 7, 0, 0, 0, 0, 0], // unknown
        &[read, read].concat(),    // twice
        &[0, 2, 1, 0, 9],          // padding is missing
    ] {
        assert_eq!(additional(wrong), None, "{wrong:x?}");
    }
}

#[test]
fn lengths_beyond_the_limit_are_refused_before_any_byte_of_data() {
    let mut header = Header::new(opcode::NOP_OUT, 0x80);
    header.set_data_len(4097);
    let error = decode(header.bytes(), Digests::default(), LIMIT).unwrap_err();
    assert_eq!(error, Malformed::TooLong { len: 4097, limit: LIMIT, header });
}
