//! The balloon's configuration.

use serde::{Deserialize, Serialize};

use crate::config::{DeviceConfig, MachineConfig, Size};

/// Takes memory from the guest for the host, and gives it back.
///
/// The guest's driver obeys or does not: a limit that has to hold is the machine's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Balloon {
    /// The name by which the balloon is spoken of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How much memory it is to take from the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Size>,
    /// A guest that runs out of memory may take back what the balloon has, without asking.
    pub deflate_on_oom: bool,
    /// Every so many seconds the guest says how it is with its memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<u32>,
    /// The guest goes on telling which pages it does not use; the host has them until it does.
    pub reporting: bool,
    /// When asked to, the guest tells once all pages that it does not use; the host has them until it
    /// does.
    ///
    /// A Linux guest that runs short of memory during the round takes pages back before the host has
    /// answered, and may then find them cleared: ask a guest that is at rest, or use `reporting`.
    pub hinting: bool,
}

impl DeviceConfig for Balloon {
    const HELP: &'static str =
        "  target=SIZE          how much it takes from the start; `bantam ctl` changes it [0]
  deflate-on-oom       a guest that runs out of memory may take it back
  stats=SECONDS        the guest tells so often how it is with its memory
  reporting            the guest gives back what it does not use, all the time
  hinting              the guest gives back what it does not use, when asked
  id=NAME
  Example: --balloon target=64M,stats=1,reporting --control vm.sock";

    const MOST: usize = 1;

    fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    fn check(&self) -> Result<(), String> {
        match self.stats {
            Some(0) => Err("stats=0: give a number of seconds from 1 on, or leave it out".to_owned()),
            _ => Ok(()),
        }
    }

    fn check_within(&self, machine: &MachineConfig) -> Result<(), String> {
        match self.target.filter(|target| *target > machine.memory) {
            Some(target) => Err(format!(
                "a target of {target} is more than the guest's memory of {}: give less",
                machine.memory
            )),
            None => Ok(()),
        }
    }
}
