//! How layers keep their bytes. A format maps ranges to extents; it does no I/O on payload and
//! touches no memory but its own.

#![forbid(unsafe_code)]

pub(crate) mod raw;
