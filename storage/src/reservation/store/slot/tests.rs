//! Bytes that are a slot, and bytes that are none.

use proptest::prelude::*;

use super::*;
use crate::reservation::InitiatorPort;
use crate::testkit;

fn contents(sequence: u64) -> Contents {
    let mut units = BTreeMap::new();
    for (lun, identity) in [(0, "disk-a"), (7, "disk-b")] {
        let mut reservations = Reservations::default();
        let port = InitiatorPort::new("iqn.2026-01.test:a,i,0x00023d000001").unwrap();
        let mut list = [0; 24];
        (list[15], list[20]) = (9, 1);
        let cdb = [0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0];
        let _ = reservations.out(&port, &cdb, &list).unwrap();
        units.insert(identity.to_owned(), Unit { lun, reservations });
    }
    Contents { sequence, units }
}

fn seal(bytes: &mut [u8]) {
    let sum = checksum(bytes);
    bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn what_is_written_is_read() {
    for sequence in [1, 2] {
        let written = contents(sequence);
        let bytes = written.encode().unwrap();
        let at = written.place();
        let Ok(Slot::Valid(read)) = Slot::decode(&bytes, at) else { panic!() };
        assert_eq!(read, written);
        let other = SLOTS[usize::from(at == 0)];
        assert!(matches!(Slot::decode(&bytes, other), Err(Bad::Content(_))));
    }
}

#[test]
fn every_end_that_is_too_early_is_seen() {
    let bytes = contents(2).encode().unwrap();
    for end in 1..bytes.len() {
        assert!(matches!(Slot::decode(&bytes[..end], 0), Ok(Slot::Damaged(_))), "{end}");
    }
}

#[test]
fn bounds() {
    let mut too_many = contents(2);
    let unit = too_many.units["disk-a"].clone();
    too_many.units.insert("x".repeat(IDENTITY_MAX + 1), unit.clone());
    assert!(too_many.encode().is_err());
    too_many.units = (0..=UNITS_MAX).map(|number| (number.to_string(), unit.clone())).collect();
    assert!(too_many.encode().is_err());
    too_many.units.pop_first();
    let bytes = too_many.encode().unwrap();
    assert!(matches!(Slot::decode(&bytes, 0), Ok(Slot::Valid(_))));
    too_many.units = BTreeMap::from([(String::new(), unit)]);
    assert!(too_many.encode().is_err());
}

#[test]
fn a_newer_version_is_told_from_damage() {
    let mut bytes = contents(2).encode().unwrap();
    bytes[12] = 2;
    assert!(matches!(Slot::decode(&bytes, 0), Ok(Slot::Damaged(_))));
    seal(&mut bytes);
    assert!(matches!(Slot::decode(&bytes, 0), Err(Bad::Version(2))));
}

proptest! {
    #![proptest_config(testkit::cases(512))]

    #[test]
    fn hostile_ones_are_refused_or_make_sense(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        sealed in any::<bool>(),
    ) {
        let written = contents(2);
        let old = written.encode().unwrap();
        let mut bytes = old.clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if sealed {
            seal(&mut bytes);
        }
        if let Ok(Slot::Valid(read)) = Slot::decode(&bytes, 0) {
            prop_assert!(sealed || bytes == old);
            prop_assert_eq!(read.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn random_ones_are_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let nothing = bytes.iter().all(|&byte| byte == 0);
        prop_assert!(matches!(Slot::decode(&bytes, 0), Ok(Slot::Damaged(_))) || nothing);
        if bytes.len() >= HEADER {
            bytes[..8].copy_from_slice(&SIGNATURE);
            bytes[12..16].copy_from_slice(&VERSION.to_le_bytes());
            let length = u32::try_from(bytes.len() - HEADER).unwrap();
            bytes[24..28].copy_from_slice(&length.to_le_bytes());
            seal(&mut bytes);
            let _ = Slot::decode(&bytes, 0);
        }
    }
}
