//! PERSISTENT RESERVE IN, and names of ports.

use super::*;

fn read(unit: &Unit, action: u8) -> Vec<u8> {
    unit.0.read(&[0x5e, action, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap()
}

#[test]
fn keys() {
    assert_eq!(read(&Unit::default(), 0), [0; 8]);
    let mut unit = Unit::with(2);
    unit.does(1, REGISTER, 0, 11, 0x0102_0304_0506_0708);
    let bytes = [0, 0, 0, 3, 0, 0, 0, 16, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 12];
    assert_eq!(read(&unit, 0), bytes);
}

#[test]
fn reservation() {
    let unit = Unit::with(1);
    assert_eq!(read(&unit, 1), [0, 0, 0, 1, 0, 0, 0, 0]);
    for kind in Kind::ALL {
        let key = if kind.is_all_registrants() { 0 } else { 11 };
        let mut bytes = [0; 24];
        (bytes[3], bytes[7], bytes[15], bytes[21]) = (2, 16, key, kind.code());
        assert_eq!(read(&Unit::reserved(2, kind), 1), bytes);
    }
}

#[test]
fn capabilities() {
    let mut unit = Unit::default();
    // CRH, ATP_C, PTPL_C; TMV, ALLOW COMMANDS 3, PTPL_A; all six types.
    assert_eq!(read(&unit, 2), [0, 8, 0x15, 0xb0, 0xea, 1, 0, 0]);
    let _ = unit.0.out(&port(1), &cdb(REGISTER, 0, 24), &list(0, 1, APTPL)).unwrap();
    assert_eq!(read(&unit, 2), [0, 8, 0x15, 0xb1, 0xea, 1, 0, 0]);
    let volatile = Unit(Reservations::volatile());
    assert_eq!(read(&volatile, 2), [0, 8, 0x14, 0xb0, 0xea, 1, 0, 0]);
}

#[test]
fn full_status() {
    assert_eq!(read(&Unit::default(), 3), [0; 8]);
    let mut unit = Unit::reserved(1, Kind::WriteExclusiveRegistrantsOnly);
    let short = InitiatorPort::new("guest-7").unwrap();
    let _ = unit.0.out(&short, &cdb(REGISTER, 0, 24), &list(0, 5, 0)).unwrap();
    let name = port(1);
    let mut bytes = vec![0, 0, 0, 2];
    let long = name.name().len() + 1;
    let long = long.next_multiple_of(4);
    bytes.extend(u32::try_from(24 + 24 + 24 + 4 + long).unwrap().to_be_bytes());
    bytes.extend([0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 24]);
    bytes.extend([5, 0, 0, 20]);
    bytes.extend(b"guest-7\0\0\0\0\0\0\0\0\0\0\0\0\0");
    bytes.extend([0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0, 1, 5, 0, 0, 0, 0, 0, 1]);
    bytes.extend(u32::try_from(4 + long).unwrap().to_be_bytes());
    bytes.extend([0x45, 0, 0, u8::try_from(long).unwrap()]);
    bytes.extend(name.name().bytes());
    bytes.resize(8 + 24 + 24 + 24 + 4 + long, 0);
    assert_eq!(read(&unit, 3), bytes);
}

/// Where all are holders, each is told to be one.
#[test]
fn full_status_of_all_registrants() {
    let bytes = read(&Unit::reserved(2, Kind::ExclusiveAccessAllRegistrants), 3);
    let second = 8 + 24 + 4 + (port(1).name().len() + 1).next_multiple_of(4);
    assert_eq!((bytes[8 + 12], bytes[8 + 13]), (1, 8));
    assert_eq!((bytes[second + 12], bytes[second + 13]), (1, 8));
}

/// What iscsi-test-cu's PrinServiceactionRange asks.
#[test]
fn other_service_actions_are_refused() {
    for action in 4..0x20 {
        let answer = Reservations::default().read(&[0x5e, action, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(answer, Err(Refusal::cdb(1)));
    }
}

#[test]
fn names() {
    for bad in ["", "a b", "ü", "a\0", "a\n", &"x".repeat(256)] {
        assert!(InitiatorPort::new(bad).is_err(), "{bad}");
    }
    for (name, format) in [
        ("iqn.2026-01.test:a,i,0x00023d000001", 0x45),
        ("a,i,0xABCDEF", 0x45),
        ("a,i,0x", 5),
        (",i,0x00023d000001", 5),
        ("a,i,0x00023d00000g", 5),
        ("iqn.2026-01.test:a", 5),
        (&"x".repeat(255), 5),
    ] {
        let id = InitiatorPort::new(name).unwrap().transport_id();
        assert_eq!(id[0], format, "{name}");
        let length = usize::from(u16::from_be_bytes([id[2], id[3]]));
        assert!(length >= 20 && length.is_multiple_of(4) && id.len() == 4 + length, "{name}");
        assert!(id[4..].starts_with(name.as_bytes()) && id[id.len() - 1] == 0, "{name}");
    }
}
