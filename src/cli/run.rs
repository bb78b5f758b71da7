//! `bantam run`.

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::console::{LateStop, Loss, OutputWatch, Relay};
use super::devices::DeviceArgs;
use super::report::Report;
use super::signals::{Signals, Woken};
use super::terminal;
use crate::config::{BootMode, Console, MAX_CPUS, MachineConfig, Size, parse_options};
use crate::control::{Controlled, Request, Server};
use crate::machine::Builder;
use crate::timeline::{Phase, Timeline};
use crate::virtio;
use crate::virtio::block::config::Disk;

/// The options of a machine: each overrides the configuration file's field of the same name.
#[derive(Args, Debug, Default)]
pub(super) struct MachineArgs {
    /// Read the machine's configuration from a file: JSON if its name ends in .json, else TOML.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Kernel to boot, ELF vmlinux or bzImage [default: the embedded guest].
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initial RAM disk for the kernel.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Words for the kernel command line, after those that the machine adds.
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// Leave out the machine's own words (console=ttyS0 reboot=k panic=-1).
    #[arg(long)]
    bare_cmdline: bool,
    /// Number of vCPUs, 1 to 255 [default: 1].
    #[arg(long, value_name = "N", value_parser = cpus, allow_negative_numbers = true)]
    cpus: Option<u32>,
    /// Guest memory, for example 512M or 2G [default: 256M].
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    memory: Option<Size>,
    /// How the kernel is entered: auto, pvh or linux64 [default: auto].
    #[arg(long, value_name = "MODE")]
    boot: Option<BootMode>,
    /// Where the serial console goes: stdio, file:PATH, pty or off [default: stdio].
    #[arg(long, value_name = "WHERE")]
    console: Option<Console>,
    /// Count exits by kind and port or address, and print them at the end.
    #[arg(long)]
    stats: bool,
    /// The disk with the guest's root file system: as --disk, and the kernel is told; the first disk.
    #[arg(long, value_name = "KEY=VALUE,..", value_parser = parse_options::<Disk>, help_heading = "Devices")]
    root: Option<Disk>,
    #[command(flatten, next_help_heading = "Devices")]
    devices: DeviceArgs,
}

/// A number of vCPUs that a machine may have.
fn cpus(word: &str) -> Result<u32, String> {
    let number = word.parse().ok().filter(|number| (1..=MAX_CPUS).contains(number));
    number.ok_or_else(|| format!("give 1 to {MAX_CPUS}"))
}

impl MachineArgs {
    /// The configuration file, or the defaults, with the options over it.
    pub(super) fn resolve(self) -> anyhow::Result<MachineConfig> {
        let base = match &self.config {
            Some(path) => MachineConfig::from_file(path)?,
            None => MachineConfig::default(),
        };
        let mut devices = self.devices.over(base.devices);
        if let Some(disk) = self.root {
            devices.disk.insert(0, Disk { root: true, ..disk });
        }
        let config = MachineConfig {
            cpus: self.cpus.unwrap_or(base.cpus),
            memory: self.memory.unwrap_or(base.memory),
            kernel: self.kernel.or(base.kernel),
            initrd: self.initrd.or(base.initrd),
            cmdline: self.cmdline.unwrap_or(base.cmdline),
            bare_cmdline: self.bare_cmdline || base.bare_cmdline,
            boot: self.boot.unwrap_or(base.boot),
            console: self.console.unwrap_or(base.console),
            devices,
            stats: self.stats || base.stats,
        };
        config.validate()?;
        Ok(config)
    }
}

const RUN_HELP: &str = "\
Console: on a terminal, Ctrl-A x quits, Ctrl-A c prints help, Ctrl-A Ctrl-A sends a Ctrl-A.

Exit codes: 0 power-off, or quit from the console; 1 error; 2 wrong usage; 4 the guest asked for a
reset; 6 triple fault; 8 KVM could not run a vCPU on; 10 a defect of bantam; odd codes are the
guest's own, (value << 1) | 1 for the value it writes to the debug-exit port 0xf4; 128 + N ended by
signal N (141: the reader of standard output went away). Where two meet, --json tells them apart.

Examples:
  bantam run
  bantam run --kernel vmlinux --initrd initramfs.cpio --memory 512M --cmdline quiet
  bantam run --console off --cmdline 'smp end=exit:3' --cpus 4 --json
  bantam run --config machine.toml --cpus 2
  bantam run --kernel vmlinux --root path=root.ext4 --net tap,ip=10.0.0.1/24 --entropy
  bantam run --disk path=disk.img --cmdline 'blk=randread secs=5'";

#[derive(Args, Debug)]
#[command(after_help = RUN_HELP, after_long_help = format!("{}\n{RUN_HELP}", super::devices::keys()))]
pub(super) struct Run {
    #[command(flatten)]
    machine: MachineArgs,
    /// Make a socket by which the running machine is asked for things, with `bantam ctl PATH`.
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

/// Each connection of the guest's takes a descriptor. The soft limit is low for the sake of programs
/// that call select(2), of which this is none.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        log::debug!("the limit on descriptors stays as it is: {error}");
    }
}

impl Run {
    pub(super) fn run(self, process_start: Instant) -> anyhow::Result<ExitCode> {
        let mut config = self.machine.resolve()?;
        if !config.devices.vsock.is_empty() {
            raise_descriptor_limit();
        }
        let serial_stdio = config.console == Console::Stdio;
        let virtio_stdio = super::console::take_virtio(&mut config);
        let stdio = serial_stdio || virtio_stdio.is_some();
        let report = Report { timings: self.timings, stats: config.stats, json: self.json, to_stderr: stdio };
        let timeline = Arc::new(Timeline::default());
        timeline.mark_at(Phase::ProcessStart, process_start);

        let stop = LateStop::default();
        let watch = OutputWatch::new(stop.clone());
        let mut builder = Builder::new(config).timeline(timeline).on_console_lost(watch.teller(serial_stdio));
        if serial_stdio {
            builder = builder.console(super::console::stdio(&stop)?);
        }
        let mut relay = None;
        if let Some(name) = &virtio_stdio {
            let mut streams = super::console::stdio(&stop)?;
            relay = Relay::before(&mut streams)?;
            let console = virtio::console::Console::new(name, streams)?;
            builder = builder.virtio_device(name, console.on_output_lost(watch.teller(true)));
        }
        let machine = builder.build()?;
        if let Some(pty) = machine.pty() {
            terminal::note(&format!("console: {}", pty.display()));
        }
        for (name, pty) in machine.device_ptys() {
            terminal::note(&format!("{name}: {}", pty.display()));
        }
        stop.set(machine.stop_handle());
        // Nothing above needs putting back, so a signal may end it. The machine's threads, which
        // start below, inherit that these signals wait to be fetched.
        let signals = Signals::block()?;
        let control = self.control.as_deref().map(Server::listen).transpose()?;
        let raw = stdio.then(terminal::RawMode::enter).flatten();
        let machine = Controlled::Running(machine.resume()?);
        let (machine, signal) =
            Watch { raw, signals, control, relay, stop, window: virtio_stdio }.wait(machine)?;
        let outcome = machine.wait()?;
        report.print(&outcome);
        let loss = watch.loss().map(Loss::code);
        Ok(ExitCode::from(signal.map(super::signal_code).or(loss).unwrap_or(outcome.reason.code())))
    }
}

/// What there is to attend to while a machine runs.
struct Watch {
    // Dropped in this order, when what is left may take its time: the terminal and the signals are the
    // user's again.
    raw: Option<terminal::RawMode>,
    signals: Signals,
    control: Option<Server>,
    relay: Option<Relay>,
    stop: LateStop,
    /// The virtio console that is told of the terminal's size.
    window: Option<String>,
}

impl Watch {
    /// Waits until the machine has ended or is about to, and gives the signal that ended it.
    fn wait(mut self, mut machine: Controlled) -> anyhow::Result<(Controlled, Option<i32>)> {
        machine = self.tell_size(machine);
        while let Some(ended) = machine.ended() {
            let control = self.control.as_ref().map(AsRawFd::as_raw_fd);
            let keyboard = self.relay.as_ref().map(AsRawFd::as_raw_fd);
            match self.signals.wait_beside(ended, control, keyboard)? {
                Woken::Ended => break,
                Woken::Asked => {
                    if let Some(control) = &mut self.control {
                        machine = control.serve(machine, Controlled::answer);
                    }
                }
                Woken::Typed => self.relay = self.relay.take().and_then(Relay::pass),
                Woken::Signal(signal) => {
                    self.stop.stop();
                    return Ok((machine, Some(signal)));
                }
                Woken::Continued => {
                    if let Some(raw) = &self.raw {
                        raw.enter_again();
                    }
                    machine = self.tell_size(machine);
                }
                Woken::Resized => machine = self.tell_size(machine),
            }
        }
        Ok((machine, None))
    }

    /// Tells the console on the terminal how large that is. A machine that is paused is told later.
    fn tell_size(&self, machine: Controlled) -> Controlled {
        let Some((id, (columns, rows))) = self.window.clone().zip(terminal::size()) else { return machine };
        machine.answer(Request::Window { id, columns, rows }).0
    }
}
