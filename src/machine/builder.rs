//! From a configuration to a paused machine: the one way to build one.

use std::fmt;
use std::io::{self, Write};
use std::num::NonZeroU8;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use kvm_bindings::CpuId;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::interrupts::KvmMessages;
use super::state::{Basis, Fixed, Kept};
use super::virtio::Attachments;
use super::{Error, Idle, Parts, PausedMachine};
use crate::boot::{self, acpi, cpuid, mptable, msr, platform::Platform};
use crate::bus::{Bus, Registers, SharedRegisters, lock};
use crate::config::MachineConfig;
use crate::console::{self, Input, OnLost, Outbox, Output, Pump, Streams};
use crate::devices::boot_timer::{self, BootTimer};
use crate::devices::debug_exit::{self, DebugExit};
use crate::devices::i8042;
use crate::devices::ioapic::{IoApic, IoApicPin};
use crate::devices::power::{self, AcpiPower};
use crate::devices::rtc::{self, Rtc};
use crate::devices::serial::{self, Serial};
use crate::devices::vmgenid::VmGenId;
use crate::hypervisor::{Hypervisor, KvmVcpu, Vm};
use crate::memory::{self, layout};
use crate::timeline::{Phase, Timeline};
use crate::vcpu::{Buses, Control, ExitCounter};
use crate::virtio::{self, Device, Opened};

/// The guest that a machine runs when its configuration names no kernel.
pub static EMBEDDED_GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.elf"));

/// What the machine puts on the kernel command line itself: the console is the serial port; a
/// reboot and a panic end the machine at once.
const OWN_WORDS: &str = "console=ttyS0 reboot=k panic=-1";

/// Builds a machine from a configuration and what an embedder brings along.
///
/// ```no_run
/// use bantam::config::{Console, MachineConfig};
/// use bantam::machine::Builder;
///
/// let config = MachineConfig { console: Console::Off, ..MachineConfig::default() };
/// let outcome = Builder::new(config).build()?.resume()?.wait();
/// println!("{}", outcome.reason);
/// # Ok::<(), bantam::machine::Error>(())
/// ```
#[must_use]
pub struct Builder {
    config: MachineConfig,
    hypervisor: Option<Hypervisor>,
    timeline: Arc<Timeline>,
    streams: Option<Streams>,
    on_output_lost: Option<OnLost>,
    kernel: Option<boot::Image>,
    initrd: Option<boot::Image>,
    mmio: Vec<(u64, u64, SharedRegisters)>,
    ports: Vec<(u16, u16, SharedRegisters)>,
    virtio: Vec<Opened>,
    kept: Option<Kept>,
}

impl Builder {
    /// A builder for this configuration.
    pub fn new(config: MachineConfig) -> Self {
        Self {
            config,
            hypervisor: None,
            timeline: Arc::default(),
            streams: None,
            on_output_lost: None,
            kernel: None,
            initrd: None,
            mmio: Vec::new(),
            ports: Vec::new(),
            virtio: Vec::new(),
            kept: None,
        }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &MachineConfig {
        &self.config
    }

    /// Changes the configuration.
    pub fn configure(mut self, change: impl FnOnce(&mut MachineConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Uses an open `/dev/kvm`, which a process with many machines shares among them.
    pub fn hypervisor(mut self, hypervisor: Hypervisor) -> Self {
        self.hypervisor = Some(hypervisor);
        self
    }

    /// Records the phases of the start on this timeline.
    pub fn timeline(mut self, timeline: Arc<Timeline>) -> Self {
        self.timeline = timeline;
        self
    }

    /// Sends the console's output to a writer, in place of what the configuration names. The
    /// writer is called on the machine's event loop and should not block for long; for a stream
    /// whose reader may be slow, give its descriptor to [`Self::console_output_fd`].
    pub fn console_output(mut self, output: impl Write + Send + 'static) -> Self {
        self.streams.get_or_insert_default().output = Some(Output::Writer(Box::new(output)));
        self
    }

    /// Sends the console's output to a descriptor, in place of what the configuration names. It is
    /// made non-blocking.
    pub fn console_output_fd(mut self, output: OwnedFd) -> Self {
        self.streams.get_or_insert_default().output = Some(Output::of_fd(output));
        self
    }

    /// Boots this kernel, an open file or bytes in memory, in place of what the configuration names.
    pub fn kernel(mut self, kernel: boot::Image) -> Self {
        self.kernel = Some(kernel);
        self
    }

    /// Gives the kernel this initial RAM disk, in place of what the configuration names.
    pub fn initrd(mut self, initrd: boot::Image) -> Self {
        self.initrd = Some(initrd);
        self
    }

    /// Takes the console's input from a reader with a descriptor (a pipe, a socket, a file), in
    /// place of what the configuration names.
    pub fn console_input(mut self, input: impl Input + 'static) -> Self {
        self.streams.get_or_insert_default().input = Some(Box::new(input));
        self
    }

    /// Is told, once, when the console's output stream breaks. The machine runs on; what its guest
    /// sends then is thrown away.
    pub fn on_console_lost(mut self, tell: impl FnOnce(&io::Error) + Send + 'static) -> Self {
        self.on_output_lost = Some(Box::new(tell));
        self
    }

    /// Both ends of the console in place of what the configuration names.
    pub fn console(mut self, streams: Streams) -> Self {
        self.streams = Some(streams);
        self
    }

    /// Puts a device of the embedder's at a guest-physical address outside memory; the hole from
    /// [`layout::HOLE_START`] has room.
    pub fn mmio_device(mut self, base: u64, len: u64, device: impl Registers + 'static) -> Self {
        self.mmio.push((base, len, Arc::new(Mutex::new(device))));
        self
    }

    /// Puts a device of the embedder's at an I/O port.
    pub fn port_device(mut self, base: u16, len: u16, device: impl Registers + 'static) -> Self {
        self.ports.push((base, len, Arc::new(Mutex::new(device))));
        self
    }

    /// Gives the machine a virtio device of the embedder's, under this name: in the place of the one that
    /// has the name in the configuration, or after all of those.
    pub fn virtio_device(mut self, name: impl Into<String>, device: impl Device) -> Self {
        let device = Box::new(device);
        self.virtio.push(Opened { name: name.into(), iothread: None, kernel_words: None, device });
        self
    }

    /// Has the machine go on from where another was saved ([`PausedMachine::save`]), in place of booting. It
    /// has the same configuration, but for what its guest does not see.
    pub fn restore(mut self, kept: Kept) -> Self {
        self.kept = Some(kept);
        self
    }

    /// Builds the machine; its vCPUs wait for [`PausedMachine::resume`].
    ///
    /// # Errors
    /// What is wrong with the configuration, its files or the host. Nothing is left behind.
    pub fn build(mut self) -> Result<PausedMachine, Error> {
        self.config.validate()?;
        let timeline = Arc::clone(&self.timeline);
        let hypervisor = match self.hypervisor.take() {
            Some(hypervisor) => hypervisor,
            None => Hypervisor::open()?,
        };
        hypervisor.check_vcpus(self.config.cpus)?;
        timeline.mark(Phase::KvmOpened);

        let kept = self.kept.take();
        let memory = match &kept {
            Some(kept) => kept.memory(self.config.memory)?,
            None => memory::allocate(self.config.memory)?,
        };
        let vm = Vm::new(&hypervisor, memory)?;
        timeline.mark(Phase::MemoryMapped);

        let ioapic = Arc::new(Mutex::new(IoApic::new(Box::new(KvmMessages(vm.clone())))));
        let mut mmio = Bus::mmio();
        mmio.insert(layout::IOAPIC, layout::IOAPIC_LEN, ioapic.clone())?;
        let line = IoApicPin::new(Arc::clone(&ioapic), layout::GENERATION_IRQ);
        let mut vmgenid = VmGenId::new(vm.memory().clone(), Arc::new(line));
        let own = std::mem::take(&mut self.virtio);
        let devices = virtio::open_all(&self.config.devices, self.config.cpus, kept.is_some(), own)?;
        let virtio = Attachments::attach_all(devices, &vm, &ioapic, &mut mmio)?;

        let supported = hypervisor.supported_cpuid()?;
        check_address_width(&vm, &supported)?;
        let vcpus = if kept.is_some() {
            self.create_vcpus(&vm)?
        } else {
            vmgenid.renew()?;
            let entry = self.load(&vm, &virtio)?;
            timeline.mark(Phase::KernelLoaded);
            let mut vcpus = self.create_vcpus(&vm)?;
            self.set_up_vcpus(&hypervisor, &supported, &mut vcpus, entry)?;
            vcpus
        };
        timeline.mark(Phase::VcpusCreated);

        let outbox = Outbox::new(Arc::clone(&timeline))?;
        let (buses, fixed) = self.place_devices(&vm, &outbox, ioapic, mmio)?;
        let streams = match self.streams.take() {
            Some(streams) => streams,
            None => Streams::open(&self.config.console, kept.is_some()).map_err(console::Error::from)?,
        };
        let pty = streams.pty.as_ref().map(|pty| pty.path.clone());
        let pump =
            Pump::new(Arc::clone(&fixed.serial), Arc::clone(&outbox), streams, self.on_output_lost.take());

        let exits = vcpus.iter().map(|_| Arc::new(ExitCounter::new(self.config.stats))).collect();
        let mut parts = Parts {
            control: Arc::new(Control::new(vcpus.len()).map_err(Error::Control)?),
            idle: Some(Idle { buses: Arc::new(buses), pump }),
            vm,
            vcpus: vcpus.into_iter().map(|vcpu| Arc::new(Mutex::new(vcpu))).collect(),
            threads: Vec::new(),
            fixed,
            outbox,
            loops: Vec::new(),
            parked: virtio.workers,
            devices: virtio.handles,
            vmgenid,
            device_ptys: virtio.ptys,
            timeline,
            exits,
            pty,
            config: self.config,
            layers: None,
            prefetch: None,
            lifeline: None,
            basis: Basis::default(),
        };
        if let Some(kept) = kept {
            parts.restore(&supported, kept)?;
        }
        Ok(PausedMachine { parts })
    }

    fn cpus(&self) -> NonZeroU8 {
        // A valid configuration has 1 to 255.
        u8::try_from(self.config.cpus).ok().and_then(NonZeroU8::new).unwrap_or(NonZeroU8::MIN)
    }

    /// Writes tables and kernel into guest memory.
    fn load(&mut self, vm: &Vm, virtio: &Attachments) -> Result<boot::Entry, Error> {
        let platform = Platform { cpus: self.cpus(), virtio: &virtio.windows };
        let rsdp = acpi::write(vm.memory(), &platform)?;
        mptable::write(vm.memory(), &platform)?;

        let cmdline = boot::CommandLine::new(self.command_line(virtio))?;
        let kernel = match (self.kernel.take(), &self.config.kernel) {
            (Some(kernel), _) => kernel,
            (None, Some(path)) => boot::Image::open(path)?,
            (None, None) => boot::Image::from_bytes(EMBEDDED_GUEST, "the embedded guest"),
        };
        let initrd = match (self.initrd.take(), &self.config.initrd) {
            (Some(initrd), _) => Some(initrd),
            (None, path) => path.as_deref().map(boot::Image::open).transpose()?,
        };
        let request = boot::Request {
            kernel: &kernel,
            initrd: initrd.as_ref(),
            cmdline: &cmdline,
            mode: self.config.boot,
            rsdp: Some(rsdp.0),
        };
        let loaded = boot::load(vm.memory(), request)?;
        log::info!("{loaded}");
        Ok(loaded.entry)
    }

    fn command_line(&self, virtio: &Attachments) -> String {
        let user = &self.config.cmdline;
        if self.config.bare_cmdline {
            return user.clone();
        }
        // The embedded guest knows its machine.
        let embedded = self.config.kernel.is_none() && self.kernel.is_none();
        let mut words = vec![];
        if !embedded {
            words.extend(OWN_WORDS.split(' ').map(str::to_owned));
            words.extend(virtio.kernel_words.iter().cloned());
        }
        words.extend((!user.is_empty()).then(|| user.clone()));
        // With ACPI, the devices are in its tables; a kernel that is told twice complains.
        if !embedded && user.split_ascii_whitespace().any(|word| word == "acpi=off") {
            words.extend(virtio.as_kernel_words());
        }
        words.join(" ")
    }

    fn create_vcpus(&self, vm: &Vm) -> Result<Vec<KvmVcpu>, Error> {
        (0..self.config.cpus).map(|index| vm.create_vcpu(index).map_err(Error::from)).collect()
    }

    /// Puts the first vCPU at the kernel's entry; the others wait to be woken by it.
    fn set_up_vcpus(
        &self,
        hypervisor: &Hypervisor,
        supported: &CpuId,
        vcpus: &mut [KvmVcpu],
        entry: boot::Entry,
    ) -> Result<(), Error> {
        let features = cpuid::CpuFeatures {
            tsc_khz: vcpus.first().and_then(KvmVcpu::tsc_khz),
            tsc_deadline: hypervisor.has_tsc_deadline(),
            // One vCPU has nobody to send hypercalls about, so its start need not wait for the
            // measurement.
            pv_hypercalls: self.config.cpus > 1 && hypervisor.hypercalls_work(),
            ..Default::default()
        };
        let topology = cpuid::Topology { cpus: self.cpus() };
        let table = cpuid::GuestCpuid::new(supported, topology, &features)?;
        for (index, vcpu) in (0..=u8::MAX).zip(vcpus.iter_mut()) {
            vcpu.set_cpuid(&table.for_cpu(index)?)?;
            vcpu.set_msrs(&msr::BOOT_MSRS)?;
        }
        if let Some(first) = vcpus.first() {
            first.set_registers(&entry.regs(), &entry.sregs(first.sregs()?))?;
        }
        Ok(())
    }

    /// Puts every device on its bus.
    fn place_devices(
        &mut self,
        vm: &Vm,
        outbox: &Arc<Outbox>,
        ioapic: Arc<Mutex<IoApic>>,
        mut mmio: Bus,
    ) -> Result<(Buses, Fixed), Error> {
        let line = IoApicPin::new(Arc::clone(&ioapic), layout::COM1_IRQ);
        let serial = Serial::new(Box::new(Arc::clone(outbox)), Arc::new(line));
        let fixed = Fixed {
            ioapic: Arc::clone(&ioapic),
            serial: Arc::new(Mutex::new(serial)),
            rtc: Arc::new(Mutex::new(Rtc::new(rtc::host_clock()))),
            i8042: Arc::default(),
        };

        for (base, len, device) in self.mmio.drain(..) {
            check_reachable(vm, base, len)?;
            mmio.insert(base, len, device)?;
        }

        let mut ports = Bus::ports();
        let timer = BootTimer::new(Arc::clone(&self.timeline));
        let own: [(u16, u64, SharedRegisters); 6] = [
            (layout::COM1_PORT, serial::REGISTERS, fixed.serial.clone()),
            (layout::I8042_PORT, i8042::PORTS, fixed.i8042.clone()),
            (layout::RTC_PORT, rtc::PORTS, fixed.rtc.clone()),
            (layout::DEBUG_EXIT_PORT, debug_exit::PORTS, shared(DebugExit)),
            (layout::ACPI_PORT, power::PORTS, shared(AcpiPower)),
            (layout::BOOT_TIME_PORT, boot_timer::PORTS, shared(timer)),
        ];
        for (base, len, device) in own {
            ports.insert(base.into(), len, device)?;
        }
        for (base, len, device) in self.ports.drain(..) {
            ports.insert(base.into(), len.into(), device)?;
        }
        let end_of_interrupt = Box::new(move |vector| lock(&ioapic).end_of_interrupt(vector));
        Ok((Buses { ports, mmio, end_of_interrupt }, fixed))
    }
}

/// Whether KVM leaves all accesses at a device's addresses to us.
fn check_reachable(vm: &Vm, base: u64, len: u64) -> Result<(), Error> {
    let memory = vm.memory().iter().map(|region| ("memory", region.start_addr().0, region.len()));
    let of_kvm = [
        ("the local APICs", layout::LOCAL_APIC, layout::PAGE_SIZE),
        ("KVM's own pages", layout::KVM_PAGES, layout::KVM_PAGES_LEN),
    ];
    let (start, end) = (base, base.saturating_add(len));
    match memory.chain(of_kvm).find(|(_, other, other_len)| start < other + other_len && *other < end) {
        Some((what, other, other_len)) => Err(Error::Hidden { base, len, what, other, other_len }),
        None => Ok(()),
    }
}

/// Memory past what the processor's physical addresses reach would never be seen.
fn check_address_width(vm: &Vm, cpuid: &CpuId) -> Result<(), Error> {
    // Intel SDM volume 2A, CPUID leaf 0x80000008: EAX bits 0 to 7.
    let leaf = cpuid.as_slice().iter().find(|leaf| leaf.function == 0x8000_0008);
    let bits = leaf.map_or(36, |leaf| leaf.eax & 0xff);
    let last = vm.memory().last_addr().0;
    if last.checked_shr(bits).unwrap_or(0) == 0 { Ok(()) } else { Err(Error::AddressWidth { bits }) }
}

fn shared(device: impl Registers + 'static) -> SharedRegisters {
    Arc::new(Mutex::new(device))
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("config", &self.config).finish_non_exhaustive()
    }
}
