//! The entropy device's configuration.

use serde::{Deserialize, Serialize};

use crate::config::DeviceConfig;

/// Random numbers of the host's for the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Entropy {}

impl DeviceConfig for Entropy {
    const MOST: usize = 1;
}
