//! `linux`: from exec until a Linux says that it is up, by a marker on its console.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use super::peers::{Guest, Kernel};
use super::process::{self, Running};
use super::results::{Case, Figure, Unit};
use super::rounds::Contest;
use super::{FLOOR, Progress, Setup, hold, nanoseconds};

/// A boot where KVM interprets the guest's kernel code takes a minute or more.
const PATIENCE: Duration = Duration::from_secs(300);
const MARKED: &str = "linux/marker";

/// The Linux that is booted.
#[derive(Clone, Debug)]
pub struct Linux {
    /// An ELF `vmlinux`, or what all VMMs can boot.
    pub kernel: PathBuf,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Its command line. `console=ttyS0 reboot=k panic=-1` is put before it, for all alike.
    pub words: String,
    /// What it says when it is up.
    pub marker: String,
    /// MiB of memory.
    pub memory_mib: u64,
}

pub(super) fn measure(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let figure = Figure::lower(MARKED, "exec to the marker on Linux's console", Unit::Nanoseconds);
    let mut contest = Contest::new(vec![figure], 0, setup.rounds(2, 7));
    for vmm in &setup.vmms {
        match &setup.linux {
            None => contest.lacks(&vmm.name, "no Linux was given: --kernel, --initrd and --marker name one"),
            Some(_) if vmm.name == FLOOR => {
                contest.lacks(FLOOR, "the bare calls run the embedded guest only")
            }
            Some(linux) => contest.add(&vmm.name, move || {
                let guest = Guest {
                    initrd: linux.initrd.as_deref(),
                    ..Guest::new(
                        Kernel::File(&linux.kernel),
                        linux.memory_mib,
                        format!("console=ttyS0 reboot=k panic=-1 {}", linux.words),
                    )
                };
                let up = |printed: &[u8]| process::count(printed, &linux.marker) > 0;
                let (_, took) = setup.start(vmm, &guest, |mut command| {
                    Running::spawn_until(command.stdin(Stdio::null()), PATIENCE, up)
                })?;
                Ok(vec![(MARKED.to_owned(), nanoseconds(took))])
            }),
        }
    }
    hold(contest, "linux", progress)
}
