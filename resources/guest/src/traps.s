# Interrupt handlers, at CPL 0. `machine::traps` makes the gates.

.set USER_DATA, 0x20 | 3
.set USER_CODE, 0x28 | 3
.set LAPIC_EOI, 0xFEE000B0

.section .text, "ax", @progbits
.code64

# Exceptions, 16 bytes each from exception_stubs on, in the order of their vectors.
.balign 16
.global exception_stubs
exception_stubs:
.set vector, 0
.rept 32
    .balign 16
    .if (1 << vector) & 0x60227D00      # 8, 10 to 14, 17, 21, 29, 30 push an error code
    .else
    push 0
    .endif
    push vector
    jmp exception
    .set vector, vector + 1
.endr

# Leaves the interrupted program for `guest_exception` at CPL 3, on a stack of its own.
exception:
    pop rdi                     # vector
    pop rsi                     # error code
    pop rdx                     # rip
    pop r8                      # cs
    add rsp, 8
    pop r9                      # rsp
    mov rcx, cr2
    mov esp, offset exception_frame_top
    push USER_DATA
    mov eax, offset exception_stack_top
    sub eax, 8
    push rax
    push 2
    push USER_CODE
    mov eax, offset guest_exception
    push rax
    iretq

# #UD is also how CPL 3 calls CPL 0: a KVM that runs CPL 3 natively delivers exceptions, but knows
# no `int`. rax = RING0_MAGIC + function, rdi and rsi = arguments.
.set RING0_MAGIC, 0x636F686F72740000

.balign 16
.global undefined_opcode
undefined_opcode:
    push rcx
    mov rcx, RING0_MAGIC
    xor rcx, rax
    cmp rcx, 3
    ja 4f
    add qword ptr [rsp + 8], 2  # behind the ud2
    cmp ecx, 1
    je 1f
    cmp ecx, 2
    je 2f
    cmp ecx, 3
    je 3f
0:  cli
    hlt
    jmp 0b
1:  sti
    hlt
    cli
    pop rcx
    iretq
2:  mov ecx, edi
    mov eax, esi
    mov rdx, rsi
    shr rdx, 32
    wrmsr
    pop rcx
    iretq
3:  mov eax, edi
    mov ecx, esi
    cpuid
    mov esi, ecx
    pop rcx
    iretq
4:  pop rcx
    push 0
    push 6
    jmp exception

# The local APIC's timer: waking up is all it is for.
.balign 16
.global timer_interrupt
timer_interrupt:
    push rax
    mov eax, LAPIC_EOI
    mov dword ptr [rax], 0
    pop rax
    iretq

.section .bss, "aw", @nobits
.balign 16
    .skip 128
exception_frame_top:
    .skip 8192
exception_stack_top:
