//! `bantam snapshot`: making snapshots, looking at them and removing them.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{ctl::Address, documents, progress::Progress, terminal};
use crate::config::Size;
use crate::control::{Request, SnapshotRequest};
use crate::snapshot::folder::{self, Folder};
use crate::snapshot::info::Info;
use crate::snapshot::verify::verify;

const EXAMPLES: &str = "\
Examples:
  bantam run --name web --kernel vmlinux --root path=root.ext4
  bantam snapshot create web web.snap --live --track
  bantam snapshot create web web-2.snap --diff-of web.snap
  bantam snapshot merge web-2.snap --to web-whole.snap
  bantam snapshot info web.snap
  bantam snapshot verify web.snap && bantam snapshot rm old.snap";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Snapshot {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Save a running machine, which goes on as it was.
    Create {
        /// The machine: its name or, with a '/' in it, the path of its socket.
        #[arg(value_name = "NAME|SOCKET")]
        machine: Address,
        #[command(flatten)]
        wanted: SnapshotRequest,
        /// Print the answer as one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print what a snapshot is of, and where it can be restored.
    Info {
        /// The snapshot's directory.
        path: PathBuf,
        /// Print everything that is in its state, as one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Read all of a snapshot, and of those that it is a diff to, and compare the checksums.
    Verify {
        /// The snapshot's directory.
        path: PathBuf,
    },
    /// Make one snapshot of a diff and of those that it is a diff to: the new one needs nothing of their memory.
    ///
    /// Diffs to the old one stay diffs to the old one.
    Merge {
        /// The directory of the diff.
        path: PathBuf,
        /// The directory that becomes the new snapshot; a snapshot that is there already is replaced.
        #[arg(long, value_name = "NEW")]
        to: PathBuf,
        /// Print the new snapshot's id and size as one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Remove a snapshot, if none beside it needs it: diffs to it, and those of machines that were restored from
    /// it and whose disks lie over its copies.
    Rm {
        /// The snapshot's directory.
        path: PathBuf,
        /// Remove it all the same: what needs it cannot be restored any more.
        #[arg(long)]
        force: bool,
    },
}

impl Snapshot {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Create { machine, wanted, json } => {
                machine.ask_and_print(Request::Snapshot(wanted), json)
            }
            Command::Info { path, json } => {
                let info = Info::of(&Folder::open(&path)?)?;
                let text =
                    if json { format!("{}\n", serde_json::to_string_pretty(&info)?) } else { table(&info) };
                documents::print(text.as_bytes())
            }
            Command::Verify { path } => {
                let folder = Folder::open(&path)?;
                let bases = folder.bases()?;
                for folder in [&folder].into_iter().chain(&bases) {
                    let mut bar = Progress::new("verify");
                    verify(folder, &mut |done, total| {
                        bar.show(done, total);
                        ControlFlow::Continue(())
                    })?;
                }
                Ok(ExitCode::SUCCESS)
            }
            Command::Merge { path, to, json } => merge(&path, &to, json),
            Command::Rm { path, force } => {
                if let Some(other) = folder::dependants(&path)?.first().filter(|_| !force) {
                    let (path, other) = (path.display(), other.display());
                    anyhow::bail!("{other} needs {path}: remove that one first, or give --force");
                }
                folder::remove(&path)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// Merges a diff and its bases, and prints what came of it.
fn merge(path: &Path, to: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let snapshot = crate::snapshot::Snapshot::open(path)?;
    let mut bar = Progress::new("merge");
    let merged = snapshot.merge(to, &mut |done, total| {
        bar.show(done, total);
        ControlFlow::Continue(())
    });
    drop(bar);
    let saved =
        merged.with_context(|| format!("{} cannot be merged into {}", path.display(), to.display()))?;
    let (id, bytes) = (saved.id.to_string(), saved.memory_bytes);
    let text = if json {
        format!("{}\n", json!({ "id": id, "memory_bytes": bytes }))
    } else {
        format!("id {id}\nmemory_bytes {bytes}\n")
    };
    documents::print(text.as_bytes())
}

/// The lines that a user wants to know; `--json` has the rest.
fn table(info: &Info) -> String {
    let manifest = &info.manifest;
    let config = &manifest.config;
    let host = &manifest.host;
    let path = |path: &Path| path.display().to_string();
    let kernel = config.kernel.as_deref().map_or_else(|| "the embedded guest".to_owned(), path);
    let mut rows = vec![
        ("id", manifest.id.to_string()),
        ("created", format!("{} (seconds since 1970)", manifest.created)),
        ("program", format!("bantam {}, format {}", manifest.program, info.format_version)),
        ("machine", format!("{} vCPUs, {} of memory, {kernel}", config.cpus, config.memory)),
        (
            "on disk",
            format!("{} KiB of memory, {} bytes of state", info.memory_bytes_on_disk >> 10, info.state_bytes),
        ),
        (
            "host",
            format!(
                "{} family {} model {}, TSC {} kHz, Linux {}",
                host.vendor, host.family, host.model, host.tsc_khz, host.kernel
            ),
        ),
    ];
    if let Some(base) = &manifest.base {
        let runs = manifest.image.runs.iter().flatten();
        let pages = runs.fold(0_u64, |pages, run| pages.saturating_add(run.count));
        rows.push(("diff to", format!("{} (id {}), {pages} pages changed", path(&base.path), base.id)));
    }
    if let Some(bytes) = info.working_set_bytes {
        rows.push(("working set", format!("recorded, {bytes} bytes")));
    }
    for copy in &manifest.disks {
        rows.push(("disk", format!("{}: a copy of {} in {}", copy.device, Size::new(copy.len), copy.file)));
    }
    for (device, below) in &info.disks_lie_over {
        rows.push(("disk", format!("{device}: its copy lies over {}", path(below))));
    }
    for part in &info.sections {
        let what =
            format!("{} {} version {}, {} bytes", part.id, part.kind, part.version, part.payload.len());
        rows.push(("part", what));
    }
    let mut text = String::new();
    for (name, value) in rows {
        let _ = writeln!(text, "{name:<12} {}", terminal::harmless(&value));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::testing::{manifest, save};

    fn run(command: Command) -> anyhow::Result<ExitCode> {
        Snapshot { command }.run()
    }

    #[test]
    fn a_snapshot_is_described_verified_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snap");
        let saved = manifest(1);
        save(&path, 1, &saved).unwrap();
        let text = table(&Info::of(&Folder::open(&path).unwrap()).unwrap());
        for expected in
            [saved.id.to_string().as_str(), "16M of memory", "the embedded guest", "vcpu0 registers"]
        {
            assert!(text.contains(expected), "no '{expected}' in:\n{text}");
        }
        run(Command::Verify { path: path.clone() }).unwrap();
        run(Command::Rm { path: path.clone(), force: false }).unwrap();
        assert!(!path.exists());
        for command in
            [Command::Verify { path: path.clone() }, Command::Rm { path: path.clone(), force: false }]
        {
            let error = run(command).unwrap_err().to_string();
            assert!(error.contains("there is no snapshot"), "{error}");
        }
    }
}
