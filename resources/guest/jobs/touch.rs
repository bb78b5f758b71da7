//! `memory=touch[:MIB]`: writes a word to every page of usable RAM above 1 MiB,
//! then looks whether all are still there.

use crate::boot_info::Range;
use crate::clock::Frequency;
use crate::console::println;
use crate::words::parse_number;
use crate::{Machine, arena, cpu, paging};
use arena::PAGE;

const MAX_RANGES: usize = 32;
const FOUR_GIB: u64 = 1 << 32;
const PATTERN: u64 = 0xb0a7_a3b0_a7a3_0000;

pub fn run(machine: &mut Machine, what: &'static str) {
    let limit = match what.strip_prefix("touch") {
        Some("") => u64::MAX,
        Some(rest) => match rest.strip_prefix(':').and_then(parse_number) {
            Some(mebibytes) => mebibytes.saturating_mul(256),
            None => return super::complain("memory=touch:MIB", what),
        },
        None => return super::complain("memory= knows touch", what),
    };
    // The map lies in memory that will be written: copy it, and map it, first.
    let mut ranges = [Range { start: 0, end: 0, kind: 0 }; MAX_RANGES];
    for (slot, range) in ranges.iter_mut().zip(machine.boot.usable()) {
        let end = range.end.min(map(machine, range)) & !(PAGE - 1);
        let start = range.start.max(1 << 20).next_multiple_of(PAGE).min(end);
        *slot = Range { start, end, kind: 1 };
    }
    // Page tables included, nothing of ours lies behind this.
    let own = (arena::image().0, machine.arena.mark());

    let (start, mut pages) = (cpu::tsc(), 0_u64);
    each_page(&ranges, own, limit, |page| {
        // SAFETY: RAM that the map calls usable, mapped, not ours, and no
        // reference to it is alive: the boot data has been copied.
        unsafe { (page as *mut u64).write_volatile(page ^ PATTERN) };
        pages += 1;
    });
    let ticks = cpu::tsc().wrapping_sub(start);
    let mut wrong = 0_u64;
    each_page(&ranges, own, limit, |page| {
        // SAFETY: as above.
        wrong += u64::from(unsafe { (page as *const u64).read_volatile() } != page ^ PATTERN);
    });

    let mebibytes = pages >> 8;
    match Frequency::find() {
        Some(frequency) => println!(
            "memory touched_mib={mebibytes} pages={pages} wrong={wrong} ns={}",
            frequency.nanoseconds(ticks)
        ),
        None => println!("memory touched_mib={mebibytes} pages={pages} wrong={wrong} ticks={ticks}"),
    }
}

/// Maps the range as far as the tables reach; says how far that is.
fn map(machine: &mut Machine, range: Range) -> u64 {
    paging::reach(range.end.min(FOUR_GIB));
    let mut base = range.start.max(FOUR_GIB) & !((1 << 30) - 1);
    while base < range.end.min(paging::LIMIT) {
        if paging::map_high(base, &mut machine.arena).is_none() {
            return base;
        }
        base += 1 << 30;
    }
    range.end.min(paging::LIMIT)
}

fn each_page(ranges: &[Range], own: (u64, u64), limit: u64, mut visit: impl FnMut(u64)) {
    let mut left = limit;
    for range in ranges {
        let mut page = range.start;
        while page < range.end && left > 0 {
            if page >= own.0 && page < own.1 {
                page = own.1;
                continue;
            }
            visit(page);
            left -= 1;
            page += PAGE;
        }
    }
}
