# Where the other CPUs start (Intel SDM vol. 3, "MP Initialization Example"): real mode, at the page
# that the start-up IPI names. From there straight to long mode and to CPL 3.

    .section .rodata.trampoline, "a"
    .code16
    .globl trampoline
trampoline:
    cli
    mov ax, cs
    mov ds, ax
    # lgdt [trampoline_gdt_pointer], from DS, with a 32-bit base
    .byte 0x66, 0x0f, 0x01, 0x16
    .short trampoline_gdt_pointer - trampoline
    mov eax, CR4_VALUE
    mov cr4, eax
    mov eax, offset pml4
    mov cr3, eax
    mov ecx, MSR_EFER
    mov eax, EFER_LME
    xor edx, edx
    wrmsr
    mov eax, CR0_VALUE
    mov cr0, eax
    # ljmp CS_KERNEL:ap_long
    .byte 0x66, 0xea
    .long ap_long
    .short CS_KERNEL
    .balign 4
    .globl trampoline_gdt_pointer
trampoline_gdt_pointer:
    .short 0
    .long 0
    .globl trampoline_end
trampoline_end:

    .set LAPIC_ID, 0xfee00020
    .set RECORD_SELECTOR, 104       # smp.rs: ApRecord
    .set RECORD_FRAME, 112

    .section .text.trampoline, "ax"
    .code64
ap_long:
    lidt [idt_pointer]
    mov eax, LAPIC_ID
    mov eax, [rax]
    shr eax, 24
    mov rbx, [ap_records + rax * 8]
    mov ecx, [rbx + RECORD_SELECTOR]
    ltr cx
    lea rsp, [rbx + RECORD_FRAME]
    iretq

    .globl ap_user
ap_user:
    mov edi, eax
    call ap_main

    .section .bss.trampoline, "aw", @nobits
    .balign 16
    .globl ap_records
ap_records:
    .skip 256 * 8
