//! `working-set=` and `dirty=`: at each byte that is typed, pages are read all over memory, or written.

use crate::Machine;
use crate::arena::PAGE;
use crate::clock::Stopwatch;
use crate::console::{self, println};
use crate::events::{Events, Keyboard, Typed};
use crate::random::mixed;
use crate::virtio::Result;
use crate::virtio::dma::Dma;
use crate::words::parse_number;

/// The working set is one page of so many, if no word says otherwise.
const DEFAULT_SPREAD: u64 = 2;
/// A prime number: steps of so many pages come to each page once.
const STEP: u64 = 2_654_435_761;

/// What is done at a byte.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What {
    Read,
    Write,
}

// Its stack frame is no other job's.
#[inline(never)]
pub fn run(machine: &mut Machine, what: What, size: &'static str) {
    let Some(pages) = parse_number(size).map(|bytes| bytes / PAGE).filter(|&pages| pages > 0) else {
        return super::complain("a number of bytes, a page at least", size);
    };
    let mark = machine.arena.mark();
    if let Err(error) = serve(machine, what, pages) {
        println!("pages error: {error}");
    }
    machine.arena.rewind(mark);
}

fn serve(machine: &mut Machine, what: What, count: u64) -> Result<()> {
    let spread = match what {
        What::Read => machine.words.number("spread").unwrap_or(DEFAULT_SPREAD).max(1),
        What::Write => 1,
    };
    let bytes = count.checked_mul(spread).and_then(|pages| pages.checked_mul(PAGE));
    let memory = machine.arena.pages(bytes.ok_or("too little memory")? / PAGE).ok_or("too little memory")?;
    let mut set = Set { memory: Dma::known(memory, count * spread * PAGE), count, spread, round: 0 };
    (0..count * spread).for_each(|page| set.memory.write64(page * PAGE, word(page, 0)));

    let name = if what == What::Read { "working-set" } else { "dirty" };
    let (events, mut keyboard) = (Events::start(machine, console::IER_DATA_READY), Keyboard::default());
    println!("{name} ready pages={count} of={}", count * spread);
    loop {
        match keyboard.take() {
            Some(Typed::Byte | Typed::Line) => {
                let watch = Stopwatch::start();
                let wrong = if what == What::Read { set.read() } else { set.write() };
                let nanoseconds = watch.nanoseconds();
                println!("{name} pages={count} round={} wrong={wrong} ns={nanoseconds}", set.round);
            }
            Some(Typed::Quit) => break,
            None => events.wait(),
        }
    }
    events.stop();
    Ok(())
}

/// What a page begins with after so many rounds of writing.
fn word(page: u64, round: u64) -> u64 {
    mixed(mixed(page + 1) ^ round)
}

struct Set {
    memory: Dma,
    /// Pages, each of them one of `spread` neighbours.
    count: u64,
    spread: u64,
    round: u64,
}

impl Set {
    /// Reads all pages, neighbours far apart in time; how many were not as they were written.
    fn read(&mut self) -> u64 {
        self.round += 1;
        let (count, spread) = (self.count, self.spread);
        let pages = (0..count).map(|at| at * STEP % count).map(|at| at * spread + mixed(at) % spread);
        pages.map(|page| u64::from(self.memory.read64(page * PAGE) != word(page, 0))).sum()
    }

    /// Writes to all pages; how many were not as they had been written the last time.
    fn write(&mut self) -> u64 {
        self.round += 1;
        let (memory, round) = (self.memory, self.round);
        let rewrite = |page| {
            let wrong = memory.read64(page * PAGE) != word(page, round - 1);
            memory.write64(page * PAGE, word(page, round));
            u64::from(wrong)
        };
        (0..self.count).map(rewrite).sum()
    }
}
