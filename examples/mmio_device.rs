//! Gives a guest a device of our own: registers at a guest-physical address, outside memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bantam::bus::{Effect, Registers};
use bantam::config::{Console, MachineConfig};
use bantam::machine::Builder;

/// Counts its reads; a read gives the count.
struct Counter(Arc<AtomicU64>);

impl Registers for Counter {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        let count = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = count.to_le_bytes();
        data.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    }

    fn write(&mut self, _offset: u64, _data: &[u8]) -> Effect {
        Effect::None
    }
}

fn main() -> Result<(), bantam::machine::Error> {
    let reads = Arc::new(AtomicU64::new(0));
    let config = MachineConfig {
        cmdline: "exits=100 kind=mmio addr=0xd0000000".into(),
        console: Console::Off,
        ..MachineConfig::default()
    };
    let machine =
        Builder::new(config).mmio_device(0xd000_0000, 0x1000, Counter(Arc::clone(&reads))).build()?;
    let outcome = machine.resume()?.wait();
    println!("{}; the guest read our register {} times", outcome.reason, reads.load(Ordering::Relaxed));
    Ok(())
}
