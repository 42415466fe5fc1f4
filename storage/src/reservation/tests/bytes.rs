//! Reservations as bytes, and bytes that are none.

use proptest::prelude::*;

use super::*;
use crate::testkit;

fn units() -> Vec<Unit> {
    let mut units = vec![Unit::default(), Unit::with(3)];
    units.extend(Kind::ALL.map(|kind| Unit::reserved(3, kind)));
    let mut legacy = Unit::default();
    legacy.0.reserve(&port(1)).unwrap();
    units.push(legacy);
    let mut lasting = Unit::reserved(2, Kind::WriteExclusive);
    let _ = lasting.0.out(&port(2), &cdb(REGISTER, 0, 24), &list(12, 12, APTPL)).unwrap();
    units.extend([lasting, Unit(Reservations::volatile())]);
    units
}

#[test]
fn what_is_written_is_read() {
    for unit in units() {
        let bytes = unit.0.to_bytes();
        assert_eq!(Reservations::from_bytes(&bytes), Ok(unit.0));
        for end in 0..bytes.len() {
            assert!(Reservations::from_bytes(&bytes[..end]).is_err());
        }
        let mut long = bytes;
        long.push(0);
        assert!(Reservations::from_bytes(&long).is_err());
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let holder = Unit::reserved(2, Kind::WriteExclusive).0.to_bytes();
    let all = Unit::reserved(2, Kind::WriteExclusiveAllRegistrants).0.to_bytes();
    let nothing = Reservations::default().to_bytes();
    for (bytes, at, byte, what) in [
        (&nothing, 0, 2, "version"),
        (&nothing, 1, 3, "flags that exclude each other"),
        (&nothing, 1, 4, "flags"),
        (&nothing, 2, 1, "a reservation without registrations"),
        (&nothing, 2, 7, "a reservation of all without registrations"),
        (&nothing, 11, 255, "too many registrations"),
        (&holder, 2, 2, "an unknown type"),
        (&holder, 2, 0, "a holder of nothing"),
        (&holder, 2, 7, "a holder where all are"),
        (&holder, 3, 2, "a holder that is not registered"),
        (&all, 2, 1, "no holder"),
        (&holder, 12, 0, "no key"),
        (&holder, 20, 0, "no name"),
        (&holder, 21, b' ', "a bad name"),
        (&holder, 21, b'j', "names not in order"),
    ] {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        assert!(Reservations::from_bytes(&bytes).is_err(), "{what}");
    }
}

#[test]
fn no_port_is_registered_twice() {
    let mut once = Unit::default();
    once.does(1, REGISTER, 0, 0, 11);
    let mut bytes = once.0.to_bytes();
    // The only registration begins after the number of registrations.
    let registration = bytes[12..].to_vec();
    bytes.extend(registration);
    bytes[10] = 2;
    assert!(Reservations::from_bytes(&bytes).is_err());
}

proptest! {
    #![proptest_config(testkit::cases(512))]

    #[test]
    fn damaged_ones_are_refused_or_make_sense(
        which in 0..11usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = units()[which].0.to_bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(found) = Reservations::from_bytes(&bytes) {
            // The place of a holder that is nobody has one way to be written, as all else.
            prop_assert_eq!(found.to_bytes(), bytes);
            for action in 0..4 {
                let _ = found.read(&[0x5e, action, 0, 0, 0, 0, 0, 0, 0, 0]);
            }
            prop_assert_eq!(found.kind().is_some(), found.holders().next().is_some());
        }
    }

    #[test]
    fn random_ones_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(found) = Reservations::from_bytes(&bytes) {
            prop_assert_eq!(found.to_bytes(), bytes);
        }
    }

    #[test]
    fn no_command_is_too_strange(
        cdb in any::<[u8; 10]>(),
        action in 0..8u8,
        list in proptest::collection::vec(any::<u8>(), 0..40),
        which in 0..11usize,
    ) {
        let mut unit = units()[which].clone();
        let mut sane = cdb;
        sane[1] = action;
        sane[5..9].copy_from_slice(&[0, 0, 0, 24]);
        for cdb in [cdb, sane] {
            let before = unit.clone();
            if unit.0.out(&port(1), &cdb, &list).is_err() {
                prop_assert_eq!(&before, &unit);
            }
            let _ = unit.0.read(&cdb);
            demand(&cdb);
            demand(&list);
        }
    }
}
