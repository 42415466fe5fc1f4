//! Locks whose data stays usable when a thread panicked with them held. State here is consistent
//! between any two statements that can panic, and one device's fault must not stop the others.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
