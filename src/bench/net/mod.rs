//! `net`: frames between a guest and a tap of the host's; beside bare reads and writes of the tap.

mod floor;
mod frame;
mod tap;

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::{anyhow, ensure};

use super::job::{self, Said};
use super::peers::{Guest, Vmm};
use super::results::{Case, Figure, Unit};
use super::rounds::{Contest, Sample};
use super::{FLOOR, Progress, Setup, hold};

const MEMORY_MIB: u64 = 256;

/// What passes.
#[derive(Clone, Copy)]
enum Way {
    /// The guest sends frames of so many bytes.
    Send(usize),
    /// The guest sends TCP frames of 64 KiB, which the host may cut.
    SendLarge,
    /// The host sends frames of so many bytes.
    Receive(usize),
}

struct Work {
    id: &'static str,
    title: &'static str,
    way: Way,
    unit: Unit,
}

const WORKLOADS: [Work; 5] = [
    Work {
        id: "net/send-64",
        title: "frames of 64 bytes to a tap",
        way: Way::Send(64),
        unit: Unit::PerSecond,
    },
    Work {
        id: "net/send-1514",
        title: "frames of 1514 bytes to a tap",
        way: Way::Send(1514),
        unit: Unit::PerSecond,
    },
    Work {
        id: "net/send-gso",
        title: "segmented frames of 64 KiB to a tap",
        way: Way::SendLarge,
        unit: Unit::BytesPerSecond,
    },
    Work {
        id: "net/receive-64",
        title: "frames of 64 bytes from a tap",
        way: Way::Receive(64),
        unit: Unit::PerSecond,
    },
    Work {
        id: "net/receive-1514",
        title: "frames of 1514 bytes from a tap",
        way: Way::Receive(1514),
        unit: Unit::PerSecond,
    },
];

/// What has passed.
#[derive(Clone, Copy, Debug)]
struct Passed {
    frames: f64,
    bytes: f64,
    seconds: f64,
}

impl Passed {
    /// By what a guest says. One that receives does so for as long as it was told, whether there are frames or not.
    fn of(said: &Said, way: Way, time: Duration) -> anyhow::Result<Self> {
        let seconds = match way {
            Way::Send(_) | Way::SendLarge => said.seconds()?,
            Way::Receive(_) => time.as_secs_f64(),
        };
        Ok(Self { frames: said.number("n")?, bytes: said.number("bytes")?, seconds })
    }

    fn a_second(self, unit: Unit) -> f64 {
        (if unit == Unit::BytesPerSecond { self.bytes } else { self.frames }) / self.seconds
    }
}

/// On a thread of its own, whose network is another one: what else is measured keeps the host's.
pub(super) fn measure(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    thread::scope(|scope| {
        let (tell, told) = channel();
        let inside = scope.spawn(move || {
            frames(setup, &mut |what, round, rounds| {
                // Nobody listens only if the bench is at its end.
                let _ = tell.send((what.to_owned(), round, rounds));
            })
        });
        for (what, round, rounds) in told {
            progress(&what, round, rounds);
        }
        inside.join().map_err(|_| anyhow!("the thread in the network of its own has failed"))?
    })
}

fn frames(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let refused = tap::prepare().err().map(|error| format!("{error:#}"));
    let mut cases = Vec::new();
    for work in &WORKLOADS {
        cases.extend(one_work(setup, work, refused.as_deref(), progress)?);
    }
    Ok(cases)
}

fn one_work(
    setup: &Setup,
    work: &Work,
    refused: Option<&str>,
    progress: Progress<'_>,
) -> anyhow::Result<Vec<Case>> {
    let figure = Figure::higher(work.id, work.title, work.unit);
    let mut contest = Contest::new(vec![figure], setup.effort.pick(0, 1), setup.rounds(3, 8));
    let time = Duration::from_millis(setup.effort.pick(100, 300));
    for vmm in &setup.vmms {
        let why = match refused {
            Some(why) => Some(why.to_owned()),
            None if vmm.name == FLOOR => None,
            None => job::lacks(setup, vmm, &guest(setup, ""))?,
        };
        match why {
            Some(why) => contest.lacks(&vmm.name, why),
            None => contest.add(&vmm.name, move || run(setup, vmm, work, time)),
        }
    }
    hold(contest, work.title, progress)
}

fn guest(setup: &Setup, words: impl Into<String>) -> Guest<'_> {
    Guest { tap: Some(tap::NAME), ..setup.guest(MEMORY_MIB, words) }
}

fn run(setup: &Setup, vmm: &Vmm, work: &Work, time: Duration) -> anyhow::Result<Sample> {
    let passed = match work.way {
        Way::Receive(bytes) => tap::while_sending(bytes, || pass(setup, vmm, work.way, time))?,
        Way::Send(_) | Way::SendLarge => {
            let before = tap::frames_seen()?;
            let passed = pass(setup, vmm, work.way, time)?;
            let seen = tap::frames_seen()? - before;
            ensure!(seen >= passed.frames, "{} frames were sent, the tap has seen {seen}", passed.frames);
            passed
        }
    };
    ensure!(passed.frames > 0.0, "no frame has passed");
    Ok(vec![(work.id.to_owned(), passed.a_second(work.unit))])
}

fn pass(setup: &Setup, vmm: &Vmm, way: Way, time: Duration) -> anyhow::Result<Passed> {
    if vmm.name == FLOOR {
        return floor::pass(way, time);
    }
    let what = match way {
        Way::Send(bytes) => format!("send size={bytes}"),
        Way::SendLarge => "send gso".to_owned(),
        Way::Receive(_) => "recv".to_owned(),
    };
    let (ours, host, sink) = (tap::GUEST, tap::HOST, frame::text(frame::SINK));
    let words = format!("net={what} ms={} src={ours} dst={host} dmac={sink} quiet", time.as_millis());
    Passed::of(&job::run(setup, vmm, &guest(setup, words))?, way, time)
}

#[cfg(test)]
mod tests;
