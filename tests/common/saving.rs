//! Machines that are saved and go on from files.

use std::env;
use std::io::{PipeWriter, Write, pipe};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bantam::config::MachineConfig;
use bantam::hypervisor::Hypervisor;
use bantam::machine::{Builder, ExitReason, PausedMachine, RunningMachine};
use bantam::snapshot::{Options, Restoring, Saved, Snapshot, Taken, save_running};

use super::{Screen, watched};

/// A machine that runs, what its console sends, and its keyboard.
pub struct Machine {
    pub running: RunningMachine,
    pub screen: Screen,
    pub keys: PipeWriter,
}

impl Machine {
    /// Boots one.
    pub fn start(kvm: &Hypervisor, config: MachineConfig) -> Self {
        Self::build(Builder::new(config), kvm)
    }

    /// One that goes on from a snapshot, changes tracked.
    pub fn restore(kvm: &Hypervisor, path: &Path) -> Self {
        Self::restore_as(kvm, path, |_| {})
    }

    /// The same, with a configuration that is changed first.
    pub fn restore_as(kvm: &Hypervisor, path: &Path, change: impl FnOnce(&mut MachineConfig)) -> Self {
        let snapshot = Snapshot::open(path).unwrap();
        let mut config = snapshot.config();
        change(&mut config);
        Self::build(snapshot.builder(config, Restoring { track: true, ..Restoring::default() }).unwrap(), kvm)
    }

    fn build(builder: Builder, kvm: &Hypervisor) -> Self {
        let (keyboard, keys) = pipe().unwrap();
        let screen = Screen::default();
        let builder = builder.hypervisor(kvm.clone()).console_input(keyboard).console_output(screen.clone());
        Self { running: builder.build().unwrap().resume().unwrap(), screen, keys }
    }

    /// Saves it standing still, and destroys it. All that it has said.
    pub fn save(self, path: &Path, options: &Options) -> (Saved, String) {
        let saved = save(&mut pause(self.running), path, options);
        (saved, self.screen.text())
    }

    /// Saves it while it runs. It runs on.
    pub fn save_live(self, path: &Path, options: &Options, max_pause: Duration) -> Self {
        let live = save_running(self.running, path, options, Some(max_pause), &mut quiet).unwrap();
        live.taken.unwrap().finish(&mut quiet).unwrap();
        Self { running: live.machine, ..self }
    }

    /// Destroys it. All that it has said.
    pub fn destroy(self) -> String {
        drop(self.running);
        self.screen.text()
    }

    /// Waits for the next line that begins so.
    pub fn line(&self, start: &str) -> String {
        self.screen.wait_for(start);
        let before = self.screen.seen() - start.len();
        self.screen.wait_for("\r\n");
        self.screen.text()[before..].lines().next().unwrap().to_owned()
    }

    /// Types `quit`; the guest has to power off. All that it has said.
    pub fn quit(mut self) -> String {
        self.keys.write_all(b"\nquit\n").unwrap();
        let running = self.running;
        let outcome = watched("the end", move || running.wait());
        assert_eq!(outcome.reason, ExitReason::PowerOff, "{}", self.screen.text());
        self.screen.text()
    }
}

/// Paused, with all that its guest has sent on the screen.
pub fn pause(machine: RunningMachine) -> PausedMachine {
    let machine = watched("pause", move || machine.pause()).unwrap_or_else(|end| panic!("{}", end.reason));
    watched("flush", move || {
        machine.flush_console();
        machine
    })
}

/// Progress that nobody looks at.
pub fn quiet(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The machine's snapshot at this path.
pub fn save(machine: &mut PausedMachine, path: &Path, options: &Options) -> Saved {
    Taken::take(machine, path, options, &mut quiet).unwrap().finish(&mut quiet).unwrap()
}

/// Numbers of a seed that is told, and can be given in `BANTAM_TEST_SEED`.
pub struct Random(u64);

impl Random {
    pub fn new() -> Self {
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
        let seed = env::var("BANTAM_TEST_SEED").map_or_else(|_| now().into(), |seed| seed.parse().unwrap());
        println!("BANTAM_TEST_SEED={seed}");
        Self(seed)
    }

    /// One below `end` (SplitMix64).
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % end
    }
}

/// Whether this KVM gives a guest a time-stamp counter of its own. If not, the host's goes on while a machine
/// is kept, and with it the clock of a Linux that has chosen it.
pub fn tsc_can_be_set() -> bool {
    Hypervisor::open().unwrap().tsc_can_be_set().unwrap()
}

/// A word for churn: kvm-clock follows the time-stamp counter, and where that cannot be set, a guest that goes on
/// sees the time for which it was kept until KVM has set its clock anew, and then that time is gone again.
pub fn clocks() -> &'static str {
    if tsc_can_be_set() { "" } else { " kvmclock=0" }
}
