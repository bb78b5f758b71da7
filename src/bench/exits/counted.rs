//! A machine of Bantam's that is stopped before and after each kind of exit, to read what has been counted.
//!
//! The guest writes to a port then, whose device waits until Bantam's statistics and KVM's counters have been read.
//! So the host's clock tells the time between the two from outside, the guest's from inside: the statistics have
//! forgotten nothing if they agree.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::{Line, PATIENCE};
use crate::bench::nanoseconds;
use crate::bus::{Effect, Registers, lock};
use crate::config::{Console, Devices, MachineConfig, Size};
use crate::hypervisor::{Counters, Hypervisor};
use crate::machine::{Builder, ExitReason, RunningMachine};
use crate::vcpu::{ExitKind, ExitStats};
use crate::virtio::entropy::config::Entropy;

/// The port that the guest writes to before and after each kind.
const MARKS: u16 = 0x0b90;
/// The guest's word for its loop without an exit.
const NONE: &str = "none";

/// What was counted of each kind of exit.
#[derive(Debug)]
pub(super) struct Counted {
    kinds: BTreeMap<String, Tally>,
    guest: BTreeMap<String, Line>,
}

/// Where the time of one exit goes, in nanoseconds: means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Parts {
    /// The round trip.
    pub(super) whole: f64,
    /// The guest's own instructions.
    pub(super) guest: f64,
    /// In KVM_RUN otherwise.
    pub(super) kvm: f64,
    /// In the VMM; none if no exit came to it.
    pub(super) vmm: Option<f64>,
    /// How many the guest has made, and how many have come to the VMM.
    pub(super) made: u64,
    pub(super) exits: u64,
}

/// What was counted of one kind of exit.
#[derive(Clone, Debug, Default, PartialEq)]
struct Tally {
    /// Exits to the VMM, by ports and by MMIO, without those for the marks.
    ports: u64,
    mmio: u64,
    /// The host's time in KVM_RUN, the way to the second mark included, and in the VMM.
    in_kvm: Duration,
    in_vmm: Duration,
    /// KVM's own counters, the exit for the second mark included.
    counters: BTreeMap<String, u64>,
}

/// What had been counted at a mark.
struct Snapshot {
    exits: ExitStats,
    counters: BTreeMap<String, u64>,
}

impl Counted {
    /// Runs a guest that makes so many exits of each of these kinds.
    pub(super) fn run(
        hypervisor: &Hypervisor,
        memory_mib: u32,
        exits: u64,
        kinds: &[&str],
        cpl: u8,
    ) -> anyhow::Result<Self> {
        let kinds: Vec<_> = [NONE].iter().chain(kinds).copied().collect();
        let words = kinds.join(",");
        let config = MachineConfig {
            cmdline: format!("quiet exits={exits} kind={words} cpl={cpl} marks={MARKS}"),
            memory: Size::mib(memory_mib),
            console: Console::Off,
            devices: Devices { entropy: vec![Entropy::default()], ..Devices::default() },
            stats: true,
            ..MachineConfig::default()
        };
        let (marks, device) = marks();
        let said = Said::default();
        let builder = Builder::new(config).hypervisor(hypervisor.clone()).console_output(said.clone());
        let machine = builder.port_device(MARKS, 1, device).build()?;
        let counters = machine.kvm_counters().unwrap_or_default();
        let machine = machine.resume()?;
        let tallies = kinds.iter().map(|kind| {
            let (before, after) = (marks.take(&machine, &counters)?, marks.take(&machine, &counters)?);
            Ok(((*kind).to_owned(), Tally::between(&before, &after)))
        });
        let tallies = tallies.collect::<anyhow::Result<_>>();
        // A guest that is still at a mark goes on, if only to be stopped.
        drop(marks);
        let tallies = tallies.with_context(|| format!("the guest says {:?}", said.text()))?;
        let outcome = machine.wait();
        ensure!(matches!(outcome.reason, ExitReason::PowerOff), "{outcome}");
        Ok(Self { kinds: tallies, guest: Line::all(&said.text()) })
    }

    /// What was counted of a kind, and what the guest says of it.
    fn of(&self, kind: &str) -> anyhow::Result<(&Tally, Line)> {
        let found = self.kinds.get(kind).zip(self.guest.get(kind).copied());
        found.with_context(|| format!("no {kind} among {:?}", self.guest))
    }

    /// The parts of one exit's time: the whole by the guest's clock, the others by the host's.
    pub(super) fn parts(&self, kind: &str) -> anyhow::Result<Parts> {
        let ((tally, line), (_, none)) = (self.of(kind)?, self.of(NONE)?);
        let each = |duration| nanoseconds(duration) / number(line.n);
        let in_kvm = each(tally.in_kvm);
        let guest = none.p50.min(in_kvm);
        let exits = tally.exits();
        let vmm = (exits > 0).then(|| each(tally.in_vmm));
        Ok(Parts { whole: line.mean, guest, kvm: in_kvm - guest, vmm, made: line.n, exits })
    }

    /// Of what KVM counts under this name, how much there is for each that Bantam, or the guest, counts; none if KVM
    /// counts nothing.
    pub(super) fn agreement(&self, counter: &str) -> Option<f64> {
        let (mut theirs, mut ours) = (0, 0);
        for (kind, tally) in &self.kinds {
            let expected = match counter {
                // And the second mark.
                "io_exits" if tally.ports > 0 => tally.ports + 1,
                "mmio_exits" => tally.mmio,
                "halt_exits" if kind == "hlt" => self.guest.get(kind).map_or(0, |line| line.n),
                "exits" if tally.exits() > 0 => tally.exits() + 1,
                _ => 0,
            };
            if expected > 0 {
                ours += expected;
                theirs += tally.counters.get(counter).copied().unwrap_or_default();
            }
        }
        (ours > 0 && theirs > 0).then(|| number(theirs) / number(ours))
    }
}

#[allow(clippy::cast_precision_loss, reason = "some thousands")]
fn number(count: u64) -> f64 {
    count as f64
}

impl Parts {
    /// How much of the whole they are together.
    pub(super) fn accounted(&self) -> f64 {
        (self.guest + self.kvm + self.vmm.unwrap_or_default()) / self.whole
    }
}

impl Tally {
    /// Exits to the VMM.
    fn exits(&self) -> u64 {
        self.ports + self.mmio
    }

    /// What came between two marks.
    fn between(before: &Snapshot, after: &Snapshot) -> Self {
        let earlier: BTreeMap<_, _> = before.exits.by_place().into_iter().collect();
        let mut tally = Self::default();
        for (kind, count) in after.exits.by_place() {
            let earlier = earlier.get(&kind).copied().unwrap_or_default();
            tally.in_kvm += count.in_kvm.saturating_sub(earlier.in_kvm);
            if kind == (ExitKind::PortWrite { port: MARKS }) {
                continue;
            }
            tally.in_vmm += count.in_vmm.saturating_sub(earlier.in_vmm);
            let exits = count.count - earlier.count;
            match kind {
                ExitKind::PortRead { .. } | ExitKind::PortWrite { .. } => tally.ports += exits,
                ExitKind::MmioRead { .. } | ExitKind::MmioWrite { .. } => tally.mmio += exits,
                _ => {}
            }
        }
        let counters = after.counters.iter().map(|(name, count)| {
            (name.clone(), count - before.counters.get(name).copied().unwrap_or_default())
        });
        tally.counters = counters.collect();
        tally
    }
}

/// The two ends of the marks: who looks at what was counted, and the device that waits for it.
fn marks() -> (Marks, MarksDevice) {
    let ((reached, to_look), (looked, go_on)) = (sync_channel(0), sync_channel(0));
    (Marks { to_look, looked }, MarksDevice { reached, go_on })
}

struct Marks {
    to_look: Receiver<()>,
    looked: SyncSender<()>,
}

impl Marks {
    /// Waits for the guest to come to the next mark, and for it to go on.
    fn take(&self, machine: &RunningMachine, counters: &[Counters]) -> anyhow::Result<Snapshot> {
        self.to_look.recv_timeout(PATIENCE).context("the guest does not come to the next mark")?;
        let mut sums = BTreeMap::new();
        for counters in counters {
            for (name, count) in counters.read()? {
                *sums.entry(name).or_default() += count;
            }
        }
        let snapshot = Snapshot { exits: machine.exits(), counters: sums };
        self.looked.send(()).context("the machine has ended at a mark")?;
        Ok(snapshot)
    }
}

struct MarksDevice {
    reached: SyncSender<()>,
    go_on: Receiver<()>,
}

impl Registers for MarksDevice {
    fn read(&mut self, _: u64, _: &mut [u8]) {}

    fn write(&mut self, _: u64, _: &[u8]) -> Effect {
        // Who does not look any more has failed; the guest may end.
        if self.reached.send(()).is_ok() {
            let _ = self.go_on.recv();
        }
        Effect::None
    }
}

/// What the guest has sent to its console.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.0)).into_owned()
    }
}

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
