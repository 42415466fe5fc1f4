//! Mode pages (SPC-4 6.9 to 6.12, 7.5; SBC-3 6.4): caching and control.

use std::sync::atomic::{AtomicBool, Ordering};

use super::cdb::Cdb;
use super::sense::{self, Fault};
use super::unit::Unit;

/// What initiators may change of a unit. It is as at first after a reset, as nothing is saved.
#[derive(Debug)]
pub(super) struct Mode {
    /// WCE: writes may be answered before they are durable.
    write_cache: AtomicBool,
    /// SWP: changes of the medium are refused.
    write_protect: AtomicBool,
    /// D_SENSE: sense data has descriptors.
    descriptor_sense: AtomicBool,
}

impl Default for Mode {
    fn default() -> Mode {
        Mode {
            write_cache: AtomicBool::new(true),
            write_protect: AtomicBool::new(false),
            descriptor_sense: AtomicBool::new(false),
        }
    }
}

impl Mode {
    pub(super) fn write_cached(&self) -> bool {
        self.write_cache.load(Ordering::SeqCst)
    }

    pub(super) fn write_protected(&self) -> bool {
        self.write_protect.load(Ordering::SeqCst)
    }

    pub(super) fn descriptor_sense(&self) -> bool {
        self.descriptor_sense.load(Ordering::SeqCst)
    }

    pub(super) fn reset(&self) {
        let Mode { write_cache, write_protect, descriptor_sense } = Mode::default();
        self.write_cache.store(write_cache.into_inner(), Ordering::SeqCst);
        self.write_protect.store(write_protect.into_inner(), Ordering::SeqCst);
        self.descriptor_sense.store(descriptor_sense.into_inner(), Ordering::SeqCst);
    }
}

const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0a;
const ALL: u8 = 0x3f;
/// Bits of the pages that can be changed: byte and mask.
const WCE: (usize, u8) = (2, 0x04);
const D_SENSE: (usize, u8) = (2, 0x04);
const SWP: (usize, u8) = (4, 0x08);

/// Which values of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Values {
    Current,
    Changeable,
    Default,
}

/// A page with its header; `None` where there is no such page.
fn page(code: u8, mode: &Mode, values: Values) -> Option<Vec<u8>> {
    let initial = Mode::default();
    let mode = if values == Values::Current { mode } else { &initial };
    let changeable = values == Values::Changeable;
    let set = |page: &mut [u8], (at, mask): (usize, u8), on: bool| {
        if on || changeable {
            page[at] |= mask;
        }
    };
    match code {
        CACHING => {
            let mut page = vec![0; 20];
            (page[0], page[1]) = (CACHING, 18);
            set(&mut page, WCE, mode.write_cached());
            Some(page)
        }
        CONTROL => {
            let mut page = vec![0; 12];
            (page[0], page[1]) = (CONTROL, 10);
            set(&mut page, D_SENSE, mode.descriptor_sense());
            set(&mut page, SWP, mode.write_protected());
            if !changeable {
                // QUEUE ALGORITHM MODIFIER 1h: commands may be reordered. TAS: who loses a task
                // to another initiator is told by status TASK ABORTED.
                page[3] = 0x10;
                page[5] = 0x40;
                // BUSY TIMEOUT PERIOD: unlimited.
                page[8..10].copy_from_slice(&[0xff, 0xff]);
            }
            Some(page)
        }
        _ => None,
    }
}

/// MODE SENSE(6) and (10).
pub(super) fn sense(cdb: &Cdb, unit: &Unit) -> Result<Vec<u8>, Fault> {
    let short = cdb.length() == Some(6);
    let values = match cdb.byte(2) >> 6 {
        0 => Values::Current,
        1 => Values::Changeable,
        2 => Values::Default,
        _ => return Err(Fault { code: sense::SAVING_NOT_SUPPORTED, ..Fault::cdb(2, Some(7)) }),
    };
    let (code, subpage) = (cdb.byte(2) & 0x3f, cdb.byte(3));
    if subpage != 0 && !(code == ALL && subpage == 0xff) {
        return Err(Fault::cdb(3, None));
    }
    let mut pages = Vec::new();
    for wanted in [CACHING, CONTROL] {
        if code == wanted || code == ALL {
            pages.extend(page(wanted, &unit.mode, values).unwrap_or_default());
        }
    }
    if pages.is_empty() {
        return Err(Fault::cdb(2, Some(5)));
    }
    let long_lba = !short && cdb.byte(1) & 0x10 != 0;
    let descriptor = match cdb.byte(1) & 0x08 {
        0 => block_descriptor(unit, long_lba),
        _ => Vec::new(),
    };
    // WP, DPOFUA
    let specific = u8::from(unit.is_protected()) << 7 | 0x10;
    let described = descriptor.len();
    let mut data = if short {
        let described = u8::try_from(described).unwrap_or_default();
        let length = u8::try_from(3 + descriptor.len() + pages.len()).unwrap_or_default();
        vec![length, 0, specific, described]
    } else {
        let length = u16::try_from(6 + described + pages.len()).unwrap_or_default().to_be_bytes();
        let [high, low] = u16::try_from(described).unwrap_or_default().to_be_bytes();
        vec![length[0], length[1], 0, specific, u8::from(long_lba), 0, high, low]
    };
    data.extend(descriptor);
    data.extend(pages);
    Ok(data)
}

/// A mode parameter block descriptor (SBC-3 6.4.2).
fn block_descriptor(unit: &Unit, long_lba: bool) -> Vec<u8> {
    if long_lba {
        let mut data = unit.blocks.to_be_bytes().to_vec();
        data.extend([0; 4]);
        data.extend(unit.block.to_be_bytes());
        return data;
    }
    let mut data = u32::try_from(unit.blocks).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    data.extend(unit.block.to_be_bytes());
    data
}

/// MODE SELECT(6) and (10): whether anything changed. Nothing does unless all is in order.
pub(super) fn select(cdb: &Cdb, unit: &Unit, list: &[u8]) -> Result<bool, Fault> {
    if cdb.byte(1) & 0x01 != 0 {
        // SP: nothing is saved.
        return Err(Fault::cdb(1, Some(0)));
    }
    if cdb.byte(1) & 0x10 == 0 {
        // PF: without it, pages would be of a vendor's own form.
        return Err(Fault::cdb(1, Some(4)));
    }
    if list.is_empty() {
        return Ok(false);
    }
    let short = cdb.length() == Some(6);
    let header = if short { 4 } else { 8 };
    let described = match (short, list.get(..header)) {
        (true, Some(list)) => usize::from(list[3]),
        (false, Some(list)) => usize::from(u16::from_be_bytes([list[6], list[7]])),
        _ => return Err(sense::LIST_LENGTH.into()),
    };
    let long_lba = !short && list[4] & 1 != 0;
    let Some(mut rest) = list.get(header + described..) else {
        return Err(sense::LIST_LENGTH.into());
    };
    if described != 0 {
        // Size and number of blocks stay as they are; a number of 0 says as much (SBC-3 6.4.2).
        let same = block_descriptor(unit, long_lba);
        let given = &list[header..header + described];
        let count = if long_lba { 8 } else { 4 };
        let blocks_fit = given.get(..count).is_some_and(|given| {
            given.iter().all(|byte| *byte == 0) || Some(given) == same.get(..count)
        });
        if given.len() != same.len() || !blocks_fit || given[count..] != same[count..] {
            return Err(Fault::list(u16::try_from(header).unwrap_or_default(), None));
        }
    }
    let mut wanted = Vec::new();
    while !rest.is_empty() {
        let at = list.len() - rest.len();
        let field = |byte: usize| Fault::list(u16::try_from(at + byte).unwrap_or(u16::MAX), None);
        let code = rest[0] & 0x3f;
        let current = page(code, &unit.mode, Values::Current).ok_or(field(0))?;
        let mask = page(code, &unit.mode, Values::Changeable).ok_or(field(0))?;
        if rest[0] & 0x40 != 0 {
            return Err(field(0));
        }
        let Some(given) = rest.get(..current.len()) else {
            return Err(sense::LIST_LENGTH.into());
        };
        if given[1] != current[1] {
            return Err(field(1));
        }
        for byte in 2..current.len() {
            if (given[byte] ^ current[byte]) & !mask[byte] != 0 {
                return Err(field(byte));
            }
        }
        wanted.push((code, given));
        rest = &rest[current.len()..];
    }
    let mut changed = false;
    let mut set = |bit: &AtomicBool, (at, mask): (usize, u8), given: &[u8]| {
        let on = given[at] & mask != 0;
        changed |= bit.swap(on, Ordering::SeqCst) != on;
    };
    for (code, given) in wanted {
        if code == CACHING {
            set(&unit.mode.write_cache, WCE, given);
        } else {
            set(&unit.mode.descriptor_sense, D_SENSE, given);
            set(&unit.mode.write_protect, SWP, given);
        }
    }
    Ok(changed)
}
