//! Bytes written down from the tables of SPC-4 and SBC-3.

use super::*;

#[test]
fn reads_and_writes_have_their_block_and_length_where_sbc_3_has_them() {
    let lba = 0x0102_0304_0506_0708;
    assert_eq!(
        Cdb::read(lba, 0x0A0B_0C0D).bytes,
        [0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0xA, 0xB, 0xC, 0xD, 0, 0]
    );
    assert_eq!(
        Cdb::write(lba, 0x0A0B_0C0D).bytes,
        [0x8A, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0xA, 0xB, 0xC, 0xD, 0, 0]
    );
    assert_eq!(
        Cdb::compare_and_write(lba).bytes,
        [0x89, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 1, 0, 0]
    );
    assert_eq!(Cdb::read(9, 1).direction, Direction::In);
    assert_eq!(Cdb::write(9, 1).direction, Direction::Out);
    assert_eq!(Cdb::compare_and_write(9).direction, Direction::Out);
    assert_eq!(Cdb::write(9, 1).lba, Some(9));
}

#[test]
fn commands_about_the_whole_unit_are_as_in_the_standards() {
    let zeroes = [0; 10];
    assert_eq!(Cdb::synchronize_cache().bytes, [[0x35].as_slice(), &[0; 15]].concat()[..]);
    assert_eq!(Cdb::synchronize_cache().direction, Direction::None);
    let capacity = [0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
    assert_eq!(Cdb::read_capacity(32).bytes, capacity);
    let luns = [0xA0, 0, 0, 0, 0, 0, 0, 0, 2, 8, 0, 0, 0, 0, 0, 0];
    assert_eq!(Cdb::report_luns(0x208).bytes, luns);
    let inquiry = [[0x12, 0, 0, 0, 36, 0].as_slice(), &zeroes].concat();
    assert_eq!(Cdb::inquiry(36).bytes, inquiry[..]);
    let inquiry = [[0x12, 1, 0x83, 0, 252, 0].as_slice(), &zeroes].concat();
    assert_eq!(Cdb::inquiry_page(0x83, 252).bytes, inquiry[..]);
}

#[test]
fn unmap_lists_one_range() {
    let cdb = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(Cdb::unmap(5).bytes, cdb);
    assert_eq!(
        unmap_list(0x0102_0304_0506_0708, 0x0A0B_0C0D),
        [0, 22, 0, 16, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0xA, 0xB, 0xC, 0xD, 0, 0, 0, 0]
    );
}

#[test]
fn reservations_are_asked_for_as_in_spc_4() {
    let keys = [0x5E, 0, 0, 0, 0, 0, 0, 0x10, 8, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(Cdb::reserve_in(ReserveIn::ReadKeys, 0x1008).bytes, keys);
    let reservation = [0x5E, 1, 0, 0, 0, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(Cdb::reserve_in(ReserveIn::ReadReservation, 24).bytes, reservation);
    let out = |action, kind, aptpl| ReserveOut {
        action,
        key: 0x0102_0304_0506_0708,
        service_key: 0x1112_1314_1516_1718,
        kind,
        aptpl,
    };
    let actions = [
        (ReserveAction::Register, 0),
        (ReserveAction::Reserve, 1),
        (ReserveAction::Release, 2),
        (ReserveAction::Clear, 3),
        (ReserveAction::Preempt, 4),
        (ReserveAction::PreemptAndAbort, 5),
        (ReserveAction::RegisterAndIgnore, 6),
    ];
    for (action, number) in actions {
        // The scope is the logical unit, 0, in the upper half of byte 2.
        let cdb = [0x5F, number, 7, 0, 0, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(out(action, 7, false).cdb().bytes, cdb);
    }
    let list = [
        1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0, 0, 0, 0, 1, 0,
        0, 0,
    ];
    assert_eq!(out(ReserveAction::Register, 0, true).parameters(), list);
    let mut without = list;
    without[20] = 0;
    assert_eq!(out(ReserveAction::Register, 0, false).parameters(), without);
}

#[test]
fn only_what_comes_to_the_same_is_done_twice() {
    let twice = |cdb: Cdb| may_be_done_twice(cdb.bytes[0]);
    assert!([Cdb::read(0, 1), Cdb::write(0, 1), Cdb::unmap(0)].into_iter().all(twice));
    assert!([Cdb::synchronize_cache(), Cdb::report_luns(8)].into_iter().all(twice));
    assert!(![Cdb::compare_and_write(0), Cdb::reserve(), Cdb::release()].into_iter().any(twice));
}
