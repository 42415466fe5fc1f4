//! Hostile images of the format layer.

#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::{Format, fuzzing};

fuzz_target!(
    init: fuzzing::write_seeds(fuzzing::seeds(Format::Layer)),
    |input: &[u8]| fuzzing::open_input(Format::Layer, input)
);
