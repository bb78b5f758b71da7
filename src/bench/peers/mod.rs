//! The VMMs that can be measured: a small adapter each, which knows how to tell its VMM of a machine.

mod alioth;
mod bantam;
mod cloud_hypervisor;
mod crosvm;
mod firecracker;
mod floor;
mod lkvm;
mod qemu;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::process;

/// What a machine boots.
#[derive(Clone, Copy, Debug)]
pub enum Kernel<'a> {
    /// The guest that Bantam has inside, which others are given as this file.
    Embedded(&'a Path),
    /// An ELF kernel.
    File(&'a Path),
}

impl<'a> Kernel<'a> {
    /// The file.
    #[must_use]
    pub fn path(self) -> &'a Path {
        match self {
            Self::Embedded(path) | Self::File(path) => path,
        }
    }
}

/// A machine that runs a guest; its console is the VMM's standard output.
#[derive(Clone, Debug)]
pub struct Guest<'a> {
    /// What is booted.
    pub kernel: Kernel<'a>,
    /// An initial RAM disk.
    pub initrd: Option<&'a Path>,
    /// The kernel's command line.
    pub words: String,
    /// MiB of memory.
    pub memory_mib: u64,
    /// vCPUs.
    pub cpus: u32,
    /// Whether there is a console at all. Without one nothing is read from the VMM.
    pub console: bool,
    /// A raw image as a disk.
    pub disk: Option<Disk<'a>>,
    /// An interface on a tap that is there.
    pub tap: Option<&'a str>,
    /// A vsock device: the guest's address, and the path of the Unix socket on the host.
    pub vsock: Option<(u32, &'a Path)>,
    /// An entropy device.
    pub entropy: bool,
}

/// A raw image as a disk.
#[derive(Clone, Copy, Debug)]
pub struct Disk<'a> {
    /// The file.
    pub path: &'a Path,
    /// Past the host's page cache.
    pub direct: bool,
    /// How the VMM reads and writes, by its own word; none for its default.
    pub engine: Option<&'static str>,
}

impl<'a> Guest<'a> {
    /// A machine of one vCPU without devices.
    #[must_use]
    pub fn new(kernel: Kernel<'a>, memory_mib: u64, words: impl Into<String>) -> Self {
        let words = words.into();
        Self {
            kernel,
            initrd: None,
            words,
            memory_mib,
            cpus: 1,
            console: true,
            disk: None,
            tap: None,
            vsock: None,
            entropy: false,
        }
    }
}

/// What a VMM cannot do, and why, in words that follow "not supported: ".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotSupported(pub String);

/// How a VMM is told of a machine.
pub trait Adapter: Sync {
    /// The name in results, and in `--vmm NAME=PATH`.
    fn name(&self) -> &'static str;

    /// What its program is called on `PATH`.
    fn program(&self) -> &'static str;

    /// The arguments that run a machine to its end with the console on standard output. Configuration files and
    /// sockets go into `folder`, which is empty, and gone after the run.
    ///
    /// # Errors
    /// What of the machine it cannot do.
    fn arguments(&self, guest: &Guest<'_>, folder: &Path) -> Result<Vec<OsString>, NotSupported>;

    /// Saves a machine into `folder` when its guest has printed this.
    ///
    /// # Errors
    /// [`NotSupported`], or it fails.
    fn save(&self, _program: &Path, _guest: &Guest<'_>, _folder: &Path, _until: &str) -> anyhow::Result<()> {
        Err(no_saving().into())
    }

    /// The arguments that bring a machine back, in a new process, from where [`Self::save`] has put it.
    ///
    /// # Errors
    /// It cannot.
    fn restore(&self, _guest: &Guest<'_>, _folder: &Path) -> Result<Vec<OsString>, NotSupported> {
        Err(no_saving())
    }

    /// Why it cannot do more than [`Self::restore`]: bring machines back as copies, or page by page, or into a process
    /// that is there.
    fn why_only_restore(&self) -> &'static str {
        "its adapter knows one way to bring a machine back: by a process of its own"
    }

    /// How disks can be read and written, by its own words. Each is measured; the first is the default.
    fn disk_engines(&self) -> &'static [&'static str] {
        &[]
    }
}

fn no_saving() -> NotSupported {
    NotSupported("its adapter does not know how it saves a machine".to_owned())
}

/// All adapters that there are.
const ADAPTERS: [&dyn Adapter; 8] = [
    &floor::Floor,
    &bantam::Bantam,
    &firecracker::Firecracker,
    &cloud_hypervisor::CloudHypervisor,
    &crosvm::Crosvm,
    &lkvm::Lkvm,
    &alioth::Alioth,
    &qemu::Qemu,
];

/// Why the embedded guest cannot use the devices of many a VMM.
const ON_PCI: &str = "its devices are on PCI, and the embedded guest knows virtio over MMIO only";

/// A VMM that can be run here.
#[derive(Clone)]
pub struct Vmm {
    /// The name in results: the adapter's, or the one that was given.
    pub name: String,
    /// The file that runs.
    pub program: PathBuf,
    /// What it calls itself.
    pub version: Option<String>,
    adapter: &'static dyn Adapter,
}

impl Vmm {
    /// One by its adapter's name. `NAME=PATH` may say more than the adapter's name, after a dash: `qemu-9.2=...`, so
    /// that two of a kind can be told apart.
    ///
    /// # Errors
    /// There is no such adapter, or no such program.
    pub fn named(name: &str, program: &Path) -> anyhow::Result<Self> {
        let is_it = |adapter: &&&dyn Adapter| {
            name.strip_prefix(adapter.name()).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let names = || ADAPTERS.iter().map(|adapter| adapter.name()).collect::<Vec<_>>().join(", ");
        let adapter = ADAPTERS.iter().find(is_it).with_context(|| {
            format!("no adapter for a VMM {name}: its name, up to a dash, has to be one of {}", names())
        })?;
        let program = std::fs::canonicalize(program).with_context(|| program.display().to_string())?;
        let version = version(&program);
        Ok(Self { name: name.to_owned(), program, version, adapter: *adapter })
    }

    /// All that are found: the floor, Bantam itself, those that are given, and those on `PATH` of which none is given.
    ///
    /// # Errors
    /// One that is given is not there.
    pub fn all(bantam: &Path, given: &[(String, PathBuf)]) -> anyhow::Result<Vec<Self>> {
        let mut vmms = vec![Self::named(super::FLOOR, bantam)?, Self::named(super::BANTAM, bantam)?];
        for (name, program) in given {
            ensure!(vmms.iter().all(|vmm| vmm.name != *name), "two VMMs have the name {name}");
            vmms.push(Self::named(name, program)?);
        }
        for adapter in ADAPTERS {
            let there = vmms.iter().any(|vmm| vmm.adapter.name() == adapter.name());
            if let Some(program) = on_path(adapter.program()).filter(|_| !there) {
                vmms.push(Self::named(adapter.name(), &program)?);
            }
        }
        Ok(vmms)
    }

    /// The command that runs a machine to its end.
    ///
    /// # Errors
    /// What of the machine it cannot do.
    pub fn command(&self, guest: &Guest<'_>, folder: &Path) -> Result<Command, NotSupported> {
        Ok(process::command(&self.program, &self.adapter.arguments(guest, folder)?))
    }

    /// Whether it is neither the floor nor Bantam.
    #[must_use]
    pub fn is_peer(&self) -> bool {
        ![super::FLOOR, super::BANTAM].contains(&self.name.as_str())
    }

    /// Saves a machine into a folder when its guest has printed this.
    ///
    /// # Errors
    /// It cannot do that, or it fails.
    pub fn save(&self, guest: &Guest<'_>, folder: &Path, until: &str) -> anyhow::Result<()> {
        self.adapter.save(&self.program, guest, folder, until)
    }

    /// The command that brings back what was saved in a folder, in a process of its own.
    ///
    /// # Errors
    /// It cannot.
    pub fn restore(&self, guest: &Guest<'_>, folder: &Path) -> Result<Command, NotSupported> {
        Ok(process::command(&self.program, &self.adapter.restore(guest, folder)?))
    }

    /// Why it cannot bring machines back otherwise than by [`Self::restore`].
    #[must_use]
    pub fn why_only_restore(&self) -> &'static str {
        self.adapter.why_only_restore()
    }

    /// How disks can be read and written, by its own words.
    #[must_use]
    pub fn disk_engines(&self) -> &'static [&'static str] {
        self.adapter.disk_engines()
    }
}

/// The file that a shell would run.
pub(super) fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// A program that does not tell its version at once is none that can be measured.
const VERSION_PATIENCE: Duration = Duration::from_secs(10);

/// What a program calls itself.
fn version(program: &Path) -> Option<String> {
    let output =
        process::output(&mut process::command(program, &["--version".into()]), VERSION_PATIENCE).ok()?;
    output.lines().next().map(str::to_owned)
}

/// Refuses machines with devices, for a reason.
fn without_devices(guest: &Guest<'_>, why: &str) -> Result<(), NotSupported> {
    let Guest { disk: None, tap: None, vsock: None, entropy: false, .. } = guest else {
        return Err(NotSupported(why.to_owned()));
    };
    Ok(())
}

/// Arguments from words.
fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<OsString> {
    words.into_iter().map(OsString::from).collect()
}

#[cfg(test)]
mod tests;
