//! `bantam ctl`.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::control::{Request, ask};

const EXAMPLES: &str = "\
Examples:
  bantam run --control vm.sock --balloon stats=1 --kernel vmlinux --initrd root.cpio
  bantam ctl vm.sock balloon 128M      take 128 MiB from the guest
  bantam ctl vm.sock metrics balloon0  see how far it is
  bantam ctl vm.sock pause";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Ctl {
    /// The machine's socket: what `bantam run --control` was given.
    path: PathBuf,
    /// Print the answer as one JSON object.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    request: Request,
}

impl Ctl {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let numbers = ask(&self.path, &self.request)?;
        let mut text = String::new();
        if self.json {
            text = format!("{}\n", serde_json::to_string(&numbers)?);
        } else {
            for (name, number) in numbers {
                writeln!(text, "{name} {number}")?;
            }
        }
        super::documents::print(text.as_bytes())
    }
}
