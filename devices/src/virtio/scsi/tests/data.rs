//! Commands that do what they are to.

use super::*;
use crate::virtio::driver::MEMORY;

const INQUIRY: [u8; 6] = [0x12, 0, 0, 0, 36, 0];

#[test]
fn data_goes_both_ways_on_every_queue() {
    let target = target();
    let mut host = Host::on(&target, "a");
    let inquiry = host.run(&INQUIRY, &[], 36).good();
    assert_eq!((inquiry[0], &inquiry[8..14]), (0, &b"COHORT"[..]));
    let data = pattern(5 * BLOCK);
    for (queue, write, read) in [
        (2, cdb10(0x2a, 8, 5).to_vec(), cdb16(0x88, 8, 5).to_vec()),
        (3, cdb16(0x8a, 100, 5).to_vec(), cdb10(0x28, 100, 5).to_vec()),
    ] {
        let written = host.run_at((queue, UNIT), &write, &data, 0);
        assert_eq!((written.residual, written.used), (0, 12));
        written.good();
        let got = host.run_at((queue, UNIT), &read, &[], data.len());
        assert_eq!((got.residual, got.used), (0, 12));
        assert_eq!(got.good(), data);
    }
}

#[test]
fn a_request_may_be_cut_into_any_pieces() {
    let mut host = Host::on(&target(), "a");
    let data = pattern(3 * BLOCK);
    host.run(&cdb10(0x2a, 0, 3), &data, 0).good();
    host.prepare(UNIT, 1, &cdb10(0x28, 0, 3), &[]);
    host.put(DATA_IN, &[UNTOUCHED; 3 * BLOCK]);
    let buffers = [
        (REQUEST, 5, false),
        (REQUEST + 5, 0, false),
        (REQUEST + 5, 30, false),
        (REQUEST + 35, 16, false),
        (RESPONSE, 7, true),
        (RESPONSE + 7, 6, true),
        // The rest of the response ends within a buffer for data.
        (RESPONSE + 13, 95 + 3, true),
        (DATA_IN + 3, 1000, true),
        (DATA_IN + 1003, 533, true),
    ];
    let used = host.ask(2, &buffers);
    let got = host.got(3 * BLOCK, used);
    assert_eq!((got.used, got.residual), (12, 0));
    assert_eq!(host.bytes(RESPONSE + 108, 3), data[..3]);
    assert_eq!(got.good()[3..], data[3..]);
    // The same to the unit, by an indirect table.
    host.prepare(UNIT, 1, &cdb16(0x8a, 9, 2), &data);
    let out = DATA_OUT;
    let buffers = [
        (REQUEST, 51, false),
        (out, 1, false),
        (out + 1, 511, false),
        (out + 512, 512, false),
        (RESPONSE, 108, true),
    ];
    let old = host.drivers[3].position();
    host.drivers[3].add_indirect(TABLE, &buffers).unwrap();
    host.drivers[3].notify_since(old);
    let (_, used) = host.drivers[3].await_used();
    host.got(0, used).good();
    assert_eq!(host.run(&cdb10(0x28, 9, 2), &[], 2 * BLOCK).good(), data[..2 * BLOCK]);
}

#[test]
fn residuals_tell_what_was_not_transferred() {
    let mut host = Host::on(&target(), "a");
    let data = pattern(4 * BLOCK);
    // More room than data, more data than blocks.
    let got = host.run(&cdb10(0x2a, 0, 3), &data, 0);
    assert_eq!((got.response, got.status, got.residual), (OK, 0, 512));
    let got = host.run(&cdb10(0x28, 0, 3), &[], 4 * BLOCK);
    assert_eq!((got.response, got.residual, got.used), (OK, 512, 12));
    assert_eq!(got.data[..3 * BLOCK], data[..3 * BLOCK]);
    assert_eq!(got.data[3 * BLOCK..], [UNTOUCHED; BLOCK]);
    let got = host.run(&[0x12, 0, 0, 0, 255, 0], &[], 300);
    assert!(got.residual >= 45 && got.response == OK, "{got:?}");
    // Less.
    let got = host.run(&cdb10(0x28, 0, 3), &[], 2 * BLOCK);
    assert_eq!((got.response, got.residual), (OVERRUN, 0));
    assert_eq!(got.data, data[..2 * BLOCK]);
    let got = host.run(&cdb10(0x2a, 0, 3), &data[..BLOCK], 0);
    assert_eq!((got.response, got.residual), (OVERRUN, 0));
    // None.
    let got = host.run(&cdb10(0x28, u32::MAX, 3), &[], 3 * BLOCK);
    assert_eq!(got.residual, 3 * 512);
    assert_eq!(got.check(), (5, 0x21, 0));
    assert_eq!(got.used, 12 + 18);
}

#[test]
fn what_one_device_reserves_the_other_does_not_write() {
    let target = target();
    let (mut a, mut b) = (Host::on(&target, "a"), Host::on(&target, "b"));
    let write = cdb10(0x2a, 0, 1);
    let mut reserve = ([0; 10], [0; 24]);
    (reserve.0[0], reserve.0[8]) = (0x5f, 24);
    reserve.1[15] = 7;
    a.run(&reserve.0, &reserve.1, 0).good();
    (reserve.0[1], reserve.0[2]) = (1, 1);
    reserve.1[7] = 7;
    a.run(&reserve.0, &reserve.1, 0).good();
    let got = b.run(&write, &[1; BLOCK], 0);
    assert_eq!((got.response, got.status, got.residual), (OK, CONFLICT, 512));
    assert!(got.sense.is_empty());
    b.run(&cdb10(0x28, 0, 1), &[], BLOCK).good();
    a.run(&write, &[2; BLOCK], 0).good();
    // A reset leaves persistent reservations alone.
    a.restart();
    assert_eq!(b.run(&write, &[1; BLOCK], 0).status, CONFLICT);
    assert_eq!(a.run(&write, &[3; BLOCK], 0).check(), (6, 0x29, 0));
    assert_eq!(b.run(&cdb10(0x28, 0, 1), &[], BLOCK).good(), [2; BLOCK]);
}

#[test]
fn a_reset_gives_back_what_lasts_as_long_as_a_nexus() {
    let target = target();
    let (mut a, mut b) = (Host::on(&target, "a"), Host::on(&target, "b"));
    a.run(&[0x16, 0, 0, 0, 0, 0], &[], 0).good();
    assert_eq!(b.run(&[0; 6], &[], 0).status, CONFLICT);
    a.restart();
    b.run(&[0; 6], &[], 0).good();
}

#[test]
fn the_driver_chooses_the_sizes() {
    let mut host = Host::on(&target(), "a");
    let fields: Vec<u32> = (0..9).map(|field| host.config(4 * field)).collect();
    assert_eq!(fields, [2, 254, 0xFFFF, 256, 16, 96, 32, 0, 16383]);
    let missing = cdb10(0x28, u32::MAX, 1);
    for (sense, cdb) in [(18, 16), (8, 10), (0, 12), (300, 32), (96, 255)] {
        host.set_config(0x14, sense);
        host.set_config(0x18, cdb);
        assert_eq!((host.config(0x14), host.config(0x18)), (sense, cdb));
        (host.sense_size, host.cdb_size) = (sense, cdb);
        let got = host.run(&missing, &[], BLOCK);
        assert_eq!((got.response, got.status), (OK, CHECK));
        assert_eq!(got.sense.len(), 18.min(sense as usize));
        assert_eq!(got.used, 12 + sense.min(18));
        let got = host.run(&cdb10(0x28, 3, 1), &[], BLOCK);
        assert_eq!(got.used, if sense == 0 { 12 + 512 } else { 12 });
        assert_eq!(got.good(), [0; BLOCK]);
    }
    // Nonsense is left out, and so is what is not the driver's.
    for (at, value) in [(0x14, u32::MAX), (0x18, 256), (0, 77), (0x20, 1), (0x15, 1)] {
        host.set_config(at, value);
    }
    host.device.write_config(usize::MAX, &[1; 4]);
    host.device.write_config(0x14, &[1]);
    assert_eq!((host.config(0), host.config(0x14), host.config(0x18)), (2, 96, 255));
    assert_eq!(host.config(0x20), 16383);
    let mut beyond = [9; 8];
    host.device.read_config(0x24, &mut beyond);
    assert_eq!(beyond, [0; 8]);
    host.device.stop();
    assert_eq!((host.config(0x14), host.config(0x18)), (96, 32));
}

#[test]
fn a_cdb_ends_where_the_driver_says() {
    let mut host = Host::on(&target(), "a");
    host.set_config(0x18, 6);
    host.cdb_size = 6;
    host.run(&[0; 6], &[], 0).good();
    let got = host.run(&[0x28, 0, 0, 0, 0, 0], &[], BLOCK);
    assert_eq!(got.check().0, 5);
}

/// As a machine's memory modules do.
#[test]
fn data_and_tables_reach_from_one_region_of_memory_into_the_next() {
    let ends = [DATA_OUT + 1000, DATA_IN + 1024, TABLE + 24, MEMORY];
    let starts = [0].into_iter().chain(ends);
    let ranges = starts
        .zip(ends)
        .map(|(start, end)| (GuestAddress(start), usize::try_from(end - start).unwrap()));
    let ranges: Vec<_> = ranges.collect();
    let memory = MemoryHandle::new(GuestMemory::from_ranges(&ranges).unwrap());
    let mut host = Host::in_memory(initiator(&target(), "a"), memory);
    assert_eq!(host.run(&[0; 6], &[], 0).check(), (6, 0x29, 0));
    let data = pattern(8 * BLOCK);
    host.prepare(UNIT, 1, &cdb10(0x2a, 3, 8), &data);
    let buffers = host.buffers(data.len(), 0);
    let old = host.drivers[2].position();
    host.drivers[2].add_indirect(TABLE, &buffers).unwrap();
    host.drivers[2].notify_since(old);
    let (_, used) = host.drivers[2].await_used();
    host.got(0, used).good();
    assert_eq!(host.run(&cdb10(0x28, 3, 8), &[], 8 * BLOCK).good(), data);
}

/// Segments that overlap, each in many regions, would take more room than there is.
#[test]
fn the_runs_of_host_memory_of_a_request_are_limited() {
    const REGION: u64 = 4096;
    let small = (0..64).map(|n| (DATA_IN + n * REGION, REGION));
    let after = DATA_IN + 64 * REGION;
    let ranges = [(0, DATA_IN)].into_iter().chain(small).chain([(after, MEMORY - after)]);
    let ranges: Vec<_> =
        ranges.map(|(start, len)| (GuestAddress(start), usize::try_from(len).unwrap())).collect();
    let memory = MemoryHandle::new(GuestMemory::from_ranges(&ranges).unwrap());
    let mut host = Host::in_memory(initiator(&target(), "a"), memory);
    assert_eq!(host.run(&[0; 6], &[], 0).check(), (6, 0x29, 0));
    host.prepare(UNIT, 1, &cdb10(0x28, 0, 1), &[]);
    let len = u32::try_from(64 * REGION).unwrap();
    let mut buffers =
        vec![(REQUEST, host.request_len(), false), (RESPONSE, host.response_len(), true)];
    buffers.extend(vec![(DATA_IN, len, true); 100]);
    let old = host.drivers[2].position();
    host.drivers[2].add_indirect(TABLE, &buffers).unwrap();
    host.drivers[2].notify_since(old);
    host.told.await_needs_reset();
}
