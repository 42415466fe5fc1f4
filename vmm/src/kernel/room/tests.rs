use proptest::prelude::*;

use super::*;

fn ram(ranges: &[(u64, u64)]) -> Room {
    let range = |&(start, end)| MemoryRange { start, len: end - start, kind: MemoryKind::Ram };
    Room::new(&ranges.iter().map(range).collect::<Vec<_>>())
}

const MIB: u64 = 1 << 20;

#[test]
fn memory_below_1_mib_and_reserved_memory_is_not_used() {
    let mut map = vec![MemoryRange { start: 0, len: 8 * MIB, kind: MemoryKind::Ram }];
    map.push(MemoryRange { start: 8 * MIB, len: MIB, kind: MemoryKind::Reserved });
    let room = Room::new(&map);
    assert_eq!((room.free.len(), &room.free[0]), (1, &(MIB..8 * MIB)));
}

#[test]
fn touching_ranges_are_one() {
    let room = ram(&[(4 * MIB, 6 * MIB), (MIB, 4 * MIB), (0, 2 * MIB)]);
    assert_eq!((room.free.len(), &room.free[0]), (1, &(MIB..6 * MIB)));
}

#[test]
fn what_does_not_fit_says_how_far_memory_goes() {
    let mut room = ram(&[(0, 8 * MIB)]);
    let misfit = room.take("segment 1".to_owned(), 7 * MIB..9 * MIB).unwrap_err();
    assert_eq!(
        misfit.to_string(),
        "segment 1 needs the guest memory from 0x700000 to 0x900000, but what is there to use \
         ends at 0x800000"
    );
    assert_eq!(misfit.help().as_deref(), Some("give the guest more memory, at least `-m 64M`"));
}

#[test]
fn the_highest_place_is_below_the_limit_and_beside_what_is_taken() {
    let mut room = ram(&[(0, 16 * MIB), (32 * MIB, 64 * MIB)]);
    assert_eq!(room.highest(5000, 4096, u64::MAX), Some(64 * MIB - 8192));
    assert_eq!(room.highest(5000, 4096, 40 * MIB), Some(40 * MIB - 8192));
    room.take("x".to_owned(), 40 * MIB - 8192..64 * MIB).unwrap();
    assert_eq!(room.highest(9 * MIB, 4096, u64::MAX), Some(7 * MIB));
    assert_eq!(room.highest(17 * MIB, 4096, u64::MAX), None);
    assert_eq!(room.longest(u64::MAX), 15 * MIB);
    assert_eq!(room.used_end(), 64 * MIB);
}

proptest! {
    /// Claims never overlap, and what `highest` offers can be claimed.
    #[test]
    fn claims_are_disjoint(
        ranges in prop::collection::vec((0u64..64, 0u64..64), 1..6),
        claims in prop::collection::vec((0u64..9 * MIB, 0u64..70 * MIB), 1..20),
    ) {
        let ranges: Vec<_> =
            ranges.into_iter().map(|(start, len)| (start * MIB, (start + len) * MIB)).collect();
        let mut room = ram(&ranges);
        let mut taken: Vec<Range<u64>> = Vec::new();
        for (len, end) in claims {
            let Some(start) = room.highest(len, 4096, end) else { continue };
            prop_assert!(start % 4096 == 0 && start >= MIB && start + len <= end);
            prop_assert!(taken.iter().all(|t| len == 0 || t.end <= start || start + len <= t.start));
            prop_assert!(room.take(String::new(), start..start + len).is_ok());
            if len > 0 {
                prop_assert!(room.take(String::new(), start..start + 1).is_err());
                taken.push(start..start + len);
            }
        }
    }
}
