//! Who may do what, and what commands need.

use super::*;

#[test]
fn what_reservations_let_others_do() {
    // Of holder, registered and other ports: whether they may read and write.
    let yes = (true, true);
    let (no, look) = ((false, false), (true, false));
    for (kind, registered, other) in [
        (Kind::WriteExclusive, look, look),
        (Kind::ExclusiveAccess, no, no),
        (Kind::WriteExclusiveRegistrantsOnly, yes, look),
        (Kind::ExclusiveAccessRegistrantsOnly, yes, no),
        (Kind::WriteExclusiveAllRegistrants, yes, look),
        (Kind::ExclusiveAccessAllRegistrants, yes, no),
    ] {
        let unit = Unit::reserved(2, kind);
        for (by, may) in [(1, yes), (2, registered), (3, other)] {
            assert_eq!(
                (unit.may(by, Demand::Read), unit.may(by, Demand::Write)),
                may,
                "{kind} {by}"
            );
            assert_eq!(unit.may(by, Demand::Control), may.1);
            for always in [
                Demand::Nothing,
                Demand::Query,
                Demand::PersistentIn,
                Demand::PersistentOut,
                Demand::Reserve,
                Demand::Release,
            ] {
                assert!(unit.may(by, always));
            }
        }
    }
}

#[test]
fn registrations_alone_keep_nobody_out() {
    assert_eq!(Unit::with(2).0.rights(&port(3)), Rights::ALL);
    assert_eq!(Reservations::default().rights(&port(1)), Rights::ALL);
}

#[test]
fn rights_are_a_byte() {
    let unit = Unit::reserved(1, Kind::WriteExclusive);
    for rights in [Rights::ALL, unit.0.rights(&port(2))] {
        assert_eq!(Rights::from_bits(rights.to_bits()), rights);
    }
    assert!(!Rights::from_bits(0).allows(Demand::Read));
    assert_eq!(Rights::from_bits(0xff), Rights::ALL);
}

#[test]
fn commands() {
    use Demand::*;
    let six = |cdb: [u8; 6]| demand(&cdb);
    for (bytes, needed) in [
        ([0x12, 0, 0, 0, 36, 0], Nothing),
        ([0xa0, 0, 0, 0, 0, 0], Nothing),
        ([0x03, 0, 0, 0, 18, 0], Nothing),
        ([0x00, 0, 0, 0, 0, 0], Query),
        ([0x25, 0, 0, 0, 0, 0], Query),
        ([0x9e, 0x10, 0, 0, 0, 0], Query),
        ([0x9e, 0x12, 0, 0, 0, 0], Read),
        ([0x9e, 0x11, 0, 0, 0, 0], Control),
        ([0xa3, 0x0c, 0, 0, 0, 0], Read),
        ([0xa3, 0x0a, 0, 0, 0, 0], Query),
        ([0xa3, 0x1f, 0, 0, 0, 0], Control),
        ([0x08, 0, 0, 0, 1, 0], Read),
        ([0x88, 0, 0, 0, 1, 0], Read),
        ([0x2f, 0, 0, 0, 1, 0], Read),
        ([0x1a, 0, 0x3f, 0, 1, 0], Read),
        ([0x15, 0, 0, 0, 1, 0], Control),
        ([0x35, 0, 0, 0, 1, 0], Control),
        // START STOP UNIT: start, eject, stop, and a power condition.
        ([0x1b, 0, 0, 0, 1, 0], Query),
        ([0x1b, 0, 0, 0, 3, 0], Query),
        ([0x1b, 0, 0, 0, 0, 0], Control),
        ([0x1b, 0, 0, 0, 0x31, 0], Control),
        ([0x1e, 0, 0, 0, 0, 0], Nothing),
        ([0x1e, 0, 0, 0, 1, 0], Control),
        ([0x0a, 0, 0, 0, 1, 0], Write),
        ([0x2a, 0, 0, 0, 1, 0], Write),
        ([0x42, 0, 0, 0, 0, 0], Write),
        ([0x89, 0, 0, 0, 0, 0], Write),
        ([0x8b, 0, 0, 0, 0, 0], Write),
        ([0x93, 0, 0, 0, 0, 0], Write),
        ([0x04, 0, 0, 0, 0, 0], Write),
        ([0xff, 0, 0, 0, 0, 0], Write),
        ([0x5e, 0, 0, 0, 0, 0], PersistentIn),
        ([0x5f, 0, 0, 0, 0, 0], PersistentOut),
        ([0x16, 0, 0, 0, 0, 0], Reserve),
        ([0x56, 0, 0, 0, 0, 0], Reserve),
        ([0x17, 0, 0, 0, 0, 0], Release),
        ([0x57, 0, 0, 0, 0, 0], Release),
    ] {
        assert_eq!(six(bytes), needed, "{bytes:02x?}");
    }
    let mut long = [0; 32];
    long[0] = 0x7f;
    for (action, needed) in
        [(9, Read), (10, Read), (11, Write), (12, Write), (13, Write), (99, Write)]
    {
        long[9] = action;
        assert_eq!(demand(&long), needed);
    }
    assert_eq!(demand(&[]), Query);
    assert_eq!(demand(&[0x1b]), Control);
}
