//! Hostile records of parents.

#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::fuzzing;

fuzz_target!(
    init: fuzzing::write_seeds([fuzzing::link_seed()]),
    |input: &[u8]| fuzzing::read_link(input)
);
