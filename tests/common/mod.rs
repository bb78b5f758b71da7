//! What the integration tests share. Nothing here waits for time to pass: a wait ends with its
//! event, and a watchdog makes a test that would hang fail with a message.

// Each test file is a crate of its own and uses its part of this; a helper may fail as loudly as
// the test that calls it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod alone;
pub mod booted;
pub mod linux;
pub mod live;
pub mod named;
pub mod netns;
pub mod peer;
pub mod process;
pub mod saving;
pub mod screen;

use std::io::{self, Write};
use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use bantam::config::{Console, MachineConfig, Size};
use bantam::hypervisor::Hypervisor;
use bantam::machine::{Builder, ExitReason, Outcome};
use bantam::vcpu::ExitKind;

pub use screen::Screen;

/// How long anything may take before it counts as hanging.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// `/dev/kvm`, or a printed reason why the test is skipped.
pub fn kvm() -> Option<Hypervisor> {
    match Hypervisor::open() {
        Ok(hypervisor) => Some(hypervisor),
        Err(error) => skip(&error.to_string()),
    }
}

/// Says why a test is skipped, past the test harness, which shows only a failed test's output.
pub fn skip<T>(reason: &str) -> Option<T> {
    let test = thread::current().name().unwrap_or("test").to_owned();
    // In one piece, among the harness's own lines.
    let _ = io::stderr().write_all(format!("\n{test}: skipped: {reason}\n").as_bytes());
    None
}

/// Runs `body` and gives its result; fails if it hangs.
pub fn watched<T: Send + 'static>(what: &str, body: impl FnOnce() -> T + Send + 'static) -> T {
    watched_for(PATIENCE, what, body)
}

/// [`watched`] with a patience of its own.
pub fn watched_for<T: Send + 'static>(
    patience: Duration,
    what: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, waiting) = channel();
    let thread = thread::spawn(move || {
        let result = body();
        let _ = done.send(());
        result
    });
    match waiting.recv_timeout(patience) {
        Err(RecvTimeoutError::Timeout) => panic!("{what}: no end after {patience:?}"),
        Ok(()) | Err(RecvTimeoutError::Disconnected) => {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        }
    }
}

/// A small machine with the embedded guest at these words, its exits counted.
pub fn config(words: &str) -> MachineConfig {
    MachineConfig {
        cmdline: words.to_owned(),
        memory: Size::mib(32),
        console: Console::Off,
        stats: true,
        ..MachineConfig::default()
    }
}

/// What a machine did.
pub struct Ran {
    pub outcome: Outcome,
    /// All that its console sent.
    pub text: String,
}

impl Ran {
    /// The console's line that begins so.
    pub fn line(&self, start: &str) -> &str {
        self.text
            .lines()
            .find(|line| line.starts_with(start))
            .unwrap_or_else(|| panic!("no line '{start}…' in:\n{}", self.text))
    }

    /// The number behind `name=` in that line.
    pub fn number(&self, line: &str, name: &str) -> u64 {
        number(self.line(line), name)
    }

    /// How many exits of this kind there were.
    pub fn count(&self, kind: ExitKind) -> u64 {
        count(&self.outcome, kind)
    }
}

/// The number behind `name=` in a line of words.
pub fn number(line: &str, name: &str) -> u64 {
    let word = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    word.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no number '{name}' in: {line}"))
}

/// How many exits of this kind a machine had.
pub fn count(outcome: &Outcome, kind: ExitKind) -> u64 {
    outcome.stats.by_place().iter().find(|(place, _)| *place == kind).map_or(0, |(_, count)| count.count)
}

/// Boots a machine and waits for its end.
pub fn run(hypervisor: &Hypervisor, config: MachineConfig) -> Ran {
    let screen = Screen::default();
    let builder = Builder::new(config.clone()).hypervisor(hypervisor.clone()).console_output(screen.clone());
    let outcome = watched(&format!("{config:?}"), move || builder.build().unwrap().resume().unwrap().wait());
    Ran { outcome, text: screen.text() }
}

/// Boots a machine whose guest has to power it off, and gives what it said.
pub fn run_to_power_off(hypervisor: &Hypervisor, config: MachineConfig) -> Ran {
    let ran = run(hypervisor, config);
    assert_eq!(ran.outcome.reason, ExitReason::PowerOff, "{}\n{}", ran.outcome.reason, ran.text);
    ran
}
