# Exceptions, interrupts and the gate to CPL 0.
#
# A handler runs at CPL 0, perhaps interpreted, so each does the least it can:
# exceptions are recorded and handed to CPL 3, interrupts are counted.

    .set LAPIC_BASE, 0xfee00000
    .set LAPIC_EOI, 0xfee000b0
    .set UART_IIR, 0x3f8 + 2

# The registers that a function leaves as they are for its caller (System V ABI for AMD64, section 3.2.1).
    .macro push_callers
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    .endm
    .macro pop_callers
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    .endm

    .section .text.trap, "ax"

# One stub for each exception vector, 16 bytes apart: pushes a zero where the
# CPU pushes no error code (Intel SDM vol. 3, "Protected-Mode Exceptions and Interrupts"), then the vector.
    .balign 16
    .globl exception_stubs
exception_stubs:
    .irp vector, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    .balign 16
    .if (\vector == 8) || (\vector >= 10 && \vector <= 14) || (\vector == 17) || (\vector == 21) || (\vector == 29) || (\vector == 30)
    .else
    push 0
    .endif
    push \vector
    jmp exception
    .endr

# Moves the frame into fault_record and returns to fault_user at CPL 3.
exception:
    pop qword ptr [fault_record]            # vector
    pop qword ptr [fault_record + 8]        # error code
    pop qword ptr [fault_record + 16]       # RIP
    pop qword ptr [fault_record + 24]       # CS
    pop qword ptr [fault_record + 32]       # RFLAGS
    pop qword ptr [fault_record + 40]       # RSP
    mov rax, cr2
    mov [fault_record + 48], rax
    mov esp, offset fault_frame
    iretq

# CPL 3: back into a guarded call if one is under way, else to the report.
fault_user:
    cmp qword ptr [recover_rip], 0
    je report
    mov rsp, [recover_rsp]
    jmp [recover_rip]
report:
    call fault_report

# guarded_call(function, argument, result) -> 1, or 0 if an exception came.
    .globl guarded_call
guarded_call:
    push_callers
    push rdx
    mov [recover_rsp], rsp
    mov qword ptr [recover_rip], offset guarded_fault
    mov rax, rdi
    mov rdi, rsi
    call rax
    mov qword ptr [recover_rip], 0
    pop rdx
    mov [rdx], rax
    mov eax, 1
    jmp guarded_return
guarded_fault:
    mov qword ptr [recover_rip], 0
    pop rdx
    xor eax, eax
guarded_return:
    pop_callers
    ret

# The gate from CPL 3: ring0_call(a, b, c, routine) calls the routine at CPL 0
# with RDI, RSI, RDX. It is an invalid instruction at a known address, since a
# KVM that runs CPL 3 with the host's own page tables can deliver exceptions but
# may refuse `int n` there, and `syscall` too.
    .globl ring0_call
ring0_call:
    mov rax, rcx
gate:
    ud2
    ret

    .globl invalid_opcode
invalid_opcode:
    cmp qword ptr [rsp], offset gate
    jne exception_stubs + 16 * 6
    add qword ptr [rsp], 2          # past ud2
    call rax
    iretq

    .globl timer_interrupt
timer_interrupt:
    lock inc dword ptr [timer_interrupts]
end_of_interrupt:
    push rax
    mov eax, LAPIC_EOI
    mov dword ptr [rax], 0
    pop rax
    iretq

    .globl generation_interrupt
generation_interrupt:
    lock inc dword ptr [generation_interrupts]
    jmp end_of_interrupt

    .globl device_interrupt
device_interrupt:
    lock inc dword ptr [device_interrupts]
    jmp end_of_interrupt

# Counted for each CPU by itself: the periodic timer's, and those that another CPU sends.
    .macro counted name
    .globl \name\()_interrupt
\name\()_interrupt:
    push rax
    mov eax, LAPIC_BASE
    mov eax, [rax + 0x20]           # ID
    shr eax, 24
    inc dword ptr [\name\()_interrupts + rax * 4]
    mov eax, LAPIC_EOI
    mov dword ptr [rax], 0
    pop rax
    iretq
    .endm

    counted tick
    counted peer

# Reading IIR takes back the transmitter-empty interrupt (PC16550D data sheet, "Interrupt Control Functions").
    .globl serial_interrupt
serial_interrupt:
    push rax
    push rdx
    mov edx, UART_IIR
    in al, dx
    pop rdx
    pop rax
    lock inc dword ptr [serial_interrupts]
    jmp end_of_interrupt

    .globl spurious_interrupt
spurious_interrupt:
    iretq

    .section .data.boot, "aw"
    .balign 8
fault_frame:
    .quad fault_user, CS_USER, RFLAGS_USER, fault_stack_top, DS_USER

    .section .bss.trap, "aw", @nobits
    .balign 16
    .skip 8192
fault_stack_top:
    .globl fault_record
fault_record:
    .skip 7 * 8
recover_rip:
    .skip 8
recover_rsp:
    .skip 8
    .globl timer_interrupts
timer_interrupts:
    .skip 4
    .globl serial_interrupts
serial_interrupts:
    .skip 4
    .globl generation_interrupts
generation_interrupts:
    .skip 4
    .globl device_interrupts
device_interrupts:
    .skip 4
    .globl tick_interrupts
tick_interrupts:
    .skip 256 * 4
    .globl peer_interrupts
peer_interrupts:
    .skip 256 * 4
