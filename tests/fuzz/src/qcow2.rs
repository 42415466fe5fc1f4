//! Hostile images of the format qcow2.

#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::{Format, fuzzing};

fuzz_target!(
    init: fuzzing::write_seeds(fuzzing::seeds(Format::Qcow2)),
    |input: &[u8]| fuzzing::open_input(Format::Qcow2, input)
);
