//! QEMU's `microvm`: the machine that is nearest, and as little else as it lets one leave out.

use std::ffi::OsString;
use std::path::Path;

use super::{Adapter, Disk, Guest, NotSupported, words};
use crate::bench::process;

/// The host's, without what a KVM that interprets kernel code offers and cannot do. Such a machine can be saved.
const CPU: &str = "host,pmu=off,-kvm-pv-unhalt,-kvm-pv-ipi,-kvm-pv-sched-yield";

pub(super) struct Qemu;

impl Adapter for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn program(&self) -> &'static str {
        "qemu-system-x86_64"
    }

    fn arguments(&self, guest: &Guest<'_>, _: &Path) -> Result<Vec<OsString>, NotSupported> {
        machine(guest, &format!("{CPU},migratable=off"), if guest.console { "stdio" } else { "none" })
    }

    fn save(&self, program: &Path, guest: &Guest<'_>, folder: &Path, until: &str) -> anyhow::Result<()> {
        let arguments = machine(guest, CPU, "mon:stdio")?;
        // Ctrl-A c leads from the guest's console to the monitor.
        let keys = format!("\x01cmigrate \"exec:cat > {}\"\nquit\n", saved(folder));
        process::type_to(&mut process::command(program, &arguments), until, keys.as_bytes())
    }

    fn restore(&self, guest: &Guest<'_>, folder: &Path) -> Result<Vec<OsString>, NotSupported> {
        let mut arguments = machine(guest, CPU, "stdio")?;
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
    let Guest { kernel, initrd, words: line, memory_mib, cpus, console: _, disk, tap, vsock, entropy } =
        guest;
    if vsock.is_some() {
        return Err(NotSupported("its vsock device needs /dev/vhost-vsock".to_owned()));
    }
    let mut arguments = format!(
        "-machine microvm,acpi=on,pit=off,pic=off,rtc=off,isa-serial=on,x-option-roms=off,accel=kvm -cpu {cpu} \
         -m {memory_mib} -smp {cpus} -serial {serial} -display none -nodefaults -no-user-config -no-reboot \
         -global virtio-mmio.force-legacy=false"
    );
    let net = "-device virtio-net-device,netdev=n -netdev tap,id=n,script=no,downscript=no,vhost=off,ifname=";
    arguments += &tap.map_or_else(String::new, |tap| format!(" {net}{tap}"));
    arguments += if *entropy { " -device virtio-rng-device" } else { "" };
    let mut arguments = words(arguments.split(' '));
    if let Some(Disk { path, direct, engine }) = disk {
        let (cache, aio) = (if *direct { "none" } else { "writeback" }, engine.unwrap_or("io_uring"));
        let mut drive = OsString::from(format!("if=none,id=d,format=raw,aio={aio},cache={cache},file="));
        drive.push(path);
        arguments.extend(["-device".into(), "virtio-blk-device,drive=d".into(), "-drive".into(), drive]);
    }
    arguments.extend(["-append".into(), line.into(), "-kernel".into(), kernel.path().into()]);
    arguments.extend(initrd.iter().flat_map(|initrd| ["-initrd".into(), (*initrd).into()]));
    Ok(arguments)
}
