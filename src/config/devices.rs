//! The table of virtio devices, and what their configurations have in common.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Error, MachineConfig};

/// The one list of devices: the name of the option and of the key in a file, the type of its
/// configuration, and what the option's help says. Everything that has to know all devices goes
/// through this.
macro_rules! with_devices {
    ($then:ident) => {
        $then! {
            disk: crate::virtio::block::config::Disk,
                "A disk of a file or a block device.";
            net: crate::virtio::net::config::Net,
                "A network interface on a tap of the host's.";
            vsock: crate::virtio::vsock::config::Vsock,
                "Sockets between the guest and programs on the host.";
            entropy: crate::virtio::entropy::config::Entropy,
                "Random numbers of the host's, the guest's /dev/hwrng.";
            balloon: crate::virtio::balloon::config::Balloon,
                "Takes memory from the guest and gives it back.";
            virtio_console: crate::virtio::console::config::Console,
                "A console beside the serial one, the guest's /dev/hvc0.";
        }
    };
}
pub(crate) use with_devices;

/// What the configuration of every virtio device can tell.
pub trait DeviceConfig {
    /// The keys, a line each with what it means and what it is without being given, then examples.
    const HELP: &'static str;

    /// Most of them in a machine.
    const MOST: usize = usize::MAX;

    /// The device's own name.
    fn id(&self) -> Option<&str> {
        None
    }

    /// The name of the event loop that is to run the device, if not the machine's own.
    fn iothread(&self) -> Option<&str> {
        None
    }

    /// Checks what can be checked without looking at the host.
    ///
    /// # Errors
    /// What is wrong, as the end of a sentence that begins with the device's name.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Checks that it fits the rest of its machine.
    ///
    /// # Errors
    /// What is wrong, as the end of a sentence that begins with the device's name.
    fn check_within(&self, machine: &MachineConfig) -> Result<(), String> {
        let _ = machine;
        Ok(())
    }
}

macro_rules! define {
    ($($name:ident: $config:ty, $help:literal;)*) => {
        /// The virtio devices, in the order in which the guest finds them.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Devices {
            $(
                #[doc = $help]
                #[serde(skip_serializing_if = "Vec::is_empty")]
                pub $name: Vec<$config>,
            )*
        }

        impl Devices {
            /// Whether there are none.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                true $(&& self.$name.is_empty())*
            }

            /// Checks each device, and that they fit together and into their machine.
            ///
            /// # Errors
            /// The first thing that is wrong.
            pub(super) fn validate(&self, machine: &MachineConfig) -> Result<(), Error> {
                let mut ids = BTreeSet::new();
                $(check(stringify!($name), &self.$name, machine, &mut ids)?;)*
                Ok(())
            }
        }
    };
}
with_devices!(define);

impl Devices {
    /// The disk of this name, by its number.
    #[must_use]
    pub fn disk_number(&self, name: &str) -> Option<usize> {
        let mut disks = self.disk.iter().enumerate();
        disks.find(|(index, disk)| device_name("disk", *index, *disk) == name).map(|(index, _)| index)
    }
}

/// The name of a device: its own, or its kind with its number.
#[must_use]
pub fn device_name(kind: &str, index: usize, config: &impl DeviceConfig) -> String {
    config.id().map_or_else(|| format!("{kind}{index}"), str::to_owned)
}

fn check<T: DeviceConfig>(
    kind: &'static str,
    all: &[T],
    machine: &MachineConfig,
    ids: &mut BTreeSet<String>,
) -> Result<(), Error> {
    if all.len() > T::MOST {
        return Err(Error::TooManyDevices { kind, most: T::MOST });
    }
    for (index, device) in all.iter().enumerate() {
        let name = device_name(kind, index, device);
        if name.is_empty()
            || !name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
        {
            return Err(Error::DeviceId(name));
        }
        let fits = device.check().and_then(|()| device.check_within(machine));
        fits.map_err(|reason| Error::Device { name: name.clone(), reason })?;
        if ids.contains(&name) {
            return Err(Error::SameId(name));
        }
        ids.insert(name);
    }
    Ok(())
}
