//! The built-in guest.
