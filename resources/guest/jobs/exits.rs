//! `exits=N`: N exits to the hypervisor, one after the other, each timed.

use crate::clock::Frequency;
use crate::console::{print, println};
use crate::cpu::{self, Ring0};
use crate::{Machine, apic, paging, trap};

/// A port and an address that no device of a microVM claims.
const DEFAULT_PORT: u64 = 0x0b80;
const DEFAULT_ADDRESS: u64 = 0xd000_0000;

/// How far in the future the timer wakes a halted CPU, in the APIC's ticks (1 ns
/// in KVM): after the CPU sleeps.
const HALT_TICKS: u32 = 20_000;

/// 32 bits a sample.
const SAMPLES_A_PAGE: usize = 1024;
const SAMPLE_PAGES: u64 = 64;

#[derive(Clone, Copy)]
enum Kind {
    /// A loop of ring0.s, with its port or address.
    Loop(Ring0, u64),
    Halt,
}

pub fn run(machine: &mut Machine, count: &'static str) {
    let words = machine.words;
    let Some(count) = crate::words::parse_number(count).filter(|&count| count > 0) else {
        return super::complain("exits= wants a number", count);
    };
    let port = words.number("port").unwrap_or(DEFAULT_PORT) & 0xffff;
    let address = words.number("addr").unwrap_or(DEFAULT_ADDRESS) & 0xffff_fffc;
    let name = words.value("kind").unwrap_or("pio");
    let kind = match name {
        "pio" => Kind::Loop(cpu::exits_pio_out, port),
        "pio-in" => Kind::Loop(cpu::exits_pio_in, port),
        "mmio" => Kind::Loop(cpu::exits_mmio_read, address),
        "mmio-write" => Kind::Loop(cpu::exits_mmio_write, address),
        "cpuid" => Kind::Loop(cpu::exits_cpuid, 0),
        "hlt" => Kind::Halt,
        _ => return super::complain("no such kind of exit", name),
    };
    paging::reach(1 << 32);
    let at_ring0 = matches!(kind, Kind::Halt) || words.value("cpl") == Some("0");
    let Some(samples) = samples(machine) else {
        return println!("exits: no memory for samples");
    };
    if matches!(kind, Kind::Halt) && !timer_works() {
        return println!("exits: no timer interrupt comes");
    }

    let (mut left, mut ticks, mut least, mut last) = (count, 0, u32::MAX, 0);
    while left > 0 {
        last = (left as usize).min(samples.len());
        let batch = &mut samples[..last];
        let start = cpu::tsc();
        match kind {
            Kind::Loop(routine, place) => exit_loop(routine, place, batch, at_ring0),
            Kind::Halt => halt_loop(batch),
        }
        ticks += cpu::tsc().wrapping_sub(start);
        least = batch.iter().copied().fold(least, u32::min);
        left -= last as u64;
    }
    apic::disarm_timer();
    sort(&mut samples[..last]);
    let (least, median) = (u64::from(least), u64::from(samples[last / 2]));

    print!("exits kind={name} n={count}");
    match Frequency::find() {
        Some(frequency) => print!(
            " min_ns={} p50_ns={} mean_ns={}",
            frequency.nanoseconds(least),
            frequency.nanoseconds(median),
            frequency.nanoseconds(ticks) / count
        ),
        None => print!(" min_ticks={least} p50_ticks={median} mean_ticks={}", ticks / count),
    }
    println!(" ticks={ticks} cpl={}", if at_ring0 { "0" } else { "3" });
}

fn samples(machine: &mut Machine) -> Option<&'static mut [u32]> {
    let (pages, start) =
        [SAMPLE_PAGES, 1].into_iter().find_map(|pages| Some((pages, machine.arena.zeroed(pages)?)))?;
    // SAFETY: the arena gave us these pages for good.
    Some(unsafe { core::slice::from_raw_parts_mut(start as *mut u32, pages as usize * SAMPLES_A_PAGE) })
}

fn exit_loop(routine: Ring0, place: u64, batch: &mut [u32], at_ring0: bool) {
    let (count, samples) = (batch.len() as u64, batch.as_mut_ptr().addr() as u64);
    // SAFETY: the loops write `count` samples and touch nothing else of ours.
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
