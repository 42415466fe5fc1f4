//! What an iSCSI initiator sends to the server.

#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::fuzzing;

fuzz_target!(
    init: fuzzing::write_seeds(fuzzing::iscsi_target_seeds()),
    |input: &[u8]| fuzzing::iscsi_target(input)
);
