//! Command descriptor blocks and parameter lists (SBC-3, SPC-4), as bytes. Numbers are
//! big-endian.
#![forbid(unsafe_code)]

/// Length of a block here: no command that the guest sends is longer.
pub const CDB_LEN: usize = 16;
/// Length of the parameter list of UNMAP with one range (SBC-3, 5.28.2).
pub const UNMAP_LEN: u8 = 24;
/// Length of the parameter list of PERSISTENT RESERVE OUT (SPC-4, 6.16.3).
pub const RESERVE_LEN: u8 = 24;

/// PERSISTENT RESERVE OUT: activate persist through power loss.
const APTPL: u8 = 1;

/// Where the data of a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Nowhere: there is none.
    None,
    /// To the device.
    Out,
    /// From the device.
    In,
}

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cdb {
    /// The descriptor block, zeroes behind its end.
    pub bytes: [u8; CDB_LEN],
    /// The command's name in the standards.
    pub name: &'static str,
    /// Where data goes.
    pub direction: Direction,
    /// First logical block, where the command has one.
    pub lba: Option<u64>,
}

/// What PERSISTENT RESERVE OUT does: a service action with its number (SPC-4, table 212).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveAction {
    /// Registers or unregisters, if the key given as the registered one is.
    Register = 0,
    /// Takes the reservation.
    Reserve = 1,
    /// Gives the reservation up.
    Release = 2,
    /// Ends the reservation and all registrations.
    Clear = 3,
    /// Ends another's registrations, and takes the reservation over.
    Preempt = 4,
    /// The same, and aborts the commands of those who were registered.
    PreemptAndAbort = 5,
    /// Registers or unregisters whatever is registered.
    RegisterAndIgnore = 6,
}

/// One PERSISTENT RESERVE OUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReserveOut {
    /// What to do.
    pub action: ReserveAction,
    /// RESERVATION KEY: who asks.
    pub key: u64,
    /// SERVICE ACTION RESERVATION KEY: the new key, or who is preempted.
    pub service_key: u64,
    /// The type of reservation: 0 where the action has none.
    pub kind: u8,
    /// The device remembers through a loss of power.
    pub aptpl: bool,
}

impl ReserveOut {
    /// The command.
    pub fn cdb(self) -> Cdb {
        let name = match self.action {
            ReserveAction::Register => "PERSISTENT RESERVE OUT (REGISTER)",
            ReserveAction::Reserve => "PERSISTENT RESERVE OUT (RESERVE)",
            ReserveAction::Release => "PERSISTENT RESERVE OUT (RELEASE)",
            ReserveAction::Clear => "PERSISTENT RESERVE OUT (CLEAR)",
            ReserveAction::Preempt => "PERSISTENT RESERVE OUT (PREEMPT)",
            ReserveAction::PreemptAndAbort => "PERSISTENT RESERVE OUT (PREEMPT AND ABORT)",
            ReserveAction::RegisterAndIgnore => {
                "PERSISTENT RESERVE OUT (REGISTER AND IGNORE EXISTING KEY)"
            }
        };
        let mut cdb = Cdb::new(0x5F, name, Direction::Out);
        cdb.put([(1, self.action as u8), (2, self.kind & 0xF), (8, RESERVE_LEN)]);
        cdb
    }

    /// Its parameter list.
    pub fn parameters(self) -> [u8; RESERVE_LEN as usize] {
        let mut list = [0; RESERVE_LEN as usize];
        put(&mut list, 0, &self.key.to_be_bytes());
        put(&mut list, 8, &self.service_key.to_be_bytes());
        put(&mut list, 20, &[if self.aptpl { APTPL } else { 0 }]);
        list
    }
}

/// What PERSISTENT RESERVE IN asks for (SPC-4, table 203).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveIn {
    /// All registered keys.
    ReadKeys = 0,
    /// Who has reserved, and how.
    ReadReservation = 1,
}

impl Cdb {
    fn new(opcode: u8, name: &'static str, direction: Direction) -> Cdb {
        let mut bytes = [0; CDB_LEN];
        put(&mut bytes, 0, &[opcode]);
        Cdb { bytes, name, direction, lba: None }
    }

    fn put<const N: usize>(&mut self, values: [(usize, u8); N]) {
        values.into_iter().for_each(|(at, value)| put(&mut self.bytes, at, &[value]));
    }

    /// A command of 16 bytes with its first block at byte 2.
    fn at(opcode: u8, name: &'static str, direction: Direction, lba: u64) -> Cdb {
        let mut cdb = Cdb { lba: Some(lba), ..Cdb::new(opcode, name, direction) };
        put(&mut cdb.bytes, 2, &lba.to_be_bytes());
        cdb
    }

    /// READ(16): `blocks` logical blocks from `lba` on.
    pub fn read(lba: u64, blocks: u32) -> Cdb {
        let mut cdb = Cdb::at(0x88, "READ(16)", Direction::In, lba);
        put(&mut cdb.bytes, 10, &blocks.to_be_bytes());
        cdb
    }

    /// WRITE(16): `blocks` logical blocks from `lba` on.
    pub fn write(lba: u64, blocks: u32) -> Cdb {
        let mut cdb = Cdb::at(0x8A, "WRITE(16)", Direction::Out, lba);
        put(&mut cdb.bytes, 10, &blocks.to_be_bytes());
        cdb
    }

    /// COMPARE AND WRITE of one block at `lba`: the data is the block as it should be, then as it
    /// is to become.
    pub fn compare_and_write(lba: u64) -> Cdb {
        let mut cdb = Cdb::at(0x89, "COMPARE AND WRITE", Direction::Out, lba);
        cdb.put([(13, 1)]);
        cdb
    }

    /// SYNCHRONIZE CACHE(10) of everything.
    pub fn synchronize_cache() -> Cdb {
        Cdb::new(0x35, "SYNCHRONIZE CACHE(10)", Direction::None)
    }

    /// RESERVE(6) of the whole logical unit.
    pub fn reserve() -> Cdb {
        Cdb::new(0x16, "RESERVE(6)", Direction::None)
    }

    /// RELEASE(6).
    pub fn release() -> Cdb {
        Cdb::new(0x17, "RELEASE(6)", Direction::None)
    }

    /// UNMAP with one range ([`unmap_list`]), of which messages name the first block.
    pub fn unmap(lba: u64) -> Cdb {
        let mut cdb = Cdb::new(0x42, "UNMAP", Direction::Out);
        cdb.put([(8, UNMAP_LEN)]);
        Cdb { lba: Some(lba), ..cdb }
    }

    /// READ CAPACITY(16), of which `len` bytes are wanted.
    pub fn read_capacity(len: u8) -> Cdb {
        let mut cdb = Cdb::new(0x9E, "READ CAPACITY(16)", Direction::In);
        cdb.put([(1, 0x10), (13, len)]);
        cdb
    }

    /// REPORT LUNS, of which `len` bytes are wanted.
    pub fn report_luns(len: u32) -> Cdb {
        let mut cdb = Cdb::new(0xA0, "REPORT LUNS", Direction::In);
        put(&mut cdb.bytes, 6, &len.to_be_bytes());
        cdb
    }

    /// INQUIRY, of which `len` bytes are wanted.
    pub fn inquiry(len: u8) -> Cdb {
        let mut cdb = Cdb::new(0x12, "INQUIRY", Direction::In);
        cdb.put([(4, len)]);
        cdb
    }

    /// INQUIRY for a page of vital product data, of which `len` bytes are wanted.
    pub fn inquiry_page(page: u8, len: u8) -> Cdb {
        let mut cdb = Cdb::new(0x12, "INQUIRY", Direction::In);
        cdb.put([(1, 1), (2, page), (4, len)]);
        cdb
    }

    /// PERSISTENT RESERVE IN, of which `len` bytes are wanted.
    pub fn reserve_in(what: ReserveIn, len: u16) -> Cdb {
        let name = match what {
            ReserveIn::ReadKeys => "PERSISTENT RESERVE IN (READ KEYS)",
            ReserveIn::ReadReservation => "PERSISTENT RESERVE IN (READ RESERVATION)",
        };
        let mut cdb = Cdb::new(0x5E, name, Direction::In);
        cdb.put([(1, what as u8)]);
        put(&mut cdb.bytes, 7, &len.to_be_bytes());
        cdb
    }
}

/// Whether a command of this operation code comes to the same when it is done a second time, as
/// long as nobody else writes where it does. COMPARE AND WRITE does not: it finds what it wrote
/// itself. Nor do RESERVE(6), RELEASE(6) and PERSISTENT RESERVE OUT, which others answer to.
pub fn may_be_done_twice(opcode: u8) -> bool {
    // REPORT LUNS, INQUIRY, READ CAPACITY(16), PERSISTENT RESERVE IN; READ(16), WRITE(16),
    // SYNCHRONIZE CACHE(10), UNMAP.
    matches!(opcode, 0xA0 | 0x12 | 0x9E | 0x5E | 0x88 | 0x8A | 0x35 | 0x42)
}

/// The parameter list of UNMAP for `blocks` blocks from `lba` on.
pub fn unmap_list(lba: u64, blocks: u32) -> [u8; UNMAP_LEN as usize] {
    let mut list = [0; UNMAP_LEN as usize];
    put(&mut list, 0, &(u16::from(UNMAP_LEN) - 2).to_be_bytes());
    put(&mut list, 2, &16u16.to_be_bytes());
    put(&mut list, 8, &lba.to_be_bytes());
    put(&mut list, 16, &blocks.to_be_bytes());
    list
}

fn put(bytes: &mut [u8], at: usize, values: &[u8]) {
    bytes.iter_mut().skip(at).zip(values).for_each(|(byte, value)| *byte = *value);
}

#[cfg(test)]
mod tests;
