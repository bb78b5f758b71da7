//! The interrupt descriptor table (Intel SDM vol. 3, "64-Bit Mode IDT"), filled at CPL 3
//! since its page is open, and the report of an exception.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::apic::vector;
use crate::console::{self, println};
use crate::cpu::out8;
use crate::end;

type Handler = unsafe extern "C" fn();

unsafe extern "C" {
    static idt: [[AtomicU64; 2]; 256];
    static exception_stubs: [[u8; 16]; 32];
    static fault_record: Fault;
    static timer_interrupts: AtomicU32;
    static serial_interrupts: AtomicU32;
    static generation_interrupts: AtomicU32;
    static device_interrupts: AtomicU32;
    static tick_interrupts: [AtomicU32; 256];
    static peer_interrupts: [AtomicU32; 256];
    fn invalid_opcode();
    fn timer_interrupt();
    fn serial_interrupt();
    fn generation_interrupt();
    fn device_interrupt();
    fn tick_interrupt();
    fn peer_interrupt();
    fn spurious_interrupt();
}

unsafe extern "sysv64" {
    fn guarded_call(function: extern "sysv64" fn(u64) -> u64, argument: u64, result: &mut u64) -> u32;
}

/// As trap.s leaves it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Fault {
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    cr2: u64,
}

const KERNEL_CODE: u64 = 0x08;
/// Present, 64-bit interrupt gate.
const INTERRUPT_GATE: u64 = 0x8e;
/// The gate to CPL 0 (trap.s).
const INVALID_OPCODE: u8 = 6;

static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Fills the table, the first time. Nothing before this may fault, use the gate
/// or take an interrupt.
pub fn install() {
    if INSTALLED.swap(true, Ordering::Relaxed) {
        return;
    }
    // SAFETY: only the address is taken.
    let stubs = (&raw const exception_stubs).addr() as u64;
    for number in 0..32 {
        set_gate(number, stubs + 16 * u64::from(number));
    }
    let handlers: [(u8, Handler); 8] = [
        (INVALID_OPCODE, invalid_opcode),
        (vector::TIMER, timer_interrupt),
        (vector::SERIAL, serial_interrupt),
        (vector::GENERATION, generation_interrupt),
        (vector::DEVICE, device_interrupt),
        (vector::TICK, tick_interrupt),
        (vector::PEER, peer_interrupt),
        (vector::SPURIOUS, spurious_interrupt),
    ];
    for (number, handler) in handlers {
        set_gate(number, handler as usize as u64);
    }
}

fn set_gate(number: u8, handler: u64) {
    // SAFETY: the table is ours (entry.s) and made of atomics.
    let [low, high] = unsafe { &idt[usize::from(number)] };
    high.store(handler >> 32, Ordering::Relaxed);
    low.store(
        handler & 0xffff | KERNEL_CODE << 16 | INTERRUPT_GATE << 40 | (handler >> 16 & 0xffff) << 48,
        Ordering::Relaxed,
    );
}

pub fn timer_count() -> u64 {
    // SAFETY: an atomic of trap.s.
    unsafe { timer_interrupts.load(Ordering::Acquire).into() }
}

pub fn serial_count() -> u64 {
    // SAFETY: an atomic of trap.s.
    unsafe { serial_interrupts.load(Ordering::Acquire).into() }
}

pub fn generation_count() -> u64 {
    // SAFETY: an atomic of trap.s.
    unsafe { generation_interrupts.load(Ordering::Acquire).into() }
}

pub fn device_count() -> u64 {
    // SAFETY: an atomic of trap.s.
    unsafe { device_interrupts.load(Ordering::Acquire).into() }
}

/// A CPU's periodic timer interrupts.
pub fn tick_count(id: u8) -> u64 {
    // SAFETY: atomics of trap.s.
    unsafe { tick_interrupts[usize::from(id)].load(Ordering::Acquire).into() }
}

/// A CPU's interrupts that other CPUs have sent.
pub fn peer_count(id: u8) -> u64 {
    // SAFETY: atomics of trap.s.
    unsafe { peer_interrupts[usize::from(id)].load(Ordering::Acquire).into() }
}

/// Calls the function; an exception in it (at either level) gives `None`. It
/// must own nothing, for nothing is dropped.
pub fn guarded(function: extern "sysv64" fn(u64) -> u64, argument: u64) -> Option<u64> {
    install();
    let mut result = 0;
    // SAFETY: trap.s restores what the ABI wants kept.
    let fine = unsafe { guarded_call(function, argument, &mut result) } != 0;
    fine.then_some(result)
}

/// Where trap.s leads after an exception that nobody waits for.
#[unsafe(no_mangle)]
extern "sysv64" fn fault_report() -> ! {
    // SAFETY: written by trap.s before it came here.
    let Fault { vector, error, rip, cs, rflags, rsp, cr2 } =
        unsafe { (&raw const fault_record).read_volatile() };
    console::set_quiet(false);
    println!(
        "fault vector={vector} error={error:#x} rip={rip:#x} cs={cs:#x} rflags={rflags:#x} rsp={rsp:#x} cr2={cr2:#x}"
    );
    out8(end::DEBUG_EXIT, vector as u8);
    end::finish(end::End::Poweroff)
}
