//! A machine that a command builds, by whatever way, and runs until it ends: its console, its signals,
//! the requests to it, and the report in the end.

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vmm_sys_util::timerfd::TimerFd;

use super::attended::{Attended, Next};
use super::console::{LateStop, Loss, OutputWatch, Relay};
use super::report::Report;
use super::signals::{Signals, Woken};
use super::terminal;
use crate::config::{Console, MachineConfig};
use crate::control::{About, Answer, Controlled, Folder, Machine, Name, Request, Server};
use crate::machine::Builder;
use crate::timeline::{Phase, Timeline};
use crate::virtio;

/// How long is waited when what is to be done later finds the machine busy.
const BUSY: Duration = Duration::from_millis(10);

/// How the running machine is reached, and what is printed of it.
#[derive(Args, Debug)]
pub(super) struct SessionArgs {
    /// Give the machine a name, by which `bantam ctl NAME` and `bantam ps` find it.
    #[arg(long, conflicts_with = "control")]
    name: Option<Name>,
    /// Make a socket at this path, by which `bantam ctl PATH` finds the machine, in place of a name.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Print when the machine reached which phase of its start.
    #[arg(long)]
    timings: bool,
    /// Print the reason of the end, timings and exits as one JSON object. Reports go to standard
    /// output, or to standard error while the console is there.
    #[arg(long)]
    json: bool,
}

impl SessionArgs {
    /// Runs a machine of this configuration to its end; `builder` makes a builder of it, which is then told
    /// where the console goes. `later` is done to the machine when it has run for a while.
    pub(super) fn run(
        self,
        config: MachineConfig,
        process_start: Instant,
        builder: impl FnOnce(MachineConfig) -> anyhow::Result<Builder>,
        later: Option<Later>,
    ) -> anyhow::Result<ExitCode> {
        if !config.devices.vsock.is_empty() {
            raise_descriptor_limit();
        }
        let about = About::new(self.name.clone(), &config);
        let timeline = Arc::new(Timeline::default());
        timeline.mark_at(Phase::ProcessStart, process_start);
        let stats = config.stats;
        let mut desk = Desk::of(&config);
        let report = Report { timings: self.timings, stats, json: self.json, to_stderr: desk.has_stdio() };

        let machine = desk.furnish(builder(config)?.timeline(timeline))?.build()?;
        if let Some(pty) = machine.pty() {
            terminal::note(&format!("console: {}", pty.display()));
        }
        for (name, pty) in machine.device_ptys() {
            terminal::note(&format!("{name}: {}", pty.display()));
        }
        desk.stop.set(machine.stop_handle());
        // Nothing above needs putting back, so a signal may end it. The machine's threads, which
        // start below, inherit that these signals wait to be fetched.
        let signals = Signals::block()?;
        let control = self.listen()?;
        let raw = desk.has_stdio().then(terminal::RawMode::enter).flatten();
        let machine = Controlled::new(about, Machine::Running(machine.resume()?));
        let later = later.map(Later::begin).transpose()?;
        let Desk { stop, watch, relay, virtio_stdio, .. } = desk;
        let (attended, signal) = Watch { raw, signals, relay, stop, window: virtio_stdio, later }
            .wait(Attended::new(machine, control))?;
        let outcome = attended.finish()?;
        report.print(&outcome);
        let loss = watch.loss().map(Loss::code);
        Ok(ExitCode::from(signal.map(super::signal_code).or(loss).unwrap_or(outcome.reason.code())))
    }

    /// The socket by which the machine is asked, where one is wanted.
    fn listen(&self) -> Result<Option<Server>, crate::control::Error> {
        match (&self.name, &self.control) {
            (Some(name), _) => Folder::make()?.listen(name).map(Some),
            (None, Some(path)) => Server::listen(path).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// Lets the process have as many descriptors as it may: each connection of a guest's takes one, and each
/// machine some. The soft limit is low for the sake of programs that call select(2), of which this is none.
pub(super) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        log::debug!("the limit on descriptors stays as it is: {error}");
    }
}

/// Where the user sits: standard input and output as one of the machine's consoles.
struct Desk {
    /// The serial console is there.
    serial_stdio: bool,
    /// This virtio console is there.
    virtio_stdio: Option<String>,
    stop: LateStop,
    watch: OutputWatch,
    relay: Option<Relay>,
}

impl Desk {
    /// Finds which console it is.
    fn of(config: &MachineConfig) -> Self {
        let stop = LateStop::default();
        Self {
            serial_stdio: config.console == Console::Stdio,
            virtio_stdio: super::console::virtio_on_stdio(config),
            watch: OutputWatch::new(stop.clone()),
            stop,
            relay: None,
        }
    }

    fn has_stdio(&self) -> bool {
        self.serial_stdio || self.virtio_stdio.is_some()
    }

    /// Gives the machine its console.
    fn furnish(&mut self, mut builder: Builder) -> anyhow::Result<Builder> {
        builder = builder.on_console_lost(self.watch.teller(self.serial_stdio));
        if self.serial_stdio {
            builder = builder.console(super::console::stdio(&self.stop)?);
        }
        if let Some(name) = &self.virtio_stdio {
            let mut streams = super::console::stdio(&self.stop)?;
            self.relay = Relay::before(&mut streams)?;
            let console = virtio::console::Console::new(name, streams)?;
            builder = builder.virtio_device(name, console.on_output_lost(self.watch.teller(true)));
        }
        Ok(builder)
    }
}

/// Something that is done to the machine when it has run for a while.
pub(super) struct Later {
    pub(super) after: Duration,
    /// What the machine's state is meanwhile, in a word.
    pub(super) what: &'static str,
    pub(super) work: Box<dyn FnOnce(Machine) -> Machine + Send>,
}

/// The same, with a timer that runs.
struct Awaited {
    timer: TimerFd,
    later: Later,
}

impl Later {
    fn begin(self) -> io::Result<Awaited> {
        let mut timer = TimerFd::new()?;
        // A time of nothing would be no time at all.
        timer.reset(self.after.max(Duration::from_nanos(1)), None)?;
        Ok(Awaited { timer, later: self })
    }
}

impl Awaited {
    /// Its time has come. A machine that is busy is left alone for a moment more.
    fn begin(mut self, machine: Controlled) -> io::Result<(Controlled, Option<Self>)> {
        self.timer.wait()?;
        if machine.is_busy() {
            self.timer.reset(BUSY, None)?;
            return Ok((machine, Some(self)));
        }
        let Later { what, work, .. } = self.later;
        let (machine, refused) = machine.lend(what, |machine, _| (work(machine), Answer::done()));
        if let Some(Answer::Error(why)) = refused {
            terminal::note(&why);
        }
        Ok((machine, None))
    }
}

/// What there is to attend to while a machine runs.
struct Watch {
    // Dropped in this order, when what is left may take its time: the terminal and the signals are the
    // user's again.
    raw: Option<terminal::RawMode>,
    signals: Signals,
    relay: Option<Relay>,
    stop: LateStop,
    /// The virtio console that is told of the terminal's size.
    window: Option<String>,
    later: Option<Awaited>,
}

impl Watch {
    /// Waits until the machine has ended or is about to, and gives the signal that ended it.
    fn wait(mut self, mut attended: Attended) -> anyhow::Result<(Attended, Option<i32>)> {
        attended = self.tell_size(attended);
        while let Some([event, control]) = attended.fds() {
            let keyboard = self.relay.as_ref().map(AsRawFd::as_raw_fd);
            let timer = self.later.as_ref().map(|later| later.timer.as_raw_fd());
            match self.signals.wait_beside(&[event, control, keyboard, timer])? {
                Woken::Ready(2) => self.relay = self.relay.take().and_then(Relay::pass),
                Woken::Ready(3) => {
                    if let Some(later) = self.later.take() {
                        (attended.machine, self.later) = later.begin(attended.machine)?;
                    }
                }
                Woken::Ready(which) => {
                    let next;
                    (attended, next) = attended.attend(which);
                    match next {
                        Next::Wait => {}
                        Next::Back => attended = self.tell_size(attended),
                        Next::End => break,
                    }
                }
                Woken::Signal(signal) => {
                    self.stop.stop();
                    return Ok((attended, Some(signal)));
                }
                Woken::Continued => {
                    if let Some(raw) = &self.raw {
                        raw.enter_again();
                    }
                    attended = self.tell_size(attended);
                }
                Woken::Resized => attended = self.tell_size(attended),
            }
        }
        if let Some(Awaited { later, .. }) = self.later {
            terminal::note(&format!("the machine has ended before it was time for {}", later.what));
        }
        Ok((attended, None))
    }

    /// Tells the console on the terminal how large that is. A machine that is paused is told later.
    fn tell_size(&self, mut attended: Attended) -> Attended {
        if let Some((id, (columns, rows))) = self.window.clone().zip(terminal::size()) {
            attended.machine = attended.machine.answer(Request::Window { id, columns, rows }).0;
        }
        attended
    }
}
