extern crate std;

use super::*;
use proptest::prelude::*;
use std::string::ToString;
use std::vec::Vec;

const GOOD: Failure = Failure {
    command: "WRITE(16)",
    lba: Some(8),
    response: 0,
    status: 0,
    sense: None,
    residual: 0,
};

#[test]
fn sense_data_is_read_in_both_formats() {
    let mut fixed = [0; 18];
    (fixed[0], fixed[2], fixed[12], fixed[13]) = (0xF0, 0x26, 0x29, 0x01);
    let attention = Sense { key: 6, asc: 0x29, ascq: 1 };
    assert_eq!(Sense::read(&fixed), Some(attention));
    assert_eq!(Sense::read(&[0x72, 6, 0x29, 1, 0, 0, 0, 0]), Some(attention));
    assert_eq!(Sense::read(&[0x70, 0, 5]), Some(Sense { key: 5, asc: 0, ascq: 0 }));
    assert_eq!(Sense::read(&[]), None);
    assert_eq!(Sense::read(&[0x70, 0]), None);
    assert_eq!(Sense::read(&[0; 18]), None);
}

#[test]
fn a_failure_is_one_clear_line() {
    let sense = Some(Sense { key: 5, asc: 0x21, ascq: 0 });
    let failure = Failure { status: CHECK_CONDITION, sense, residual: 4096, ..GOOD };
    assert_eq!(
        failure.to_string(),
        "WRITE(16) at LBA 8 failed: status 02h (CHECK CONDITION), \
         sense 5h/21h/00h (ILLEGAL REQUEST), residual 4096"
    );
    let failure = Failure { lba: None, response: 3, status: 0xFF, ..GOOD };
    assert_eq!(failure.to_string(), "WRITE(16) failed: response 3 (bad target), residual 0");
    let failure = Failure { status: RESERVATION_CONFLICT, ..GOOD };
    let line = "WRITE(16) at LBA 8 failed: status 18h (RESERVATION CONFLICT), residual 0";
    assert_eq!(failure.to_string(), line);
}

#[test]
fn kinds_of_failure_are_told_apart() {
    let kinds = |failure: Failure| {
        [
            failure.is_conflict(),
            failure.is_aborted(),
            failure.is_miscompare(),
            failure.is_attention(),
            failure.is_busy(),
        ]
    };
    let checked = |key| Failure {
        status: CHECK_CONDITION,
        sense: Some(Sense { key, asc: 0, ascq: 0 }),
        ..GOOD
    };
    let cases = [
        (Failure { status: RESERVATION_CONFLICT, ..GOOD }, 0),
        (Failure { status: TASK_ABORTED, ..GOOD }, 1),
        (Failure { response: RESPONSE_ABORTED, ..GOOD }, 1),
        (Failure { response: RESPONSE_RESET, ..GOOD }, 1),
        (checked(MISCOMPARE), 2),
        (checked(UNIT_ATTENTION), 3),
        (Failure { status: BUSY, ..GOOD }, 4),
        (Failure { status: TASK_SET_FULL, ..GOOD }, 4),
    ];
    for (failure, kind) in cases {
        let expected: Vec<bool> = (0..5).map(|index| index == kind).collect();
        assert_eq!(kinds(failure).to_vec(), expected, "{failure}");
        // A status that the virtio device does not vouch for says nothing.
        if failure.response == RESPONSE_OK {
            assert_eq!(kinds(Failure { response: 9, ..failure }), [false; 5], "{failure}");
        }
    }
}

proptest! {
    #[test]
    fn no_sense_data_makes_it_panic(bytes: Vec<u8>) {
        let _ = Sense::read(&bytes).map(|sense| Failure { sense: Some(sense), ..GOOD }.to_string());
    }
}
