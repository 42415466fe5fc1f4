//! The guest by Linux's 64-bit entry, which QEMU does not use: on this host's KVM, in the
//! smallest machine that will do.
#![expect(unsafe_code, reason = "KVM takes guest memory by its address")]

use std::fs::File;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const MEMORY: u64 = 16 << 20;
const BOOT_PARAMS: u64 = 0x7000;
const PAGE_TABLES: u64 = 0x9000;
const COMMAND_LINE: u64 = 0x2_0000;
const SERIAL: u16 = 0x3F8;
const LINE_STATUS: u16 = 0x3FD;
const EXIT: u16 = 0xF4;

fn field<const N: usize>(at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..N].copy_from_slice(&resources::BUILTIN_GUEST[at..at + N]);
    u64::from_le_bytes(bytes)
}

/// Puts the loadable segments where they belong. Returns the entry.
fn load(memory: &GuestMemoryMmap) -> u64 {
    let index = |value: u64| usize::try_from(value).expect("a small number");
    let (headers, size, count) = (field::<8>(32), field::<2>(54), field::<2>(56));
    for header in (0..count).map(|number| index(headers + number * size)) {
        const LOADABLE: u64 = 1;
        if field::<4>(header) == LOADABLE {
            let (offset, address, len) =
                (field::<8>(header + 8), field::<8>(header + 24), field::<8>(header + 32));
            let bytes = &resources::BUILTIN_GUEST[index(offset)..index(offset + len)];
            memory.write_slice(bytes, GuestAddress(address)).expect("a segment inside memory");
        }
    }
    field::<8>(24)
}

/// Boot parameters, command line, and page tables that only CPL 0 may use.
fn prepare(memory: &GuestMemoryMmap, script: &str) {
    let write = |bytes: &[u8], at| memory.write_slice(bytes, GuestAddress(at)).expect("memory");
    write(&[1], BOOT_PARAMS + 0x1e8);
    write(&u32::try_from(COMMAND_LINE).expect("32 bits").to_le_bytes(), BOOT_PARAMS + 0x228);
    let usable =
        [&0x10_0000u64.to_le_bytes()[..], &(MEMORY - 0x10_0000).to_le_bytes(), &[1, 0, 0, 0]];
    write(&usable.concat(), BOOT_PARAMS + 0x2d0);
    write(format!("{script}\0").as_bytes(), COMMAND_LINE);
    write(&(PAGE_TABLES + 0x1003).to_le_bytes(), PAGE_TABLES);
    write(&(PAGE_TABLES + 0x2003).to_le_bytes(), PAGE_TABLES + 0x1000);
    for page in 0..MEMORY >> 21 {
        write(&(page << 21 | 0x83).to_le_bytes(), PAGE_TABLES + 0x2000 + page * 8);
    }
}

/// Runs a script; returns what it printed and its status.
fn run(script: &str) -> Option<(String, u8)> {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        println!("skipped: /dev/kvm cannot be opened: {error}");
        return None;
    }
    let kvm = Kvm::new().expect("KVM");
    let vm = kvm.create_vm().expect("a VM");
    let len = usize::try_from(MEMORY).expect("64 bits");
    let memory: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), len)]).expect("memory");
    let host = memory.get_host_address(GuestAddress(0)).expect("the start of memory");
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY,
        userspace_addr: host.expose_provenance() as u64,
    };
    // SAFETY: `memory` outlives the VM, which is dropped with this function.
    unsafe { vm.set_user_memory_region(region) }.expect("a memory slot");
    let entry = load(&memory);
    prepare(&memory, script);

    let mut cpu = vm.create_vcpu(0).expect("a virtual CPU");
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).expect("CPUID");
    cpu.set_cpuid2(&cpuid).expect("CPUID set");
    let mut special = cpu.get_sregs().expect("registers");
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() };
    special.cs = kvm_segment { selector: 0x10, type_: 11, l: 1, ..flat };
    let data = kvm_segment { selector: 0x18, type_: 3, db: 1, ..flat };
    (special.ds, special.es, special.ss) = (data, data, data);
    (special.cr0, special.cr3, special.cr4) = (0x8000_0033, PAGE_TABLES, 0x20);
    special.efer = 0x500;
    cpu.set_sregs(&special).expect("registers set");
    let mut general = cpu.get_regs().expect("registers");
    (general.rip, general.rsi, general.rflags) = (entry, BOOT_PARAMS, 2);
    cpu.set_regs(&general).expect("registers set");

    let mut serial = String::new();
    loop {
        match cpu.run().expect("the virtual CPU goes on") {
            VcpuExit::IoOut(SERIAL, data) => serial.extend(data.iter().copied().map(char::from)),
            VcpuExit::IoOut(EXIT, data) => return Some((serial, data[0])),
            VcpuExit::IoOut(..) => {}
            VcpuExit::IoIn(LINE_STATUS, data) => data.fill(0x60),
            VcpuExit::IoIn(_, data) => data.fill(0xFF),
            other => panic!("{other:?} after {serial:?}"),
        }
    }
}

#[test]
fn a_script_runs_by_the_64_bit_entry() {
    let Some((serial, status)) = run("print hello; memory.touch 8M; exit 42") else { return };
    assert_eq!((serial.as_str(), status), ("hello\nmemory.touch: 8388608 bytes\n", 42));
}

#[test]
fn what_is_not_in_memory_is_missing() {
    let Some((serial, status)) = run("memory.touch 16M") else { return };
    assert_eq!(serial, "memory.touch: guest memory is too small for this command\n");
    assert_eq!(status, cohort_guest::status::GUEST_DEFECT);
}
