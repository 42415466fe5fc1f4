//! RESERVE and RELEASE of PERSISTENT RESERVE OUT.

use super::*;

#[test]
fn only_registered_ports_with_their_key_reserve() {
    for kind in Kind::ALL {
        let mut unit = Unit::with(1);
        unit.conflict(2, RESERVE, kind.code(), 0, 0);
        unit.conflict(1, RESERVE, kind.code(), 12, 0);
        assert_eq!(unit.good(1, RESERVE, kind.code(), 11, 0), Effects::default());
        assert_eq!((unit.0.kind(), unit.holders()), (Some(kind), vec![port(1)]));
        assert_eq!(unit.0.generation(), 1, "RESERVE does not count");
    }
}

#[test]
fn a_reservation_is_made_once() {
    for kind in Kind::ALL {
        let mut unit = Unit::reserved(2, kind);
        for other in Kind::ALL {
            for by in [1, 2] {
                let before = unit.clone();
                let holds = by == 1 || kind.is_all_registrants();
                match holds && kind == other {
                    true => unit.does(by, RESERVE, other.code(), 10 + u64::from(by), 0),
                    false => unit.conflict(by, RESERVE, other.code(), 10 + u64::from(by), 0),
                }
                assert_eq!(unit, before);
            }
        }
    }
}

#[test]
fn scope_and_type_have_to_be_ones_that_there_are() {
    let mut unit = Unit::with(2);
    for bad in [0, 2, 4, 9, 0xf, 0x11, 0x21, 0xf3] {
        assert_eq!(unit.refused(1, RESERVE, bad, 11, 0), Refusal::cdb(2));
    }
    unit.does(1, RESERVE, 1, 11, 0);
    assert_eq!(unit.refused(2, PREEMPT, 0x13, 12, 11), Refusal::cdb(2));
    assert_eq!(unit.refused(2, PREEMPT, 2, 12, 11), Refusal::cdb(2));
}

#[test]
fn the_holder_releases() {
    for kind in Kind::ALL {
        let mut unit = Unit::reserved(3, kind);
        let wrong = Refusal::check(Code::INVALID_RELEASE);
        for code in (0..=255).filter(|&code| code != kind.code()) {
            assert_eq!(unit.refused(1, RELEASE, code, 11, 0), wrong, "{kind} {code}");
        }
        unit.conflict(1, RELEASE, kind.code(), 12, 0);
        let effects = unit.good(1, RELEASE, kind.code(), 11, 0);
        let others = match kind.is_for_registrants() {
            true => told(&[2, 3], Code::RESERVATIONS_RELEASED),
            false => vec![],
        };
        assert_eq!(effects.attentions, others);
        assert_eq!((unit.0.kind(), unit.0.generation()), (None, 3));
        assert_eq!(unit.good(1, RELEASE, kind.code(), 11, 0), Effects::default());
    }
}

#[test]
fn others_may_say_that_they_release() {
    for kind in Kind::ALL {
        let mut unit = Unit::reserved(2, kind);
        unit.conflict(3, RELEASE, kind.code(), 0, 0);
        if kind.is_all_registrants() {
            unit.does(2, RELEASE, kind.code(), 12, 0);
            assert_eq!(unit.0.kind(), None);
        } else {
            for code in [kind.code(), 1, 3, 0xff] {
                assert_eq!(unit.good(2, RELEASE, code, 12, 0), Effects::default());
            }
            assert_eq!(unit.holders(), [port(1)]);
        }
    }
}

#[test]
fn resets_and_lost_nexuses_leave_it() {
    for kind in Kind::ALL {
        let mut unit = Unit::reserved(2, kind);
        let before = unit.clone();
        unit.0.reset();
        unit.0.nexus_lost(&port(1));
        assert_eq!(unit, before);
    }
}
