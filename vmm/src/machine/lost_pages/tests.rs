use memshare::Placement;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::*;

#[test]
fn a_shortened_file_ends_the_guest_and_not_the_process() {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(4 * PAGE_SIZE).expect("a size");
    let ram = GuestRam::new(1 << 20, 1 << 30, 1 << 32).expect("guest memory");
    let placed = ram
        .place(&file, 0, 4 * PAGE_SIZE, GuestAddress(0x1_0000), Placement::CopyOnWrite)
        .expect("a mapping");
    assert_eq!(placed.mapped, 4 * PAGE_SIZE);
    let memory = ram.memory().memory();
    memory.write_obj(7u64, GuestAddress(0x1_0000)).expect("in memory");

    let ending = Arc::new(Ending::new().expect("eventfd"));
    let watch = Watch::new(&ram, std::iter::empty(), &ending).expect("a handler");
    file.set_len(0).expect("shorter");
    assert!(!ending.stopping());
    let lost = GuestAddress(0x1_0000 + 3 * PAGE_SIZE + 8);
    assert_eq!(memory.read_obj::<u64>(lost).expect("in memory"), 0);
    assert!(ending.stopping());
    memory.write_obj(9u64, lost).expect("in memory");
    assert_eq!(memory.read_obj::<u64>(lost).expect("in memory"), 9);
    drop(watch);
    let Some(End::Failure(error)) = ending.take() else { panic!("another end") };
    assert!(error.to_string().contains("shortened"), "{error}");
    assert!(error.help().is_some());
}
