//! The block device and what it stands on.
//!
//! A [`Disk`] is opened as an [`Image`], which starts an
//! [`Engine`](engine::Engine) for each queue; the engine takes [`Operation`](engine::Operation)s and tells
//! of them when they are done.

pub mod config;
pub mod engine;
mod host;
pub mod image;
mod qcow2;
mod raw;

mod device;
mod request;

pub use self::qcow2::{backing_files, keep_backing};

use self::config::{Disk, MAX_QUEUES};
use self::device::Block;
use self::image::Image;
use super::pace::Pace;
use super::{Attach, Device, OpenError, Place};

impl Attach for Disk {
    fn open(&self, place: &Place<'_>) -> Result<Box<dyn Device>, OpenError> {
        let pace = Pace::new(self.rate.as_ref())?;
        let for_each_cpu = u16::try_from(place.cpus).unwrap_or(MAX_QUEUES).min(MAX_QUEUES);
        let serial = self.serial.as_deref().unwrap_or(place.name);
        let queues = self.queues.unwrap_or(for_each_cpu);
        Ok(Box::new(Block::new(place.name.to_owned(), Image::open(self)?, serial, queues, pace)?))
    }

    /// Linux names virtio disks in their order: `vda` to `vdz`, then `vdaa`.
    fn kernel_words(&self, place: &Place<'_>) -> Option<String> {
        let mut letters = Vec::new();
        let mut index = place.index + 1;
        while index > 0 {
            index -= 1;
            letters.push(char::from(b'a' + u8::try_from(index % 26).unwrap_or_default()));
            index /= 26;
        }
        let name: String = letters.iter().rev().collect();
        let access = if self.readonly { "ro" } else { "rw" };
        self.root.then(|| format!("root=/dev/vd{name} {access}"))
    }
}

#[cfg(test)]
mod tests;
