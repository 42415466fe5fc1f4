//! Who may use a logical unit: PERSISTENT RESERVE IN, printed.
#![forbid(unsafe_code)]

use core::fmt;

use super::Guest;
use crate::virtio::DeviceError;
use crate::virtio::scsi::Unit;
use crate::virtio::scsi::cdb::{Cdb, ReserveIn};
use crate::virtio::scsi::pages::{self, Reservation};

/// Bytes of the keys' list that are read: 127 keys.
const KEYS_LEN: u16 = 1024;
/// Bytes of a reservation.
const RESERVATION_LEN: u16 = 24;

impl Guest<'_> {
    /// Prints who is registered.
    pub(super) fn keys(&mut self, unit: &mut Unit<'_>) -> Result<(), DeviceError> {
        let mut data = [0; KEYS_LEN as usize];
        let cdb = Cdb::reserve_in(ReserveIn::ReadKeys, KEYS_LEN);
        let data = unit.read(&cdb, &mut data, &mut self.platform.pool)?;
        let generation = pages::generation(data);
        self.say(format_args!("pr: generation {generation}, keys{}", Keys(data)));
        Ok(())
    }

    /// Prints who has reserved.
    pub(super) fn reservation(&mut self, unit: &mut Unit<'_>) -> Result<(), DeviceError> {
        let mut data = [0; RESERVATION_LEN as usize];
        let cdb = Cdb::reserve_in(ReserveIn::ReadReservation, RESERVATION_LEN);
        let data = unit.read(&cdb, &mut data, &mut self.platform.pool)?;
        match Reservation::read(data) {
            Some(reservation) => self.say(format_args!("pr: {reservation}")),
            None => self.say(format_args!("pr: no reservation")),
        }
        Ok(())
    }
}

/// The keys in the data of READ KEYS.
struct Keys<'d>(&'d [u8]);

impl fmt::Display for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = 0;
        for key in pages::keys(self.0) {
            write!(f, " {key:#x}")?;
            shown += 1;
        }
        match pages::key_count(self.0).checked_sub(shown) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, " and {more} more"),
        }
    }
}
