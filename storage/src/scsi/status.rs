//! What operators see of a target.

use serde::Serialize;

/// A target as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TargetStatus {
    /// Its logical units, LUN 0 first.
    pub units: Vec<UnitStatus>,
    /// The initiator ports that it remembers.
    pub nexuses: Vec<NexusStatus>,
}

/// One logical unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnitStatus {
    /// Its number.
    pub lun: u16,
    /// The disk.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Bytes of a logical block.
    pub block_size: u32,
    /// Whether changes are refused.
    pub read_only: bool,
    /// The name that all initiators see, as 16 hexadecimal digits.
    pub naa: String,
    /// Who is registered.
    pub registrations: Vec<RegistrationStatus>,
    /// Who holds the persistent reservation.
    pub holders: Vec<String>,
    /// Its type (SPC-4 table 175).
    pub kind: Option<u8>,
    /// PRgeneration.
    pub generation: u32,
    /// Whether registrations survive a loss of power.
    pub aptpl: bool,
    /// Commands that read the medium.
    pub reads: u64,
    /// Commands that write to it.
    pub writes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

/// A registered initiator port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RegistrationStatus {
    /// The port.
    pub port: String,
    /// Its reservation key.
    pub key: u64,
}

/// An initiator port, all units taken together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NexusStatus {
    /// Its name.
    pub port: String,
    /// Whether someone holds the nexus: a connection, a device.
    pub in_use: bool,
    /// Commands that read.
    pub reads: u64,
    /// Commands that write.
    pub writes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
}
