//! The programs that are measured.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, ensure};

pub(crate) const QEMU: &str = "qemu-system-x86_64";
/// Bantam's embedded guest, for other monitors.
pub(crate) const GUEST: &str = concat!(env!("OUT_DIR"), "/guest.elf");

/// Bantam: `BANTAM_BIN`, or what Cargo built for the benchmark.
pub(crate) fn bantam() -> anyhow::Result<PathBuf> {
    let program = env::var_os("BANTAM_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_bantam").into());
    fs::canonicalize(&program).with_context(|| program.display().to_string())
}

/// A program of the host's.
pub(crate) fn installed(name: &str) -> anyhow::Result<PathBuf> {
    let program = PathBuf::from(name);
    ensure!(version(&program).is_some(), "{name} is not installed");
    Ok(program)
}

/// What a program calls itself.
pub(crate) fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}
