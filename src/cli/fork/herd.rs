//! Many machines in one process, until the last one has ended.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::thread::{self, JoinHandle};

use anyhow::Context;
use serde_json::{Value, json};

use super::super::attended::{Attended, Next};
use super::super::console::Loss;
use super::super::lines::{Lines, Printer};
use super::super::report;
use super::super::signals::{Signals, Woken};
use super::super::{documents, signal_code, terminal};
use super::label;
use crate::control::{About, Controlled, Machine, Name, Server};
use crate::machine::{self, ExitReason, Outcome, PausedMachine, StopHandle};

/// How a machine is told from the others.
pub(super) struct Member {
    pub(super) number: usize,
    pub(super) name: Option<Name>,
}

/// The machines.
pub(super) struct Herd {
    running: Vec<(Member, Attended)>,
    /// Those that have ended or are about to, in that order. It takes a moment, which the others do not wait.
    ending: Vec<JoinHandle<Result<(Member, Outcome), machine::Error>>>,
    stops: Vec<StopHandle>,
    signals: Signals,
    /// Until it has ended; none where no machine has lines to print.
    printer: Option<Printer>,
    has_lines: bool,
    loss: Option<Loss>,
}

impl Herd {
    /// Has them all go on.
    pub(super) fn start(
        machines: Vec<(Member, About, PausedMachine, Option<Server>)>,
        signals: Signals,
        lines: Lines,
    ) -> anyhow::Result<Self> {
        let stops = machines.iter().map(|(_, _, machine, _)| machine.stop_handle()).collect();
        let has_lines = !lines.is_empty();
        let printer = has_lines.then(|| lines.start()).transpose()?;
        let mut running = Vec::with_capacity(machines.len());
        for (member, about, machine, server) in machines {
            let machine = Controlled::new(about, Machine::Running(machine.resume()?));
            running.push((member, Attended::new(machine, server)));
        }
        Ok(Self { running, ending: Vec::new(), stops, signals, printer, has_lines, loss: None })
    }

    /// Attends to them until all have ended, and tells how they did.
    pub(super) fn run(mut self, json: bool) -> anyhow::Result<ExitCode> {
        let mut signal = None;
        while !self.running.is_empty() {
            signal = self.wait()?;
            if signal.is_some() {
                self.stop();
                for (member, attended) in std::mem::take(&mut self.running) {
                    self.end(member, attended)?;
                }
            }
        }
        let Self { ending, signals, printer, has_lines, mut loss, .. } = self;
        let mut ended = Vec::with_capacity(ending.len());
        for thread in ending {
            let joined =
                thread.join().map_err(|_| anyhow::anyhow!("a thread that waited for a machine panicked"))?;
            ended.push(joined?);
        }
        // A second signal ends what waits for the reader of standard output.
        drop(signals);
        if let Some(printer) = printer.filter(|_| signal.is_none())
            && let Err(error) = printer.finish()
        {
            loss = Some(lost(&error));
        }
        if json {
            let text = format!("{}\n", summary(&ended));
            let written = if has_lines {
                std::io::stderr().write_all(text.as_bytes())
            } else {
                documents::write(text.as_bytes())
            };
            if let Err(error) = written {
                log::debug!("nobody reads how the machines ended: {error}");
            }
        }
        let first = ended.iter().map(|(_, outcome)| outcome.reason.code()).find(|code| *code != 0);
        let code = signal.map(signal_code).or(loss.map(Loss::code)).or(first);
        Ok(ExitCode::from(code.unwrap_or_default()))
    }

    /// Waits for something to do and does it; gives a signal that asks for the end.
    fn wait(&mut self) -> anyhow::Result<Option<i32>> {
        let mut fds = vec![self.printer.as_ref().map(AsRawFd::as_raw_fd)];
        // One that has nothing left to end is attended to when it comes to that.
        for (_, attended) in &self.running {
            fds.extend(attended.fds().unwrap_or_default());
        }
        match self.signals.wait_beside(&fds)? {
            Woken::Signal(signal) => return Ok(Some(signal)),
            Woken::Continued | Woken::Resized => {}
            Woken::Ready(0) => {
                if let Some(Err(error)) = self.printer.take().map(Printer::finish) {
                    self.loss = Some(lost(&error));
                    self.stop();
                }
            }
            Woken::Ready(place) => {
                let (index, which) = ((place - 1) / Attended::FDS, (place - 1) % Attended::FDS);
                // It takes the last place: nobody with much to say keeps the others waiting.
                let (member, attended) = self.running.remove(index);
                match attended.attend(which) {
                    (attended, Next::End) => self.end(member, attended)?,
                    (attended, Next::Wait | Next::Back) => self.running.push((member, attended)),
                }
            }
        }
        Ok(None)
    }

    fn stop(&self) {
        self.stops.iter().for_each(StopHandle::stop);
    }

    /// One has ended, or is about to.
    fn end(&mut self, member: Member, attended: Attended) -> anyhow::Result<()> {
        let wait = move || {
            let outcome = attended.finish()?;
            match &outcome.reason {
                ExitReason::PowerOff | ExitReason::Stopped | ExitReason::DebugExit(_) => {}
                reason => {
                    let label = label(member.number, member.name.as_ref());
                    terminal::note_lines(&format!("{label}: {reason}"));
                }
            }
            Ok((member, outcome))
        };
        let thread = thread::Builder::new().name("end".to_owned()).spawn(wait);
        self.ending.push(thread.context("there is no thread to wait for a machine's end")?);
        Ok(())
    }
}

/// Says how standard output was lost, unless nobody reads it any more.
fn lost(error: &std::io::Error) -> Loss {
    let loss = Loss::of(error);
    if loss == Loss::Failed {
        terminal::note(&format!("cannot write to standard output: {error}"));
    }
    loss
}

/// How they ended, by their numbers.
fn summary(ended: &[(Member, Outcome)]) -> Value {
    let mut machines: Vec<_> = ended.iter().collect();
    machines.sort_by_key(|(member, _)| member.number);
    let machines = machines.into_iter().map(|(Member { number, name }, outcome)| {
        let mut value = report::to_json(outcome);
        if let Value::Object(fields) = &mut value {
            fields.insert("number".to_owned(), json!(number));
            fields.insert("name".to_owned(), json!(name));
        }
        value
    });
    json!({ "machines": machines.collect::<Vec<_>>() })
}
