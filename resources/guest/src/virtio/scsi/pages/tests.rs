extern crate std;

use super::*;
use proptest::prelude::*;
use std::string::ToString;
use std::vec::Vec;

#[test]
fn a_capacity_counts_blocks() {
    let data = [0, 0, 0, 0, 0, 0, 0x1F, 0xFF, 0, 0, 0x10, 0, 0, 0];
    assert_eq!(Capacity::read(&data), Some(Capacity { blocks: 0x2000, block: 4096 }));
    assert_eq!(Capacity::read(&data[..11]), None);
    assert_eq!(Capacity::read(&[0xFF; 12]), None);
}

#[test]
fn logical_units_of_one_level_are_found() {
    let entries = [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 255, 0, 0, 0, 0, 0, 0],
        [0x41, 0x02, 0, 0, 0, 0, 0, 0],
        // Another bus, a well-known logical unit, two levels.
        [1, 5, 0, 0, 0, 0, 0, 0],
        [0xC1, 1, 0, 0, 0, 0, 0, 0],
        [0, 3, 0, 1, 0, 0, 0, 0],
        // Behind the length that is said.
        [0, 9, 0, 0, 0, 0, 0, 0],
    ];
    let data = [[0, 0, 0, 48, 0, 0, 0, 0].as_slice(), &entries.concat()].concat();
    assert_eq!(luns(&data).collect::<Vec<_>>(), [0, 255, 0x102]);
    assert_eq!(luns(&data[..23]).collect::<Vec<_>>(), [0]);
    assert_eq!(luns(&[]).count(), 0);
}

#[test]
fn names_are_found_among_others() {
    let text = [0x02, 0x01, 0, 3, b'a', b'b', b'c'];
    let port = [0x01, 0x13, 0, 8, 9, 9, 9, 9, 9, 9, 9, 9];
    let name = [0x01, 0x03, 0, 8, 0x50, 1, 2, 3, 4, 5, 6, 7];
    let all = [text.as_slice(), &port, &name].concat();
    let len = u8::try_from(all.len()).unwrap();
    let data = [[0, 0x83, 0, len].as_slice(), &all, &[1, 3]].concat();
    let page = page(DEVICE_IDENTIFICATION, &data).unwrap();
    assert_eq!(page, all);
    assert_eq!(naa(page), Some(&name[4..]));
    assert_eq!(naa(&all[..all.len() - 1]), None);
    assert_eq!(super::page(UNIT_SERIAL_NUMBER, &data), None);
}

#[test]
fn the_limit_of_unmap_is_at_byte_20() {
    let mut data = [0; 64];
    (data[1], data[3], data[22]) = (0xB0, 60, 1);
    assert_eq!(unmap_limit(page(BLOCK_LIMITS, &data).unwrap()), 0x100);
}

#[test]
fn keys_and_reservations_are_read() {
    let data = [0, 0, 0, 7, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0xA1, 0xB2, 0, 0, 0, 0, 0, 0, 0, 1];
    assert_eq!((generation(&data), key_count(&data)), (7, 2));
    assert_eq!(keys(&data).collect::<Vec<_>>(), [0xA1, 0xB200_0000_0000_0000]);
    assert_eq!(keys(&data[..16]).collect::<Vec<_>>(), [0xA1]);
    let mut held = [0; 24];
    (held[7], held[15], held[21]) = (16, 0xA1, 5);
    let reservation = Reservation::read(&held).unwrap();
    assert_eq!(reservation, Reservation { key: 0xA1, kind: 5 });
    assert_eq!(reservation.to_string(), "key 0xa1 type we-ro");
    assert_eq!(Reservation { key: 0, kind: 8 }.to_string(), "key 0x0 type ea-ar");
    assert_eq!(Reservation { key: 1, kind: 2 }.to_string(), "key 0x1 type 2");
    held[7] = 0;
    assert_eq!(Reservation::read(&held), None);
}

proptest! {
    #[test]
    fn no_data_makes_it_panic(data: Vec<u8>) {
        let _ = (Capacity::read(&data), Reservation::read(&data), naa(&data), unmap_limit(&data));
        let _ = (luns(&data).count(), keys(&data).count(), key_count(&data), generation(&data));
        let _ = [0x80, 0x83, 0xB0].map(|number| page(number, &data));
    }
}
