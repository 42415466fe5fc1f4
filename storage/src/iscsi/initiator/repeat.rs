//! Which commands may be carried out twice.

use crate::scsi::Command;

/// Whether a command whose answer was lost is simply sent again: one that changes nothing, or
/// nothing more when it comes a second time. All that is not known to be so is not.
///
/// A write is none of them, although it writes the same: another initiator may have written since
/// the first time, and have been told that it was done.
pub(super) fn is_repeatable(command: &Command) -> bool {
    let [code, second, ..] = command.cdb;
    let action = second & 0x1f;
    match code {
        // TEST UNIT READY, INQUIRY, MODE SENSE(6) and (10), READ CAPACITY(10), LOG SENSE,
        // READ DEFECT DATA(10) and (12), REPORT LUNS.
        0x00 | 0x12 | 0x1a | 0x5a | 0x25 | 0x4d | 0x37 | 0xb7 | 0xa0 => true,
        // READ(6), (10), (12), (16).
        0x08 | 0x28 | 0xa8 | 0x88 => true,
        // VERIFY and PRE-FETCH. The data to compare with is still there.
        0x2f | 0xaf | 0x8f | 0x34 | 0x90 => true,
        // SYNCHRONIZE CACHE: what was written is made to last, now if not before.
        0x35 | 0x91 => true,
        // PERSISTENT RESERVE IN.
        0x5e => true,
        // SERVICE ACTION IN(16): READ CAPACITY(16), GET LBA STATUS.
        0x9e => matches!(action, 0x10 | 0x12),
        // MAINTENANCE IN: all of them report. RECEIVE COPY RESULTS of these as well.
        0xa3 => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Buffers;

    #[test]
    fn only_what_has_no_effects_or_the_same_once_more_is_repeated() {
        let is = |code: u8, second: u8| {
            let mut cdb = [0; 32];
            (cdb[0], cdb[1]) = (code, second);
            is_repeatable(&Command {
                lun: 0,
                cdb,
                cdb_len: 32,
                tag: 0,
                data_out: Buffers::none(),
                data_in: Buffers::none(),
            })
        };
        assert!(is(0x28, 0) && is(0x9e, 0x10) && is(0x35, 0) && is(0x5e, 0));
        // REQUEST SENSE takes what it reports; WRITE, COMPARE AND WRITE, UNMAP, PERSISTENT RESERVE
        // OUT, WRITE SAME, ORWRITE, MODE SELECT, START STOP UNIT, RESERVE, vendors'.
        for code in [0x03, 0x2a, 0x8a, 0x89, 0x42, 0x5f, 0x93, 0x8b, 0x55, 0x1b, 0x16, 0xc0, 0x7f] {
            assert!(!is(code, 0), "{code:#x}");
        }
        assert!(!is(0x9e, 0x11));
    }
}
