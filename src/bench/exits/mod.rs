//! `exits`: round trips from the guest to its VMM and back, by kind.
//!
//! The embedded guest times each exit by its time-stamp counter, at CPL 3 and at CPL 0, and tells the median: that is
//! what every VMM can be asked for. Where an exit's time goes, Bantam tells in runs of their own ([`parts`]), since
//! its statistics read a clock three times an exit: the round trips are of runs without them.

mod counted;
mod parts;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;

use self::parts::parts;
use super::dispatch::{self, Dispatch};
use super::peers::{Guest, Vmm};
use super::results::{Case, Figure, Unit};
use super::rounds::{Contest, Sample};
use super::{BANTAM, FLOOR, Progress, Setup, hold, nanoseconds, process};
use crate::hypervisor::Hypervisor;

const MEMORY_MIB: u32 = 64;
const WARM_UP: usize = 1;
/// A peer takes part in one round of so many: it takes most of its time to start.
const PEERS_EVERY: usize = 2;
/// How long a guest may say nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// Exits of Bantam's own part, without a guest.
const DISPATCHED: u32 = 20_000;

/// A kind of exit.
#[derive(Debug)]
struct Kind {
    /// The guest's word.
    word: &'static str,
    /// In ids, where the level of the code follows.
    name: &'static str,
    title: &'static str,
    /// The levels from which it can be had.
    levels: &'static [u8],
    takes: Takes,
}

/// What a kind of exit takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    /// The VMM.
    Vmm,
    /// The VMM, and a serial port in it.
    Serial,
    /// KVM alone.
    Kvm,
    /// A KVM that is reached by hypercalls.
    Hypercalls,
    /// A device.
    Device,
}

const BOTH: &[u8] = &[3, 0];

const KINDS: [Kind; 11] = [
    Kind { word: "pio", name: "pio-out", title: "OUT to a port", levels: BOTH, takes: Takes::Vmm },
    Kind { word: "pio-in", name: "pio-in", title: "IN from a port", levels: BOTH, takes: Takes::Vmm },
    Kind { word: "mmio", name: "mmio-read", title: "MMIO read", levels: BOTH, takes: Takes::Vmm },
    Kind { word: "mmio-write", name: "mmio-write", title: "MMIO write", levels: BOTH, takes: Takes::Vmm },
    Kind {
        word: "serial",
        name: "serial-out",
        title: "a byte to the serial port",
        levels: BOTH,
        takes: Takes::Serial,
    },
    Kind { word: "cpuid", name: "cpuid", title: "CPUID", levels: BOTH, takes: Takes::Kvm },
    Kind {
        word: "hypercall",
        name: "hypercall",
        title: "a hypercall that KVM does not know",
        levels: BOTH,
        takes: Takes::Hypercalls,
    },
    Kind {
        word: "touch",
        name: "page-fault",
        title: "first write to a page of 4 KiB, mean",
        levels: BOTH,
        takes: Takes::Kvm,
    },
    Kind {
        word: "hlt",
        name: "hlt-wake",
        title: "HLT, and a timer's interrupt after 20 us",
        levels: &[0],
        takes: Takes::Kvm,
    },
    Kind {
        word: "kick",
        name: "kick",
        title: "notification of a virtio device (ioeventfd)",
        levels: BOTH,
        takes: Takes::Device,
    },
    Kind {
        word: "interrupt",
        name: "interrupt",
        title: "a request to a virtio device, to the handler of its interrupt",
        levels: &[3],
        takes: Takes::Device,
    },
];

impl Kind {
    fn id(&self, cpl: u8) -> String {
        format!("exits/{}-cpl{cpl}", self.name)
    }

    fn figure(&self, cpl: u8) -> Figure {
        Figure::lower(self.id(cpl), format!("{}, CPL {cpl}", self.title), Unit::Nanoseconds)
    }

    fn at(cpl: u8) -> impl Iterator<Item = &'static Self> {
        KINDS.iter().filter(move |kind| kind.levels.contains(&cpl))
    }
}

pub(super) fn measure(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let hypervisor = Hypervisor::open()?;
    let mut cases = Vec::new();
    for cpl in BOTH {
        cases.extend(round_trips(setup, *cpl, hypervisor.hypercalls_work(), progress)?);
    }
    for cpl in BOTH {
        cases.extend(parts(setup, *cpl, &hypervisor, progress)?);
    }
    cases.extend(own_part(setup, progress)?);
    Ok(cases)
}

/// How many exits of each kind a run has.
fn exits(setup: &Setup) -> u64 {
    setup.effort.pick(400, 3000)
}

/// A guest that makes exits of these kinds, from this level.
fn guest<'a>(setup: &'a Setup, kinds: &[&Kind], cpl: u8) -> Guest<'a> {
    let words: Vec<_> = kinds.iter().map(|kind| kind.word).collect();
    let words = format!("quiet exits={} kind={} cpl={cpl}", exits(setup), words.join(","));
    let entropy = kinds.iter().any(|kind| kind.takes == Takes::Device);
    Guest { entropy, ..setup.guest(MEMORY_MIB.into(), words) }
}

/// The round trips that a guest sees, of every VMM.
fn round_trips(
    setup: &Setup,
    cpl: u8,
    hypercalls: bool,
    progress: Progress<'_>,
) -> anyhow::Result<Vec<Case>> {
    let figures = Kind::at(cpl).map(|kind| kind.figure(cpl)).collect();
    let mut contest = Contest::new(figures, WARM_UP, setup.rounds(5, 20));
    for vmm in &setup.vmms {
        let devices = without_devices(setup, vmm, cpl);
        let mut kinds = Vec::new();
        for kind in Kind::at(cpl) {
            match lack(kind, vmm, hypercalls, devices.as_deref()) {
                Some(why) => contest.gap(&vmm.name, kind.id(cpl), why),
                None => kinds.push(kind),
            }
        }
        let every = if [FLOOR, BANTAM].contains(&vmm.name.as_str()) { 1 } else { PEERS_EVERY };
        contest.add_every(every, &vmm.name, move || once(setup, vmm, &kinds, cpl));
    }
    hold(contest, &format!("exits from CPL {cpl}"), progress)
}

/// Why a VMM does not have the device that some kinds of exit take, if it does not.
fn without_devices(setup: &Setup, vmm: &Vmm, cpl: u8) -> Option<String> {
    let kinds: Vec<_> = Kind::at(cpl).collect();
    setup.start(vmm, &guest(setup, &kinds, cpl), |_| Ok(())).err().map(|why| format!("{why:#}"))
}

/// Why a VMM cannot be asked for a kind of exit, if it cannot.
fn lack(kind: &Kind, vmm: &Vmm, hypercalls: bool, devices: Option<&str>) -> Option<String> {
    match kind.takes {
        Takes::Serial if vmm.name == FLOOR => {
            Some("the bare calls have no serial port: a byte for one is an OUT like any other".to_owned())
        }
        Takes::Hypercalls if !hypercalls => {
            Some("hypercalls of a guest's do not reach this host's KVM".to_owned())
        }
        Takes::Device => devices.map(str::to_owned),
        _ => None,
    }
}

/// One run of the guest in a VMM.
fn once(setup: &Setup, vmm: &Vmm, kinds: &[&Kind], cpl: u8) -> anyhow::Result<Sample> {
    let guest = guest(setup, kinds, cpl);
    let said = setup.start(vmm, &guest, |mut command| process::output(&mut command, PATIENCE))?;
    let lines = Line::all(&said);
    kinds
        .iter()
        .map(|kind| {
            let line = lines.get(kind.word).with_context(|| format!("no {} in {said:?}", kind.word))?;
            // Where a host's page is larger than a guest's, most of the guest's first writes are free.
            let value = if kind.word == "touch" { line.mean } else { line.p50 };
            Ok((kind.id(cpl), value))
        })
        .collect()
}

/// What the guest says of a kind of exit, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Line {
    n: u64,
    p50: f64,
    mean: f64,
}

impl Line {
    /// The guest's lines, by its words for the kinds. What it sends to the serial port to measure that are zeroes.
    fn all(said: &str) -> BTreeMap<String, Self> {
        let said = said.replace('\0', "");
        let lines = said.lines().filter_map(|line| {
            let words: BTreeMap<_, _> = line
                .strip_prefix("exits ")?
                .split_whitespace()
                .filter_map(|word| word.split_once('='))
                .collect();
            let number = |key| words.get(key)?.parse().ok();
            let n = words.get("n")?.parse().ok()?;
            let line = Self { n, p50: number("p50_ns")?, mean: number("mean_ns")? };
            Some(((*words.get("kind")?).to_owned(), line))
        });
        lines.collect()
    }
}

/// What Bantam's exit loop, bus and registers take, without KVM.
fn own_part(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let id = |case: &dispatch::Case| format!("exits/dispatch-{}", case.name);
    let figure = |case: &dispatch::Case| {
        Figure::lower(id(case), format!("the VMM's own part: {}", case.title), Unit::Nanoseconds)
    };
    let figures = dispatch::CASES.iter().map(figure).collect();
    let mut contest = Contest::new(figures, WARM_UP, setup.rounds(15, 60));
    let ready = |case: dispatch::Case| Ok((id(&case), Dispatch::new(&case)?));
    let ready: Vec<_> = dispatch::CASES.into_iter().map(ready).collect::<anyhow::Result<_>>()?;
    contest.add(BANTAM, move || {
        ready
            .iter()
            .map(|(id, dispatch)| {
                let took = dispatch.time(DISPATCHED.into())?;
                Ok((id.clone(), nanoseconds(took) / f64::from(DISPATCHED)))
            })
            .collect()
    });
    for vmm in setup.vmms.iter().filter(|vmm| vmm.name != BANTAM) {
        contest.lacks(&vmm.name, "its exit loop cannot be called alone");
    }
    hold(contest, "exits without KVM", progress)
}

#[cfg(test)]
mod tests;
