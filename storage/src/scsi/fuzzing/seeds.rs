//! Scripts to begin with: what initiators do who mean well.

use super::{COMMANDS, Kind, MANAGE, RAW};

/// A command of the first byte and service action; `who`, flags, LBA, count, pokes, data, fill.
pub(crate) fn command(opcode: u8, action: Option<u8>, rest: [u8; 7]) -> Vec<u8> {
    let is_it = |known: &super::super::opcodes::Command| {
        known.usage[0] == opcode && (known.action.is_none() || known.action == action)
    };
    let code = COMMANDS.iter().position(is_it).unwrap_or_default();
    let code = u8::try_from(code).unwrap_or_default();
    [&[code][..], &rest].concat()
}

/// Unit attentions, taken by both initiators at both units.
fn greetings() -> Vec<u8> {
    let ready = |who| command(0x00, None, [who, 0, 0, 0, 0, 0, 0]);
    [0, 1, 2, 8, 9, 10].into_iter().flat_map(ready).collect()
}

/// PERSISTENT RESERVE OUT with keys.
fn persistent(who: u8, action: u8, kind: u8, keys: [u8; 2], flags: u8) -> Vec<u8> {
    let rest = [who, 0, 0, 24, 1, 3, flags];
    [command(0x5f, Some(action), rest), vec![2, kind], keys.to_vec()].concat()
}

/// A few commands each of every kind.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let seed =
        |flags: u8, steps: &[Vec<u8>]| [&[flags][..], &greetings(), &steps.concat()].concat();
    let mut seeds = Vec::new();
    // Every command as plain as it gets, some with a page or data.
    for group in COMMANDS.chunks(12) {
        let plain = |known: &super::super::opcodes::Command| {
            let data = match known.kind {
                Kind::CompareAndWrite => 5,
                Kind::Unmap => 4,
                Kind::PersistentOut => 3,
                Kind::WriteSame => 6,
                Kind::ModeSelect => 2,
                _ => 1,
            };
            let fill = if data == 2 { 0 } else { 1 };
            let extra = if matches!(data, 3 | 4) { vec![1, 1] } else { Vec::new() };
            let count = if known.kind == Kind::PersistentOut { 24 } else { 1 };
            let rest = [0, 0, 3, count, 0, data, fill];
            [command(known.usage[0], known.action, rest), extra].concat()
        };
        let steps: Vec<Vec<u8>> = group.iter().map(plain).collect();
        seeds.push(seed(0, &steps));
    }
    // Data of several kinds.
    let write = |who, at, count, fill| command(0x2a, None, [who, 0, at, count, 0, 1, fill]);
    let read = |who, at, count| command(0x28, None, [who, 0, at, count, 0, 0, 0]);
    seeds.push(seed(0, &[write(0, 3, 4, 7), read(1, 2, 6), read(8, 0, 16), write(9, 15, 2, 1)]));
    let compare = command(0x89, None, [0x20, 0, 5, 1, 0, 5, 9]);
    let again = command(0x89, None, [0x31, 0, 5, 1, 0, 5, 8]);
    seeds.push(seed(0, &[compare, again, write(0x32, 4, 3, 1), read(0x20, 4, 3), read(0, 5, 1)]));
    let unmap = [command(0x42, None, [0, 0, 0, 40, 1, 4, 2]), vec![8, 40, 1, 2, 9, 4]].concat();
    let same = command(0x93, None, [0, 8, 1, 8, 0, 6, 0]);
    seeds.push(seed(0, &[unmap, same, read(0, 0, 16)]));
    let inquiry =
        |flags, page| [command(0x12, None, [0, flags, 0, 255, 1, 24, 0]), vec![2, page]].concat();
    let pages = [0, 0x80, 0x83, 0xb0, 0xb1, 0xb2].map(|page| inquiry(1, page));
    seeds.push(seed(0, &pages));
    let sense = |page| [command(0x1a, None, [0, 0, 0, 255, 1, 24, 0]), vec![2, page]].concat();
    seeds.push(seed(READ_ONLY_SEED, &[sense(8), sense(10), sense(0x3f), write(8, 0, 1, 1)]));
    // Reservations, kept and not.
    for kind in [1, 3, 5, 6, 7, 8] {
        let steps = [
            persistent(0, 0, 0, [0, 1], 1),
            persistent(1, 6, 0, [0, 2], 0),
            persistent(0, 1, kind, [1, 0], 0),
            write(1, 0, 1, 4),
            write(2, 0, 1, 4),
            read(2, 0, 1),
            command(0x5e, Some(3), [0, 0, 0, 255, 0, 24, 0]),
            persistent(1, 5 - (kind & 1), kind, [2, 1], 0),
            write(0x21, 0, 1, 5),
            persistent(1, 2, kind, [2, 0], 0),
            persistent(1, 3, 0, [2, 0], 0),
        ];
        seeds.push(seed(kind & 1, &steps));
    }
    let reserve = command(0x16, None, [0, 0, 0, 0, 0, 0, 0]);
    let release = command(0x17, None, [0, 0, 0, 0, 0, 0, 0]);
    seeds.push(seed(0, &[reserve.clone(), write(1, 0, 1, 1), release]));
    // Functions.
    for function in 0..8 {
        let steps =
            [write(0x20, 0, 8, 3), reserve.clone(), vec![MANAGE + function, 1], read(0, 0, 1)];
        seeds.push(seed(0, &steps));
    }
    seeds.push(seed(0, &[vec![RAW, 0, 6, 0x12, 0, 0, 0, 96, 0, 0, 96, 0]]));
    seeds
}

const READ_ONLY_SEED: u8 = super::READ_ONLY;
