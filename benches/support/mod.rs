//! What the benchmarks measure with: numbers, processes, and the host they ran on.

pub(crate) mod host;
pub(crate) mod memory;
pub(crate) mod process;
pub(crate) mod stats;
