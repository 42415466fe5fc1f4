//! What initiators learn about the units.

use super::*;

const SIZE: u64 = 8 << 20;

fn inquiry(page: Option<u8>, room: u16) -> [u8; 6] {
    let [high, low] = room.to_be_bytes();
    [0x12, u8::from(page.is_some()), page.unwrap_or(0), high, low, 0]
}

#[test]
fn standard_inquiry_says_what_this_is() {
    let mut rig = Rig::new(SIZE);
    let data = rig.run(&inquiry(None, 255), &[], 255).good();
    assert_eq!((data[0], data[2], data[3] & 0xf, data.len()), (0, 6, 2, 96));
    assert_eq!(usize::from(data[4]) + 5, data.len());
    assert_eq!(&data[8..16], b"COHORT  ");
    assert_eq!(rig.run(&inquiry(None, 5), &[], 255).good(), data[..5]);
    assert_eq!(rig.run(&inquiry(None, 0), &[], 255).good().len(), 0);
    rig.run(&[0x12, 0, 0x83, 0, 255, 0], &[], 255).check(5, 0x24, 0);
    rig.run(&[0x12, 2, 0, 0, 255, 0], &[], 255).check(5, 0x24, 0);
    rig.run(&inquiry(Some(0x99), 255), &[], 255).check(5, 0x24, 0);
    // NACA is not there.
    rig.run(&[0x12, 0, 0, 0, 255, 4], &[], 255).check(5, 0x24, 0);
}

#[test]
fn every_page_is_as_long_as_it_says() {
    let mut rig = Rig::new(SIZE);
    let pages = rig.run(&inquiry(Some(0), 255), &[], 255).good();
    assert_eq!(pages[4..], [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2]);
    for page in &pages[4..] {
        let data = rig.run(&inquiry(Some(*page), 1000), &[], 1000).good();
        assert_eq!(data[..2], [0, *page]);
        assert_eq!(usize::from(u16::from_be_bytes([data[2], data[3]])) + 4, data.len());
    }
    let limits = rig.run(&inquiry(Some(0xb0), 64), &[], 64).good();
    assert_eq!((limits[3], limits[5]), (0x3c, 255));
    assert_eq!(limits[8..12], 65536u32.to_be_bytes());
    assert_eq!(limits[20..24], (1u32 << 20).to_be_bytes());
    let provisioning = rig.run(&inquiry(Some(0xb2), 64), &[], 64).good();
    assert_eq!(provisioning[5..7], [0xe4, 2]);
}

#[test]
fn a_unit_is_the_same_to_all_initiators_wherever_it_is_served() {
    let names = |rig: &mut Rig| {
        [0x80, 0x83].map(|page| rig.run(&inquiry(Some(page), 255), &[], 255).good())
    };
    let one = target(SIZE);
    let first = names(&mut Rig::on(&one, "a"));
    assert_eq!(first, names(&mut Rig::on(&one, "b")));
    assert_eq!(first, names(&mut Rig::new(2 * SIZE)));
    let mut other = unit(SIZE, EngineChoice::Auto);
    other.identity = "another disk".to_owned();
    let other = names(&mut Rig::on(&Target::new(vec![other], None).unwrap(), "a"));
    assert!(first[0] != other[0] && first[1] != other[1]);
    // A locally assigned NAA name of the unit comes first.
    assert_eq!(first[1][4..8], [1, 3, 0, 8]);
    assert_eq!(first[1][8] >> 4, 3);
    let naa = first[1][8..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(one.status().units[0].naa, naa);
}

#[test]
fn designators_name_no_protocol_since_a_port_has_several() {
    let page = Rig::new(SIZE).run(&inquiry(Some(0x83), 255), &[], 255).good();
    let mut left = &page[4..];
    let mut associations = Vec::new();
    while let [code_set, kind, _, len, rest @ ..] = left {
        assert_eq!((code_set >> 4, kind >> 7), (0, 0), "{page:02x?}");
        associations.push(kind >> 4 & 3);
        left = &rest[usize::from(*len)..];
    }
    assert_eq!(associations, [0, 0, 0, 1, 1]);
}

#[test]
fn capacities_agree() {
    let mut rig = Rig::new(SIZE);
    let short = rig.run(&cdb10(0x25, 0, 0, 0), &[], 8).good();
    assert_eq!(short, [0, 0, 0x3f, 0xff, 0, 0, 2, 0]);
    let long = rig.run(&cdb16(0x9e, 0x10, 0, 32), &[], 32).good();
    assert_eq!(long[..12], [0, 0, 0, 0, 0, 0, 0x3f, 0xff, 0, 0, 2, 0]);
    assert_eq!(long[14], 0xc0);
    assert_eq!(rig.run(&cdb16(0x9e, 0x10, 0, 13), &[], 32).good().len(), 13);
    rig.run(&cdb10(0x25, 0, 1, 0), &[], 8).check(5, 0x24, 0);
    let got = rig.run(&cdb16(0x9e, 0x11, 0, 32), &[], 32);
    assert_eq!(got.check(5, 0x24, 0)[15..18], [0xcc, 0, 1]);
}

#[test]
fn units_that_are_not_there_say_so() {
    let mut rig = Rig::new(SIZE);
    for lun in [1 << 48, 0x4001 << 48, 0x8000 << 48, 1, u64::MAX, 0x0100 << 48] {
        let data = rig.run_at(lun, &inquiry(None, 255), &[], 255).good();
        assert_eq!(data[0], 0x7f);
        rig.run_at(lun, &[0; 6], &[], 0).check(5, 0x25, 0);
        rig.run_at(lun, &cdb10(0x2a, 0, 0, 1), &[0; 512], 0).check(5, 0x25, 0);
        let sense = rig.run_at(lun, &[3, 0, 0, 0, 255, 0], &[], 255).good();
        assert_eq!((sense[2], sense[12]), (5, 0x25));
    }
    rig.run_at(0x4000 << 48, &[0; 6], &[], 0).good();
}

#[test]
fn luns_are_listed() {
    let mut units = vec![unit(SIZE, EngineChoice::Auto)];
    for number in 1..40 {
        units.push(UnitOptions {
            identity: format!("disk {number}"),
            disk: units[0].disk.clone(),
            reservations: Reservations::default(),
        });
    }
    let mut rig = Rig::on(&Target::new(units, None).unwrap(), "a");
    let cdb = |select: u8, room: u8| [0xa0, 0, select, 0, 0, 0, 0, 0, 2, room, 0, 0];
    for select in [0, 2] {
        let data = rig.run(&cdb(select, 0), &[], 4096).good();
        assert_eq!((data.len(), data[3], data[2]), (8 + 320, 64, 1));
        assert_eq!(data[8 + 8 * 17..16 + 8 * 17], [0, 17, 0, 0, 0, 0, 0, 0]);
    }
    assert_eq!(rig.run(&cdb(1, 0), &[], 4096).good(), [0; 8]);
    rig.run(&cdb(0x10, 0), &[], 4096).check(5, 0x24, 0);
    rig.run_at(39 << 48, &cdb10(0x2a, 0, 0, 1), &[3; 512], 0).good();
    assert_eq!(rig.read(0, 1), [3; 512]);
    assert_eq!(rig.target.status().units[39].written_bytes, 512);
    rig.run_at(40 << 48, &[0; 6], &[], 0).check(5, 0x25, 0);
}

#[test]
fn mode_pages_are_sensed_and_selected() {
    let target = target(SIZE);
    let mut rig = Rig::on(&target, "a");
    let mut other = Rig::on(&target, "b");
    let sense = |rig: &mut Rig, page: u8| rig.run(&[0x1a, 0, page, 0, 255, 0], &[], 255).good();
    let all = sense(&mut rig, 0x3f);
    assert_eq!(usize::from(all[0]) + 1, all.len());
    assert_eq!((all[2], all[3], all[12], all[32]), (0x10, 8, 0x08, 0x0a));
    let long = rig.run(&[0x5a, 0x18, 0x3f, 0, 0, 0, 0, 1, 0, 0], &[], 256).good();
    assert_eq!(long[8..], all[12..]);
    let long = rig.run(&[0x5a, 0x10, 0x3f, 0xff, 0, 0, 0, 1, 0, 0], &[], 256).good();
    assert_eq!((usize::from(long[1]) + 2, long[4], long[7]), (long.len(), 1, 16));
    assert_eq!(sense(&mut rig, 0x48)[12..], {
        let mut page = vec![0; 20];
        (page[0], page[1], page[2]) = (8, 18, 4);
        page
    });
    rig.run(&[0x1a, 0, 0xc8, 0, 255, 0], &[], 255).check(5, 0x39, 0);
    rig.run(&[0x1a, 0, 0x1c, 0, 255, 0], &[], 255).check(5, 0x24, 0);
    rig.run(&[0x1a, 0, 0x08, 1, 255, 0], &[], 255).check(5, 0x24, 0);

    let select = |rig: &mut Rig, page: &[u8]| {
        let list = [&[0; 4], page].concat();
        rig.run(&[0x15, 0x10, 0, 0, u8::try_from(list.len()).unwrap(), 0], &list, 0)
    };
    let mut control = sense(&mut rig, 0x0a)[12..].to_vec();
    control[4] |= 0x08;
    select(&mut rig, &control).good();
    other.run(&[0; 6], &[], 0).check(6, 0x2a, 1);
    assert_eq!(sense(&mut other, 0x0a)[2], 0x90);
    other.write(0, &[0; 512]).check(7, 0x27, 0);
    control[4] &= !0x08;
    control[2] |= 0x04;
    select(&mut rig, &control).good();
    let got = rig.run(&cdb10(0x28, 0, u32::MAX, 1), &[], 512);
    assert_eq!(got.check(5, 0x21, 0)[0], 0x72);
    control[3] = 0;
    select(&mut rig, &control).check(5, 0x26, 0);
    let mut caching = sense(&mut rig, 0x08)[12..].to_vec();
    caching[2] = 0;
    select(&mut rig, &caching).good();
    rig.write(0, &[5; 512]).good();
    rig.run(&[0x15, 0x11, 0, 0, 4, 0], &[0; 4], 0).check(5, 0x24, 0);
    rig.run(&[0x15, 0x10, 0, 0, 3, 0], &[0; 4], 0).check(5, 0x1a, 0);
    rig.run(&[0x15, 0x10, 0, 0, 9, 0], &[0; 4], 0).check(5, 0x0e, 3);
    for cut in 1..caching.len() {
        select(&mut rig, &caching[..cut]).check(5, 0x1a, 0);
    }
    let _ = target.manage(&rig.nexus, 0, TaskManagement::LogicalUnitReset);
    rig.run(&[0; 6], &[], 0).check(6, 0x29, 0);
    assert_eq!(sense(&mut rig, 0x08)[14], 4);
}

#[test]
fn operation_codes_are_reported_in_every_way() {
    let mut rig = Rig::new(SIZE);
    let mut report = |options: u8, code: u8, action: u8| {
        rig.run(&[0xa3, 0x0c, options, code, 0, action, 0, 0, 0x20, 0, 0, 0], &[], 8192)
    };
    let all = report(0, 0, 0).good();
    assert_eq!(u32::from_be_bytes(*all.first_chunk().unwrap()) as usize + 4, all.len());
    assert_eq!(report(0x80, 0, 0).good().len() - 4, (all.len() - 4) / 8 * 20);
    for entry in all[4..].chunks(8) {
        let (code, action, has_actions) = (entry[0], entry[3], entry[5] & 1 == 1);
        let (right, wrong) = if has_actions { (2, 1) } else { (1, 2) };
        let one = report(right, code, action).good();
        assert_eq!((one[1], one[4]), (3, code));
        assert_eq!(one.len(), 4 + usize::from(entry[7]));
        assert_eq!(report(3, code, action).good(), one);
        report(wrong, code, action).check(5, 0x24, 0);
        let timed = report(0x80 | right, code, action).good();
        assert_eq!((timed[1], timed.len()), (0x83, one.len() + 12));
    }
    assert_eq!(report(1, 0xcc, 0).good()[1], 1);
    assert_eq!(report(2, 0x9e, 3).good()[1], 1);
    report(4, 0, 0).check(5, 0x24, 0);
    let functions = [0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0];
    assert_eq!(rig.run(&functions, &[], 4).good(), [0xda, 0, 0, 0]);
}

#[test]
fn the_medium_stays_where_it_is() {
    let mut rig = Rig::new(SIZE);
    rig.run(&[0x1b, 0, 0, 0, 1, 0], &[], 0).good();
    rig.run(&[0x1b, 0, 0, 0, 0, 0], &[], 0).good();
    rig.run(&[0x1b, 1, 0, 0, 2, 0], &[], 0).check(5, 0x24, 0);
    rig.run(&[0x1b, 0, 0, 0, 0x10, 0], &[], 0).check(5, 0x24, 0);
    rig.run(&[0x1e, 0, 0, 0, 1, 0], &[], 0).good();
    rig.run(&[0x1e, 0, 0, 0, 2, 0], &[], 0).check(5, 0x24, 0);
    assert_eq!(rig.run(&cdb10(0x37, 0, 0x1400, 8), &[], 8).good().len(), 4);
    rig.run(&[0xc0; 10], &[], 0).check(5, 0x20, 0);
    // A CDB that was cut off.
    rig.run(&cdb10(0x28, 0, 0, 1)[..9], &[], 512).check(5, 0x24, 0);
}
