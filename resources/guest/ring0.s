# Routines for CPL 0, called through the gate (RDI, RSI, RDX; result in RAX),
# and the measured loops, which run at either level. Plain integer code only:
# an interpreting KVM knows neither SSE nor the newer instructions.

    .section .text.ring0, "ax"

# Sleeps until an interrupt has been handled.
    .globl ring0_hlt
ring0_hlt:
    sti
    hlt
    cli
    ret

# Takes what interrupts are pending. An interpreting KVM looks for them every
# so many instructions only: a window of a few is missed again and again.
    .globl ring0_interrupt_window
ring0_interrupt_window:
    mov ecx, 32
    sti
2:  nop
    dec ecx
    jnz 2b
    cli
    ret

# Interrupts at CPL 3 from now on, or no more: in the flags that the gate goes back with. Above the return
# address there are RIP, CS and RFLAGS.
    .globl ring0_allow_interrupts
ring0_allow_interrupts:
    or dword ptr [rsp + 24], 0x200
    ret
    .globl ring0_forbid_interrupts
ring0_forbid_interrupts:
    and dword ptr [rsp + 24], ~0x200
    ret

# Two of the debug registers.
    .irp number, 0, 3
    .globl ring0_read_dr\number
ring0_read_dr\number:
    mov rax, dr\number
    ret
    .globl ring0_write_dr\number
ring0_write_dr\number:
    mov dr\number, rsi
    ret
    .endr

# Stops this CPU for ever.
    .globl ring0_stop
ring0_stop:
    cli
    hlt
    jmp ring0_stop

    .globl ring0_rdmsr
ring0_rdmsr:
    mov ecx, edi
    rdmsr
    shl rdx, 32
    or rax, rdx
    ret

    .globl ring0_wrmsr
ring0_wrmsr:
    mov ecx, edi
    mov eax, esi
    mov rdx, rsi
    shr rdx, 32
    wrmsr
    ret

# An exception with an empty IDT: a triple fault.
    .globl ring0_triple_fault
ring0_triple_fault:
    lidt [empty_idt]
    ud2

    .globl ring0_jump
ring0_jump:
    jmp rdi

    .globl ring0_spin
ring0_spin:
    jmp ring0_spin

# An instruction that an interpreter may not know.
    .globl ring0_cmpxchg16b
ring0_cmpxchg16b:
    push rbx
    xor eax, eax
    xor edx, edx
    xor ebx, ebx
    xor ecx, ecx
    lock cmpxchg16b [scratch16]
    pop rbx
    ret

# work_loop(iterations): eight simple instructions an iteration.
    .globl work_loop
work_loop:
    xor eax, eax
    xor edx, edx
work_next:
    add rax, rdi
    xor rdx, rax
    lea rsi, [rdx + rax]
    mov r8, rsi
    sub r8, rdi
    and rax, r8
    dec rdi
    jnz work_next
    ret

# exits_*(count, port or address, samples): one exit after the other, the TSC
# ticks of each (low 32 bits) into the samples. `none` is the loop itself.
    .macro exit_loop name, setup, exit
    .globl exits_\name
exits_\name:
    push rbx
    mov r9, rdx
\name\()_next:
    rdtsc
    mov r8d, eax
    \setup
    \exit
    rdtsc
    sub eax, r8d
    mov [r9], eax
    add r9, 4
    dec rdi
    jnz \name\()_next
    pop rbx
    ret
    .endm

    exit_loop none, "mov edx, esi", ""
    exit_loop pio_out, "mov edx, esi", "out dx, al"
    exit_loop pio_in, "mov edx, esi", "in al, dx"
    exit_loop mmio_read, "", "mov eax, [rsi]"
    exit_loop mmio_write, "", "mov [rsi], eax"
    exit_loop serial, "mov edx, esi; xor eax, eax", "out dx, al"
    exit_loop notify, "xor eax, eax", "mov [rsi], eax"
    exit_loop touch, "add rsi, 4096", "mov [rsi], eax"
    exit_loop cpuid, "xor eax, eax", "cpuid"
# A hypercall that KVM does not know.
    exit_loop vmcall, "mov eax, 0xffff", "vmcall"
    exit_loop vmmcall, "mov eax, 0xffff", "vmmcall"

    .section .rodata.ring0, "a"
    .balign 8
empty_idt:
    .short 0
    .quad 0

    .section .bss.ring0, "aw", @nobits
    .balign 16
scratch16:
    .skip 16
