//! RESERVE and RELEASE of SPC-2.

use super::*;

/// What iscsi-test-cu's Reserve6 asks.
#[test]
fn one_port_reserves() {
    let mut unit = Unit::default();
    unit.0.reserve(&port(1)).unwrap();
    unit.0.reserve(&port(1)).unwrap();
    assert_eq!(unit.0.reserve(&port(2)), Err(Refusal::Conflict));
    assert_eq!(unit.0.release(&port(2)), Ok(()));
    assert_eq!(unit.0.reserve(&port(2)), Err(Refusal::Conflict));
    unit.0.release(&port(1)).unwrap();
    unit.0.reserve(&port(2)).unwrap();
    assert_eq!(unit.0.legacy_holder(), Some(&port(2)));
}

#[test]
fn others_are_kept_out() {
    let mut unit = Unit::default();
    unit.0.reserve(&port(1)).unwrap();
    for demand in [Demand::Query, Demand::Read, Demand::Write, Demand::Control] {
        assert!(unit.may(1, demand) && !unit.may(2, demand));
    }
    for demand in [Demand::Nothing, Demand::Reserve, Demand::Release] {
        assert!(unit.may(1, demand) && unit.may(2, demand));
    }
    for demand in [Demand::PersistentIn, Demand::PersistentOut] {
        assert!(!unit.may(1, demand) && !unit.may(2, demand));
    }
    for by in [1, 2] {
        unit.conflict(by, REGISTER_AND_IGNORE, 0, 0, 1);
    }
    assert_eq!(unit.0.read(&[0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0]), Err(Refusal::Conflict));
}

#[test]
fn it_goes_with_the_nexus_and_with_a_reset() {
    let mut unit = Unit::default();
    unit.0.reserve(&port(1)).unwrap();
    unit.0.nexus_lost(&port(2));
    assert!(!unit.may(2, Demand::Read));
    unit.0.nexus_lost(&port(1));
    assert_eq!(unit, Unit::default());
    unit.0.reserve(&port(1)).unwrap();
    unit.0.reset();
    assert_eq!(unit, Unit::default());
    unit.0.reserve(&port(1)).unwrap();
    assert_eq!(unit.0.after_power_loss(), Reservations::default());
}

/// Of holder, registered and other ports: whether RESERVE and RELEASE are GOOD (CRH is one). They
/// never change anything.
#[test]
fn registered_ports_keep_it_out() {
    let mut cases = vec![(Unit::with(2), [false, false, false])];
    for kind in Kind::ALL {
        cases.push((Unit::reserved(2, kind), [true, kind.is_for_registrants(), false]));
    }
    for (mut unit, good) in cases {
        let before = unit.clone();
        for (by, good) in [1, 2, 3].into_iter().zip(good) {
            let wanted = if good { Ok(()) } else { Err(Refusal::Conflict) };
            assert_eq!(unit.0.reserve(&port(by)), wanted);
            assert_eq!(unit.0.release(&port(by)), wanted);
        }
        assert_eq!(unit, before);
    }
}
