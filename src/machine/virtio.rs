//! Where virtio devices are in the machine: their windows, interrupts and doorbells.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::Error;
use crate::boot::platform::{Trigger, VirtioMmio};
use crate::bus::Bus;
use crate::devices::ioapic::{self, IoApic, IoApicPin};
use crate::hypervisor::Vm;
use crate::memory::layout;
use crate::virtio::transport::{self, Mmio};
use crate::virtio::{DeviceHandle, Doorbell, Opened, Worker};

/// A device on the machine's event loop, or on one of its own.
pub(super) struct OnThread {
    pub(super) name: String,
    pub(super) iothread: Option<String>,
    /// The vCPUs' half, which is on the bus.
    pub(super) registers: Arc<Mutex<Mmio>>,
    pub(super) worker: Worker,
}

/// The devices of a machine that is being built.
#[derive(Default)]
pub(super) struct Attachments {
    pub(super) workers: Vec<OnThread>,
    pub(super) handles: Vec<(String, DeviceHandle)>,
    /// The devices with a pseudo-terminal.
    pub(super) ptys: Vec<(String, PathBuf)>,
    /// One for each device.
    pub(super) windows: Vec<VirtioMmio>,
    /// What the devices tell the guest's kernel.
    pub(super) kernel_words: Vec<String>,
}

impl Attachments {
    /// Puts each device on the bus, at the next window and with the next interrupt.
    pub(super) fn attach_all(
        devices: Vec<Opened>,
        vm: &Vm,
        ioapic: &Arc<Mutex<IoApic>>,
        mmio: &mut Bus,
    ) -> Result<Self, Error> {
        let mut attached = Self::default();
        let irqs = layout::VIRTIO_IRQ_BASE..ioapic::PINS;
        let most = irqs.len();
        let mut places = irqs.zip((0..).map(|index| layout::VIRTIO_MMIO + index * transport::LEN));
        for device in devices {
            let (irq, base) = places.next().ok_or(Error::TooManyDevices { most })?;
            attached.kernel_words.extend(device.kernel_words.clone());
            let (name, iothread) = (device.name.clone(), device.iothread.clone());
            attached.ptys.extend(device.device.pty().map(|path| (name.clone(), path.to_owned())));
            let line = Arc::new(IoApicPin::new(Arc::clone(ioapic), irq));
            let doorbell = Box::new(KvmDoorbell { vm: vm.clone(), base });
            let device = device.attach(vm.memory(), line, Some(doorbell))?;
            let registers = Arc::new(Mutex::new(device.registers));
            mmio.insert(base, transport::LEN, registers.clone())?;
            let worker = device.worker;
            attached.workers.push(OnThread { name: name.clone(), iothread, registers, worker });
            attached.handles.push((name, device.handle));
            let len = u32::try_from(transport::LEN).unwrap_or(u32::MAX);
            attached.windows.push(VirtioMmio { base, len, irq: irq.into(), trigger: Trigger::Edge });
        }
        Ok(attached)
    }

    /// The devices as a kernel without ACPI is told of them (Linux, `drivers/virtio/virtio_mmio.c`).
    pub(super) fn as_kernel_words(&self) -> impl Iterator<Item = String> {
        self.windows.iter().map(|window| {
            format!("virtio_mmio.device={}K@{:#x}:{}", window.len >> 10, window.base, window.irq)
        })
    }
}

/// Has KVM turn a guest's notification into an event by itself.
struct KvmDoorbell {
    vm: Vm,
    base: u64,
}

impl Doorbell for KvmDoorbell {
    fn connect(&self, queue: usize, kick: &EventFd) -> io::Result<()> {
        let queue = u32::try_from(queue).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.vm
            .register_ioeventfd(self.base + transport::DOORBELL, queue, kick)
            .map_err(|error| io::Error::other(error.to_string()))
    }
}
