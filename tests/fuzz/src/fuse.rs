//! What a driver says to the server of a shared folder.

#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::fuzzing::write_seeds;

fuzz_target!(
    init: write_seeds(devices::fuzzing::fuse_seeds()),
    |input: &[u8]| devices::fuzzing::fuse(input)
);
