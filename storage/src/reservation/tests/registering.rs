//! REGISTER and REGISTER AND IGNORE EXISTING KEY, CLEAR, and what is wrong with commands.

use super::*;

#[test]
fn a_port_registers_with_no_key_and_changes_it_with_its_own() {
    let mut unit = Unit::default();
    unit.conflict(1, REGISTER, 0, 5, 11);
    assert_eq!(unit.good(1, REGISTER, 0, 0, 11), Effects::default());
    unit.conflict(1, REGISTER, 0, 0, 12);
    unit.conflict(1, REGISTER, 0, 12, 12);
    // What iscsi-test-cu's ProutRegister asks.
    unit.conflict(1, REGISTER, 0, 0, 0);
    unit.does(1, REGISTER, 0, 11, 12);
    assert_eq!((unit.keys(), unit.0.generation()), (vec![12], 2));
    unit.does(1, REGISTER, 0, 12, 0);
    assert_eq!((unit.keys(), unit.0.generation()), (vec![], 3));
}

#[test]
fn a_port_that_ignores_its_key_always_registers() {
    let mut unit = Unit::default();
    unit.does(1, REGISTER_AND_IGNORE, 0, 99, 11);
    unit.does(1, REGISTER_AND_IGNORE, 0, 98, 12);
    assert_eq!(unit.keys(), [12]);
    unit.does(1, REGISTER_AND_IGNORE, 0, 97, 0);
    assert_eq!((unit.keys(), unit.0.generation()), (vec![], 3));
}

#[test]
fn to_give_up_no_registration_does_nothing() {
    let mut unit = Unit::default();
    for action in [REGISTER, REGISTER_AND_IGNORE] {
        assert_eq!(
            unit.0.out(&port(1), &cdb(action, 0, 24), &list(0, 0, APTPL)),
            Ok(Effects::default())
        );
    }
    assert_eq!(unit, Unit::default());
}

#[test]
fn ports_are_told_apart_by_name_and_may_have_the_same_key() {
    let mut unit = Unit::default();
    unit.does(1, REGISTER, 0, 0, 7);
    unit.does(2, REGISTER, 0, 0, 7);
    assert_eq!(unit.keys(), [7, 7]);
    unit.does(1, REGISTER, 0, 7, 0);
    assert_eq!(unit.0.registrations().next().unwrap().0, &port(2));
}

#[test]
fn a_holder_that_changes_its_key_goes_on_to_hold() {
    let mut unit = Unit::reserved(2, Kind::ExclusiveAccess);
    assert_eq!(unit.good(1, REGISTER, 0, 11, 77), Effects::default());
    assert_eq!(unit.holders(), [port(1)]);
    assert!(!unit.may(2, Demand::Read));
}

#[test]
fn a_holder_that_gives_up_its_registration_gives_up_the_reservation() {
    for kind in Kind::ALL {
        for action in [REGISTER, REGISTER_AND_IGNORE] {
            let mut unit = Unit::reserved(3, kind);
            let effects = unit.good(1, action, 0, 11, 0);
            let others = match kind {
                Kind::WriteExclusiveRegistrantsOnly | Kind::ExclusiveAccessRegistrantsOnly => {
                    told(&[2, 3], Code::RESERVATIONS_RELEASED)
                }
                _ => vec![],
            };
            assert_eq!(effects.attentions, others, "{kind}");
            if kind.is_all_registrants() {
                assert_eq!((unit.0.kind(), unit.holders()), (Some(kind), vec![port(2), port(3)]));
                unit.does(2, action, 0, 12, 0);
                assert_eq!(unit.0.kind(), Some(kind));
                assert_eq!(unit.good(3, action, 0, 13, 0), Effects::default());
            }
            assert_eq!(unit.0.kind(), None, "{kind}");
        }
    }
}

#[test]
fn others_that_give_up_their_registration_leave_the_reservation() {
    for kind in Kind::ALL {
        let mut unit = Unit::reserved(3, kind);
        assert_eq!(unit.good(2, REGISTER, 0, 12, 0), Effects::default());
        assert_eq!(unit.0.kind(), Some(kind));
    }
}

#[test]
fn clear_takes_all_and_tells_the_others() {
    let mut unit = Unit::reserved(3, Kind::WriteExclusive);
    unit.conflict(2, CLEAR, 0, 11, 0);
    unit.conflict(4, CLEAR, 0, 0, 0);
    let effects = unit.good(2, CLEAR, 0xff, 12, 99);
    assert_eq!(effects.attentions, told(&[1, 3], Code::RESERVATIONS_PREEMPTED));
    assert_eq!((unit.keys(), unit.0.kind(), unit.0.generation()), (vec![], None, 4));
}

#[test]
fn an_operator_clears_and_all_are_told() {
    let mut unit = Unit::reserved(2, Kind::WriteExclusive);
    let effects = unit.0.clear();
    assert_eq!(effects.attentions, told(&[1, 2], Code::RESERVATIONS_PREEMPTED));
    assert_eq!((unit.keys(), unit.0.kind(), unit.0.generation()), (vec![], None, 3));
    unit.0.reserve(&port(5)).unwrap();
    assert_eq!(unit.0.clear(), Effects::default());
    assert_eq!(unit.0.legacy_holder(), None);
}

#[test]
fn the_list_has_24_bytes() {
    let refused = |length, list: &[u8]| {
        Unit::default().0.out(&port(1), &cdb(REGISTER, 0, length), list).unwrap_err()
    };
    let length = Refusal::Check { code: Code::LIST_LENGTH, field: Some((true, 5)) };
    let good = list(0, 11, 0);
    for (said, sent) in [(0, 0), (23, 23), (25, 25), (24, 23), (24, 0), (23, 24), (25, 24)] {
        let mut bytes = good.to_vec();
        bytes.resize(sent, 0);
        assert_eq!(refused(said, &bytes), length, "{said} {sent}");
    }
    assert_eq!(refused(u32::MAX, &good), length);
    // More than the command says is there is not looked at.
    let mut long = good.to_vec();
    long.extend([0xff; 8]);
    assert!(Reservations::default().out(&port(1), &cdb(REGISTER, 0, 24), &long).is_ok());
}

#[test]
fn what_is_not_there_is_refused() {
    let mut unit = Unit::with(1);
    // REGISTER AND MOVE, REPLACE LOST RESERVATION, and none.
    for action in 7..32 {
        assert_eq!(unit.refused(1, action, 1, 11, 0), Refusal::cdb(1), "{action}");
    }
    // SPEC_I_PT, with TransportIDs and without.
    for length in [24, 52] {
        let mut bytes = list(11, 12, 8).to_vec();
        bytes.resize(length as usize, 0);
        for action in [REGISTER, REGISTER_AND_IGNORE, RESERVE] {
            let answer = unit.0.out(&port(1), &cdb(action, 1, length), &bytes);
            assert_eq!(answer, Err(Refusal::list(20)));
        }
    }
    // All target ports are one.
    let _ = unit.0.out(&port(1), &cdb(REGISTER, 0, 24), &list(11, 12, 4)).unwrap();
    assert_eq!(unit.keys(), [12]);
}

#[test]
fn registrations_are_bounded() {
    let mut unit = Unit::default();
    for number in 0..REGISTRATIONS_MAX {
        let name = InitiatorPort::new(&format!("port{number}")).unwrap();
        let _ = unit.0.out(&name, &cdb(REGISTER, 0, 24), &list(0, 1, 0)).unwrap();
    }
    for action in [REGISTER, REGISTER_AND_IGNORE] {
        assert_eq!(unit.refused(1, action, 0, 0, 1), Refusal::check(Code::NO_ROOM));
    }
    let last = InitiatorPort::new("port7").unwrap();
    let _ = unit.0.out(&last, &cdb(REGISTER, 0, 24), &list(1, 2, 0)).unwrap();
    let _ = unit.0.out(&last, &cdb(REGISTER, 0, 24), &list(2, 0, 0)).unwrap();
    unit.does(1, REGISTER, 0, 0, 1);
    assert_eq!(Reservations::from_bytes(&unit.0.to_bytes()), Ok(unit.0));
}

#[test]
fn nothing_outlasts_a_loss_of_power_where_it_cannot_be_kept() {
    let mut unit = Unit(Reservations::volatile());
    for action in [REGISTER, REGISTER_AND_IGNORE] {
        let answer = unit.0.out(&port(1), &cdb(action, 0, 24), &list(0, 11, APTPL));
        assert_eq!(answer, Err(Refusal::list(20)));
    }
    assert!(!unit.good(1, REGISTER, 0, 0, 11).save);
    // Where it does not count, it is ignored.
    assert!(unit.0.out(&port(1), &cdb(RESERVE, 1, 24), &list(11, 0, APTPL)).is_ok());
    assert_eq!(unit.0.after_power_loss(), Reservations::volatile());
}

#[test]
fn a_loss_of_power_leaves_what_the_last_aptpl_says() {
    let mut unit = Unit::reserved(2, Kind::WriteExclusiveRegistrantsOnly);
    assert_eq!(unit.0.after_power_loss(), Reservations::default());
    let mut with = |flags, key, action_key| {
        unit.0.out(&port(3), &cdb(REGISTER, 0, 24), &list(key, action_key, flags)).unwrap().save
    };
    assert!(with(APTPL, 0, 13));
    assert!(!with(APTPL, 13, 13), "nothing has changed that a loss of power leaves");
    assert!(with(0, 13, 13));
    assert!(!with(0, 13, 14));
    assert!(with(APTPL, 14, 14));
    let left = unit.0.after_power_loss();
    assert_eq!(left.generation(), 0);
    assert_eq!((unit.0.generation(), left.aptpl()), (7, true));
    assert!(left.registrations().eq(unit.0.registrations()));
    assert!(left.holders().eq([&port(1)]));
    assert!(unit.good(1, RELEASE, 5, 11, 0).save);
    assert!(unit.good(1, RESERVE, 5, 11, 0).save);
    assert!(!unit.good(1, RESERVE, 5, 11, 0).save);
    assert!(unit.good(1, PREEMPT, 5, 11, 12).save);
    assert!(unit.good(1, CLEAR, 0, 11, 0).save);
}
