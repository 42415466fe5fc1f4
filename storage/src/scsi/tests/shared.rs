//! Several initiators at once.

use std::thread;

use super::*;

#[test]
fn no_increment_by_compare_and_write_is_lost() {
    for engine in [EngineChoice::Auto, EngineChoice::Positional] {
        const THREADS: u64 = 4;
        const ROUNDS: u64 = 200;
        let target = Target::new(vec![unit(1 << 20, engine)], None).unwrap();
        thread::scope(|scope| {
            for number in 0..THREADS {
                let target = &target;
                scope.spawn(move || {
                    let mut rig = Rig::on(target, &format!("port{number}"));
                    for _ in 0..ROUNDS {
                        loop {
                            let old = rig.read(3, 1);
                            let mut new = old.clone();
                            let count = u64::from_le_bytes(*old.first_chunk().unwrap()) + 1;
                            new[..8].copy_from_slice(&count.to_le_bytes());
                            // The rest tells whose it is.
                            new[8..].fill(u8::try_from(number).unwrap());
                            let got = rig.run(&compare_and_write(3, 1), &[old, new].concat(), 0);
                            if got.response.status == Status::Good {
                                break;
                            }
                            got.check(0xe, 0x1d, 0);
                        }
                    }
                });
            }
        });
        let mut rig = Rig::on(&target, "last");
        let end = rig.read(3, 1);
        assert_eq!(u64::from_le_bytes(*end.first_chunk().unwrap()), THREADS * ROUNDS);
    }
}

#[test]
fn bits_set_by_orwrite_beside_writers_stay_set() {
    let target = target(1 << 20);
    thread::scope(|scope| {
        for number in 0..4u8 {
            let target = &target;
            scope.spawn(move || {
                let mut rig = Rig::on(target, &format!("port{number}"));
                for byte in 0..128 {
                    let mut bits = vec![0; 2 * BLOCK];
                    bits[byte * 8] = 1 << number;
                    rig.run(&cdb16(0x8b, 0, 10, 2), &bits, 0).good();
                    rig.write(0, &[number; 9 * BLOCK]).good();
                }
            });
        }
    });
    let data = Rig::on(&target, "last").read(10, 2);
    for byte in 0..128 {
        assert_eq!(data[byte * 8], 0xf);
    }
}

#[test]
fn a_port_is_one_nexus_and_hears_of_power_on_once() {
    let target = target(1 << 20);
    let port = InitiatorPort::new("iqn.x,i,0x000000000001").unwrap();
    let mut rig = Rig::on(&target, "other");
    rig.nexus = target.nexus(port.clone());
    // INQUIRY and REPORT LUNS neither report nor clear it.
    rig.run(&[0x12, 0, 0, 0, 96, 0], &[], 96).good();
    rig.run(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0], &[], 64).good();
    rig.write(0, &[1; 512]).check(6, 0x29, 0);
    rig.write(0, &[1; 512]).good();
    rig.nexus = target.nexus(port);
    rig.write(0, &[1; 512]).good();
    // REQUEST SENSE reports it as data, and clears it.
    rig.nexus = target.nexus(InitiatorPort::new("fresh").unwrap());
    let sense = rig.run(&[3, 0, 0, 0, 18, 0], &[], 18).good();
    assert_eq!((sense[0], sense[2], sense[12]), (0x70, 6, 0x29));
    let sense = rig.run(&[3, 1, 0, 0, 18, 0], &[], 18).good();
    assert_eq!(sense, [0x72, 0, 0, 0, 0, 0, 0, 0]);
    rig.run(&[0; 6], &[], 0).good();
    // An unknown command reports it as any other.
    rig.nexus = target.nexus(InitiatorPort::new("fresher").unwrap());
    rig.run(&[0xc1; 10], &[], 0).check(6, 0x29, 0);
    let names: Vec<String> = target.status().nexuses.into_iter().map(|nexus| nexus.port).collect();
    assert_eq!(names, ["fresh", "fresher", "iqn.x,i,0x000000000001", "other"]);
}

#[test]
fn ports_that_nobody_uses_are_not_kept_for_ever() {
    let target = target(1 << 20);
    let kept = target.nexus(InitiatorPort::new("kept").unwrap());
    for number in 0..5000 {
        target.nexus(InitiatorPort::new(&format!("port{number}")).unwrap());
    }
    let nexuses = target.status().nexuses;
    assert!(nexuses.len() <= 4096);
    let in_use: Vec<_> = nexuses.iter().filter(|nexus| nexus.in_use).collect();
    assert_eq!(in_use.len(), 1);
    assert_eq!(in_use[0].port, kept.port().name());
}
