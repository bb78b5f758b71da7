//! Disks: what a guest's block device stands on.
//!
//! A [`Disk`](config::Disk) is opened as an [`Image`](image::Image), which starts an
//! [`Engine`](engine::Engine) for each queue; the engine takes [`Operation`](engine::Operation)s and tells
//! of them when they are done.

pub mod config;
pub mod engine;
mod host;
pub mod image;
mod qcow2;
mod raw;

#[cfg(test)]
mod tests;
