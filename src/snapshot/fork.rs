//! Many machines out of one snapshot, each with an identity of its own.

use std::path::{Path, PathBuf};

use super::{Error, Restoring, Snapshot};
use crate::config::{Console, MachineConfig};
use crate::hypervisor::Hypervisor;
use crate::machine::{self, Builder, PausedMachine};
use crate::virtio::block::config::Overlay;
use crate::virtio::net::config::Mac;

/// In a name: where the number of the copy goes.
const NUMBER: &str = "{}";

impl Snapshot {
    /// The configuration of a copy with a number: that of [`Snapshot::config`], with
    ///
    /// - an overlay of its own over each disk that it writes, gone with the machine;
    /// - a new address for each network interface, and a tap of its own, made if need be, without an
    ///   address of the host's;
    /// - for the vsock device another cid, the saved one's and as many more as the number says, and one;
    /// - files and sockets of its own: their names with `.NUMBER` at the end, or with the number where the name
    ///   has `{}`. Taps have `-NUMBER`.
    /// - no console on standard input and output.
    #[must_use]
    pub fn copy_config(&self, number: usize) -> MachineConfig {
        let mut config = self.config();
        let devices = &mut config.devices;
        for disk in devices.disk.iter_mut().filter(|disk| !disk.readonly) {
            disk.overlay = Some(Overlay::Temp);
        }
        for net in &mut devices.net {
            net.mac = Some(Mac::random());
            net.tap = net.tap_name().map(|tap| numbered(tap, '-', number));
            (net.fd, net.ip) = (None, None);
        }
        for vsock in &mut devices.vsock {
            vsock.cid = vsock.cid.saturating_add(number as u64).saturating_add(1);
            vsock.uds = numbered_path(&vsock.uds, number);
        }
        let consoles = devices.virtio_console.iter_mut().map(|console| &mut console.stream);
        for console in consoles.chain([&mut config.console]) {
            match console {
                Console::Stdio => *console = Console::Off,
                Console::File(path) => *path = numbered_path(path, number),
                Console::Off | Console::Pty => {}
            }
        }
        config
    }

    /// Makes `count` machines that go on from here, each with the configuration of [`Self::copy_config`].
    /// `each` is given the number and the builder of every one, to change what it likes.
    ///
    /// # Errors
    /// One of them cannot be made: none is, and nothing is left behind.
    pub fn fork(
        &self,
        count: usize,
        how: &Restoring,
        mut each: impl FnMut(usize, Builder) -> Builder,
    ) -> Result<Vec<PausedMachine>, Error> {
        let hypervisor = Hypervisor::open().map_err(machine::Error::from)?;
        let mut made = Made::default();
        let mut machines = Vec::with_capacity(count);
        for index in 0..count {
            let machine = self.builder(self.copy_config(index), how.clone()).and_then(|builder| {
                let builder = each(index, builder.hypervisor(hypervisor.clone()));
                made.note(builder.config());
                Ok(builder.build()?)
            });
            machines.push(machine.map_err(|error| Error::Fork { index, count, source: Box::new(error) })?);
        }
        made.keep();
        Ok(machines)
    }
}

/// Files that the machines make and that stay when they are gone: overlays that have names, and output.
#[derive(Default)]
struct Made(Vec<PathBuf>);

impl Made {
    /// Those of a machine that is about to be made.
    fn note(&mut self, config: &MachineConfig) {
        let overlays = config.devices.disk.iter().filter_map(|disk| disk.overlay.as_ref());
        let overlays = overlays.filter_map(|overlay| match overlay {
            Overlay::Path(path) => Some(path),
            Overlay::Temp => None,
        });
        let consoles = config.devices.virtio_console.iter().map(|console| &console.stream);
        let outputs = consoles.chain([&config.console]).filter_map(|console| match console {
            Console::File(path) => Some(path),
            Console::Stdio | Console::Off | Console::Pty => None,
        });
        self.0.extend(overlays.chain(outputs).filter(|path| !path.exists()).cloned());
    }

    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.0 {
            // It may not have come to it.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn numbered(name: &str, separator: char, number: usize) -> String {
    if name.contains(NUMBER) {
        name.replace(NUMBER, &number.to_string())
    } else {
        format!("{name}{separator}{number}")
    }
}

fn numbered_path(path: &Path, number: usize) -> PathBuf {
    let name = path.file_name().and_then(|name| name.to_str());
    match name {
        Some(name) => path.with_file_name(numbered(name, '.', number)),
        // No text: it cannot have a place for the number.
        None => {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            name.into()
        }
    }
}
