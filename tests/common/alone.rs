//! A process of a test's own, and what it has open and running.

use std::env;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::Instant;

use bantam::hypervisor::Hypervisor;

use super::process::finish;
use super::{PATIENCE, kvm};

/// Set in the process that a test has for itself.
const ALONE: &str = "BANTAM_TEST_ALONE";

/// Runs the rest of the test with no other beside it: in a process that runs only this one.
pub fn alone(test: &str, body: impl FnOnce(&Hypervisor)) {
    if env::var_os(ALONE).is_some() {
        body(&Hypervisor::open().unwrap());
        return;
    }
    if kvm().is_none() {
        return;
    }
    let mut command = Command::new(env::current_exe().unwrap());
    // With one thread the harness runs the test on it, and has no other.
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(ALONE, "1");
    let ended = finish(&mut command);
    let passed = ended.status.success() && ended.stdout.contains("1 passed");
    assert!(passed, "{}\n{}", ended.stdout, ended.stderr);
}

/// What a process has open and running.
pub struct Counted {
    files: Vec<String>,
    threads: usize,
}

impl Counted {
    pub fn now() -> Self {
        Self { files: files(), threads: threads().len() }
    }

    /// Fails if there is more or less than now. A thread that was joined may still be leaving.
    pub fn assert_same(&self, what: &str) {
        assert_eq!(files(), self.files, "{what}: open files");
        let deadline = Instant::now() + PATIENCE;
        while threads().len() != self.threads {
            assert!(Instant::now() < deadline, "{what}: {} threads, now {:?}", self.threads, threads());
            thread::yield_now();
        }
    }
}

/// What the open files are, sorted.
fn files() -> Vec<String> {
    let links = fs::read_dir("/proc/self/fd").unwrap().map(|entry| fs::read_link(entry.unwrap().path()));
    // The listing's own descriptor is among them, and gone by now.
    let mut files: Vec<_> = links.flatten().map(|file| file.display().to_string()).collect();
    files.sort();
    files
}

/// The threads' names.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    // A thread that has left since has no name.
    tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok()).collect()
}
