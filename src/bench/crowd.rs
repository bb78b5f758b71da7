//! Many machines in one process by the library, as a program of their own, whose memory can be measured.

use std::io::{self, Write};
use std::sync::mpsc::{Sender, channel};

use anyhow::{Context, ensure};

use super::inside;
use crate::hypervisor::Hypervisor;
use crate::machine::{Builder, ExitReason, RunningMachine};

/// A console that tells of its first byte.
struct FirstByte(Option<Sender<()>>);

impl Write for FirstByte {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(up) = self.0.take() {
            // Nobody may wait any more.
            let _ = up.send(());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs machines with the embedded guest and these words until all have powered off. Prints a line when each of them has
/// sent its first byte.
///
/// # Errors
/// One cannot be made, or ends otherwise, or before it has sent anything.
pub fn run(count: usize, memory_mib: u64, words: &str) -> anyhow::Result<()> {
    let hypervisor = Hypervisor::open()?;
    let (up, is_up) = channel();
    let start = |_| {
        let console = FirstByte(Some(up.clone()));
        let builder = Builder::new(inside::config(memory_mib, words)).hypervisor(hypervisor.clone());
        builder.console_output(console).build()?.resume()
    };
    let machines: Vec<RunningMachine> = (0..count).map(start).collect::<Result<_, _>>()?;
    drop(up);
    for _ in &machines {
        is_up.recv().context("a machine has ended without a byte")?;
    }
    writeln!(io::stdout(), "{count} machines are up")?;
    for machine in machines {
        let outcome = machine.wait();
        ensure!(outcome.reason == ExitReason::PowerOff, "a machine has ended: {}", outcome.reason);
    }
    Ok(())
}
