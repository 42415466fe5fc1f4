//! Addresses of logical units (virtio 1.3, 5.6.6.1).

/// The REPORT LUNS well-known logical unit (SPC-4 8.2).
const REPORT_LUNS: [u8; 8] = [0xC1, 0x01, 0, 0, 0, 0, 0, 0];

/// The logical unit as the target takes it (SAM-5 4.7); `None` when no target is addressed that
/// there is.
///
/// What follows the single level address goes along, for the target to refuse: of this one, only
/// REPORT LUNS, INQUIRY and REQUEST SENSE come back with an answer from a unit that is not there,
/// the well-known one included.
pub(super) fn of_target(lun: [u8; 8]) -> Option<u64> {
    match lun {
        REPORT_LUNS => Some(u64::from_be_bytes(lun)),
        [1, 0, rest @ ..] => {
            let mut lun = [0; 8];
            lun[..6].copy_from_slice(&rest);
            Some(u64::from_be_bytes(lun))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_gets_its_own_bytes() {
        assert_eq!(of_target([1, 0, 0, 5, 0, 0, 0, 0]), Some(5 << 48));
        assert_eq!(of_target([1, 0, 0x41, 2, 0, 0, 0, 9]), Some(0x4102_0000_0009_0000));
        assert_eq!(of_target(REPORT_LUNS), Some(0xC101 << 48));
        for lun in [[0; 8], [1, 1, 0, 0, 0, 0, 0, 0], [0xC1, 2, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(of_target(lun), None);
        }
    }
}
