//! The entropy device's configuration.

use serde::{Deserialize, Serialize};

use crate::config::{DeviceConfig, Rate};

/// Random numbers of the host's for the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Entropy {
    /// The name by which the device is spoken of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How much the guest gets in a second; no limit without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

impl DeviceConfig for Entropy {
    const HELP: &'static str = "  rate=RATE            limit: BYTES[/REQUESTS][:BURST[/REQUESTS]] a second
  id=NAME
  Examples: --entropy   --entropy rate=4K:64K";

    const MOST: usize = 1;

    fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }
}
