//! Requests that cannot be carried out, and those that are none.

use proptest::prelude::*;

use super::*;
use crate::virtio::driver::MEMORY;

#[test]
fn there_is_one_target_with_its_units() {
    let mut host = Host::on(&target(), "a");
    let mut luns = [0; 12];
    (luns[0], luns[9]) = (0xa0, 64);
    let inquiry = [0x12, 0, 0, 0, 36, 0];
    for lun in
        [[1, 1, 0, 0, 0, 0, 0, 0], [0; 8], [1, 255, 0, 0, 0, 0, 0, 0], [0xC1, 2, 0, 0, 0, 0, 0, 0]]
    {
        let got = host.run_at((2, lun), &inquiry, &[], 36);
        assert_eq!((got.response, got.residual, got.status), (BAD_TARGET, 36, 0));
        assert_eq!(got.data, [UNTOUCHED; 36]);
    }
    // Units that are not there, and more than one level.
    for lun in [[1, 0, 0, 1, 0, 0, 0, 0], [1, 0, 0x41, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1, 0, 0]] {
        assert_eq!(host.run_at((2, lun), &[0; 6], &[], 0).check(), (5, 0x25, 0));
        assert_eq!(host.run_at((2, lun), &inquiry, &[], 36).good()[0], 0x7f);
        assert_eq!(host.run_at((2, lun), &luns, &[], 16).good()[3], 8);
    }
    // The same unit in both ways of addressing, and the well-known one.
    host.run_at((2, [1, 0, 0x40, 0, 0, 0, 0, 0]), &[0; 6], &[], 0).good();
    let well_known = [0xC1, 1, 0, 0, 0, 0, 0, 0];
    let list = host.run_at((2, well_known), &luns, &[], 16).good();
    assert_eq!(list, [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(host.run_at((2, well_known), &[0; 6], &[], 0).check(), (5, 0x25, 0));
}

#[test]
fn data_in_both_directions_is_refused() {
    let mut host = Host::on(&target(), "a");
    let got = host.run(&cdb10(0x28, 0, 1), &[1; BLOCK], BLOCK);
    assert_eq!((got.response, got.residual, got.used), (FAILURE, 1024, 12));
    assert_eq!(got.data, [UNTOUCHED; BLOCK]);
}

#[test]
fn a_request_without_its_parts_breaks_the_queue() {
    let chains: [&[Buffer]; 7] = [
        &[(REQUEST, 51, false)],
        &[(REQUEST, 50, false), (RESPONSE, 108, true)],
        &[(REQUEST, 51, false), (RESPONSE, 107, true)],
        &[(RESPONSE, 108, true)],
        &[(REQUEST, 51, false), (MEMORY - 1, 108, true)],
        &[(MEMORY - 8, 51, false), (RESPONSE, 108, true)],
        &[(REQUEST, 51, false), (RESPONSE, 108, true), (u64::MAX - 4, 512, true)],
    ];
    let control: [&[Buffer]; 4] = [
        &[(REQUEST, 3, false), (RESPONSE, 1, true)],
        &[(REQUEST, 23, false), (RESPONSE, 1, true)],
        &[(REQUEST, 24, false)],
        &[(REQUEST, 24, false), (MEMORY, 1, true)],
    ];
    let target = target();
    let chains = chains.into_iter().map(|chain| (2, chain));
    for (queue, chain) in chains.chain(control.into_iter().map(|chain| (0, chain))) {
        let mut host = Host::new(initiator(&target, "a"));
        host.prepare(UNIT, 1, &[0; 6], &[]);
        if queue == 0 {
            host.put(REQUEST, &[0; 24]);
        }
        host.drivers[queue].add(chain).unwrap();
        host.drivers[queue].doorbell.write(1).unwrap();
        host.told.await_needs_reset();
        assert_eq!(host.drivers[queue].take_used(), None);
        host.restart();
        // After the unit attention.
        host.run(&[0; 6], &[], 0);
        host.run(&cdb10(0x28, 0, 1), &[], BLOCK).good();
    }
}

#[test]
fn buffers_for_events_are_kept() {
    let mut host = Host::on(&target(), "a");
    host.drivers[1].add(&[(DATA_IN, 16, true)]).unwrap();
    host.drivers[1].doorbell.write(1).unwrap();
    host.run(&[0; 6], &[], 0).good();
    let states = host.device.stop();
    let indices: Vec<u16> = states.iter().map(|state| state.index).collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    assert_eq!((states[1].next_available, states[1].next_used), (0, 0));
    assert_eq!(host.drivers[1].take_used(), None);
    assert!(host.device.stop().is_empty());
}

#[test]
fn a_driver_need_not_use_every_queue() {
    let mut device = Scsi::new(initiator(&target(), "a"), 1);
    let handle = memory();
    let driver = Driver::new(handle.memory().into_inner(), RINGS, 16, true);
    let told = Arc::new(Told::default());
    for index in [0, 2] {
        let mut with = activation(&handle, 0, &[&driver], &told);
        with.queues[0].index = index;
        device.start(with).unwrap();
        assert_eq!(device.stop().len(), 1);
    }
    device.start(activation(&handle, 0, &[], &told)).unwrap();
    assert!(device.stop().is_empty());
}

#[test]
fn the_number_of_queues_is_kept_within_bounds() {
    for (asked, queues) in [(0, 1), (1, 1), (64, 64), (u16::MAX, 64)] {
        let device = Scsi::new(initiator(&target(), "a"), asked);
        assert_eq!(device.info().queue_sizes, vec![256; queues + 2]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is in rings, requests and buffers: the device answers, errs or asks for a reset,
    /// and can be stopped.
    #[test]
    fn hostile_rings_do_no_harm(
        queue in 0usize..4,
        rings in proptest::collection::vec((0u64..0x9000, any::<u64>()), 0..32),
        table in proptest::collection::vec(
            (prop_oneof![Just(REQUEST), Just(RESPONSE), 0..MEMORY + 9, any::<u64>()],
             prop_oneof![Just(51u32), Just(108), Just(24), 0u32..9000, any::<u32>()],
             0u16..8, 0u16..18), 0..16),
        request in proptest::collection::vec(any::<u8>(), 64),
        config in proptest::collection::vec((0usize..40, any::<u32>()), 0..3),
        ahead in prop_oneof![0u16..20, any::<u16>()],
    ) {
        let mut host = Host::new(initiator(&target(), "a"));
        for (at, value) in config {
            host.set_config(at, value);
        }
        host.put(REQUEST, &request);
        let base = RINGS * (queue as u64 + 1);
        for (at, value) in rings {
            host.drivers[queue].write(base + (at & !7), value);
        }
        for (slot, (address, len, flags, next)) in (0u64..).zip(table) {
            let place = host.drivers[queue].layout.descriptors + 16 * slot;
            host.drivers[queue].set_descriptor(place, (address, len), flags, next);
        }
        host.drivers[queue].set_available_index(ahead);
        host.drivers[queue].doorbell.write(1).unwrap();
        std::thread::yield_now();
        host.device.stop();
        prop_assert!(host.device.stop().is_empty());
    }

    /// Any command in good form is answered, whatever it says.
    #[test]
    fn every_command_is_answered(
        cdb in proptest::collection::vec(any::<u8>(), 32),
        opcode in prop_oneof![
            Just(0x12u8), Just(0x1a), Just(0x28), Just(0x2a), Just(0x42), Just(0x5e), Just(0x5f),
            Just(0x88), Just(0x89), Just(0x8a), Just(0x93), any::<u8>()
        ],
        out in prop_oneof![Just(0usize), Just(24), Just(512), 0usize..9000],
        room in prop_oneof![Just(0usize), Just(512), 0usize..9000],
    ) {
        let mut host = Host::on(&target(), "a");
        let mut cdb = cdb;
        cdb[0] = opcode;
        let (out, room) = if opcode & 1 == 0 { (0, room) } else { (out, 0) };
        let got = host.run(&cdb, &vec![7; out], room);
        prop_assert!(matches!(got.response, OK | OVERRUN), "{got:?}");
        prop_assert!(got.residual as usize <= out + room);
    }
}
