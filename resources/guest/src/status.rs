//! The statuses with which the guest ends by itself. They stay clear of those that `cohort run`
//! gives a meaning of its own (2, 32 to 36, 124 to 127, 128 and above).
#![forbid(unsafe_code)]

/// The script cannot be understood; nothing of it ran.
pub const SCRIPT_ERROR: u8 = 120;
/// The script asks for a device, or a feature of one, that the machine does not have.
pub const DEVICE_MISSING: u8 = 121;
/// A device answered a request with an error, or not at all.
pub const IO_ERROR: u8 = 122;
/// What was read is not what the script says was written, or what it expects did not happen.
pub const VERIFY_MISMATCH: u8 = 123;
/// The processor raised an exception: a defect of the guest, or of the machine.
pub const EXCEPTION: u8 = 119;
/// A SCSI command ended with RESERVATION CONFLICT where the script does not expect it.
pub const RESERVATION_CONFLICT: u8 = 117;
/// The guest panicked, was started in a way that it does not know, or has too little memory for
/// what the script asks.
pub const GUEST_DEFECT: u8 = 118;
