//! `hello`: a short tour of the machine.

use crate::Machine;
use crate::acpi::Acpi;
use crate::apic::{self, IoApic};
use crate::arena;
use crate::clock::{Date, Frequency};
use crate::console::{self, print, println};
use crate::cpu;
use crate::topology::Topology;
use crate::virtio::{device_name, mmio::Window};

/// How many lines of the memory map and of devices to show.
const MAX_LINES: usize = 16;

pub fn run(machine: &Machine) {
    let Machine { boot, words, .. } = machine;
    let (start, end) = arena::image();
    println!(
        "Bantam guest {}, {} KiB at {start:#x}",
        option_env!("CARGO_PKG_VERSION").unwrap_or("0"),
        (end - start) >> 10
    );
    println!("  boot        {} protocol, data at {:#x}", boot.protocol.name(), boot.address);
    hypervisor();
    let topology = Topology::find(boot);
    cpus(&topology);
    match Frequency::find() {
        Some(Frequency { hertz, source }) => {
            println!("  tsc         {}.{:03} MHz ({source})", hertz / 1_000_000, hertz / 1000 % 1000);
        }
        None => println!("  tsc         unknown frequency"),
    }
    memory(machine);
    acpi(machine);
    match Date::read() {
        Some(date) => println!("  clock       {date} (CMOS)"),
        None => println!("  clock       none"),
    }
    let serial = if console::present() { "16550" } else { "no scratch register" };
    println!("  serial      {serial} at {:#x}", console::PORT);
    if apic::is_x2apic() {
        println!("  local apic  in x2APIC mode");
    } else {
        let (id, version) = (u64::from(apic::id()), u64::from(apic::version()));
        println!("  local apic  id {id}, version {version:#x} at {:#x}", topology.local_apic);
    }
    let io_apic = IoApic { address: topology.io_apic };
    match io_apic.version() {
        Some((version, pins)) => {
            println!("  io apic     version {version:#x}, {pins} pins at {:#x}", io_apic.address);
        }
        None => println!("  io apic     none at {:#x}", io_apic.address),
    }
    for window in Window::all(machine).take(MAX_LINES) {
        virtio(window);
    }
    print!("  words       ");
    console::write_text(words.line());
    println!();
}

fn hypervisor() {
    match cpu::hypervisor() {
        Some((signature, last)) => {
            print!("  hypervisor  ");
            write_padded(&signature);
            println!(", CPUID up to {last:#x}");
        }
        None => println!("  hypervisor  none that says so"),
    }
}

fn cpus(topology: &Topology) {
    print!("  cpus        {} (", topology.cpus().len());
    print!("{})", topology.source);
    if let Some(brand) = cpu::brand() {
        print!(", ");
        write_padded(&brand);
    }
    println!();
}

/// Text from CPUID: padded with NULs or blanks.
fn write_padded(text: &[u8]) {
    let text = text.split(|&byte| byte == 0).next().unwrap_or(&[]);
    console::write_text(text.trim_ascii());
}

fn memory(machine: &Machine) {
    let usable: u64 = machine.boot.usable().map(|range| range.end - range.start).sum();
    println!("  memory      {} KiB usable", usable >> 10);
    for range in machine.boot.map().take(MAX_LINES) {
        println!("    {:>#12x} .. {:>#12x}  {}", range.start, range.end, range.kind_name());
    }
}

fn acpi(machine: &Machine) {
    let Some(acpi) = Acpi::find(machine.boot.rsdp()) else {
        println!("  acpi        none");
        return;
    };
    print!("  acpi        RSDP at {:#x}:", acpi.rsdp);
    for signature in acpi.signatures() {
        print!(" ");
        console::write_text(&signature);
    }
    println!();
}

fn virtio(window: Window) {
    print!("  virtio-mmio {:#x}, irq {}: ", window.address, window.irq);
    match window.identify() {
        Some((version, id)) => println!("{} (device {id}, version {version})", device_name(id)),
        None => println!("nobody answers"),
    }
}
