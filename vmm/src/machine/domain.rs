//! With whom a guest shares pages of files.

use memshare::Domain;

use super::MachineError;
use crate::spec::VmSpec;

/// The share domain that the description names, or one of this guest's own.
pub(super) fn of(spec: &VmSpec) -> Result<Domain, MachineError> {
    match &spec.share_domain {
        Some(name) => Ok(Domain::named(name)),
        None => {
            Domain::own().map_err(|source| MachineError::Host { what: "random numbers", source })
        }
    }
}
