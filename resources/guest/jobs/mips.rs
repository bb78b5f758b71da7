//! `mips`: how many million instructions a second at CPL 3 and at CPL 0. The
//! same loop runs at both; a KVM that interprets CPL 0 shows at once.

use crate::clock::Frequency;
use crate::console::println;
use crate::cpu;

/// Instructions in one turn of `work_loop`.
const INSTRUCTIONS: u64 = 8;
const FEW: u64 = 1000;
const MANY: u64 = 5_000_000;
/// Ticks below which the short loop was too short to measure by.
const SHORT: u64 = 1_000_000;

pub fn run() {
    let Some(frequency) = Frequency::find() else {
        return println!("mips unknown: nothing tells the TSC's frequency");
    };
    let kernel = measure(true, frequency);
    let user = measure(false, frequency);
    println!("mips cpl0={}.{:02} cpl3={}.{:02}", kernel / 100, kernel % 100, user / 100, user % 100);
}

/// Hundredths of a million instructions a second.
fn measure(at_ring0: bool, frequency: Frequency) -> u64 {
    let timed = |turns| {
        let start = cpu::tsc();
        // SAFETY: the loop touches registers only.
        unsafe {
            if at_ring0 {
                cpu::ring0(cpu::work_loop, turns, 0, 0)
            } else {
                cpu::work_loop(turns, 0, 0)
            };
        }
        cpu::tsc().wrapping_sub(start)
    };
    let (mut turns, mut ticks) = (FEW, timed(FEW));
    if ticks < SHORT {
        (turns, ticks) = (MANY, timed(MANY));
    }
    let nanoseconds = frequency.nanoseconds(ticks).max(1);
    turns * INSTRUCTIONS * 100_000 / nanoseconds
}
