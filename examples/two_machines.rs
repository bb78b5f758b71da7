//! Runs two machines at once in one process, sharing one open `/dev/kvm`, and pauses one of them.

use bantam::config::{Console, MachineConfig};
use bantam::hypervisor::Hypervisor;
use bantam::machine::Builder;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let hypervisor = Hypervisor::open()?;
    let build = |job: &str| {
        let config = MachineConfig {
            cmdline: job.into(),
            console: Console::Off,
            stats: true,
            ..MachineConfig::default()
        };
        Builder::new(config).hypervisor(hypervisor.clone()).build()
    };
    let spinning = build("spin")?.resume()?;
    let working = build("exits=1000 kind=pio end=exit:3")?.resume()?;

    println!("the working machine: {}", working.wait().reason);
    let paused = spinning.pause()?;
    println!("the spinning machine is paused, and runs on");
    println!("the spinning machine: {}", paused.resume()?.stop().reason);
    Ok(())
}
