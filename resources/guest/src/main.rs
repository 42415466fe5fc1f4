//! The kernel image of the built-in guest: entries, handlers, and what the compiler needs. All
//! else is in the library.
#![no_std]
#![no_main]

use core::arch::global_asm;
use core::fmt::Write;
use core::panic::PanicInfo;

use cohort_guest::boot::{self, Protocol};
use cohort_guest::machine::memory::Pool;
use cohort_guest::machine::paging::PageTables;
use cohort_guest::machine::serial::Serial;
use cohort_guest::machine::traps::{Handlers, InterruptTable};
use cohort_guest::machine::{physical, power, ring0};
use cohort_guest::pci::Window;
use cohort_guest::run::{self, Guest};
use cohort_guest::status;
use cohort_guest::virtio::transport::Platform;

global_asm!(include_str!("entry.s"));
global_asm!(include_str!("traps.s"));
global_asm!(include_str!("memory.s"));

unsafe extern "C" {
    static image_end: u8;
    static pml4: u8;
    static exception_stubs: u8;
    static undefined_opcode: u8;
    static timer_interrupt: u8;
}

/// `entry.s` tells the processor of it.
#[unsafe(no_mangle)]
static INTERRUPT_TABLE: InterruptTable = InterruptTable::new();

fn address(symbol: *const u8) -> u64 {
    symbol.expose_provenance() as u64
}

/// Where `entry.s` enters CPL 3: `protocol` is one of its `BOOT_` numbers, `info` the
/// guest-physical address of that protocol's block.
#[unsafe(no_mangle)]
extern "C" fn guest_main(protocol: u64, info: u64) -> ! {
    INTERRUPT_TABLE.install(Handlers {
        exceptions: address(&raw const exception_stubs),
        undefined_opcode: address(&raw const undefined_opcode),
        timer: address(&raw const timer_interrupt),
    });
    let serial = Serial::new();
    let protocol = if protocol == 1 { Protocol::Pvh } else { Protocol::Linux };
    let end = address(&raw const image_end);
    // SAFETY: these are our page tables, and nothing here writes what the boot loader left.
    let memory = |at, len| unsafe { physical::bytes(at, len) };
    let boot = match boot::read(protocol, info, end, &memory) {
        Ok(boot) => boot,
        Err(error) => {
            run::say(&serial, format_args!("{error}"));
            run::exit(&serial, status::GUEST_DEFECT)
        }
    };
    let platform = Platform {
        // SAFETY: the memory map says that it is RAM; the boot loader's things are below 1 MiB,
        // where the boot protocols have them, and this image ends where the pool starts.
        pool: unsafe { Pool::new(end, boot.ram_end) },
        // SAFETY: the tables that `entry.s` switched to.
        tables: unsafe { PageTables::new(address(&raw const pml4)) },
        window: Window::default(),
    };
    Guest::new(&serial, &INTERRUPT_TABLE, platform).run(boot.command_line)
}

/// Where the exception stubs of `traps.s` end up, at CPL 3 again.
#[unsafe(no_mangle)]
extern "C" fn guest_exception(
    vector: u64,
    error: u64,
    rip: u64,
    cr2: u64,
    cs: u64,
    rsp: u64,
) -> ! {
    let _ = writeln!(
        &mut &Serial::new(),
        "exception {vector} at rip {rip:#x}: error code {error:#x}, cr2 {cr2:#x}, CPL {}, rsp {rsp:#x}",
        cs & 3,
    );
    power::exit(status::EXCEPTION);
    ring0::halt()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let _ = writeln!(&mut &Serial::new(), "guest panic: {info}");
    power::exit(status::GUEST_DEFECT);
    ring0::halt()
}
