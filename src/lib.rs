//! Bantam: a small, fast KVM hypervisor for microVMs.
//!
//! A [`MachineConfig`](config::MachineConfig) goes into a [`Builder`](machine::Builder), which makes a
//! [`PausedMachine`](machine::PausedMachine). That becomes a [`RunningMachine`](machine::RunningMachine)
//! and back, and ends in an [`Outcome`](machine::Outcome). Machines are values: what can be done in a
//! state is what its type offers, they can be sent to other threads, and dropping one stops it and joins
//! its threads. Many live in one process; they share an open `/dev/kvm` and nothing else.
//!
//! ```
//! use bantam::config::{Console, MachineConfig, Size};
//! use bantam::machine::{Builder, ExitReason};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # if let Err(error) = bantam::hypervisor::Hypervisor::open() {
//! #     println!("skipped: {error}");
//! #     return Ok(());
//! # }
//! let config = MachineConfig {
//!     cpus: 2,
//!     memory: Size::mib(64),
//!     cmdline: "smp end=exit:7".into(),
//!     console: Console::Off,
//!     ..MachineConfig::default()
//! };
//! let running = Builder::new(config).build()?.resume()?;
//! let outcome = running.wait();
//! assert_eq!(outcome.reason, ExitReason::DebugExit(7));
//! # Ok(())
//! # }
//! ```
//!
//! Nothing that a guest does, and no argument of a caller, is a panic: what can go wrong is a `Result` or
//! a reason in the outcome. The library installs one signal handler, for the real-time signal
//! `SIGRTMIN + `[`KICK_SIGNAL_OFFSET`](hypervisor::KICK_SIGNAL_OFFSET), which takes vCPUs out of their
//! guests, and has no other state of the process's.

pub mod bench;
pub mod boot;
pub mod bus;
pub mod cli;
pub mod config;
pub mod console;
pub mod control;
pub mod devices;
pub mod doctor;
pub mod event;
pub mod hypervisor;
pub mod irq;
pub mod machine;
pub mod memory;
pub mod snapshot;
pub mod state;
pub mod streams;
pub mod timeline;
pub mod vcpu;
pub mod virtio;

#[cfg(test)]
mod testing;

/// The code in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
