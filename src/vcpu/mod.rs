//! Running vCPUs: the exit loop, one thread a vCPU, and the state that they share.

mod control;
mod report;
mod run;
mod stats;
mod thread;

pub use control::{Control, Desired};
pub use report::FailureReport;
pub use run::{Buses, End, run};
pub use stats::{ExitCount, ExitCounter, ExitKind, ExitStats};
pub use thread::VcpuThread;

#[cfg(test)]
mod tests;
