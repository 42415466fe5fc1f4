//! SCSI commands and task management of several initiators.

#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::fuzzing;

fuzz_target!(
    init: fuzzing::write_seeds(fuzzing::scsi_seeds()),
    |input: &[u8]| fuzzing::scsi(input)
);
