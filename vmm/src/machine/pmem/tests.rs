use std::io::Write;

use devices::bus::BusDevice;

use super::*;

#[test]
fn files_are_placed_for_large_pages_and_within_the_processors_addresses() {
    let limit = 1 << 40;
    assert_eq!(range(5 << 30, 1, limit), Some(5 << 30..(5 << 30) + GRANULE));
    assert_eq!(
        range((5 << 30) + 1, GRANULE, limit),
        Some((5 << 30) + GRANULE..(5 << 30) + 2 * GRANULE)
    );
    assert_eq!(range((5 << 30) + 1, HUGE + 1, limit), Some(6 << 30..(7 << 30) + GRANULE));
    assert_eq!(range(limit - GRANULE, GRANULE, limit), Some(limit - GRANULE..limit));
    assert_eq!(range(limit - GRANULE, GRANULE + 1, limit), None);
    assert_eq!(range(0, 0, limit), None);
    assert_eq!(range(u64::MAX, 1, u64::MAX), None);
    assert_eq!(range(0, u64::MAX, u64::MAX), None);
}

fn refusals(file: &tempfile::NamedTempFile, mode: PmemMode) -> Refusals {
    let opened = File::open(file.path()).unwrap();
    let region = SharedRegion::new(opened, file.path().into(), None).unwrap();
    let window = Window::reserve("pmem 0", GRANULE, GRANULE).unwrap();
    window.map(window.range(0, GRANULE).unwrap(), &region, 0, Access::Read).unwrap();
    Refusals { window, region, mode, ending: Arc::new(Ending::new().unwrap()), writes: 0 }
}

#[test]
fn writes_are_counted_and_end_nothing() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[7; 10_000]).unwrap();
    let mut refusals = refusals(&file, PmemMode::Shared);
    let before = std::fs::read(file.path()).unwrap();
    for offset in [0, 4096, 12_288] {
        refusals.write(offset, &[1; 8]);
    }
    refusals.read(0, &mut [0; 8]);
    assert_eq!(refusals.writes, 3);
    assert!(!refusals.ending.stopping());
    assert_eq!(std::fs::read(file.path()).unwrap(), before);
}

#[test]
fn a_lost_page_ends_the_guest_with_the_files_name_and_the_place() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[7; 10_000]).unwrap();
    let mut refusals = refusals(&file, PmemMode::Private);
    file.as_file().set_len(4000).unwrap();
    refusals.read(0, &mut [0; 8]);
    refusals.write(4088, &[0; 8]);
    refusals.read(12_288, &mut [0; 8]);
    assert!(!refusals.ending.stopping(), "these were never lost");
    refusals.read(8192, &mut [0; 8]);
    let Some(End::Failure(error)) = refusals.ending.take() else { panic!("no end") };
    let said = error.to_string();
    assert!(
        said.contains(&file.path().display().to_string()) && said.contains("byte 8192"),
        "{said}"
    );
}

#[test]
fn another_domain_gets_pages_of_its_own() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[7; 10_000]).unwrap();
    let pmem = PmemSpec::new(file.path().into());
    let open = |domain: &str| open(0, &pmem, Domain::named(domain), None).unwrap();
    let (one, same) = (open("a"), open("a"));
    assert!(one.identity().is_same_file(same.identity()));
    let other = open("b");
    assert!(!other.identity().is_same_file(one.identity()));
    assert_eq!(other.len(), 10_000);
    // Once nobody of the first domain uses the file, it is the other's to share.
    drop((one, same));
    assert!(!open("b").identity().is_same_file(other.identity()));
}
