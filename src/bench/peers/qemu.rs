//! QEMU's `microvm`: the machine that is nearest, and as little else as it lets one leave out.

use std::ffi::OsString;
use std::path::Path;

use super::{Adapter, Guest, NotSupported, words};
use crate::bench::process;

/// The host's, without that which KVM offers a guest and a KVM that interprets kernel code cannot do.
const CPU: &str = "host,migratable=off,pmu=off,-kvm-pv-unhalt,-kvm-pv-ipi,-kvm-pv-sched-yield";
/// The same without what keeps a machine from being saved: a TSC that never changes.
const CPU_THAT_MOVES: &str = "host,pmu=off,-kvm-pv-unhalt,-kvm-pv-ipi,-kvm-pv-sched-yield";

pub(super) struct Qemu;

impl Adapter for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn program(&self) -> &'static str {
        "qemu-system-x86_64"
    }

    fn arguments(&self, guest: &Guest<'_>, _: &Path) -> Result<Vec<OsString>, NotSupported> {
        machine(guest, CPU, if guest.console { "stdio" } else { "none" })
    }

    fn save(&self, program: &Path, guest: &Guest<'_>, folder: &Path, until: &str) -> anyhow::Result<()> {
        let arguments = machine(guest, CPU_THAT_MOVES, "mon:stdio")?;
        // Ctrl-A c leads from the guest's console to the monitor.
        let keys = format!("\x01cmigrate \"exec:cat > {}\"\nquit\n", saved(folder));
        process::type_to(&mut process::command(program, &arguments), until, keys.as_bytes())
    }

    fn restore(&self, guest: &Guest<'_>, folder: &Path) -> Result<Vec<OsString>, NotSupported> {
        let mut arguments = machine(guest, CPU_THAT_MOVES, "stdio")?;
        arguments.extend(words(["-incoming", &format!("exec:cat {}", saved(folder))]));
        Ok(arguments)
    }

    fn why_only_restore(&self) -> &'static str {
        "it brings a machine back only by a process of its own, which reads all of its memory first"
    }

    fn disk_engines(&self) -> &'static [&'static str] {
        &["io_uring", "threads"]
    }
}

/// Where a machine is saved, as a word of the shell's.
fn saved(folder: &Path) -> String {
    format!("'{}'", folder.join("saved").display())
}

/// The arguments of a machine with such a vCPU, and its console there.
fn machine(guest: &Guest<'_>, cpu: &str, serial: &str) -> Result<Vec<OsString>, NotSupported> {
    let Guest { kernel, initrd, words: line, memory_mib, cpus, console: _, disk, tap, vsock } = guest;
    if vsock.is_some() {
        return Err(NotSupported(
            "its vsock device needs /dev/vhost-vsock, and has no Unix socket".to_owned(),
        ));
    }
    let (memory, cpus) = (memory_mib.to_string(), cpus.to_string());
    let mut arguments = words([
        "-machine",
        "microvm,acpi=on,pit=off,pic=off,rtc=off,isa-serial=on,x-option-roms=off,accel=kvm",
        "-cpu",
        cpu,
        "-m",
        &memory,
        "-smp",
        &cpus,
        "-display",
        "none",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-serial",
        serial,
        "-global",
        "virtio-mmio.force-legacy=false",
        "-append",
        line,
    ]);
    arguments.extend(["-kernel".into(), kernel.path().into()]);
    if let Some(initrd) = initrd {
        arguments.extend(["-initrd".into(), initrd.into()]);
    }
    if let Some(disk) = disk {
        let cache = if disk.direct { "none" } else { "writeback" };
        let aio = disk.engine.unwrap_or("io_uring");
        let mut drive = OsString::from(format!("if=none,id=d,format=raw,aio={aio},cache={cache},file="));
        drive.push(disk.path);
        arguments.extend(["-drive".into(), drive]);
        arguments.extend(words(["-device", "virtio-blk-device,drive=d"]));
    }
    if let Some(tap) = tap {
        let tap = format!("tap,id=n,ifname={tap},script=no,downscript=no,vhost=off");
        arguments.extend(words(["-netdev", &tap, "-device", "virtio-net-device,netdev=n"]));
    }
    Ok(arguments)
}
