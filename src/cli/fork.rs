//! `bantam fork`.

mod herd;
mod source;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use self::herd::{Herd, Member};
use self::source::Source;
use super::devices::{DeviceTemplates, check_counts};
use super::lines::Lines;
use super::restore::MemoryArgs;
use super::signals::Signals;
use crate::config::{Console, MachineConfig, Span};
use crate::control::{About, Folder, Name, Server};
use crate::machine::{Builder, PausedMachine};
use crate::snapshot::Snapshot;
use crate::streams::{Output, Streams};
use crate::virtio;

/// In a word: where the number of the machine goes.
const NUMBER: &str = "{}";
/// The most machines in one process.
const MOST: usize = 10_000;

const FORK_HELP: &str = "\
The machines are numbered from 0, and all of them run, or none. Each is one of its own: a
generation id of its own, from which its guest gets new random numbers, new MAC addresses,
another vsock cid. Their disks are as they were saved; what a machine writes goes into a
temporary file of its own.

Where the name of a tap, socket or file has a {}, each machine's number takes its place; names
without it get the number at the end (tap0-3, vsock.3). An option for a kind of device replaces
all of that kind, as with `bantam restore`, and a {} anywhere in it becomes the number.

Without --console, a machine that had its console on standard output has its lines printed
there, after its name or number.

The NAME of a running machine (no '/' in it, and no directory is called so): it is saved while
it runs, its guest stands still for some milliseconds (--max-pause), and goes on. The snapshot
is in $TMPDIR, else in /var/tmp, until the forks have it open; then it is removed. Disks that
the machine writes without an overlay cannot be forked.

The process ends with the last machine. Exit code: 0 if all powered off or were stopped, else
that of the first other end (see `bantam run`); 128 + N if signal N has stopped them: Ctrl-C
stops all.

Examples:
  bantam fork web.snap --count 4
  bantam fork web.snap --count 100 --name web-{} --console file:web-{}.log
  bantam fork web --count 2 --vsock 'cid=10{},uds=web-{}.vsock'
  bantam ps; bantam ctl web-3 stop";

#[derive(Args, Debug)]
#[command(after_help = FORK_HELP)]
pub(super) struct Fork {
    /// The snapshot's directory, or the name of a running machine.
    #[arg(value_name = "SNAPSHOT|NAME")]
    source: Source,
    /// How many machines.
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    count: usize,
    /// Give the machines names, with {} for their numbers: `bantam ctl` and `bantam ps` find them.
    #[arg(long, value_name = "TEMPLATE")]
    name: Option<String>,
    /// Where the serial consoles go: off, pty or file:PATH, with {} for the number.
    #[arg(long, value_name = "WHERE")]
    console: Option<Console>,
    /// Print why each machine has ended as one JSON object: to standard error while their lines are
    /// printed, else to standard output.
    #[arg(long)]
    json: bool,
    /// How long the guest of a running machine may stand still; if that is too short, nothing is forked
    /// [default: 50ms].
    #[arg(long, value_name = "TIME")]
    max_pause: Option<Span>,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten, next_help_heading = "Devices")]
    devices: DeviceTemplates,
}

/// A number of machines that there can be.
fn count(word: &str) -> Result<usize, String> {
    let number = word.parse().ok().filter(|number| (1..=MOST).contains(number));
    number.ok_or_else(|| format!("give 1 to {MOST}"))
}

impl Fork {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let names = self.names()?;
        self.check_console()?;
        self.memory.check_many()?;
        super::session::raise_descriptor_limit();
        let (snapshot, temporary) = self.source.open(self.max_pause)?;
        // As with one machine: the threads inherit that these signals wait to be fetched.
        let signals = Signals::block()?;
        let servers = listen(&names)?;
        let mut lines = Lines::new()?;
        let machines = self.fork(&snapshot, &names, &mut lines)?;
        // They have all of its files open.
        drop(temporary);
        let mut members = Vec::with_capacity(machines.len());
        for (((number, machine), name), server) in machines.into_iter().enumerate().zip(names).zip(servers) {
            let about = About::new(name.clone(), machine.config());
            if let Some(pty) = machine.pty() {
                super::terminal::note(&format!(
                    "{}: console: {}",
                    label(number, name.as_ref()),
                    pty.display()
                ));
            }
            members.push((Member { number, name }, about, machine, server));
        }
        Herd::start(members, signals, lines)?.run(self.json)
    }

    /// Makes the machines.
    fn fork(
        &self,
        snapshot: &Snapshot,
        names: &[Option<Name>],
        lines: &mut Lines,
    ) -> anyhow::Result<Vec<PausedMachine>> {
        let saved = snapshot.config();
        let how = self.memory.restoring(snapshot, true)?;
        // What goes wrong with one of them is told when the builder is asked for it no more.
        let mut wrong = None;
        let machines = snapshot.fork(self.count, &how, |number, builder| {
            let label = label(number, names.get(number).and_then(Option::as_ref));
            self.furnish(builder, &saved, number, label, lines).unwrap_or_else(|error| {
                wrong.get_or_insert(error);
                Builder::new(MachineConfig { cpus: 0, ..MachineConfig::default() })
            })
        });
        match (wrong, machines) {
            (Some(error), _) => Err(error),
            (None, machines) => machines.map_err(|error| with_advice(error.into())),
        }
    }

    /// Gives a machine its devices, and its console.
    fn furnish(
        &self,
        builder: Builder,
        saved: &MachineConfig,
        number: usize,
        label: String,
        lines: &mut Lines,
    ) -> anyhow::Result<Builder> {
        let devices = self.devices.over(builder.config().devices.clone(), number)?;
        check_counts(&saved.devices, &devices)?;
        let mut builder = builder.configure(|config| config.devices = devices);
        match &self.console {
            Some(Console::File(path)) => {
                let path = path.to_string_lossy().replace(NUMBER, &number.to_string());
                builder = builder.configure(|config| config.console = Console::File(path.into()));
            }
            Some(console) => builder = builder.configure(|config| config.console = console.clone()),
            None if saved.console == Console::Stdio => {
                // Whoever prints the lines tells if nobody takes them.
                builder = builder.console_output_fd(lines.add(label)?.into()).on_console_lost(|_| {});
            }
            None => {
                if let Some(name) = super::console::virtio_on_stdio(saved) {
                    let pipe = OwnedFd::from(lines.add(label)?);
                    let streams = Streams { output: Some(Output::of_fd(pipe)), ..Streams::default() };
                    let console = virtio::console::Console::new(&name, streams)?.on_output_lost(|_| {});
                    builder = builder.virtio_device(&name, console);
                }
            }
        }
        Ok(builder)
    }

    /// The names, by the numbers.
    fn names(&self) -> anyhow::Result<Vec<Option<Name>>> {
        let Some(template) = &self.name else { return Ok(vec![None; self.count]) };
        self.check_template("--name", template)?;
        let named = |number: usize| Ok(Some(template.replace(NUMBER, &number.to_string()).parse()?));
        (0..self.count).map(named).collect()
    }

    fn check_console(&self) -> anyhow::Result<()> {
        match &self.console {
            Some(Console::Stdio) => {
                bail!(
                    "--console stdio is for one machine: leave it out to see the lines of all, or give off, pty or file:PATH"
                )
            }
            Some(Console::File(path)) => {
                self.check_template("--console", &format!("file:{}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// What is for each of several machines has a place for the number.
    fn check_template(&self, option: &str, template: &str) -> anyhow::Result<()> {
        if self.count > 1 && !template.contains(NUMBER) {
            bail!(
                "{option} {template} is one, and there are {} machines: put a {{}} where the number is to be, as in {template}-{{}}",
                self.count
            )
        }
        Ok(())
    }
}

/// How a machine is told from the others.
fn label(number: usize, name: Option<&Name>) -> String {
    name.map_or_else(|| number.to_string(), Name::to_string)
}

/// The sockets of those that have names.
fn listen(names: &[Option<Name>]) -> anyhow::Result<Vec<Option<Server>>> {
    if names.iter().all(Option::is_none) {
        return Ok(names.iter().map(|_| None).collect());
    }
    let folder = Folder::make()?;
    let listen = |name: &Option<Name>| Ok(name.as_ref().map(|name| folder.listen(name)).transpose()?);
    names.iter().map(listen).collect::<anyhow::Result<_>>().map_err(with_advice)
}

/// Says what to do where there are too few descriptors.
fn with_advice(error: anyhow::Error) -> anyhow::Error {
    let code = |error: &(dyn std::error::Error + 'static)| {
        let io = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        io.or_else(|| error.downcast_ref::<vmm_sys_util::errno::Error>().map(|error| error.errno()))
    };
    if error.chain().any(|error| code(error) == Some(libc::EMFILE)) {
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let most = most.map_or_else(|| "unlimited".to_owned(), |most| most.to_string());
        return error.context(format!(
            "this process may have {most} descriptors, too few for so many machines: raise the limit (ulimit -n), or give less --count"
        ));
    }
    error
}

/// The folder for what is there for a moment.
fn temporary_folder() -> std::path::PathBuf {
    let named = std::env::var_os("TMPDIR").filter(|name| Path::new(name).is_absolute());
    named.map_or_else(|| "/var/tmp".into(), Into::into)
}

#[cfg(test)]
mod tests;
