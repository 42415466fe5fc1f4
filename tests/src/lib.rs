//! What cohort's integration tests share: the binary under test, guests to run with it, the
//! traces they may leave, and the files that Linux guests boot from.
//!
//! The tests themselves are in `tests/`, one file per topic, each test named after the guarantee
//! that it checks. They run the real binary.

pub mod cpio;
