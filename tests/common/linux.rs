//! The Linux guest of `resources/linux`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::{Ended, Process, bantam, start};
use super::{kvm, skip};

/// Kernel parameters that a KVM which interprets kernel code needs, and others do not mind.
pub const CMDLINE: &str = include_str!("../../resources/linux/cmdline");
/// How long a guest may take before it counts as hanging.
pub const PATIENCE: Duration = Duration::from_secs(900);

/// The folder with the guest's files, or a printed reason why the test is skipped.
pub fn linux() -> Option<PathBuf> {
    let folder = match env::var_os("BANTAM_LINUX") {
        Some(folder) => PathBuf::from(folder),
        None => return skip("BANTAM_LINUX is not set; `make test` builds a kernel and sets it"),
    };
    kvm().map(|_| folder)
}

/// `bantam run` of a guest that does these jobs, with these settings, and powers off.
pub fn devices(folder: &Path, memory: u32, jobs: &str, settings: &str) -> Command {
    let mut command = bantam(["run"]);
    command.arg("--kernel").arg(folder.join("vmlinux")).args(["--memory", &format!("{memory}M")]);
    command
        .arg("--cmdline")
        .arg(format!("quiet {} bantam.init=devices bantam.jobs={jobs} {settings}", CMDLINE.trim()));
    command
}

/// Starts it.
pub fn boot(command: &mut Command) -> Process {
    start(command).patient(PATIENCE)
}

/// What a guest's jobs said.
pub struct Jobs(String);

impl Jobs {
    /// Waits for the guest's end, which has to be a power-off, with nothing said about it by the VMM.
    pub fn finish(process: Process) -> Self {
        Self::of(&process.finish(), 0)
    }

    /// The jobs of a guest that has ended with this exit code; each has to have gone well.
    pub fn of(ended: &Ended, code: i32) -> Self {
        let text = ended.stdout.replace('\r', "");
        assert_eq!(ended.code(), code, "{text}\n{}", ended.stderr);
        let said = if code == 4 { "bantam: the guest asked for a reset\n" } else { "" };
        assert_eq!(ended.stderr, said, "{text}");
        let jobs = text
            .split_once("=== bantam devices\n")
            .and_then(|(_, rest)| rest.split_once("=== end of devices"));
        let jobs = jobs.unwrap_or_else(|| panic!("no jobs in:\n{text}\n{}", ended.stderr)).0;
        assert!(!jobs.lines().any(|line| line.ends_with(": failed")), "{jobs}");
        Self(jobs.to_owned())
    }

    /// All that the jobs said.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// All that one job said.
    pub fn job(&self, name: &str) -> &str {
        let job = self.0.split("=== job ").find_map(|job| job.strip_prefix(name)?.strip_prefix('\n'));
        job.unwrap_or_else(|| panic!("no job '{name}' in:\n{}", self.0))
    }

    /// The lines of a job that begin so.
    pub fn lines<'a>(&'a self, name: &str, start: &'a str) -> Vec<&'a str> {
        self.job(name).lines().filter(|line| line.starts_with(start)).collect()
    }

    /// The one line of a job that begins so.
    pub fn line<'a>(&'a self, name: &str, start: &'a str) -> &'a str {
        match self.lines(name, start)[..] {
            [line] => line,
            _ => panic!("not one line '{start}…' in:\n{}", self.job(name)),
        }
    }
}
