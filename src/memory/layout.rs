//! The guest-physical address map and the I/O port map: every fixed place in one table.
//!
//! ```text
//! 0x0000_0500  GDT for the 64-bit boot protocol        (below 640 KiB: boot data,
//! 0x0000_6000  PVH start info, modules, memory map       free for the guest to reuse
//! 0x0000_7000  Linux zero page                           once it has read them)
//! 0x0000_8000  free: application processors start here (a guest's SIPI trampoline)
//! 0x0000_9000  page tables for the 64-bit boot protocol
//! 0x0002_0000  kernel command line, 64 KiB
//! 0x0009_fc00  MP floating pointer (reserved; where kernels look first)
//! 0x000a_0000  hole without RAM meaning (reserved)
//! 0x000e_0000  ACPI tables (reserved)
//! 0x000e_f000  generation id (reserved, a page of its own)
//! 0x000f_0000  MP configuration table (reserved)
//! 0x0010_0000  kernel, initrd, free memory
//! 0xc000_0000  MMIO hole, 1 GiB: devices, IOAPIC, local APICs
//! 4 GiB        the rest of memory
//! ```

/// Smallest page: the unit of guest memory.
pub const PAGE_SIZE: u64 = 4096;

/// Global descriptor table of the 64-bit boot protocol.
pub const GDT: u64 = 0x500;
/// `hvm_start_info` of the PVH protocol, followed by its module list and memory map.
pub const PVH_START_INFO: u64 = 0x6000;
/// `boot_params` ("zero page") of the Linux boot protocol.
pub const ZERO_PAGE: u64 = 0x7000;
/// First of the page tables that map memory for the 64-bit boot protocol.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Longest command line, its terminating NUL included.
pub const CMDLINE_MAX: u64 = 0x1_0000;
/// End of conventional memory; what follows up to [`HIGH_MEMORY`] is reserved.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;
/// The MP floating pointer structure: the last KiB of the first 640, which kernels search early.
pub const MP_POINTER: u64 = CONVENTIONAL_END;
/// The MP configuration table.
pub const MP_TABLE: u64 = 0xf_0000;
/// End of the room for the MP configuration table.
pub const MP_TABLE_END: u64 = HIGH_MEMORY;
/// The ACPI tables; the RSDP comes first, where kernels that scan for it look.
pub const ACPI_TABLES: u64 = 0xe_0000;
/// End of the room for ACPI tables.
pub const ACPI_TABLES_END: u64 = GENERATION_ID;
/// The machine's generation id, 16 bytes. Its page is reserved and has nothing else in it, as the
/// specification wants ("Virtual Machine Generation ID", Microsoft, 2012).
pub const GENERATION_ID: u64 = 0xe_f000;
/// Start of memory above 1 MiB; kernels load from here on.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// First address of the hole below 4 GiB.
pub const HOLE_START: u64 = 0xc000_0000;
/// Memory that does not fit below the hole continues here.
pub const HOLE_END: u64 = 0x1_0000_0000;
/// MMIO windows of virtio devices, one page each, from here up.
pub const VIRTIO_MMIO: u64 = 0xd000_0000;
/// The IOAPIC's registers.
pub const IOAPIC: u64 = 0xfec0_0000;
/// Size of the IOAPIC's window.
pub const IOAPIC_LEN: u64 = 0x1000;
/// The local APICs' registers (in KVM).
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// Three pages for KVM's TSS and one for its identity map, needed by VT-x without
/// unrestricted guest support (KVM API, `KVM_SET_TSS_ADDR`).
pub const KVM_TSS: usize = 0xfffb_d000;
/// The identity map's page, in front of the TSS, is KVM's too: four pages in all.
pub const KVM_PAGES: u64 = 0xfffb_c000;
/// Size of KVM's own pages.
pub const KVM_PAGES_LEN: u64 = 4 * PAGE_SIZE;

/// CMOS real-time clock: index and data.
pub const RTC_PORT: u16 = 0x70;
/// i8042 keyboard controller: data at `0x60`, command at `0x64`.
pub const I8042_PORT: u16 = 0x60;
/// Debug exit, compatible with QEMU's `isa-debug-exit`.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;
/// First serial port.
pub const COM1_PORT: u16 = 0x3f8;
/// Interrupt of the first serial port.
pub const COM1_IRQ: u8 = 4;
/// Interrupt of a new generation id: the second serial port's, which is not here. It is below those of the
/// virtio devices.
pub const GENERATION_IRQ: u8 = 3;
/// ACPI sleep control, sleep status and reset registers, in this order.
pub const ACPI_PORT: u16 = 0x600;
/// Sleep type (SLP_TYP) of the state S5: a guest powers off by writing it with SLP_EN to the
/// sleep control register (ACPI 6.5, section 4.8.3.7).
pub const ACPI_SLEEP_TYPE_S5: u8 = 5;
/// The byte that resets the machine when written to the reset register.
pub const ACPI_RESET_VALUE: u8 = 1;
/// Boot-time port: a guest writes [`BOOT_TIME_MAGIC`] when it is up.
pub const BOOT_TIME_PORT: u16 = 0x0b0b;
/// The byte that marks the end of a guest's boot.
pub const BOOT_TIME_MAGIC: u8 = 0x42;
/// First interrupt for virtio devices.
pub const VIRTIO_IRQ_BASE: u8 = 5;
