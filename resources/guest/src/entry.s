# From either boot protocol to CPL 3.
#
# Under a KVM that emulates CPL 0, every instruction here costs most of a microsecond. So page
# tables and descriptors are data of the image, and what can be filled in later (interrupt
# gates, see `machine::traps`) is filled in at CPL 3.

.set CODE32,   0x08
.set CODE64,   0x10
.set DATA,     0x18
.set USER_DATA, 0x20 | 3
.set USER_CODE, 0x28 | 3
.set TASK,     0x30

.set CR0_PE, 1 << 0
.set CR0_MP, 1 << 1
.set CR0_ET, 1 << 4
.set CR0_NE, 1 << 5
.set CR0_PG, 1 << 31
.set CR4_PAE, 1 << 5
.set CR4_OSFXSR, 1 << 9
.set CR4_OSXMMEXCPT, 1 << 10
# No SMEP and no SMAP, which a boot loader may have switched on: all pages here are CPL 3's.
.set OUR_CR0, CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_PG
.set OUR_CR4, CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT
.set MSR_EFER, 0xC0000080
.set EFER_LME, 1 << 8

.set BOOT_PVH, 1
.set BOOT_LINUX, 2

# ELF note of type 18 (XEN_ELFNOTE_PHYS32_ENTRY): where the PVH boot protocol enters.
.section .note.pvh, "a", @note
.balign 4
.long 4, 8, 18
.asciz "Xen"
.quad pvh_start

.section .text.entry, "ax", @progbits

# PVH: 32-bit protected mode without paging, ebx = hvm_start_info.
.code32
.global pvh_start
pvh_start:
    cli
    cld
    mov eax, OUR_CR4
    mov cr4, eax
    mov eax, offset pml4
    mov cr3, eax
    mov ecx, MSR_EFER
    rdmsr
    or eax, EFER_LME
    wrmsr
    mov eax, OUR_CR0
    mov cr0, eax
    lgdt [gdt_pointer]
    mov edi, BOOT_PVH
    mov esi, ebx
    # ljmp CODE64:enter_user
    .byte 0xEA
    .long enter_user
    .word CODE64

# Linux's 64-bit entry: identity-mapped long mode, rsi = boot_params.
.code64
.global long_start
long_start:
    cli
    cld
    mov eax, OUR_CR4
    mov cr4, rax
    mov eax, offset pml4
    mov cr3, rax
    mov eax, OUR_CR0
    mov cr0, rax
    lgdt [gdt_pointer]
    mov edi, BOOT_LINUX
    mov esp, offset kernel_stack_top
    push CODE64
    mov eax, offset enter_user
    push rax
    retfq

# Long mode on our tables; edi = boot protocol, rsi = its information block.
enter_user:
    mov eax, DATA
    mov ss, eax
    mov esp, offset kernel_stack_top
    # The task state's address goes into its descriptor byte by byte.
    mov eax, offset task_state
    mov [gdt_task + 2], ax
    shr eax, 16
    mov [gdt_task + 4], al
    mov [gdt_task + 7], ah
    mov eax, TASK
    ltr ax
    lidt [idt_pointer]
    mov eax, USER_DATA
    mov ds, eax
    mov es, eax
    push USER_DATA
    mov eax, offset user_stack_top
    sub eax, 8                  # as if called
    push rax
    push 2
    push USER_CODE
    mov eax, offset guest_main
    push rax
    iretq

# Page tables: the first 4 GiB, identity-mapped with 2 MiB pages that CPL 3 may use. Accessed and
# dirty bits are set so that no processor has to write here.
.section .tables, "aw", @progbits
.balign 4096
.global pml4
pml4:
    .quad pdpt + 0x27
    .fill 511, 8, 0
pdpt:
    .quad directories + 0x27, directories + 0x1027, directories + 0x2027, directories + 0x3027
    .fill 508, 8, 0
directories:
    .set address, 0
    .rept 2048
    .quad address + 0xE7
    .set address, address + 0x200000
    .endr

.section .data.entry, "aw", @progbits
.balign 8
gdt:
    .quad 0
    .quad 0x00CF9B000000FFFF    # CODE32
    .quad 0x00AF9B000000FFFF    # CODE64
    .quad 0x00CF93000000FFFF    # DATA
    .quad 0x00CFF3000000FFFF    # USER_DATA
    .quad 0x00AFFB000000FFFF    # USER_CODE
gdt_task:
    .quad 0x0000890000000000 + task_state_limit
    .quad 0
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word 65 * 16 - 1           # up to `traps::TIMER_VECTOR`
    .quad INTERRUPT_TABLE

# Task state with an I/O bitmap that opens ports 0 to 0xFFF to CPL 3: all in one page.
.balign 1024
task_state:
    .long 0
    .quad kernel_stack_top
    .fill 90, 1, 0
    .word task_ports - task_state
task_ports:
    .fill 512, 1, 0
    .byte 0xFF
task_state_end:
.set task_state_limit, task_state_end - task_state - 1

.section .bss, "aw", @nobits
.balign 4096
    .skip 4096
kernel_stack_top:
    .skip 65536
user_stack_top:
