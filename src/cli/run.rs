//! `bantam run`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;

use super::devices::DeviceArgs;
use super::session::SessionArgs;
use crate::config::{BootMode, Console, MAX_CPUS, MachineConfig, Size, parse_options};
use crate::machine::Builder;
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
    #[command(flatten)]
    session: SessionArgs,
}

impl Run {
    pub(super) fn run(self, process_start: Instant) -> anyhow::Result<ExitCode> {
        let config = self.machine.resolve()?;
        self.session.run(config, process_start, |config| Ok(Builder::new(config)), None)
    }
}
