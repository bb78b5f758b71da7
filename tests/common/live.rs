//! A guest that somebody talks to while its machine is paused and goes on.

use std::io::{PipeWriter, Write, pipe};
use std::time::Duration;

use bantam::config::MachineConfig;
use bantam::hypervisor::Hypervisor;
use bantam::machine::{Builder, ExitReason, PausedMachine, RunningMachine};

use super::{PATIENCE, Screen, watched_for};

/// A machine that runs, what its console sends, and its keyboard.
pub struct Live {
    machine: Option<RunningMachine>,
    pub screen: Screen,
    keys: PipeWriter,
    /// How long to wait for a line.
    patience: Duration,
}

impl Live {
    /// Boots one.
    pub fn start(hypervisor: &Hypervisor, config: MachineConfig) -> Self {
        Self::build(hypervisor, Builder::new(config))
    }

    /// One that may go on from a snapshot.
    pub fn build(hypervisor: &Hypervisor, builder: Builder) -> Self {
        let (keyboard, keys) = pipe().unwrap();
        let screen = Screen::default();
        let builder = builder.hypervisor(hypervisor.clone());
        let machine = builder.console_input(keyboard).console_output(screen.clone()).build().unwrap();
        Self { machine: Some(machine.resume().unwrap()), screen, keys, patience: PATIENCE }
    }

    /// Waits so long at the most, before it counts as hanging.
    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Does something while the machine is paused.
    pub fn paused<T>(&mut self, body: impl FnOnce(&mut PausedMachine) -> T) -> T {
        let mut machine = self.machine.take().unwrap().pause().unwrap();
        let result = body(&mut machine);
        self.machine = Some(machine.resume().unwrap());
        result
    }

    pub fn type_in(&mut self, text: &str) {
        self.keys.write_all(text.as_bytes()).unwrap();
    }

    /// Waits for the next line that begins so.
    pub fn line(&self, start: &str) -> String {
        self.screen.wait_for_bytes(start.as_bytes(), self.patience);
        let before = self.screen.seen() - start.len();
        self.screen.wait_for("\r\n");
        let text = self.screen.text();
        text[before..].lines().next().unwrap().to_owned()
    }

    /// Types `quit`; the guest has to power off. All that it said.
    pub fn quit(self) -> String {
        self.end("\nquit\n")
    }

    /// Types this; the guest has to power off then.
    pub fn end(mut self, text: &str) -> String {
        self.type_in(text);
        let machine = self.machine.unwrap();
        let outcome = watched_for(self.patience, "the end", move || machine.wait());
        assert_eq!(outcome.reason, ExitReason::PowerOff, "{}", self.screen.text());
        self.screen.text()
    }
}

/// What is behind `name=` in a line of words.
pub fn word<'a>(line: &'a str, name: &str) -> &'a str {
    let word = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    word.unwrap_or_else(|| panic!("no '{name}' in: {line}"))
}
