//! What the benchmarks measure with: numbers, processes, and the host they ran on.

#![allow(dead_code, reason = "no benchmark uses all of it")]

pub(crate) mod host;
pub(crate) mod memory;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod results;
pub(crate) mod stats;
