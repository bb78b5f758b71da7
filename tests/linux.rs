//! Real Linux, in every way in which this machine can start it. The kernel and initramfs come from
//! `resources/linux/build.sh`, whose folder is in the environment variable `BANTAM_LINUX`; `make
//! test` sets it. Where KVM interprets the guest's kernel code, a boot takes half a minute or more, so there
//! are as few as show all: any two of the entry (PVH, 64-bit), the number of vCPUs and ACPI or none meet in
//! one of four boots. The two with ACPI have all virtio devices, and are what other tests go on from.

// The helpers here are a test's too: they may fail as loudly.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::booted::{self, MEMORY, tell, with_booted};
use common::linux::{CMDLINE, Jobs, PATIENCE, assert_clean, linux, root, to_raw, tools};
use common::process::{bantam, finish, start};
use common::{kvm, skip};
use serde_json::Value;

/// What a kernel says about firmware or a monitor that is not as it should be, in lower case.
const COMPLAINTS: [&str; 14] = [
    "firmware bug",
    "bios bug",
    "[firmware",
    "acpi error",
    "acpi warning",
    "acpi bios",
    "acpi exception",
    "acpi: failed",
    "mp-bios",
    "mptable: bad",
    "bad checksum",
    "invalid checksum",
    "mp table errors",
    "bogus",
];
/// Complaints that are not about the machine.
const EXCEPTIONS: [&str; 1] = [
    // This kernel is built without networking, by which ACPI would tell user space of its events.
    "acpi: failed to create genetlink family for acpi event",
];

/// What a guest sees that was booted in some way, held against what it was given.
fn check(said: &str, cpus: u32, acpi: bool) {
    let report = Report::of(said);
    assert_eq!(report.section("nproc"), [cpus.to_string()]);
    let ram: Vec<_> =
        report.section("iomem").into_iter().filter(|line| line.ends_with(": System RAM")).collect();
    let end = (u64::from(MEMORY) << 20) - 1;
    assert_eq!(
        ram,
        ["00001000-0009fbff : System RAM".to_owned(), format!("00100000-{end:08x} : System RAM")],
        "{said}"
    );
    let serial = report.section("interrupts").into_iter().find(|line| line.contains("ttyS0"));
    let serial = serial.unwrap_or_else(|| panic!("no interrupt of the serial port's:\n{said}"));
    assert!(serial.contains("IO-APIC") && serial.contains("4-edge"), "{serial}");
    let counts = serial.split_whitespace().skip(1).take(cpus as usize);
    assert_ne!(counts.map(|count| count.parse::<u64>().unwrap()).sum::<u64>(), 0, "{serial}");
    let complaints: Vec<_> = report.section("dmesg").into_iter().filter(|line| is_complaint(line)).collect();
    assert_eq!(complaints, [""; 0], "the kernel complains about the machine");
    let found = |text| report.section("dmesg").iter().any(|line| line.contains(text));
    assert_eq!(found("Using ACPI (MADT) for SMP configuration information"), acpi, "{said}");
    assert!(found("Hypervisor detected: KVM"), "{said}");
}

/// `bantam run` of a guest with so many vCPUs, with these words on its command line.
fn command(kernel: &Path, cpus: u32, words: &str) -> Command {
    let mut command = bantam([OsStr::new("run"), "--kernel".as_ref(), kernel.as_ref()]);
    command.args(["--json", "--memory", &format!("{MEMORY}M"), "--cpus", &cpus.to_string()]);
    command.args(["--cmdline", &format!("quiet {} {words}", CMDLINE.trim())]);
    command
}

/// Boots a guest without ACPI. Linux knows no way to turn a machine off then: the guest resets it.
fn boot_without_acpi(command: &mut Command, cpus: u32) -> String {
    let ended = start(command).patient(PATIENCE).finish();
    let said = format!("{}\n{}", ended.stdout, ended.stderr);
    assert_eq!(ended.code(), 4, "{said}");
    let json = ended.stderr.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
    let json = json.unwrap_or_else(|| panic!("no report in JSON:\n{said}"));
    assert_eq!(json["reason"], "reset");
    assert!(json["timings_ms"]["boot_time_port"].is_number(), "{json}");
    check(&ended.stdout, cpus, false);
    ended.stdout
}

/// The boot that other tests go on from, as its guest tells of it. It powers off then.
fn boot_with_acpi(cpus: u32) {
    with_booted(cpus, |booted| {
        assert!(booted.report["timings_ms"]["boot_time_port"].is_number(), "{}", booted.report);
        let folder = tempfile::tempdir().unwrap();
        let mut command = booted.command(folder.path());
        let ended = tell(command.arg("--json"), "bantam.init=report").finish();
        let said = format!("{}\n{}", ended.stdout, ended.stderr);
        assert_eq!(ended.code(), 0, "{said}");
        assert!(ended.stderr.contains("\"power-off\""), "{said}");
        check(&ended.stdout, cpus, true);
    });
}

fn is_complaint(line: &str) -> bool {
    let line = line.to_lowercase();
    COMPLAINTS.iter().any(|complaint| line.contains(complaint))
        && !EXCEPTIONS.iter().any(|exception| line.contains(exception))
}

/// What the guest's init printed between its marks.
struct Report<'a>(&'a str);

impl<'a> Report<'a> {
    fn of(text: &'a str) -> Self {
        let report =
            text.split_once("=== bantam report").and_then(|(_, rest)| rest.split_once("=== end of report"));
        Self(report.unwrap_or_else(|| panic!("no report in:\n{text}")).0)
    }

    fn section(&self, name: &str) -> Vec<&'a str> {
        let lines = self.0.lines().map(str::trim_end);
        let mark = format!("--- {name}");
        let section = lines.skip_while(|line| *line != mark).skip(1);
        section.take_while(|line| !line.starts_with("--- ")).collect()
    }
}

#[test]
fn pvh_with_one_cpu() {
    boot_with_acpi(1);
}

#[test]
fn linux64_with_two_cpus() {
    boot_with_acpi(2);
}

/// A kernel that decompresses itself hands on what it was given: the zero page, as to any kernel that is
/// entered by the 64-bit boot protocol.
#[test]
fn bzimage_with_one_cpu_without_acpi() {
    let Some(linux) = linux() else { return };
    let mut command = command(&linux.join("bzImage"), 1, "acpi=off bantam.init=report");
    boot_without_acpi(command.arg("--initrd").arg(linux.join("initramfs.cpio")), 1);
}

/// The kernel has the devices from its command line, and no initramfs. What is written to the disk is in its
/// overlay; another machine finds it there.
#[test]
fn pvh_with_two_cpus_without_acpi_from_a_root_disk() {
    let Some(linux) = linux() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (base, overlay) = (root(&linux, folder.path()), folder.path().join("over.qcow2"));
    let before = fs::read(&base).unwrap();
    let disk = format!("path={},overlay={},engine=threads", base.display(), overlay.display());
    let check = || {
        assert!(fs::read(&base).unwrap() == before, "the base has changed");
        let Some(()) = tools(&["fsck.ext4", "qemu-img"]) else { return };
        let checked = finish(Command::new("qemu-img").arg("check").arg(&overlay));
        assert_eq!(checked.code(), 0, "{}\n{}", checked.stdout, checked.stderr);
        let whole = folder.path().join("whole.ext4");
        to_raw(&overlay, &whole);
        assert_clean(&whole);
    };

    let words = "acpi=off bantam.init=devices bantam.jobs=root,disk,features,report";
    let mut command = command(&linux.join("vmlinux"), 2, words);
    let said = boot_without_acpi(command.args(["--boot", "pvh", "--root", &disk]), 2);
    check();
    let jobs = Jobs::in_text(&said);
    let root = jobs.line("root", "root device=");
    assert!(root.starts_with("root device=/dev/root type=ext4 options=rw,"), "{root}");
    assert!(root.ends_with(" boots=1"), "{root}");
    // It is mounted a second time for this, which ext4 takes for the same.
    jobs.line("disk", "disk written");
    assert!(jobs.job("features").contains("virtio0/device:0x0002"), "{}", jobs.job("features"));
    // VIRTIO_BLK_F_MQ (VIRTIO 1.2, section 5.2.3) is bit 12, and bit 0 comes first.
    let features = jobs.line("features", "virtio0/features:").rsplit(':').next().unwrap();
    assert_eq!(features.as_bytes()[12], b'1', "{features}");

    with_booted(1, |booted| {
        let mut command = booted.with_disk(folder.path(), &disk);
        Jobs::finish(tell(&mut command, &booted::jobs("disk", ""))).line("disk", "disk found");
        check();
    });
}

#[test]
fn a_shell_can_be_used() {
    with_booted(1, |booted| {
        let folder = tempfile::tempdir().unwrap();
        let mut process = tell(&mut booted.command(folder.path()), "bantam.init=shell");
        let screen = process.stdout.clone();
        screen.wait_for_bytes(b"bantam: linux is up, 1 cpus, ", PATIENCE);
        screen.wait_for_bytes(b"# ", PATIENCE);
        process.send("echo $((6*7))\n");
        screen.wait_for_bytes(b"echo $((6*7))\r\n42\r\n", PATIENCE);
        screen.wait_for_bytes(b"# ", PATIENCE);
        // Many at once, more than the serial port's FIFO has room for.
        let line = "abcdefghijklmnopqrstuvwxyz".repeat(8);
        process.send(format!("echo {line} | cat\n"));
        screen.wait_for_bytes(format!("| cat\r\n{line}\r\n").as_bytes(), PATIENCE);
        process.send("poweroff\n");
        let ended = process.finish();
        assert_eq!(ended.code(), 0, "{}", ended.stderr);
    });
}

/// The test kernel is an ordinary one: another monitor takes it as far.
#[test]
fn qemu_boots_the_same_files_as_far() {
    const QEMU: &str = "qemu-system-x86_64";
    let Some(folder) = linux() else { return };
    if Command::new(QEMU).arg("--version").output().is_err() {
        let _ = skip::<()>("qemu-system-x86_64 is not installed");
        return;
    }
    let mut command = Command::new(QEMU);
    // As little as Bantam has, and no hypercalls, which an interpreter of kernel code cannot make.
    command.args(["-machine", "microvm,accel=kvm,pit=off,pic=off,rtc=on,isa-serial=on,x-option-roms=off"]);
    command.args(["-cpu", "host,migratable=off,pmu=off,-kvm-pv-unhalt,-kvm-pv-ipi,-kvm-pv-sched-yield"]);
    command.args(["-m", &format!("{MEMORY}M"), "-nodefaults", "-no-user-config", "-no-reboot", "-nographic"]);
    command.args(["-serial", "stdio", "-append"]);
    command.arg(format!("console=ttyS0 panic=-1 quiet {} bantam.init=report", CMDLINE.trim()));
    command.arg("-kernel").arg(folder.join("vmlinux")).arg("-initrd").arg(folder.join("initramfs.cpio"));
    let ended = start(&mut command).patient(PATIENCE).finish();
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert_eq!(Report::of(&ended.stdout).section("nproc"), ["1"]);
}

/// A distribution's kernel is not made for a KVM that interprets kernel code: there it has to end
/// with a report, and elsewhere where a kernel without a root file system ends.
#[test]
fn a_stock_kernel_boots_or_ends_with_a_report() {
    let Some(kernel) = env::var_os("BANTAM_CLOUD_KERNEL") else {
        let _ = skip::<()>("BANTAM_CLOUD_KERNEL is not set to a distribution's kernel");
        return;
    };
    if kvm().is_none() {
        return;
    }
    let mut command =
        bantam([OsStr::new("run"), "--memory".as_ref(), "512M".as_ref(), "--kernel".as_ref(), &kernel]);
    // Decompressed by an interpreter, it takes long.
    let ended = start(&mut command).patient(Duration::from_secs(1800)).finish();
    match ended.code() {
        8 => {
            for expected in
                ["vCPU 0 cannot go on: KVM could not emulate an instruction", "RIP", "CPL 0", "hint"]
            {
                assert!(ended.stderr.contains(expected), "no '{expected}' in:\n{}", ended.stderr);
            }
        }
        4 => assert!(ended.stdout.contains("VFS: Unable to mount root fs"), "{}", ended.stdout),
        code => panic!("exit code {code}:\n{}\n{}", ended.stdout, ended.stderr),
    }
}
