//! Hostile chains of layers.

#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::fuzzing;

fuzz_target!(
    init: fuzzing::write_seeds(fuzzing::chain_seeds()),
    |input: &[u8]| fuzzing::open_chain(input)
);
