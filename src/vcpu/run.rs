//! The exit loop.

use crate::bus::{Bus, Effect};
use crate::hypervisor::{Exit, Failure, Seat, Vcpu};

use super::stats::{ExitCounter, ExitKind};
use super::{Control, Desired};

/// What a vCPU's exits are dispatched to.
pub struct Buses {
    /// I/O ports.
    pub ports: Bus,
    /// Everything outside memory.
    pub mmio: Bus,
    /// Told when the guest ends a level-triggered interrupt, by its vector.
    pub end_of_interrupt: Box<dyn Fn(u8) + Send + Sync>,
}

/// Why a vCPU stopped running.
#[derive(Debug, PartialEq)]
pub enum End {
    /// Another thread wants it paused or stopped.
    Asked,
    /// The guest powered its machine off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest wrote this value to the debug-exit port.
    DebugExit(u32),
    /// An exception in the handler of an exception in the handler of an exception.
    TripleFault,
    /// KVM cannot run the vCPU on.
    Failed(Box<Failure>),
}

/// Runs a vCPU until its guest ends the machine, KVM gives up, or another thread asks.
///
/// A request is looked at only when the vCPU has left the guest for it: every exit before is then
/// complete, and the vCPU's state is whole.
pub fn run(vcpu: &mut Seat<'_, impl Vcpu>, buses: &Buses, control: &Control, exits: &ExitCounter) -> End {
    loop {
        let before = exits.before_run();
        let exit = vcpu.run();
        let entry = exits.after_run(before, ExitKind::of(&exit));
        let effect = match exit {
            Exit::PortWrite { port, width, data } => {
                each_access(data.chunks(width), |data| buses.ports.write(port.into(), data))
            }
            Exit::PortRead { port, width, data } => {
                data.chunks_mut(width).for_each(|data| buses.ports.read(port.into(), data));
                Effect::None
            }
            Exit::MmioWrite { address, data } => buses.mmio.write(address, data),
            Exit::MmioRead { address, data } => {
                buses.mmio.read(address, data);
                Effect::None
            }
            Exit::IoapicEoi { vector } => {
                (buses.end_of_interrupt)(vector);
                Effect::None
            }
            Exit::TripleFault => return End::TripleFault,
            Exit::Failed(failure) => return End::Failed(failure),
            Exit::Interrupted => {
                vcpu.forget_kick();
                if control.desired() != Desired::Running {
                    return End::Asked;
                }
                Effect::None
            }
        };
        exits.after_dispatch(entry);
        match effect {
            Effect::None => {}
            Effect::PowerOff => return End::PowerOff,
            Effect::Reset => return End::Reset,
            Effect::DebugExit(value) => return End::DebugExit(value),
        }
    }
}

/// The accesses of a string instruction, up to the first that ends the machine.
fn each_access<'a>(
    mut accesses: impl Iterator<Item = &'a [u8]>,
    mut write: impl FnMut(&[u8]) -> Effect,
) -> Effect {
    accesses
        .find_map(|data| Some(write(data)).filter(|effect| *effect != Effect::None))
        .unwrap_or(Effect::None)
}
