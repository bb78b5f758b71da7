//! Real Linux, in every way in which this machine can start it. The kernel and initramfs come from
//! `resources/linux/build.sh`, whose folder is in the environment variable `BANTAM_LINUX`; `make
//! test` sets it. Where KVM interprets the guest's kernel code, a boot takes half a minute or more.

// The helpers here are a test's too: they may fail as loudly.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::env;
use std::ffi::OsStr;
use std::process::Command;
use std::time::Duration;

use common::linux::{CMDLINE, linux};
use common::process::{bantam, start};
use common::{kvm, skip};
use serde_json::Value;

/// How long a boot may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(300);
/// A kernel that has to decompress itself first.
const DECOMPRESSING: Duration = Duration::from_secs(420);
/// As many MiB as a test's guest has.
const MEMORY: u64 = 64;

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

/// One way to start the guest.
struct Boot {
    kernel: &'static str,
    mode: &'static str,
    cpus: u32,
    acpi: bool,
}

impl Boot {
    /// The command that starts it so, with these words for its init.
    fn command(&self, folder: &std::path::Path, words: &str) -> Command {
        let acpi = if self.acpi { "" } else { "acpi=off " };
        let mut command = bantam([OsStr::new("run"), "--kernel".as_ref(), folder.join(self.kernel).as_ref()]);
        command.arg("--initrd").arg(folder.join("initramfs.cpio"));
        command.args([
            "--memory",
            &format!("{MEMORY}M"),
            "--cpus",
            &self.cpus.to_string(),
            "--boot",
            self.mode,
        ]);
        command.args(["--cmdline", &format!("quiet {acpi}{} {words}", CMDLINE.trim())]);
        command
    }

    fn patience(&self) -> Duration {
        if self.kernel == "bzImage" { DECOMPRESSING } else { PATIENCE }
    }

    /// Boots it, and holds what the kernel sees against what it was given.
    fn check(&self) {
        let Some(folder) = linux() else { return };
        let mut command = self.command(&folder, "bantam.init=report");
        let ended = start(command.arg("--json")).patient(self.patience()).finish();
        let said = format!("{}\n{}", ended.stdout, ended.stderr);
        // Without ACPI Linux knows no way to turn a machine off; the guest resets it then.
        let (code, reason) = if self.acpi { (0, "power-off") } else { (4, "reset") };
        assert_eq!(ended.code(), code, "{said}");
        let json = ended.stderr.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
        let json = json.unwrap_or_else(|| panic!("no report in JSON:\n{said}"));
        assert_eq!(json["reason"], reason);
        assert!(json["timings_ms"]["boot_time_port"].is_number(), "{json}");

        let report = Report::of(&ended.stdout);
        assert_eq!(report.section("nproc"), [self.cpus.to_string()]);
        let ram: Vec<_> =
            report.section("iomem").into_iter().filter(|line| line.ends_with(": System RAM")).collect();
        let end = (MEMORY << 20) - 1;
        assert_eq!(
            ram,
            ["00001000-0009fbff : System RAM".to_owned(), format!("00100000-{end:08x} : System RAM")],
            "{said}"
        );
        let serial = report.section("interrupts").into_iter().find(|line| line.contains("ttyS0"));
        let serial = serial.unwrap_or_else(|| panic!("no interrupt of the serial port's:\n{said}"));
        assert!(serial.contains("IO-APIC") && serial.contains("4-edge"), "{serial}");
        let counts = serial.split_whitespace().skip(1).take(self.cpus as usize);
        assert_ne!(counts.map(|count| count.parse::<u64>().unwrap()).sum::<u64>(), 0, "{serial}");
        let complaints: Vec<_> =
            report.section("dmesg").into_iter().filter(|line| is_complaint(line)).collect();
        assert_eq!(complaints, [""; 0], "the kernel complains about the machine");
        let found = |text| report.section("dmesg").iter().any(|line| line.contains(text));
        assert_eq!(found("Using ACPI (MADT) for SMP configuration information"), self.acpi, "{said}");
        assert!(found("Hypervisor detected: KVM"), "{said}");
    }
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

macro_rules! boots {
    ($($name:ident: $kernel:literal $mode:literal $cpus:literal $acpi:literal;)*) => {
        $(
            #[test]
            fn $name() {
                Boot { kernel: $kernel, mode: $mode, cpus: $cpus, acpi: $acpi }.check();
            }
        )*
    };
}

boots! {
    pvh_with_one_cpu: "vmlinux" "pvh" 1 true;
    pvh_with_one_cpu_without_acpi: "vmlinux" "pvh" 1 false;
    pvh_with_two_cpus: "vmlinux" "pvh" 2 true;
    pvh_with_two_cpus_without_acpi: "vmlinux" "pvh" 2 false;
    linux64_with_one_cpu: "vmlinux" "linux64" 1 true;
    linux64_with_one_cpu_without_acpi: "vmlinux" "linux64" 1 false;
    linux64_with_two_cpus: "vmlinux" "linux64" 2 true;
    linux64_with_two_cpus_without_acpi: "vmlinux" "linux64" 2 false;
    bzimage_with_one_cpu: "bzImage" "auto" 1 true;
    bzimage_with_one_cpu_without_acpi: "bzImage" "auto" 1 false;
    bzimage_with_two_cpus: "bzImage" "auto" 2 true;
    bzimage_with_two_cpus_without_acpi: "bzImage" "auto" 2 false;
}

#[test]
fn a_shell_can_be_used() {
    let Some(folder) = linux() else { return };
    let boot = Boot { kernel: "vmlinux", mode: "auto", cpus: 1, acpi: true };
    let mut process = start(&mut boot.command(&folder, "")).patient(PATIENCE);
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
