//! What an iSCSI target sends to the initiator.

#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::fuzzing;

fuzz_target!(
    init: fuzzing::write_seeds(fuzzing::iscsi_initiator_seeds()),
    |input: &[u8]| fuzzing::iscsi_initiator(input)
);
