//! `exits=N`: N exits to the hypervisor of each kind, one after the other, each timed.

mod device;

use crate::arena::PAGE;
use crate::clock::Frequency;
use crate::console::{self, print, println};
use crate::cpu::{self, Ring0, out8};
use crate::virtio::Result;
use crate::words::split_at_byte;
use crate::{Machine, apic, paging, trap};
use device::Answers;

/// A port and an address that no device of a microVM claims.
const DEFAULT_PORT: u64 = 0x0b80;
const DEFAULT_ADDRESS: u64 = 0xd000_0000;

/// How far in the future the timer wakes a halted CPU, in the APIC's ticks (1 ns
/// in KVM): after the CPU sleeps.
const HALT_TICKS: u32 = 20_000;

/// 32 bits a sample.
const SAMPLES_A_PAGE: usize = 1024;
const SAMPLE_PAGES: u64 = 64;

enum Kind {
    /// A loop of ring0.s, with its port or address.
    Loop(Ring0, u64),
    /// The same, from each page on to the next, of which this is the one before the first.
    Touch(u64),
    Halt,
    Interrupt(Answers),
}

/// What all kinds have in common.
struct Plan {
    count: u64,
    at_ring0: bool,
    frequency: Option<Frequency>,
    /// A port that is written to before and after each kind.
    marks: Option<u16>,
}

pub fn run(machine: &mut Machine, count: &'static str) {
    let words = machine.words;
    let Some(count) = crate::words::parse_number(count).filter(|&count| count > 0) else {
        return super::complain("exits= wants a number", count);
    };
    paging::reach(1 << 32);
    let Some(samples) = samples(machine) else {
        return println!("exits: no memory for samples");
    };
    let plan = Plan {
        count,
        at_ring0: words.value("cpl") == Some("0"),
        frequency: Frequency::find(),
        marks: words.number("marks").map(|port| port as u16),
    };
    let mut names = words.value("kind").unwrap_or("pio");
    while let Some((name, rest)) = split_at_byte(names, b',') {
        each(machine, &plan, name, samples);
        names = rest;
    }
    each(machine, &plan, names, samples);
}

fn each(machine: &mut Machine, plan: &Plan, name: &str, samples: &mut [u32]) {
    let words = machine.words;
    let port = words.number("port").unwrap_or(DEFAULT_PORT) & 0xffff;
    let address = words.number("addr").unwrap_or(DEFAULT_ADDRESS) & 0xffff_fffc;
    let kind = match name {
        "none" => Ok(Kind::Loop(cpu::exits_none, 0)),
        "pio" => Ok(Kind::Loop(cpu::exits_pio_out, port)),
        "pio-in" => Ok(Kind::Loop(cpu::exits_pio_in, port)),
        "serial" => Ok(Kind::Loop(cpu::exits_serial, console::PORT.into())),
        "mmio" => Ok(Kind::Loop(cpu::exits_mmio_read, address)),
        "mmio-write" => Ok(Kind::Loop(cpu::exits_mmio_write, address)),
        "cpuid" => Ok(Kind::Loop(cpu::exits_cpuid, 0)),
        "hypercall" => Ok(Kind::Loop(hypercall(), 0)),
        "touch" => machine
            .arena
            .pages(plan.count)
            .map(|start| Kind::Touch(start - PAGE))
            .ok_or("there is less memory than that"),
        "hlt" if timer_works() => Ok(Kind::Halt),
        "hlt" => Err("no timer interrupt comes"),
        "kick" => device::doorbell(machine).map(|address| Kind::Loop(cpu::exits_notify, address)),
        "interrupt" => Answers::start(machine).map(Kind::Interrupt),
        _ => return super::complain("no such kind of exit", name),
    };
    if let Err(error) = kind.and_then(|kind| measure(plan, name, kind, samples)) {
        println!("exits: kind={name} error: {error}");
    }
}

fn measure(plan: &Plan, name: &str, mut kind: Kind, samples: &mut [u32]) -> Result<()> {
    let at_ring0 = match kind {
        Kind::Halt => true,
        Kind::Interrupt(_) => false,
        Kind::Loop(..) | Kind::Touch(_) => plan.at_ring0,
    };
    let mark = || {
        if let Some(port) = plan.marks {
            out8(port, 0);
        }
    };
    mark();
    let (mut left, mut ticks, mut least, mut last) = (plan.count, 0, u32::MAX, 0);
    while left > 0 {
        last = (left as usize).min(samples.len());
        let batch = &mut samples[..last];
        let start = cpu::tsc();
        match &mut kind {
            Kind::Loop(routine, place) => exit_loop(*routine, *place, batch, at_ring0),
            Kind::Touch(before) => {
                exit_loop(cpu::exits_touch, *before, batch, at_ring0);
                *before += last as u64 * PAGE;
            }
            Kind::Halt => halt_loop(batch),
            Kind::Interrupt(answers) => answers.time(batch)?,
        }
        ticks += cpu::tsc().wrapping_sub(start);
        least = batch.iter().copied().fold(least, u32::min);
        left -= last as u64;
    }
    mark();
    match kind {
        Kind::Halt => apic::disarm_timer(),
        Kind::Interrupt(answers) => answers.stop()?,
        Kind::Loop(..) | Kind::Touch(_) => {}
    }
    sort(&mut samples[..last]);
    let (least, median) = (u64::from(least), u64::from(samples[last / 2]));

    print!("exits kind={name} n={}", plan.count);
    match plan.frequency {
        Some(frequency) => print!(
            " min_ns={} p50_ns={} mean_ns={}",
            frequency.nanoseconds(least),
            frequency.nanoseconds(median),
            frequency.nanoseconds(ticks) / plan.count
        ),
        None => print!(" min_ticks={least} p50_ticks={median} mean_ticks={}", ticks / plan.count),
    }
    println!(" ticks={ticks} cpl={}", if at_ring0 { "0" } else { "3" });
    Ok(())
}

/// The loop with the instruction of the processor's own vendor: KVM rewrites the other one.
fn hypercall() -> Ring0 {
    let vendor = cpu::cpuid(0, 0).ebx.to_le_bytes();
    if vendor == *b"Auth" || vendor == *b"Hygo" { cpu::exits_vmmcall } else { cpu::exits_vmcall }
}

fn samples(machine: &mut Machine) -> Option<&'static mut [u32]> {
    let (pages, start) =
        [SAMPLE_PAGES, 1].into_iter().find_map(|pages| Some((pages, machine.arena.zeroed(pages)?)))?;
    // SAFETY: the arena gave us these pages for good.
    Some(unsafe { core::slice::from_raw_parts_mut(start as *mut u32, pages as usize * SAMPLES_A_PAGE) })
}

fn exit_loop(routine: Ring0, place: u64, batch: &mut [u32], at_ring0: bool) {
    let (count, samples) = (batch.len() as u64, batch.as_mut_ptr().addr() as u64);
    // SAFETY: the loops write `count` samples, and perhaps to pages that the arena gave us, and touch nothing
    // else of ours.
    unsafe {
        if at_ring0 {
            cpu::ring0(routine, count, place, samples);
        } else {
            routine(count, place, samples);
        }
    }
}

fn halt_loop(batch: &mut [u32]) {
    for sample in batch {
        let start = cpu::tsc();
        let before = trap::timer_count();
        apic::arm_timer(HALT_TICKS);
        while trap::timer_count() == before {
            cpu::wait_for_interrupt();
        }
        *sample = cpu::tsc().wrapping_sub(start) as u32;
    }
}

/// Without halting, so that a missing interrupt does not stop us for ever.
fn timer_works() -> bool {
    apic::enable();
    let (start, before) = (cpu::tsc(), trap::timer_count());
    apic::arm_timer(HALT_TICKS);
    while trap::timer_count() == before {
        if cpu::tsc().wrapping_sub(start) > 1_000_000_000 {
            return false;
        }
        cpu::interrupt_window();
    }
    true
}

/// Shell sort: small, and fast enough for some ten thousand samples.
fn sort(samples: &mut [u32]) {
    let mut gap = samples.len() / 2;
    while gap > 0 {
        for index in gap..samples.len() {
            let mut at = index;
            while at >= gap && samples[at - gap] > samples[at] {
                samples.swap(at - gap, at);
                at -= gap;
            }
        }
        gap /= 2;
    }
}
