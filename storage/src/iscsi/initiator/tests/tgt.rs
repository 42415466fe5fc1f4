//! A target that others made.

use cohort_tests::tgt::Tgt;

use super::*;

const SIZE: u64 = 16 << 20;

#[test]
fn tgt_takes_and_gives_data_in_every_way_that_it_agrees_to() {
    let Some(tgt) = Tgt::start(TARGET, SIZE, None) else { return };
    let mut seed = 0;
    for (immediate_data, initial_r2t, digest) in
        [(true, false, false), (true, true, true), (false, false, true), (false, true, false)]
    {
        let mut options = options();
        (options.header_digest, options.data_digest) = (digest, digest);
        options.limits.immediate_data = immediate_data;
        options.limits.initial_r2t = initial_r2t;
        let mut rig = Rig::at(tgt.address(), options);
        rig.settle();
        for blocks in [1, 9, 127, 600, 3000] {
            seed += 1;
            let data = pattern(blocks * BLOCK, seed);
            rig.write(64, &data);
            assert!(rig.read(64, data.len()) == data, "{blocks} blocks");
        }
        // Residuals, sense, functions.
        let (response, _) = rig.run(&[0x12, 0, 0, 0, 255, 0], &[], 255);
        assert!(response.status == Status::Good && response.data_in >= 36, "{response:?}");
        let (response, _) = rig.run(&cdb10(0x28, u32::MAX, 1), &[], BLOCK);
        assert_eq!(response.sense.code().map(|code| (code.key, code.asc)), Some((5, 0x21)));
        let reset = rig.manage(TaskManagement::LogicalUnitReset);
        assert_eq!(reset, ServiceResponse::Managed(Outcome::Complete));
        // The next session of the same port.
        let before = rig.remote.status().reconnects;
        rig.remote.nexus_lost();
        wait_until("a new session", || rig.remote.status().reconnects > before);
        rig.settle();
        assert!(rig.read(64, 3000 * BLOCK) == pattern(3000 * BLOCK, seed));
    }
}

#[test]
fn tgt_has_to_be_told_the_secret() {
    let Some(tgt) = Tgt::start(TARGET, SIZE, Some(("joe", "secret-of-joe"))) else { return };
    let with = |text: &str| {
        let chap = Some(Credentials::of_test(text, TARGET));
        connect(tgt.address(), SessionOptions { chap, ..options() })
    };
    with("joe:secret-of-joe").unwrap();
    for wrong in ["joe:secret-of-jim", "jim:secret-of-joe"] {
        let error = with(wrong).unwrap_err();
        assert!(error.is_final(), "{error}");
    }
    assert!(connect(tgt.address(), options()).unwrap_err().is_final());
}
