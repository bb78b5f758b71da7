//! Boots the embedded guest with the console on standard output, waits, and says how it ended.

use bantam::config::MachineConfig;
use bantam::machine::Builder;

fn main() -> Result<(), bantam::machine::Error> {
    let machine = Builder::new(MachineConfig::default()).build()?;
    let outcome = machine.resume()?.wait();
    println!("{} after {} exits", outcome.reason, outcome.stats.total());
    Ok(())
}
