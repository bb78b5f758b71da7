//! A Linux that was booted once, for all tests of all test binaries, and is restored by each: it waits for the
//! words that tell its init what to do (`bantam.init=await`), and has every virtio device.
//!
//! The snapshot is kept in cargo's folder for tests (`target/tmp`): it is of use to this build tree alone. The
//! name of its folder is a hash of all that it depends on, so that one which would tell another story than a
//! boot is never found:
//!
//! - the `bantam` binary: it booted the guest and saved it;
//! - the kernel and the initramfs in `BANTAM_LINUX`;
//! - the configurations of the machines, the guest's command line among them;
//! - this start of the host. After the next one its processor and its KVM may be others, and the time-stamp
//!   counter, which the guest sees where KVM cannot set it, has gone back.
//!
//! Who finds no snapshot makes one, under a lock, in a folder that is renamed when all is in it. The folders of
//! other hashes are removed, unless another test holds one.

use std::env;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use bantam::config::{BootMode, Console, Devices, MachineConfig, Size, parse_options};
use bantam::machine::Builder;
use bantam::snapshot::{Restoring, Snapshot};
use bantam::virtio::Allow;
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use super::linux::{CMDLINE, PATIENCE, boot, linux};
use super::netns;
use super::process::{Process, bantam, finish};

/// MiB of the guest's.
pub const MEMORY: u32 = 32;
/// The address of its interface.
pub const MAC: &str = "02:00:00:00:00:05";
/// Bytes of its disk.
const DISK: u64 = 1 << 20;
/// What a hash begins with, as a folder.
const PREFIX: &str = "booted-";
/// What its init says when it can be told what to do.
const AWAITS: &[u8] = b"bantam: awaits words";
/// Where a host's time-stamp counter cannot be set, the time for which the machine was kept goes by for the
/// guest, and looks to its RCU like a CPU that hangs.
const WORDS: &str = "quiet rcupdate.rcu_cpu_stall_suppress=1 bantam.init=await";

/// A Linux that has booted.
pub struct Booted {
    /// The snapshot's directory.
    pub snapshot: PathBuf,
    /// What `bantam` said in JSON of the machine that booted.
    pub report: Value,
    has_net: bool,
    /// Keeps others from removing it.
    _lock: File,
}

/// Gives the test a Linux that has booted with so many vCPUs: 1, entered by PVH, or 2, entered by the 64-bit
/// boot protocol. The machine has a tap if the host lets tests have networks of their own; the test is in one
/// then. Or prints a reason why the test is skipped.
pub fn with_booted(cpus: u32, body: impl FnOnce(&Booted) + Send) {
    let Some(linux) = linux() else { return };
    if netns::obstacle().is_none() {
        netns::in_network_of_its_own(|| body(&Booted::find(&linux, cpus, true)));
    } else {
        body(&Booted::find(&linux, cpus, false));
    }
}

/// [`with_booted`], for tests of the network.
pub fn with_booted_on_a_network(cpus: u32, body: impl FnOnce(&Booted) + Send) {
    let Some(linux) = linux() else { return };
    netns::in_network_of_its_own(|| body(&Booted::find(&linux, cpus, true)));
}

/// The machine. Its network and its sockets are nobody's; a test that uses them gives it others.
fn machine(linux: &Path, cpus: u32, has_net: bool) -> MachineConfig {
    let disk = format!("path={},overlay=temp", disk().display());
    let net = format!("tap,mac={MAC}");
    MachineConfig {
        cpus,
        memory: Size::mib(MEMORY),
        kernel: Some(linux.join("vmlinux")),
        initrd: Some(linux.join("devices.cpio")),
        cmdline: format!("{WORDS} {}", CMDLINE.trim()),
        boot: if cpus == 1 { BootMode::Pvh } else { BootMode::Linux64 },
        devices: Devices {
            disk: vec![parse_options(&disk).unwrap()],
            net: if has_net { vec![parse_options(&net).unwrap()] } else { Vec::new() },
            vsock: vec![parse_options("cid=3,uds=vsock").unwrap()],
            entropy: vec![parse_options("").unwrap()],
            balloon: vec![parse_options("").unwrap()],
            virtio_console: vec![parse_options("where=off").unwrap()],
        },
        ..MachineConfig::default()
    }
}

/// Where the snapshots are.
fn folder() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// An empty disk's image; nobody writes to it.
fn disk() -> PathBuf {
    folder().join("blank.img")
}

/// The hash of all that the snapshots depend on.
fn key(linux: &Path) -> String {
    static KEY: OnceLock<String> = OnceLock::new();
    let of = || {
        let mut sums = Command::new("sha256sum");
        sums.arg(env!("CARGO_BIN_EXE_bantam")).args([linux.join("vmlinux"), linux.join("devices.cpio")]);
        let sums = finish(&mut sums);
        assert_eq!(sums.code(), 0, "{}", sums.stderr);
        let machines = [(1, true), (1, false), (2, true), (2, false)];
        let machines = machines.map(|(cpus, has_net)| machine(linux, cpus, has_net));
        let host = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let mut hasher = DefaultHasher::new();
        (sums.stdout, serde_json::to_string(&machines).unwrap(), host).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    };
    KEY.get_or_init(of).clone()
}

impl Booted {
    /// Finds it, or boots it.
    fn find(linux: &Path, cpus: u32, has_net: bool) -> Self {
        let of_key = folder().join(format!("{PREFIX}{}", key(linux)));
        let lock = hold(&of_key);
        let name = format!("{cpus}-{}", if has_net { "net" } else { "no-net" });
        let path = of_key.join(&name);
        let building = File::create(of_key.join(format!("{name}.lock"))).unwrap();
        flock(&building, FlockOperation::LockExclusive).unwrap();
        if !path.exists() {
            remove_others(&of_key);
            make(&machine(linux, cpus, has_net), &path);
        }
        drop(building);
        let report = serde_json::from_slice(&fs::read(path.join("report.json")).unwrap()).unwrap();
        Self { snapshot: path.join("snapshot"), report, has_net, _lock: lock }
    }

    /// `bantam restore` of it. Sockets are in this folder, the vsock's at `v`; further options give it other
    /// devices.
    pub fn command(&self, folder: &Path) -> Command {
        let mut command = bantam(["restore"]);
        let vsock = format!("cid=3,uds={}", folder.join("v").display());
        command.arg(&self.snapshot).args(["--vsock", &vsock]);
        command
    }

    /// The same with this disk, of which the guest knows nothing yet.
    pub fn with_disk(&self, folder: &Path, disk: &str) -> Command {
        let mut command = self.command(folder);
        command.args(["--allow", "changed-disks", "--disk", disk]);
        command
    }

    /// A builder of a machine that goes on from it, with this disk, its sockets in this folder and its network
    /// on this tap.
    pub fn builder(&self, folder: &Path, disk: &str, tap: Option<&str>) -> Builder {
        let snapshot = Snapshot::open(&self.snapshot).unwrap();
        let mut config = snapshot.config();
        config.console = Console::Off;
        config.devices.disk = vec![parse_options(disk).unwrap()];
        config.devices.vsock[0].uds = folder.join("v");
        if let Some(tap) = tap {
            assert!(self.has_net);
            config.devices.net[0].tap = Some(tap.to_owned());
        }
        let how =
            Restoring { allow: Allow { changed_disks: true, ..Allow::default() }, ..Restoring::default() };
        snapshot.builder(config, how).unwrap()
    }
}

/// Starts the command of one that is restored, and tells its init these words.
pub fn tell(command: &mut Command, words: &str) -> Process {
    let mut process = boot(command);
    process.send(format!("{words}\n"));
    process
}

/// What has it do these jobs, with these settings.
pub fn jobs(jobs: &str, settings: &str) -> String {
    format!("bantam.init=devices bantam.jobs={jobs} {settings}")
}

/// Makes this folder if it is not there; it stays as long as the result does.
fn hold(path: &Path) -> File {
    loop {
        fs::create_dir_all(path).unwrap();
        let Ok(held) = File::open(path) else { continue };
        flock(&held, FlockOperation::LockShared).unwrap();
        // It may have been removed meanwhile, and made anew.
        if fs::metadata(path).is_ok_and(|now| now.ino() == held.metadata().unwrap().ino()) {
            return held;
        }
    }
}

/// Removes all but this, and what others hold.
fn remove_others(of_key: &Path) {
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let is_one = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        let Some(other) = File::open(&path).ok().filter(|_| is_one && path != of_key) else { continue };
        if flock(&other, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Two may be at it.
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Boots it and saves it.
fn make(config: &MachineConfig, path: &Path) {
    make_disk();
    let work = tempfile::tempdir_in(path.parent().unwrap()).unwrap();
    fs::write(work.path().join("machine.json"), serde_json::to_string(config).unwrap()).unwrap();
    // A path of a socket's has to be short.
    let here = |words: &[&str]| {
        let mut command = bantam(words);
        command.current_dir(work.path());
        command
    };
    let run = ["run", "--config", "machine.json", "--control", "./control", "--json"];
    let process = boot(&mut here(&run));
    process.stdout.wait_for_bytes(AWAITS, PATIENCE);
    for words in [&["snapshot", "create", "./control", "snapshot"][..], &["ctl", "./control", "stop"]] {
        let ended = finish(&mut here(words));
        assert_eq!(ended.code(), 0, "{words:?}: {}", ended.stderr);
    }
    let ended = process.finish();
    let report = ended.stderr.lines().last().unwrap_or_default();
    fs::write(work.path().join("report.json"), report).unwrap();
    fs::rename(work.keep(), path).unwrap();
}

/// Makes the image of their disk. One that is there stays: snapshots know when theirs was written.
fn make_disk() {
    let image = tempfile::NamedTempFile::new_in(folder()).unwrap();
    image.as_file().set_len(DISK).unwrap();
    let made = image.persist_noclobber(disk());
    assert!(made.is_ok() || disk().exists());
}
