//! The machine, and the tree, that figures come from.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// Where and of what figures were taken.
#[derive(Debug, Serialize)]
pub(crate) struct Fingerprint {
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    /// KVM's modules for a processor vendor: `kvm_intel`, `kvm_amd`, or another way to make guests.
    pub(crate) kvm: Vec<String>,
    /// Runnable threads in the last minute. Where there are more than cores, medians are of little
    /// worth: what is compared then waits for a core more often than it runs.
    pub(crate) load: f64,
}

impl Fingerprint {
    /// Of this host, now. What the host does not tell is empty.
    pub(crate) fn take() -> Self {
        Self {
            date: output("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            commit: commit(),
            cpu: cpu().unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease"),
            kvm: kvm_modules(),
            load: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        }
    }

    /// Whether the host has other things to do.
    pub(crate) fn is_busy(&self) -> bool {
        u32::try_from(self.cores).is_ok_and(|cores| self.load > f64::from(cores) / 2.0)
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// What a command prints; nothing if it fails.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    output
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

fn commit() -> String {
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"]);
    let changed = !output("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
    if changed { format!("{commit}, changed") } else { commit }
}

fn cpu() -> Option<String> {
    let cpus = read("/proc/cpuinfo");
    let line = cpus.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

fn kvm_modules() -> Vec<String> {
    let names = fs::read_dir("/sys/module").into_iter().flatten().flatten();
    let mut modules: Vec<_> = names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("kvm_"))
        .collect();
    modules.sort();
    modules
}
