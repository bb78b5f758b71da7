//! The end of the machine. Each way falls through to the next, so that the
//! guest never hangs because a device is missing.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::acpi::{Acpi, Fadt, Register};
use crate::boot_info::BootInfo;
use crate::cpu::{self, out8};
use crate::words::{Words, parse_number};
use crate::{clock, trap};

/// The debug exit port: the VMM ends with a code made from the value.
pub const DEBUG_EXIT: u16 = 0xf4;
/// The keyboard controller's command port, and its command for a reset.
pub const I8042_COMMAND: u16 = 0x64;
const I8042_RESET: u8 = 0xfe;
/// ACPI 6.5, 4.8.3.7: the sleep control register. S5 is type 5 in every machine
/// without a fixed-hardware ACPI that we know.
const SLEEP_S5: u8 = 5 << 2 | 1 << 5;
/// The value after a Rust panic.
pub const PANIC: u8 = 0x7f;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Poweroff,
    Reboot,
    Triple,
    Exit(u8),
    Halt,
}

impl End {
    /// The `end=` word, or power-off.
    pub fn chosen(words: Words) -> Self {
        match words.value("end") {
            Some("reboot") => End::Reboot,
            Some("triple") => End::Triple,
            Some("halt") => End::Halt,
            Some(other) => other
                .strip_prefix("exit:")
                .and_then(parse_number)
                .map_or(End::Poweroff, |value| End::Exit(value as u8)),
            None => End::Poweroff,
        }
    }
}

/// The registers to end by, copied from the tables before a job can spoil them.
struct Registers(core::cell::UnsafeCell<Fadt>);

// SAFETY: written once by the first CPU (`prepare`), read by it.
unsafe impl Sync for Registers {}

static REGISTERS: Registers = Registers(core::cell::UnsafeCell::new(Fadt { reset: None, sleep: None }));
static PREPARED: AtomicBool = AtomicBool::new(false);

/// Looks up the power registers, the first time.
pub fn prepare(boot: &BootInfo) {
    if !PREPARED.swap(true, Ordering::Relaxed)
        && let Some(fadt) = Acpi::find(boot.rsdp()).and_then(|acpi| acpi.fadt())
    {
        // SAFETY: the only write, and no reference is out.
        unsafe { *REGISTERS.0.get() = fadt };
    }
}

pub fn finish(end: End) -> ! {
    // SAFETY: no write is under way (see `Registers`).
    let registers = unsafe { *REGISTERS.0.get() };
    match end {
        End::Poweroff => {
            if let Some(register) = registers.sleep {
                write(register, SLEEP_S5);
            }
            attempt(DEBUG_EXIT, 0);
        }
        End::Reboot => {
            if let Some((register, value)) = registers.reset {
                write(register, value);
            }
        }
        End::Exit(value) => attempt(DEBUG_EXIT, value),
        End::Triple => triple_fault(),
        End::Halt => {
            trap::install();
            cpu::stop()
        }
    }
    attempt(I8042_COMMAND, I8042_RESET);
    triple_fault()
}

fn write(register: Register, value: u8) {
    match register {
        Register::Port(port) => out8(port, value),
        Register::Memory(address) => {
            crate::paging::reach(u64::from(address) + 1);
            // SAFETY: mapped, and a device's register.
            unsafe { (u64::from(address) as *mut u8).write_volatile(value) };
        }
    }
    // A VMM may take a moment to stop.
    clock::spin(50_000);
}

fn attempt(port: u16, value: u8) {
    write(Register::Port(port), value);
}

fn triple_fault() -> ! {
    trap::install();
    // SAFETY: nothing is left to protect.
    unsafe { cpu::ring0(cpu::ring0_triple_fault, 0, 0, 0) };
    cpu::stop()
}
