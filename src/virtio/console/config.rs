//! The configuration of a virtio console.

use serde::{Deserialize, Serialize};

use crate::config::{Console as Stream, DeviceConfig, MachineConfig};

/// A console beside the serial one, for drivers that know it: `/dev/hvc0` in Linux.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Console {
    /// The name by which the console is spoken of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where it goes. Written `where`.
    #[serde(rename = "where")]
    pub stream: Stream,
}

impl Default for Console {
    fn default() -> Self {
        Self { id: None, stream: Stream::Pty }
    }
}

impl DeviceConfig for Console {
    const HELP: &'static str =
        "  where=WHERE          pty, off, file:PATH, or stdio, which takes --console off [pty]
  id=NAME
  Example: --console off --virtio-console where=stdio --cmdline console=hvc0";

    fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// There is one standard input, and one standard output.
    fn check_within(&self, machine: &MachineConfig) -> Result<(), String> {
        let others = || machine.devices.virtio_console.iter().filter(|other| other.stream == Stream::Stdio);
        match self.stream {
            Stream::Stdio if machine.console == Stream::Stdio => {
                Err("where=stdio, but there is the serial console: give --console off, or another where"
                    .to_owned())
            }
            Stream::Stdio if others().count() > 1 => {
                Err("where=stdio for two consoles: give one of them another where".to_owned())
            }
            _ => Ok(()),
        }
    }
}
