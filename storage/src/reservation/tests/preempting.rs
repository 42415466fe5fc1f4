//! PREEMPT and PREEMPT AND ABORT.

use super::*;

#[test]
fn only_registered_ports_with_their_key_preempt() {
    for action in [PREEMPT, PREEMPT_AND_ABORT] {
        let mut unit = Unit::reserved(2, Kind::WriteExclusive);
        unit.conflict(3, action, 1, 0, 11);
        unit.conflict(2, action, 1, 13, 11);
        unit.conflict(2, action, 1, 12, 99);
    }
}

#[test]
fn a_reservation_changes_hands() {
    let single = Kind::ALL.into_iter().filter(|kind| !kind.is_all_registrants());
    for (old, new) in single.flat_map(|old| Kind::ALL.map(|new| (old, new))) {
        let mut unit = Unit::reserved(4, old);
        // It has the holder's key, too.
        unit.does(3, REGISTER, 0, 13, 11);
        let effects = unit.good(2, PREEMPT_AND_ABORT, new.code(), 12, 11);
        let mut others = told(&[1, 3], Code::REGISTRATIONS_PREEMPTED);
        if old != new {
            others.extend(told(&[4], Code::RESERVATIONS_RELEASED));
        }
        assert_eq!(effects.attentions, others, "{old} {new}");
        assert_eq!(effects.abort, [port(1), port(3)]);
        assert_eq!((unit.keys(), unit.0.kind()), (vec![12, 14], Some(new)));
        let holders = if new.is_all_registrants() { vec![port(2), port(4)] } else { vec![port(2)] };
        assert_eq!(unit.holders(), holders);
        assert_eq!(unit.0.generation(), 6);
        assert!(!unit.may(1, Demand::Write));
    }
}

#[test]
fn preempt_aborts_nothing() {
    let mut unit = Unit::reserved(3, Kind::WriteExclusiveRegistrantsOnly);
    let effects = unit.good(2, PREEMPT, 5, 12, 11);
    assert_eq!(effects.attentions, told(&[1], Code::REGISTRATIONS_PREEMPTED));
    assert_eq!(effects.abort, []);
}

#[test]
fn a_registration_that_holds_nothing_is_taken_alone() {
    for kind in Kind::ALL {
        let mut unit = Unit::reserved(4, kind);
        unit.does(4, REGISTER, 0, 14, 13);
        // Scope and type do not matter.
        let effects = unit.good(2, PREEMPT_AND_ABORT, 0xff, 12, 13);
        assert_eq!(effects.attentions, told(&[3, 4], Code::REGISTRATIONS_PREEMPTED), "{kind}");
        assert_eq!(effects.abort, [port(3), port(4)]);
        assert_eq!((unit.keys(), unit.0.kind()), (vec![11, 12], Some(kind)));
        assert!(unit.holders().contains(&port(1)));
    }
}

/// What iscsi-test-cu's ProutPreempt asks, and `fence_scsi` where nothing is reserved yet.
#[test]
fn registrations_are_taken_where_nothing_is_reserved() {
    let mut unit = Unit::with(2);
    let effects = unit.good(2, PREEMPT, 3, 12, 11);
    assert_eq!(effects.attentions, told(&[1], Code::REGISTRATIONS_PREEMPTED));
    assert_eq!((unit.keys(), unit.0.kind(), unit.0.generation()), (vec![12], None, 3));
    assert_eq!(unit.refused(2, PREEMPT, 3, 12, 0), Refusal::list(8));
}

#[test]
fn no_key_stands_for_all_others_where_all_are_holders() {
    for old in Kind::ALL {
        let mut unit = Unit::reserved(3, old);
        if !old.is_all_registrants() {
            assert_eq!(unit.refused(2, PREEMPT, 1, 12, 0), Refusal::list(8));
            continue;
        }
        assert_eq!(unit.refused(2, PREEMPT, 2, 12, 0), Refusal::cdb(2));
        for new in Kind::ALL {
            let mut unit = unit.clone();
            let effects = unit.good(2, PREEMPT_AND_ABORT, new.code(), 12, 0);
            assert_eq!(effects.attentions, told(&[1, 3], Code::REGISTRATIONS_PREEMPTED));
            assert_eq!(effects.abort, [port(1), port(3)]);
            let now = (unit.keys(), unit.0.kind(), unit.holders());
            assert_eq!(now, (vec![12], Some(new), vec![port(2)]));
        }
    }
}

#[test]
fn a_holder_preempts_itself_to_change_the_type() {
    let mut unit = Unit::reserved(3, Kind::WriteExclusive);
    unit.does(3, REGISTER, 0, 13, 11);
    let effects = unit.good(1, PREEMPT_AND_ABORT, 3, 11, 11);
    let mut others = told(&[3], Code::REGISTRATIONS_PREEMPTED);
    others.extend(told(&[2], Code::RESERVATIONS_RELEASED));
    assert_eq!((effects.attentions, effects.abort), (others, vec![port(3)]));
    assert!(effects.abort_own);
    assert_eq!((unit.keys(), unit.holders()), (vec![11, 12], vec![port(1)]));
    assert_eq!(unit.0.kind(), Some(Kind::ExclusiveAccess));
}

#[test]
fn a_port_can_take_its_own_registration() {
    let mut unit = Unit::reserved(2, Kind::WriteExclusive);
    let own = Effects { abort_own: true, ..Effects::default() };
    assert_eq!(unit.good(2, PREEMPT_AND_ABORT, 1, 12, 12), own);
    assert_eq!((unit.keys(), unit.holders()), (vec![11], vec![port(1)]));
    // And that of all, where all are holders: nobody is left.
    let mut unit = Unit::reserved(1, Kind::ExclusiveAccessAllRegistrants);
    unit.does(2, REGISTER, 0, 0, 11);
    let effects = unit.good(2, PREEMPT, 8, 11, 11);
    assert_eq!(effects.attentions, told(&[1], Code::REGISTRATIONS_PREEMPTED));
    assert_eq!((unit.keys(), unit.0.kind()), (vec![], None));
}
