//! `identity`: what tells this machine from its copies, for each line that is typed and when the generation
//! id changes.

use crate::acpi::Acpi;
use crate::console::{self, print, println};
use crate::events::{Events, Keyboard, Typed};
use crate::virtio::mmio::Window;
use crate::virtio::rng::Entropy;
use crate::virtio::vsock::GUEST_CID;
use crate::virtio::{Result, device_id, net};
use crate::{Machine, cpu, phys, trap};

/// Random bytes that are shown.
const RANDOM: u64 = 8;
/// How often an interrupt is waited for that may not come.
const MOST_WINDOWS: u32 = 10_000;

// Its stack frame is no other job's.
#[inline(never)]
pub fn run(machine: &mut Machine) {
    let mark = machine.arena.mark();
    match watch(machine) {
        // The device was reset: its memory is free.
        Ok(()) => machine.arena.rewind(mark),
        Err(error) => println!("identity error: {error}"),
    }
}

fn watch(machine: &mut Machine) -> Result<()> {
    let mut identity = Identity::find(machine)?;
    let (events, mut keyboard) = (Events::start(machine, console::IER_DATA_READY), Keyboard::default());
    identity.print()?;
    loop {
        if identity.has_changed() {
            identity.print()?;
        }
        match keyboard.take() {
            Some(Typed::Byte) => {}
            Some(Typed::Line) => identity.print()?,
            Some(Typed::Quit) => break,
            None => events.wait(),
        }
    }
    events.stop();
    identity.stop()
}

/// Where to look for it. The devices are set up, so that it takes but a moment.
pub struct Identity {
    generation: Option<u64>,
    /// The id that was last looked at.
    seen: Option<[u64; 2]>,
    /// Events until then.
    told: u64,
    entropy: Option<Entropy>,
    network: Option<Window>,
    vsock: Option<Window>,
}

impl Identity {
    pub fn find(machine: &mut Machine) -> Result<Self> {
        let dsdt = Acpi::find(machine.boot.rsdp()).and_then(|acpi| acpi.dsdt());
        let generation = dsdt.and_then(|dsdt| dsdt.generation_id());
        let device = |id| Window::find(machine, id, 0).ok();
        let (network, vsock) = (device(device_id::NETWORK), device(device_id::VSOCK));
        let entropy = match device(device_id::ENTROPY) {
            Some(_) => Some(Entropy::start(machine, 0)?),
            None => None,
        };
        let mut identity = Identity { generation, seen: None, told: 0, entropy, network, vsock };
        identity.seen = identity.generation();
        Ok(identity)
    }

    fn generation(&self) -> Option<[u64; 2]> {
        let at = self.generation?;
        Some([phys::read64(at)?, phys::read64(at + 8)?])
    }

    /// Whether the generation id is another than the last time. If so the event of it is taken, which is
    /// pending, but which an interpreting KVM may not deliver at the first opportunity.
    pub fn has_changed(&mut self) -> bool {
        let now = self.generation();
        let has_changed = core::mem::replace(&mut self.seen, now) != now;
        if has_changed {
            let mut windows = 0..MOST_WINDOWS;
            while trap::generation_count() == self.told && windows.next().is_some() {
                cpu::interrupt_window();
            }
        }
        self.told = trap::generation_count();
        has_changed
    }

    pub fn print(&mut self) -> Result<()> {
        print!("identity generation=");
        match self.seen {
            Some(id) => id.iter().flat_map(|half| half.to_le_bytes()).for_each(|byte| print!("{byte:02x}")),
            None => print!("none"),
        }
        print!(" told={} random=", trap::generation_count());
        match &mut self.entropy {
            Some(entropy) => {
                let bytes = entropy.read(RANDOM)?;
                (0..bytes.length()).for_each(|at| print!("{:02x}", bytes.read8(at)));
            }
            None => print!("none"),
        }
        print!(" mac=");
        match self.network {
            Some(window) => {
                let mut mac = [0; 6];
                for (offset, byte) in (net::config::MAC..).zip(&mut mac) {
                    *byte = window.config8(offset);
                }
                super::net::print_mac(mac);
            }
            None => print!("none"),
        }
        match self.vsock {
            Some(window) => println!(" cid={}", window.config64(GUEST_CID)),
            None => println!(" cid=none"),
        }
        Ok(())
    }

    /// Resets the device that was set up.
    pub fn stop(&self) -> Result<()> {
        self.entropy.as_ref().map_or(Ok(()), Entropy::stop)
    }
}
