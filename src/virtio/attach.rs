//! From a device's configuration to a device: the same way for all.

use std::sync::Arc;

use thiserror::Error;

use super::Device;
use super::transport::Mmio;
use super::worker::{DeviceHandle, Doorbell, Worker};
use crate::config::{DeviceConfig, Devices, device_name, with_devices};
use crate::irq::IrqLine;
use crate::memory::GuestMemory;

/// What a device says when the host does not give what it needs.
pub type OpenError = Box<dyn std::error::Error + Send + Sync>;

/// Why a machine cannot have a device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The host does not give what the device needs.
    #[error("{name}")]
    Open {
        /// The device.
        name: String,
        /// Why.
        source: OpenError,
    },
    /// No event descriptors to be had.
    #[error("{name}: cannot make event descriptors")]
    Events {
        /// The device.
        name: String,
        /// What the host said.
        source: std::io::Error,
    },
}

/// What a device is told of its machine.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The device's name, for what it has to say.
    pub name: &'a str,
    /// Its number among those of its kind.
    pub index: usize,
    /// How many vCPUs there are.
    pub cpus: u32,
    /// The machine goes on from where it was saved.
    pub goes_on: bool,
}

/// A configuration that becomes a device.
pub trait Attach: DeviceConfig {
    /// Opens what the device needs of the host.
    ///
    /// # Errors
    /// The host does not give it.
    fn open(&self, place: &Place<'_>) -> Result<Box<dyn Device>, OpenError>;

    /// What the guest's kernel has to be told.
    fn kernel_words(&self, place: &Place<'_>) -> Option<String> {
        let _ = place;
        None
    }
}

/// A device, opened, before it is in a machine.
pub struct Opened {
    /// Its name, unique in its machine.
    pub name: String,
    /// The event loop that is to run it, if not the machine's own.
    pub iothread: Option<String>,
    /// What the guest's kernel has to be told.
    pub kernel_words: Option<String>,
    /// The device.
    pub device: Box<dyn Device>,
}

/// A device in a machine: the vCPUs' half, the event loop's half, and the way to command it.
pub struct Attached {
    /// The registers, for the bus.
    pub registers: Mmio,
    /// The device, for the event loop.
    pub worker: Worker,
    /// For commands.
    pub handle: DeviceHandle,
}

impl Opened {
    /// Gives the device its interrupt, its memory and its way past the exit loop.
    ///
    /// # Errors
    /// The host gives no event descriptors.
    pub fn attach(
        self,
        memory: &GuestMemory,
        line: Arc<dyn IrqLine>,
        doorbell: Option<Box<dyn Doorbell>>,
    ) -> Result<Attached, Error> {
        let (worker, front) = Worker::new(self.device, memory.clone(), line, doorbell)
            .map_err(|source| Error::Events { name: self.name, source })?;
        let handle = front.handle();
        Ok(Attached { registers: Mmio::new(front), worker, handle })
    }
}

fn open<T: Attach>(kind: &str, place: Place<'_>, config: &T, own: &mut Vec<Opened>) -> Result<Opened, Error> {
    let name = device_name(kind, place.index, config);
    if let Some(at) = own.iter().position(|device| device.name == name) {
        return Ok(own.remove(at));
    }
    let place = Place { name: &name, ..place };
    match config.open(&place) {
        Ok(device) => Ok(Opened {
            iothread: config.iothread().map(str::to_owned),
            kernel_words: config.kernel_words(&place),
            device,
            name,
        }),
        Err(source) => Err(Error::Open { name, source }),
    }
}

macro_rules! open_each {
    ($($name:ident: $config:ty, $help:literal;)*) => {
        /// Opens every device of a configuration, in the table's order: of a machine with so many vCPUs,
        /// that boots or `goes_on`. Of the embedder's own devices,
        /// one takes the place of that which has its name in the configuration; the others come last.
        ///
        /// # Errors
        /// The first that cannot be opened.
        pub fn open_all(
            devices: &Devices,
            cpus: u32,
            goes_on: bool,
            mut own: Vec<Opened>,
        ) -> Result<Vec<Opened>, Error> {
            let mut opened = Vec::new();
            $(
                for (index, config) in devices.$name.iter().enumerate() {
                    let place = Place { name: stringify!($name), index, cpus, goes_on };
                    opened.push(open(stringify!($name), place, config, &mut own)?);
                }
            )*
            opened.append(&mut own);
            Ok(opened)
        }
    };
}
with_devices!(open_each);
