# From the loader to CPL 3.
#
# Two ways in, one way out: if the command line starts with `boot`, the guest
# says at once that it runs (the start-up benchmark measures this); then both entries load the static page tables, the GDT,
# the TSS and the (still empty) IDT, and leave for CPL 3 with IOPL 3 through a
# ready-made IRET frame. Nothing else happens at CPL 0: a KVM that interprets
# kernel code takes about two microseconds for each instruction here.

    .set CR0_VALUE, 0x80000033      # PG, NE, ET, MP, PE
    .set CR4_VALUE, 0x00000620      # OSXMMEXCPT, OSFXSR, PAE
    .set MSR_EFER, 0xc0000080
    .set EFER_LME, 0x100

    .set BOOT_TIME_PORT, 0x0b0b
    .set SERIAL_PORT, 0x3f8
    .set BOOT_TIME_BYTE, 0x42       # also `B`, for the console
    .set BOOT_WORD, 0x746f6f62      # "boot"
    .set SLEEP_PORT, 0x600
    .set SLEEP_S5, 0x34             # SLP_EN, SLP_TYP 5 (ACPI 6.5, 4.8.3.7)
    .set START_INFO_COMMAND_LINE, 24
    .set BOOT_PARAMS_COMMAND_LINE, 0x228

    .set CS_KERNEL, 0x08
    .set DS_USER, 0x18 | 3
    .set CS_USER, 0x20 | 3
    .set TSS_SELECTOR, 0x28
    .set RFLAGS_USER, 0x3002        # IOPL 3, interrupts off

# The note that names the PVH entry (Xen, public/elfnote.h: PHYS32_ENTRY).
    .section .note.Xen, "a", @note
    .balign 4
    .long 4                         # n_namesz
    .long 8                         # n_descsz
    .long 18                        # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

# PVH: 32-bit protected mode, paging off, EBX = hvm_start_info
# (Xen, docs/misc/pvh.pandoc; CR4 and EFER are zero).
    .section .text.entry, "ax"

# With the command line's address in EAX: the boot-time byte and the first byte
# on the console, whose transmitter is empty after a reset. If the line is `boot`
# alone, a blind write to the sleep control register where Bantam and Cloud
# Hypervisor have it: that ends the machine there, and elsewhere it does nothing
# and the guest goes on to look for the right one.
    .macro announce_boot not_asked
    cmp dword ptr [eax], BOOT_WORD
    jne \not_asked
    mov cl, [eax + 4]
    cmp cl, 0x20
    ja \not_asked
    mov al, BOOT_TIME_BYTE
    mov dx, BOOT_TIME_PORT
    out dx, al
    mov dx, SERIAL_PORT
    out dx, al
    mov byte ptr [boot_announced], 1
    test cl, cl
    jnz \not_asked
    mov al, SLEEP_S5
    mov dx, SLEEP_PORT
    out dx, al
    .endm

    .code32
    .globl pvh_entry
pvh_entry:
    mov eax, [ebx + START_INFO_COMMAND_LINE]
    announce_boot pvh_start
pvh_start:
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
    lgdt [gdt_pointer]
    # ljmp CS_KERNEL:pvh_long
    .byte 0xea
    .long pvh_long
    .short CS_KERNEL

    .code64
pvh_long:
    lidt [idt_pointer]
    mov eax, TSS_SELECTOR
    ltr ax
    mov esp, offset pvh_frame
    iretq

# Linux 64-bit boot protocol: long mode, identity mapping of the loader's,
# RSI = boot_params (Linux, Documentation/arch/x86/boot.rst).
    .globl linux64_entry
linux64_entry:
    mov eax, [rsi + BOOT_PARAMS_COMMAND_LINE]
    announce_boot linux64_start
linux64_start:
    mov eax, CR4_VALUE
    mov cr4, rax
    mov eax, offset pml4
    mov cr3, rax
    mov eax, CR0_VALUE
    mov cr0, rax
    lgdt [gdt_pointer]
    lidt [idt_pointer]
    mov eax, TSS_SELECTOR
    ltr ax
    mov esp, offset linux64_frame
    iretq

# CPL 3 from here on.
pvh_user:
    xor edi, edi                    # Protocol::Pvh
    mov esi, ebx
    call guest_main
linux64_user:
    mov edi, 1                      # Protocol::Linux64
    call guest_main

# Identity map of the first 4 GiB with 2 MiB pages, open to CPL 3. The first
# gigabyte is ready; the tables of the other three are filled at CPL 3, before
# anything looks there (paging.rs).
    .section .data.page_tables, "aw"
    .balign 4096
    .globl pml4
pml4:
    .quad pdpt + 7                  # present, writable, user
    .fill 511, 8, 0
    .globl pdpt
pdpt:
    .quad page_directory_0 + 7
    .quad page_directories + 0x0007
    .quad page_directories + 0x1007
    .quad page_directories + 0x2007
    .fill 508, 8, 0
page_directory_0:
    .set page, 0
    .rept 512
    .quad page + 0x87               # present, writable, user, 2 MiB
    .set page, page + 0x200000
    .endr

    .section .bss.pages, "aw", @nobits
    .balign 4096
    .globl page_directories
page_directories:
    .skip 3 * 4096
    .globl idt
idt:
    .skip 256 * 16
# The I/O permission bitmap: all zero, every port is open. IOPL 3 alone does
# this job on real CPUs; a KVM that runs CPL 3 with the host's own page tables
# may drop IOPL and ask the bitmap instead.
    .globl io_bitmap
io_bitmap:
    .skip 8192 + 1
    .balign 16
    .skip 2048 - 16
    .globl ring0_stack_top
ring0_stack_top:
    .skip 32768
    .globl user_stack_top
user_stack_top:

    .section .data.boot, "aw"
    .globl boot_announced
boot_announced:
    .byte 0
    .balign 8
pvh_frame:
    .quad pvh_user, CS_USER, RFLAGS_USER, user_stack_top, DS_USER
linux64_frame:
    .quad linux64_user, CS_USER, RFLAGS_USER, user_stack_top, DS_USER
    .short 0, 0, 0
gdt_pointer:
    .short 7 * 8 - 1                # seven entries: the linker script lays them out
    .quad gdt
    .short 0, 0, 0
    .globl idt_pointer
idt_pointer:
    .short 256 * 16 - 1
    .quad idt
