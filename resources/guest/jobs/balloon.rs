//! `balloon`: does what a balloon device asks for with memory that it has written
//! to, and looks whether no page suffers but those in the balloon.

use crate::Machine;
use crate::arena::PAGE;
use crate::clock::{self, Stopwatch};
use crate::console::println;
use crate::random::mixed;
use crate::virtio::Result;
use crate::virtio::balloon::{Balloon, CHAIN};
use crate::virtio::dma::Dma;

/// MiB that there are for the balloon, if no word says otherwise.
const DEFAULT_TOUCH: u64 = 16;

/// How often the target is looked at when there is nothing to do, in microseconds:
/// a look is an exit.
const POLL: u64 = 5000;

/// The words of a page that are written and checked.
const PLACES: [u64; 2] = [0, PAGE - 8];

// Its stack frame is no other job's.
#[inline(never)]
pub fn run(machine: &mut Machine) {
    let mark = machine.arena.mark();
    match follow(machine) {
        // The device was reset: its memory is free.
        Ok(()) => machine.arena.rewind(mark),
        Err(error) => println!("balloon error: {error}"),
    }
}

fn follow(machine: &mut Machine) -> Result<()> {
    let words = machine.words;
    let seconds = words.number("secs").unwrap_or(u64::MAX);
    let touch = words.number("touch").unwrap_or(DEFAULT_TOUCH);
    let mut balloon = Balloon::start(machine, super::device_index(words))?;
    let pages = Dma::zeroed(&mut machine.arena, touch.saturating_mul(1 << 20))?;
    let mut stock = Stock { pages, inside: 0, taken: 0, given: 0, cleared: 0, wrong: 0 };
    stock.write(0, stock.count());
    println!("balloon ready pages={}", stock.count());

    let (life, mut way) = (Stopwatch::start(), Stopwatch::start());
    let (mut target, mut reached) = (0, true);
    loop {
        // When time is up, no page stays behind.
        let over = life.seconds() >= seconds;
        let wanted = if over { 0 } else { balloon.target() };
        if wanted != target {
            (target, reached) = (wanted, false);
            way.restart();
        }
        let goal = target.min(stock.count());
        if stock.inside != goal {
            stock.approach(goal, &mut balloon)?;
        } else if !reached {
            reached = true;
            let nanoseconds = way.nanoseconds();
            stock.check();
            if !over {
                println!("balloon target={target} actual={} ns={nanoseconds}", stock.inside);
            }
            if target == 0 {
                break;
            }
        } else if over {
            break;
        } else {
            clock::spin(POLL);
        }
    }
    let Stock { taken, given, cleared, wrong, .. } = stock;
    println!("balloon taken={taken} given={given} cleared={cleared} wrong={wrong}");
    balloon.stop()
}

/// The pages that there are for the balloon.
struct Stock {
    pages: Dma,
    /// The first so many are in it.
    inside: u64,
    /// Pages that went in, and that came back; those of the latter that were cleared.
    taken: u64,
    given: u64,
    cleared: u64,
    /// Pages outside that did not hold what had been written.
    wrong: u64,
}

impl Stock {
    fn count(&self) -> u64 {
        self.pages.length() / PAGE
    }

    /// One chain more in the balloon, or less.
    fn approach(&mut self, goal: u64, balloon: &mut Balloon) -> Result<()> {
        let part = |start, count| self.pages.part(start * PAGE, count * PAGE);
        if self.inside < goal {
            let count = (goal - self.inside).min(CHAIN);
            balloon.inflate(part(self.inside, count))?;
            self.inside += count;
            self.taken += count;
        } else {
            let count = (self.inside - goal).min(CHAIN);
            let first = self.inside - count;
            balloon.deflate(part(first, count))?;
            self.cleared += self.write(first, count);
            self.inside = first;
            self.given += count;
        }
        balloon.set_actual(self.inside);
        Ok(())
    }

    /// Writes to pages; how many of them were cleared. A page that the host has to
    /// bring back costs it two faults if it is read before it is written.
    fn write(&self, first: u64, count: u64) -> u64 {
        let mut cleared = 0;
        for page in first..first + count {
            let [start, end] = PLACES.map(|place| page * PAGE + place);
            self.pages.write64(start, mixed(start + 1));
            cleared += u64::from(self.pages.read64(end) == 0);
            self.pages.write64(end, mixed(end + 1));
        }
        cleared
    }

    /// Looks at all pages that are not in the balloon.
    fn check(&mut self) {
        for page in self.inside..self.count() {
            let is_right = |offset| self.pages.read64(offset) == mixed(offset + 1);
            self.wrong += u64::from(!PLACES.iter().all(|place| is_right(page * PAGE + place)));
        }
    }
}
