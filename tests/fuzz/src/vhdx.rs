//! Hostile images of the format vhdx.

#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::{Format, fuzzing};

fuzz_target!(
    init: fuzzing::write_seeds(fuzzing::seeds(Format::Vhdx)),
    |input: &[u8]| fuzzing::open_input(Format::Vhdx, input)
);
