//! Instructions, counted by valgrind's callgrind.

// It is spoken to by instructions that do nothing elsewhere.
#![allow(unsafe_code)]

use std::arch::asm;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, ensure};

/// Callgrind's requests: its letters, then their number (`callgrind.h`).
const TOGGLE_COLLECT: u64 = (b'C' as u64) << 24 | (b'T' as u64) << 16 | 2;

const MOST_FUNCTIONS: usize = 10;

/// Starts to count, or stops to. Without valgrind it does nothing.
pub(crate) fn toggle() {
    let request = [TOGGLE_COLLECT, 0, 0, 0, 0, 0];
    // SAFETY: four rotations by 128 bits together leave RDI as it was, and exchanging a register with
    // itself does nothing. Valgrind takes the sequence for a request, whose address is in RAX: it reads the
    // six numbers there and writes its answer to RDX.
    unsafe {
        asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") request.as_ptr(),
            inout("rdx") 0_u64 => _,
        );
    }
}

/// Its version, if it is there.
pub(crate) fn version() -> Option<String> {
    let output = Command::new("valgrind").arg("--version").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What one run of a case took.
pub(crate) struct Run {
    pub(crate) instructions: u64,
    /// The costliest functions: instructions, share, name.
    pub(crate) functions: Vec<String>,
}

/// Runs a case of this program for so many turns.
pub(crate) fn run(case: u32, turns: u32, disk: &Path, folder: &Path) -> anyhow::Result<Run> {
    let report = folder.join("callgrind.out");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--quiet"])
        .arg(format!("--callgrind-out-file={}", report.display()))
        .arg(env::current_exe()?)
        .args(["--run", &case.to_string(), &turns.to_string(), "--disk"])
        .arg(disk)
        .output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", complaint.trim());
    let text = fs::read_to_string(&report)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let instructions = total.context("callgrind says no total")?.trim().parse()?;
    Ok(Run { instructions, functions: functions(&report) })
}

/// The lines of callgrind_annotate(1) about functions, without files and objects.
fn functions(report: &Path) -> Vec<String> {
    let output = Command::new("callgrind_annotate").arg("--threshold=99").arg(report).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let (cost, place) = line.split_once("%)")?;
        let (_, name) = place.split_once(':')?;
        let name = name.rsplit_once(" [").map_or(name, |(name, _)| name);
        Some(format!("{}%)  {name}", cost.trim()))
    });
    lines.take(MOST_FUNCTIONS).collect()
}
