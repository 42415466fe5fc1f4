//! What a vhost-user front end sends, and has in its memory.

#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::fuzzing::write_seeds;

fuzz_target!(
    init: write_seeds(devices::fuzzing::vhost_user_seeds()),
    |input: &[u8]| devices::fuzzing::vhost_user(input)
);
