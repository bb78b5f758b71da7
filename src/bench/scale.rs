//! `scale`: machines a second, and how many fit.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, ensure};

use super::idle::{self, Cost, LIBRARY};
use super::peers::Vmm;
use super::results::{Case, Figure, Unit};
use super::rounds::{Contest, Sample};
use super::{BANTAM, Progress, Setup, footprint, hold, inside, nanoseconds, process};
use crate::hypervisor::Hypervisor;
use crate::machine::{Builder, ExitReason};

/// Of each machine.
const MEMORY_MIB: u64 = 16;
/// Where a growing number of idle machines is looked at; up to here with `--quick`.
const POINTS: [u32; 6] = [1, 10, 50, 100, 200, 500];
const MOST_QUICK: u32 = 100;
/// The part of the host's free memory that idle machines may take.
const PART: f64 = 0.5;
const GIB: f64 = (1 << 30) as f64;

const BOOTS: &str = "scale/boots";
const PER_GIB: &str = "scale/per-gib";

pub(super) fn measure(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let mut cases = boots(setup, progress)?;
    cases.extend(density(setup, progress)?);
    Ok(cases)
}

/// Machines that are started, and end by themselves.
fn boots(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let title =
        format!("machines started and ended a second, {cores} at a time: exec to exit, or by the library");
    let mut contest =
        Contest::new(vec![Figure::higher(BOOTS, title, Unit::PerSecond)], 1, setup.rounds(3, 8));
    let count = setup.effort.pick(40, 200);
    let sample = |rate| Ok(vec![(BOOTS.to_owned(), rate)]);
    for vmm in &setup.vmms {
        let (every, count) = if vmm.is_peer() { (3, count / 5) } else { (1, count) };
        let once = move || {
            let guest = setup.guest(MEMORY_MIB, "boot");
            setup.start(vmm, &guest, |mut command| process::time(&mut command)).map(drop)
        };
        contest.add_every(every, &vmm.name, move || sample(rate(cores, count, &once)?));
    }
    let hypervisor = Hypervisor::open()?;
    contest.add(LIBRARY, move || sample(rate(cores, count, &|| boot(&hypervisor))?));
    hold(contest, "scale, machines a second", progress)
}

/// Runs a machine to its end, by the library.
fn boot(hypervisor: &Hypervisor) -> anyhow::Result<()> {
    let (console, _said) = inside::console();
    let builder = Builder::new(inside::config(MEMORY_MIB, "boot")).hypervisor(hypervisor.clone());
    let outcome = builder.console_output(console).build()?.resume()?.wait();
    ensure!(outcome.reason == ExitReason::PowerOff, "the machine has ended: {}", outcome.reason);
    Ok(())
}

/// How often a second something is done, by so many threads.
fn rate(
    at_a_time: usize,
    count: u32,
    once: &(impl Fn() -> anyhow::Result<()> + Sync),
) -> anyhow::Result<f64> {
    let taken = AtomicU32::new(0);
    let work = || -> anyhow::Result<()> {
        while taken.fetch_add(1, Ordering::Relaxed) < count {
            once()?;
        }
        Ok(())
    };
    let start = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_a_time).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| anyhow::anyhow!("a thread has failed"))?)
    })?;
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

/// Machines that stay, idle.
fn density(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let most = setup.effort.pick(MOST_QUICK, u32::MAX);
    let points: Vec<_> = POINTS.into_iter().filter(|point| *point <= most).collect();
    let mut figures = Vec::new();
    for &count in &points {
        let start = format!(
            "starting a machine that stays, to its first byte: the mean of {count}, one after the other"
        );
        let start = Figure::lower(start_id(count), start, Unit::Nanoseconds);
        figures.push(start.on("scale/start", "idle machines", count.into()));
        let pss = format!("PSS for each machine, with what its guest of 16 MiB has touched: {count} idle");
        let pss = Figure::lower(pss_id(count), pss, Unit::Bytes);
        figures.push(pss.on("scale/pss", "idle machines", count.into()));
    }
    let title =
        "idle machines of 16 MiB in a GiB of the host's memory, by what each takes that comes to the first";
    figures.push(Figure::higher(PER_GIB, title, Unit::Count));

    let vmms = footprint::apart(setup)?;
    let mut contest = Contest::new(figures, 0, setup.rounds(2, 3));
    // A VMM that takes long to start is not asked for hundreds.
    let peers_most = setup.effort.pick(10, 50);
    for vmm in &vmms {
        let asked = if vmm.is_peer() { peers_most } else { most };
        let room = match room(setup, vmm) {
            Ok(room) => room,
            Err(error) if vmm.is_peer() => {
                contest.lacks(&vmm.name, format!("{error:#}"));
                continue;
            }
            Err(error) => return Err(error).with_context(|| vmm.name.clone()),
        };
        let (points, beyond): (Vec<_>, Vec<_>) = points.iter().partition(|point| **point <= asked.min(room));
        let why = if room < asked {
            format!("no more than {room} fit into half of the memory that is free")
        } else {
            format!("left out: as it may take long to start, it is asked for {asked} at the most")
        };
        for count in beyond {
            contest.gap(&vmm.name, start_id(count), &why);
            contest.gap(&vmm.name, pss_id(count), &why);
        }
        if points.len() < 2 {
            contest.gap(&vmm.name, PER_GIB, &why);
        }
        let every = if vmm.is_peer() { 2 } else { 1 };
        contest.add_every(every, &vmm.name, move || {
            Ok(sample(&idle::processes(setup, vmm, MEMORY_MIB, &points)?))
        });
    }
    let bantam = vmms.iter().find(|vmm| vmm.name == BANTAM).context("Bantam is always there")?;
    contest.add(LIBRARY, || Ok(sample(&idle::together(&bantam.program, MEMORY_MIB, &points)?)));
    hold(contest, "scale, idle machines", progress)
}

fn start_id(count: u32) -> String {
    format!("scale/start@{count}")
}

fn pss_id(count: u32) -> String {
    format!("scale/pss@{count}")
}

fn sample(costs: &[Cost]) -> Sample {
    let mut sample = Sample::new();
    for cost in costs {
        sample.push((start_id(cost.count), nanoseconds(cost.took) / f64::from(cost.count)));
        sample.push((pss_id(cost.count), cost.each()));
    }
    sample.extend(per_gib(costs).map(|count| (PER_GIB.to_owned(), count)));
    sample
}

/// By what those between the first point and the last have taken: what all share is in the first.
fn per_gib(costs: &[Cost]) -> Option<f64> {
    let (first, last) = (costs.first()?, costs.last()?);
    let each = (last.pss - first.pss) / f64::from(last.count.checked_sub(first.count)?);
    Some(GIB / each).filter(|count| count.is_finite() && *count > 0.0)
}

/// How many of a VMM's machines may be there at a time, by what one takes.
fn room(setup: &Setup, vmm: &Vmm) -> anyhow::Result<u32> {
    let one = idle::processes(setup, vmm, MEMORY_MIB, &[1])?;
    let one = one.first().context("one machine")?;
    let text = std::fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    Ok(fit(available(&text).context("/proc/meminfo tells of no MemAvailable")?, one.pss))
}

/// How many of such a size fit into the part of so much memory that they may take.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a conversion that keeps to the range"
)]
fn fit(available: f64, each: f64) -> u32 {
    (available * PART / each) as u32
}

/// Bytes of memory that new programs can have without driving others out.
fn available(meminfo: &str) -> Option<f64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024.0)
}

#[cfg(test)]
mod tests;
