//! `bantam config`.

use std::process::ExitCode;

use clap::Args;

use super::run::MachineArgs;

#[derive(Args, Debug)]
pub(super) struct Config {
    #[command(flatten)]
    machine: MachineArgs,
    /// Print JSON in place of TOML.
    #[arg(long)]
    json: bool,
}

impl Config {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = self.machine.resolve()?;
        let text = if self.json {
            format!("{}\n", serde_json::to_string_pretty(&config)?)
        } else {
            toml::to_string(&config)?
        };
        super::documents::print(text.as_bytes())
    }
}
