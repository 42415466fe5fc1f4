//! Looking for damage that opening does not find.

use super::geometry::{BLOCK, BLOCK_BYTES, MAP_OFFSET};
use super::header::{self, SLOTS, Slot};
use super::{FormatError, RuntimeLayer, seal};
use crate::layer::Finding;

impl RuntimeLayer {
    /// What is wrong, mended where `repair` says so and nothing is lost by it.
    pub(super) fn look_for_damage(&self, repair: bool) -> Result<Vec<Finding>, FormatError> {
        let mut found = Vec::new();
        self.check_slots(repair, &mut found)?;
        self.check_length(repair, &mut found)?;
        self.check_map_end(repair, &mut found)?;
        self.check_seal(repair, &mut found)?;
        Ok(found)
    }

    fn check_slots(&self, repair: bool, found: &mut Vec<Finding>) -> Result<(), FormatError> {
        let current = self.header().place();
        for (slot, at) in header::read_slots(&self.image)?.into_iter().zip(SLOTS) {
            let Slot::Damaged(why) = slot else { continue };
            // The next header goes to the slot that does not count.
            let repaired = repair && at != current;
            if repaired {
                self.change_header(|_| ())?;
            }
            let what = format!("the header at {at:#x} cannot be used: {why}");
            found.push(Finding { what, harmless: at != current, repaired });
        }
        Ok(())
    }

    fn check_length(&self, repair: bool, found: &mut Vec<Finding>) -> Result<(), FormatError> {
        let wanted = self.geometry.file_len();
        let len = self.image.len().map_err(FormatError::host("find the size of", 0))?;
        if len > wanted {
            if repair {
                self.image.set_len(wanted).map_err(FormatError::host("set the size of", wanted))?;
                self.image.sync().map_err(FormatError::host("sync", wanted))?;
            }
            let what = format!("{} bytes follow the disk's end at {wanted:#x}", len - wanted);
            found.push(Finding { what, harmless: true, repaired: repair });
        }
        Ok(())
    }

    /// Bits of blocks that the disk does not have.
    fn check_map_end(&self, repair: bool, found: &mut Vec<Finding>) -> Result<(), FormatError> {
        let blocks = self.geometry.blocks();
        let last = (blocks / 8).min(self.geometry.map_len() - 1) / BLOCK * BLOCK;
        let at = MAP_OFFSET + last;
        let mut map = [0; BLOCK_BYTES];
        self.image.read_at(&mut map, at).map_err(FormatError::host("read", at))?;
        let mut stray = false;
        for (byte, first) in map.iter_mut().zip((last * 8..).step_by(8)) {
            let own = blocks.saturating_sub(first).min(8);
            let mask = if own == 8 { u8::MAX } else { (1 << own) - 1 };
            stray |= *byte & !mask != 0;
            *byte &= mask;
        }
        if stray {
            if repair {
                self.image.write_at(&map, at).map_err(FormatError::host("write", at))?;
                self.image.sync().map_err(FormatError::host("sync", at))?;
            }
            let what = format!("the zero map at {at:#x} has bits of blocks beyond the disk");
            found.push(Finding { what, harmless: true, repaired: repair });
        }
        Ok(())
    }

    fn check_seal(&self, repair: bool, found: &mut Vec<Finding>) -> Result<(), FormatError> {
        if self.info.parent.is_none() {
            // Holes and zeroes read the same.
            return Ok(());
        }
        if self.header().seal.is_none() && self.info.read_only {
            let what = "it was not closed in order: no seal says which blocks are written";
            found.push(Finding { what: what.to_owned(), harmless: true, repaired: false });
        }
        if !self.info.read_only {
            self.image.sync().map_err(FormatError::host("sync", 0))?;
        }
        if let Some(seal) = self.header().seal
            && !seal::matches(&self.image, &self.geometry, &seal)?
        {
            let what = format!(
                "other blocks are written than the {} that were when the layer was closed: blocks \
                 of zeroes and holes were mixed up",
                seal.written.blocks
            );
            found.push(Finding { what, harmless: false, repaired: false });
        }
        if !seal::witness_holds(&self.image)? {
            if repair {
                seal::write_witness(&self.image)?;
                self.image.sync().map_err(FormatError::host("sync", seal::WITNESS))?;
            }
            let what = format!("the witness at {:#x} is not as it was written", seal::WITNESS);
            found.push(Finding { what, harmless: true, repaired: repair });
        }
        Ok(())
    }
}
