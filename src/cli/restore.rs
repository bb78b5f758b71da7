//! `bantam restore`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, ValueEnum};

use super::devices::DeviceArgs;
use super::session::SessionArgs;
use crate::config::Console;
use crate::snapshot::{Restoring, Snapshot};
use crate::virtio::Allow;

const RESTORE_HELP: &str = "\
The machine has the devices that it had. An option for a kind of device replaces all of that kind: give
as many as there were, at other places of the host's (another tap, another socket).

Exit codes are those of `bantam run`.

Examples:
  bantam restore web.snap
  bantam restore web.snap --name web-2 --console file:web-2.log --vsock cid=4,uds=web-2.vsock";

#[derive(Args, Debug)]
#[command(after_help = RESTORE_HELP)]
pub(super) struct Restore {
    /// The snapshot's directory.
    path: PathBuf,
    #[command(flatten)]
    session: SessionArgs,
    /// Where the serial console goes, in place of where it went: stdio, file:PATH, pty or off.
    #[arg(long, value_name = "WHERE")]
    console: Option<Console>,
    /// Count exits by kind and port or address, and print them at the end.
    #[arg(long)]
    stats: bool,
    /// Restore although this is not as it was. What the guest remembers of a changed disk may be wrong.
    #[arg(long, value_name = "WHAT")]
    allow: Vec<Difference>,
    /// Keep track of what changes, so that a snapshot can be a diff to this one.
    #[arg(long)]
    track: bool,
    #[command(flatten, next_help_heading = "Devices")]
    devices: DeviceArgs,
}

/// What may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Difference {
    /// Disks have been written to since.
    ChangedDisks,
}

impl Restore {
    pub(super) fn run(self, process_start: Instant) -> anyhow::Result<ExitCode> {
        let snapshot = Snapshot::open(&self.path)?;
        let mut config = snapshot.config();
        config.console = self.console.unwrap_or(config.console);
        config.stats |= self.stats;
        config.devices = self.devices.over(config.devices);
        config.validate()?;
        let allow = Allow { changed_disks: self.allow.contains(&Difference::ChangedDisks) };
        let how = Restoring { allow, track: self.track, ..Restoring::default() };
        self.session.run(config, process_start, |config| Ok(snapshot.builder(config, how)?))
    }
}
