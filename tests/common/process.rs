//! The `bantam` binary as a child process.

// Signals and waiting without reaping are C calls.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::{PATIENCE, Screen};

/// The command with these arguments, as a user with a plain environment gives it.
pub fn bantam<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bantam"));
    command.args(arguments).env_remove("RUST_BACKTRACE").env_remove("RUST_LOG");
    // A test runner in the background ignores some signals, and its children would too.
    // SAFETY: signal(2) may be called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        });
    }
    command
}

/// `bantam run` of the embedded guest at these words.
pub fn guest(words: &str) -> Command {
    bantam(["run", "--memory", "32M", "--cmdline", words])
}

/// A process that runs, with its output collected. It is killed if the test drops it.
pub struct Process {
    child: Child,
    pub stdin: Option<ChildStdin>,
    pub stdout: Screen,
    pub stderr: Screen,
    what: String,
    patience: Duration,
}

/// How a process ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub stdout_bytes: Vec<u8>,
}

impl Ended {
    /// Its exit code; fails if a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by signal {:?}: {self:?}", self.status.signal()))
    }
}

/// Starts a command with pipes for whatever it has not set itself.
pub fn start(command: &mut Command) -> Process {
    start_with(command, Stdio::piped())
}

/// Starts a command with this standard input.
pub fn start_with(command: &mut Command, stdin: Stdio) -> Process {
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Process {
        stdin: child.stdin.take(),
        stdout: Screen::follow(child.stdout.take().unwrap()),
        stderr: Screen::follow(child.stderr.take().unwrap()),
        child,
        what: format!("{command:?}"),
        patience: PATIENCE,
    }
}

/// Runs a command to its end, without input.
pub fn finish(command: &mut Command) -> Ended {
    start_with(command, Stdio::null()).finish()
}

impl Process {
    /// For a process whose end takes longer.
    pub fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    pub fn pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    /// Types at its standard input.
    pub fn send(&mut self, text: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().expect("standard input is a pipe, and open");
        stdin.write_all(text.as_ref()).unwrap();
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so its process id is its own.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0, "signal {signal}");
    }

    /// Waits for its end, its standard input left as it is.
    pub fn finish(mut self) -> Ended {
        let status = wait(&mut self.child, &self.what, self.patience, || {
            format!("stdout:\n{}\nstderr:\n{}", self.stdout.text(), self.stderr.text())
        });
        let stdout_bytes = self.stdout.wait_for_end(self.patience);
        let stderr = self.stderr.wait_for_end(self.patience);
        Ended {
            status,
            stdout: String::from_utf8_lossy(&stdout_bytes).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            stdout_bytes,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Of a test that has failed; one that has ended is not signalled.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a child's end; kills it and fails if that does not come.
pub fn wait(child: &mut Child, what: &str, patience: Duration, said: impl Fn() -> String) -> ExitStatus {
    let (ended, waiting) = channel();
    let pid = child.id();
    let thread = thread::spawn(move || {
        // SAFETY: the child stays unreaped, so the process id stays its own; the pointer is to a
        // live siginfo_t, of which all zeroes is a valid value.
        let _ = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PID, pid, &raw mut info, libc::WEXITED | libc::WNOWAIT)
        };
        let _ = ended.send(());
    });
    let timely = waiting.recv_timeout(patience).is_ok();
    if !timely {
        let _ = child.kill();
    }
    thread.join().unwrap();
    let status = child.wait().unwrap();
    assert!(timely, "{what}: no end after {patience:?}\n{}", said());
    status
}
