extern crate std;

use super::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const IMAGE_END: u64 = 0x12_0000;

fn put(memory: &mut [u8], at: usize, bytes: &[u8]) {
    memory[at..at + bytes.len()].copy_from_slice(bytes);
}

fn entry(start: u64, len: u64, kind: u32) -> Vec<u8> {
    [&start.to_le_bytes()[..], &len.to_le_bytes(), &kind.to_le_bytes()].concat()
}

fn run(protocol: Protocol, memory: &[u8]) -> Result<BootInfo<'_>, BootError> {
    read(protocol, 0x100, IMAGE_END, &|address, len| {
        let start = usize::try_from(address).ok()?;
        memory.get(start..start.checked_add(len)?)
    })
}

fn pvh() -> Vec<u8> {
    let mut memory = vec![0; 0x3000];
    put(&mut memory, 0x100, &PVH_MAGIC.to_le_bytes());
    put(&mut memory, 0x104, &1u32.to_le_bytes());
    put(&mut memory, 0x118, &0x2000u64.to_le_bytes());
    put(&mut memory, 0x128, &0x1000u64.to_le_bytes());
    put(&mut memory, 0x130, &3u32.to_le_bytes());
    put(&mut memory, 0x1000, &entry(0, 0xA_0000, TYPE_RAM));
    put(&mut memory, 0x1018, &entry(0x10_0000, 0x400_0000, 2));
    put(&mut memory, 0x1030, &entry(0x10_0000, 0x400_0000, TYPE_RAM));
    put(&mut memory, 0x2000, b"print hi; exit 3\0rest");
    memory
}

#[test]
fn pvh_gives_command_line_and_the_ram_around_the_image() {
    let memory = pvh();
    let info = run(Protocol::Pvh, &memory).expect("a good block");
    assert_eq!(info, BootInfo { command_line: b"print hi; exit 3", ram_end: 0x410_0000 });
}

#[test]
fn linux_gives_the_same() {
    let mut memory = vec![0; 0x3000];
    put(&mut memory, 0x100 + 0x1e8, &[2]);
    put(&mut memory, 0x100 + 0x228, &0x2000u32.to_le_bytes());
    put(&mut memory, 0x100 + 0x2d0, &entry(0, 0xA_0000, TYPE_RAM));
    put(&mut memory, 0x100 + 0x2e4, &entry(0x10_0000, 0x400_0000, TYPE_RAM));
    put(&mut memory, 0x2000, b"hang\0");
    let info = run(Protocol::Linux, &memory).expect("a good block");
    assert_eq!(info, BootInfo { command_line: b"hang", ram_end: 0x410_0000 });
}

#[test]
fn a_command_line_may_end_with_memory_or_be_missing() {
    let mut memory = pvh();
    memory.truncate(0x2005);
    assert_eq!(run(Protocol::Pvh, &memory).expect("cut").command_line, b"print");
    put(&mut memory, 0x118, &0u64.to_le_bytes());
    assert_eq!(run(Protocol::Pvh, &memory).expect("none").command_line, b"");
}

#[test]
fn each_defect_has_its_error() {
    let mut memory = pvh();
    put(&mut memory, 0x128, &0x9000u64.to_le_bytes());
    let missing = BootError::Unreadable { what: "memory map", address: 0x9000 };
    assert_eq!(run(Protocol::Pvh, &memory), Err(missing));
    put(&mut memory, 0x104, &0u32.to_le_bytes());
    put(&mut memory, 0x128, &0u64.to_le_bytes());
    assert_eq!(run(Protocol::Pvh, &memory), Err(BootError::NoMemory));
    put(&mut memory, 0x100, &[1, 0, 0, 0]);
    assert_eq!(run(Protocol::Pvh, &memory), Err(BootError::Magic(1)));
    assert!(matches!(run(Protocol::Linux, &[]), Err(BootError::Unreadable { .. })));
}

proptest! {
    #[test]
    fn no_block_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..6000), pvh: bool) {
        let mut memory = bytes;
        if pvh && memory.len() > 0x104 {
            put(&mut memory, 0x100, &PVH_MAGIC.to_le_bytes());
        }
        let _ = run(if pvh { Protocol::Pvh } else { Protocol::Linux }, &memory);
    }
}
