//! Snapshots that earlier versions have written: each is read, and its machine goes on.
//!
//! They lie in `tests/golden`, a directory each, named by the version of the format and what is in them:
//! `state` as it was written, and the other files as `NAME.lines`. `docs/snapshot-format.md` says when one is
//! added, and how.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use bantam::config::{Devices, MachineConfig, Size, parse_options};
use bantam::hypervisor::{self, Hypervisor};
use bantam::machine::{self, Builder};
use bantam::snapshot::folder::{MEMORY, STATE};
use bantam::snapshot::manifest::{Host, OWNER};
use bantam::snapshot::{Options, Restoring, Snapshot, format};
use bantam::state::State;
use bantam::virtio::Allow;
use common::netns::in_network_of_its_own;
use common::saving::{Machine, pause, save};
use common::{Screen, config, kvm, number, skip};

/// Bytes that are kept together, or left out if they are zero.
const LINE: usize = 64;
/// A page: 64 lines.
const PAGE: usize = 64 * LINE;
/// How the name of a file ends that is kept without its zeroes.
const LINES: &str = ".lines";

/// The image of a disk, beside the snapshot.
const DISK: &str = "disk.img";
const DISK_SIZE: u64 = 1 << 20;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A file without its zeroes: its length, and of each page that has others its number (4 bytes), a bit for each
/// line that has (8 bytes), and these lines.
fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut packed = (bytes.len() as u64).to_le_bytes().to_vec();
    for (number, page) in bytes.chunks(PAGE).enumerate() {
        let lines = || page.chunks(LINE).enumerate().filter(|(_, line)| line.iter().any(|byte| *byte != 0));
        let bits = lines().fold(0_u64, |bits, (index, _)| bits | 1 << index);
        if bits != 0 {
            packed.extend(u32::try_from(number).unwrap().to_le_bytes());
            packed.extend(bits.to_le_bytes());
            lines().for_each(|(_, line)| packed.extend(line));
        }
    }
    packed
}

/// Writes what was packed to a new file, with holes for what was left out.
fn unpack(packed: &[u8], path: &Path) {
    let file = File::create_new(path).unwrap();
    let (len, mut rest) = packed.split_first_chunk().unwrap();
    file.set_len(u64::from_le_bytes(*len)).unwrap();
    while let Some((number, behind)) = rest.split_first_chunk() {
        let (bits, behind) = behind.split_first_chunk().unwrap();
        rest = behind;
        let (number, bits) = (u32::from_le_bytes(*number), u64::from_le_bytes(*bits));
        for index in (0..64).filter(|index| bits >> index & 1 != 0) {
            let (line, behind) = rest.split_at(LINE);
            file.write_all_at(line, u64::from(number) * PAGE as u64 + index * LINE as u64).unwrap();
            rest = behind;
        }
    }
}

/// Writes the snapshots of this version, those that are not there. They hold the processor's features and registers of
/// the host that they are made on, and can be restored on hosts that have these.
#[test]
#[ignore = "writes into tests/golden"]
fn write() {
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    // So that the paths in the configurations are relative ones.
    env::set_current_dir(folder.path()).unwrap();
    File::create(DISK).unwrap().set_len(DISK_SIZE).unwrap();
    let devices = Devices {
        disk: vec![parse_options(&format!("path={DISK},engine=sync")).unwrap()],
        vsock: vec![parse_options("cid=77,uds=vsock").unwrap()],
        entropy: vec![parse_options("").unwrap()],
        balloon: vec![parse_options("").unwrap()],
        virtio_console: vec![parse_options("where=off").unwrap()],
        ..Devices::default()
    };
    let words = "quiet blk=fill-verify count=2000 span=8K bs=512 depth=4 rng=32 identity";
    for (name, words, devices, instant) in [
        ("1-plain", "quiet flood", Devices::default(), "flood 10\r\n"),
        ("1-devices", words, devices, "blk op=seqwrite"),
    ] {
        let to = golden().join(name);
        if to.exists() {
            println!("{name} is there, and stays");
            continue;
        }
        let config = MachineConfig { memory: Size::mib(16), stats: false, devices, ..config(words) };
        let machine = Machine::start(&kvm, config);
        machine.screen.wait_for(instant);
        sleep(Duration::from_millis(20));
        let mut paused = pause(machine.running);
        assert!(!machine.screen.text().contains("op=verify"), "too late: {}", machine.screen.text());
        save(&mut paused, Path::new(name), &Options::default());
        fs::create_dir_all(&to).unwrap();
        fs::write(to.join(STATE), without_kernel(&fs::read(Path::new(name).join(STATE)).unwrap())).unwrap();
        let packed = |from: &Path, name: &str| {
            fs::write(to.join(format!("{name}{LINES}")), pack(&fs::read(from).unwrap())).unwrap();
        };
        packed(&Path::new(name).join(MEMORY), MEMORY);
        if !paused.config().devices.disk.is_empty() {
            packed(Path::new(DISK), DISK);
        }
    }
}

/// The same state, without the release of the host's kernel.
fn without_kernel(state: &[u8]) -> Vec<u8> {
    let mut state: State = format::decode(state).unwrap().into_iter().collect();
    let host: Host = state.take(OWNER).unwrap();
    state.put(OWNER, &Host { kernel: String::new(), ..host }).unwrap();
    format::encode(state.sections()).unwrap()
}

/// Puts a golden snapshot where it can be opened; its disk is beside it.
fn lay_out(golden: &Path, folder: &Path) -> PathBuf {
    let snapshot = folder.join("snapshot");
    fs::create_dir(&snapshot).unwrap();
    fs::copy(golden.join(STATE), snapshot.join(STATE)).unwrap();
    for entry in fs::read_dir(golden).unwrap() {
        let entry = entry.unwrap();
        if let Some(name) = entry.file_name().to_str().unwrap().strip_suffix(LINES) {
            let place = if name == DISK { folder } else { &snapshot };
            unpack(&fs::read(entry.path()).unwrap(), &place.join(name));
        }
    }
    snapshot
}

/// The paths of a configuration begin in this folder.
fn move_to(config: &mut MachineConfig, folder: &Path) {
    let devices = &mut config.devices;
    let paths = devices.disk.iter_mut().map(|disk| &mut disk.path);
    for path in paths.chain(devices.vsock.iter_mut().map(|vsock| &mut vsock.uds)) {
        assert!(path.is_relative(), "{}", path.display());
        *path = folder.join(&*path);
    }
}

/// Whether it says that the processor or its KVM are too different.
fn is_of_fit(error: &machine::Error) -> bool {
    matches!(
        error,
        machine::Error::Processor(_)
            | machine::Error::TscFrequency { .. }
            | machine::Error::Hypervisor(hypervisor::Error::Msr(_) | hypervisor::Error::XsaveSize { .. })
    )
}

/// What a golden machine has to do yet.
fn goes_on(name: &str, machine: &Machine) {
    if machine.running.config().cmdline.contains("flood") {
        // The first line may have begun in the machine that was saved.
        machine.screen.wait_for("\n");
        let first = number(&format!("n={}", machine.line("flood ")[6..].to_owned()), "n");
        for next in first + 1..first + 50 {
            assert_eq!(machine.line("flood "), format!("flood {next}"), "{name}");
        }
        return;
    }
    let verified = machine.line("blk op=verify ");
    assert_eq!(["errors", "wrong"].map(|name| number(&verified, name)), [0, 0], "{name}: {verified}");
    machine.line("rng n=32 ");
    let identity = machine.line("identity ");
    assert!(identity.ends_with(" mac=none cid=77"), "{name}: {identity}");
}

#[test]
fn golden_snapshots_go_on() {
    let Some(kvm) = kvm() else { return };
    let all: Vec<_> = fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(all.len() >= 2, "{all:?}");
    for golden in all {
        let name = golden.file_name().unwrap().to_str().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let snapshot = Snapshot::open(&lay_out(&golden, folder.path())).unwrap();
        assert!(name.starts_with(&format!("{}-", snapshot.folder().format_version())), "{name}");
        bantam::snapshot::verify::verify(snapshot.folder(), &mut common::saving::quiet).unwrap();
        let mut config = snapshot.config();
        move_to(&mut config, folder.path());
        // The disk's file was made anew, and the host has been started since.
        let how = Restoring { allow: Allow { changed_disks: true, clock: true }, ..Restoring::default() };
        let (keyboard, keys) = std::io::pipe().unwrap();
        let screen = Screen::default();
        let builder = snapshot.builder(config, how).unwrap().hypervisor(kvm.clone());
        match builder.console_input(keyboard).console_output(screen.clone()).build() {
            Ok(machine) => goes_on(name, &Machine { running: machine.resume().unwrap(), screen, keys }),
            Err(error) if is_of_fit(&error) => skip::<()>(&format!("{name}: {error}")).unwrap_or_default(),
            Err(error) => panic!("{name}: {error:?}"),
        }
    }
}

/// The kinds that the page on the format has rows for, each with its version.
fn documented() -> BTreeSet<(String, u16)> {
    let page = include_str!("../docs/snapshot-format.md");
    let rows = page.lines().skip_while(|line| !line.starts_with("| id | kind | version |")).skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|row| {
            let mut cells = row.split('|').map(str::trim).skip(2);
            let kind = cells.next().unwrap().trim_matches('`').to_owned();
            (kind, cells.next().unwrap().parse().unwrap())
        })
        .collect()
}

/// The kinds in the snapshot of a machine with these devices.
fn kinds(kvm: &Hypervisor, net: bool) -> BTreeSet<(String, u16)> {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join(DISK);
    File::create(&image).unwrap().set_len(DISK_SIZE).unwrap();
    let devices = Devices {
        disk: vec![parse_options(&format!("path={}", image.display())).unwrap()],
        net: if net { vec![parse_options("tap=tap0").unwrap()] } else { Vec::new() },
        vsock: vec![parse_options(&format!("cid=9,uds={}", folder.path().join("vsock").display())).unwrap()],
        entropy: vec![parse_options("").unwrap()],
        balloon: vec![parse_options("").unwrap()],
        virtio_console: vec![parse_options("where=off").unwrap()],
    };
    let builder = Builder::new(MachineConfig { memory: Size::mib(16), devices, ..config("halt") });
    let mut machine = builder.hypervisor(kvm.clone()).build().unwrap();
    let path = folder.path().join("snapshot");
    save(&mut machine, &path, &Options::default());
    let sections = format::decode(&fs::read(path.join(STATE)).unwrap()).unwrap();
    sections.into_iter().map(|section| (section.kind, section.version)).collect()
}

#[test]
fn every_kind_of_section_is_documented() {
    let Some(kvm) = kvm() else { return };
    let net = |(kind, _): &(String, u16)| kind == "virtio-net";
    let documented = documented();
    let without: BTreeSet<_> = documented.iter().filter(|kind| !net(kind)).cloned().collect();
    assert_eq!(kinds(&kvm, false), without);
    in_network_of_its_own(|| assert_eq!(kinds(&kvm, true), documented));
}

/// What is packed comes out as it went in.
#[test]
fn packed_files_come_out_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = vec![0; 5 * PAGE];
    for at in [0, 63, 64, PAGE - 1, 3 * PAGE + 700, 5 * PAGE - 1] {
        bytes[at] = 7;
    }
    let packed = pack(&bytes);
    assert_eq!(packed.len(), 8 + 3 * 12 + 5 * LINE);
    unpack(&packed, &folder.path().join("file"));
    assert_eq!(fs::read(folder.path().join("file")).unwrap(), bytes);
}
