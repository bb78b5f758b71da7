//! Machines of Bantam's in the bench's own process, by the library.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::process::count;
use crate::config::{MachineConfig, Size};
use crate::machine::{Builder, PausedMachine, RunningMachine};
use crate::snapshot::{Options, Taken};

/// How long a guest may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine of one vCPU without devices.
pub(super) fn config(memory_mib: u64, words: &str) -> MachineConfig {
    MachineConfig {
        memory: Size::new(memory_mib << 20),
        cmdline: words.to_owned(),
        ..MachineConfig::default()
    }
}

/// A console's end in the machine.
pub(super) struct Console(Sender<Vec<u8>>);

/// Its other end.
pub(super) struct Said {
    from: Receiver<Vec<u8>>,
    /// What nobody has waited for yet.
    printed: Vec<u8>,
}

/// A console whose output can be waited for.
pub(super) fn console() -> (Console, Said) {
    let (to, from) = channel();
    (Console(to), Said { from, printed: Vec::new() })
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Nobody may listen any more.
        let _ = self.0.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Said {
    /// Waits until the guest has printed this.
    pub(super) fn until(&mut self, text: &str) -> anyhow::Result<()> {
        while count(&self.printed, text) == 0 {
            self.more().with_context(|| format!("the guest has not said {text:?}"))?;
        }
        Ok(())
    }

    /// Waits for a line that begins so, and takes what was printed up to its end.
    pub(super) fn line(&mut self, start: &str) -> anyhow::Result<String> {
        loop {
            while let Some(end) = self.printed.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.printed.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                if line.starts_with(start) {
                    return Ok(line.trim_end().to_owned());
                }
            }
            self.more().with_context(|| format!("no line begins with {start:?}"))?;
        }
    }

    fn more(&mut self) -> anyhow::Result<()> {
        self.printed.extend(self.from.recv_timeout(PATIENCE)?);
        Ok(())
    }
}

/// For work whose progress nobody wants to know.
pub(super) fn quiet(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Pauses a machine that has to be running.
pub(super) fn pause(machine: RunningMachine) -> anyhow::Result<PausedMachine> {
    machine.pause().map_err(|outcome| anyhow!("the machine has ended: {}", outcome.reason))
}

/// Saves a machine whose guest has printed this.
pub(super) fn save(path: &Path, config: MachineConfig, until: &str) -> anyhow::Result<()> {
    let (console, mut said) = console();
    let machine = Builder::new(config).console_output(console).build()?.resume()?;
    said.until(until)?;
    let mut machine = pause(machine)?;
    Taken::take(&mut machine, path, &Options::default(), &mut quiet)?.finish(&mut quiet)?;
    Ok(())
}
