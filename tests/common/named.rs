//! Machines that have names, in a folder of the test's.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::process::{Ended, Process, bantam, finish, start};

/// The folder.
pub struct Named(pub TempDir);

impl Named {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = bantam(words);
        command.env("XDG_RUNTIME_DIR", self.0.path());
        command
    }

    pub fn start(&self, name: &str, options: &[&str]) -> Process {
        let words = ["run", "--memory", "32M", "--cmdline", "boot halt", "--name", name];
        let process = start(self.command(&words).args(options));
        process.stdout.wait_for("B");
        process
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.0.path().join("bantam").join(format!("{name}.sock"))
    }

    pub fn finish(&self, words: &[&str]) -> Ended {
        finish(&mut self.command(words))
    }

    /// What is printed on success.
    pub fn done(&self, words: &[&str]) -> String {
        let ended = self.finish(words);
        assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""), "{words:?}");
        ended.stdout
    }

    pub fn list(&self) -> Value {
        serde_json::from_str(&self.done(&["ps", "--json"])).unwrap()
    }
}
