//! `bantam ctl`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;
use serde_json::Value;

use super::{progress::Progress, terminal};
use crate::control::{self, Folder, Name, ParseNameError, Request, ask_and_watch};

const EXAMPLES: &str = "\
Examples:
  bantam run --name web --balloon stats=1 --kernel vmlinux --initrd root.cpio
  bantam ctl web balloon 128M      take 128 MiB from the guest
  bantam ctl web metrics balloon0  see how far it is
  bantam ctl web pause
  bantam ctl web snapshot web.snap --live
  bantam ctl ./vm.sock info        of a machine with --control vm.sock";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Ctl {
    /// The machine: its name or, with a '/' in it, the path of its socket.
    #[arg(value_name = "NAME|PATH")]
    machine: Address,
    /// Print the answer as one JSON object.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    request: Request,
}

impl Ctl {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        self.machine.ask_and_print(self.request, self.json)
    }
}

/// A line for a value; an object has one for each of its own, with dots in their names, and an array one
/// for each of its values.
fn write_field(text: &mut String, name: &str, value: &Value) -> std::fmt::Result {
    match value {
        Value::Object(fields) => {
            fields.iter().try_for_each(|(field, value)| write_field(text, &format!("{name}.{field}"), value))
        }
        Value::Array(values) => values.iter().try_for_each(|value| writeln!(text, "{name} {value}")),
        Value::Null => Ok(()),
        Value::String(word) => writeln!(text, "{name} {}", terminal::harmless(word)),
        value => writeln!(text, "{name} {value}"),
    }
}

/// Where a machine is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Name(Name),
    Socket(PathBuf),
}

impl FromStr for Address {
    type Err = ParseNameError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        if word.contains('/') { Ok(Self::Socket(word.into())) } else { word.parse().map(Self::Name) }
    }
}

impl Address {
    /// Asks the machine, shows how far it is if that takes long, and prints the answer.
    pub(super) fn ask_and_print(&self, request: Request, json: bool) -> anyhow::Result<ExitCode> {
        let request = request.with_absolute_paths();
        let mut bar = Progress::new("the machine");
        let watch = |done, total| bar.show(done, total);
        let fields = self.ask(|socket| ask_and_watch(socket, &request, watch))?;
        drop(bar);
        let mut text = String::new();
        if json {
            text = format!("{}\n", serde_json::to_string(&fields)?);
        } else {
            for (name, value) in &fields {
                write_field(&mut text, name, value)?;
            }
        }
        super::documents::print(text.as_bytes())
    }

    /// Asks the machine that is there; one that is not is told by what it was called.
    pub(super) fn ask<T>(
        &self,
        ask: impl FnOnce(&Path) -> Result<T, control::Error>,
    ) -> Result<T, control::Error> {
        match self {
            Self::Socket(path) => ask(path),
            Self::Name(name) => {
                let folder = Folder::find()?.ok_or_else(|| control::Error::NoSuchName(name.clone()))?;
                ask(&folder.socket(name)).map_err(|error| match error {
                    control::Error::Connect { .. } => control::Error::NoSuchName(name.clone()),
                    other => other,
                })
            }
        }
    }
}
