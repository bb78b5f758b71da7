//! The Linux guest of `resources/linux`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::{Process, finish, start};
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

/// Whether these programs are there, or a printed reason why the test is skipped.
pub fn tools(programs: &[&str]) -> Option<()> {
    for program in programs {
        // Each knows this, or complains about it; it is the start that counts.
        if Command::new(program).arg("--version").output().is_err() {
            return skip(&format!("{program} is not installed; see resources/linux/host-tools.sh"));
        }
    }
    Some(())
}

/// A copy of the guest's root file system.
pub fn root(linux: &Path, folder: &Path) -> PathBuf {
    let path = folder.join("root.ext4");
    fs::copy(linux.join("root.ext4"), &path).unwrap();
    path
}

/// The file system in this raw image is clean, not only in its own words.
pub fn assert_clean(image: &Path) {
    let checked = finish(Command::new("fsck.ext4").arg("-fn").arg(image));
    assert_eq!(checked.code(), 0, "{}\n{}", checked.stdout, checked.stderr);
}

/// What is in this qcow2 image, as another program sees it.
pub fn to_raw(overlay: &Path, image: &Path) {
    let convert = ["convert", "-f", "qcow2", "-O", "raw"];
    let converted = finish(Command::new("qemu-img").args(convert).arg(overlay).arg(image));
    assert_eq!(converted.code(), 0, "{}", converted.stderr);
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
        let ended = process.finish();
        assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""), "{}", ended.stdout);
        Self::in_text(&ended.stdout)
    }

    /// The jobs that a guest tells of; each has to have gone well.
    pub fn in_text(text: &str) -> Self {
        let text = text.replace('\r', "");
        let jobs = text
            .split_once("=== bantam devices\n")
            .and_then(|(_, rest)| rest.split_once("=== end of devices"));
        let jobs = jobs.unwrap_or_else(|| panic!("no jobs in:\n{text}")).0;
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
