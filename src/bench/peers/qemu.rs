//! QEMU's `microvm`: the machine that is nearest, and as little else as it lets one leave out.

use std::ffi::OsString;
use std::path::Path;

use super::{Adapter, Guest, NotSupported, words};

pub(super) struct Qemu;

impl Adapter for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn program(&self) -> &'static str {
        "qemu-system-x86_64"
    }

    fn arguments(&self, guest: &Guest<'_>, _: &Path) -> Result<Vec<OsString>, NotSupported> {
        let Guest { kernel, initrd, words: line, memory_mib, cpus, console, disk, tap, vsock, entropy } =
            guest;
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
            // Of what KVM offers a guest, that which a KVM that interprets kernel code cannot do.
            "host,migratable=off,pmu=off,-kvm-pv-unhalt,-kvm-pv-ipi,-kvm-pv-sched-yield",
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
            if *console { "stdio" } else { "none" },
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
        if *entropy {
            arguments.extend(words(["-device", "virtio-rng-device"]));
        }
        Ok(arguments)
    }

    fn disk_engines(&self) -> &'static [&'static str] {
        &["io_uring", "threads"]
    }
}
