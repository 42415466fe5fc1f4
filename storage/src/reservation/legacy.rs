//! RESERVE and RELEASE, for hosts that know SPC-2 only.
//!
//! SPC-4 5.13.3 makes exceptions for ports that the persistent reservation lets in anyway, and has
//! them announced by CRH in REPORT CAPABILITIES. Otherwise SPC-2 holds, by whose 5.5.1 one of the
//! two ways of reserving shuts the other one out.

use super::{InitiatorPort, Refusal, Reservations};

impl Reservations {
    /// RESERVE(6) and (10).
    pub fn reserve(&mut self, port: &InitiatorPort) -> Result<(), Refusal> {
        if self.is_exempt(port)? {
            return Ok(());
        }
        match &self.legacy {
            Some(holder) if holder != port => Err(Refusal::Conflict),
            _ => {
                self.legacy = Some(port.clone());
                Ok(())
            }
        }
    }

    /// RELEASE(6) and (10). Of a port that has reserved nothing, it is no error (SPC-2).
    pub fn release(&mut self, port: &InitiatorPort) -> Result<(), Refusal> {
        if !self.is_exempt(port)? {
            self.legacy.take_if(|holder| holder == port);
        }
        Ok(())
    }

    /// Whether the command ends with GOOD and changes nothing: the port holds the persistent
    /// reservation, or is registered and that is what its type asks for (SPC-4 5.13.3). Other
    /// commands conflict while any port is registered (SPC-2 5.5.1).
    fn is_exempt(&self, port: &InitiatorPort) -> Result<bool, Refusal> {
        let registered = self.keys.contains_key(port);
        let for_registrants = self.kind().is_some_and(|kind| kind.is_for_registrants());
        if self.holds(port) || registered && for_registrants {
            Ok(true)
        } else if self.keys.is_empty() {
            Ok(false)
        } else {
            Err(Refusal::Conflict)
        }
    }
}
