//! The command on a terminal: its keys, and its settings while a guest has it and afterwards.

// A pseudo-terminal and its settings are C calls.
#![allow(unsafe_code)]
// The helpers here are a test's too: they may fail as loudly.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use common::process::{guest, wait};
use common::{PATIENCE, Screen, kvm};

/// A terminal with a command on it, as its controlling terminal.
struct Terminal {
    keyboard: File,
    screen: Screen,
    child: Child,
    before: Settings,
}

/// All of termios that can be told apart.
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    flags: [libc::tcflag_t; 4],
    characters: [libc::cc_t; libc::NCCS],
    speed: libc::speed_t,
}

impl Settings {
    fn of(terminal: &File) -> Self {
        // SAFETY: all zeroes is a valid termios; the descriptor is open, the pointer is to a live one.
        let settings = unsafe {
            let mut settings: libc::termios = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(terminal.as_raw_fd(), &raw mut settings), 0);
            settings
        };
        Self {
            flags: [settings.c_iflag, settings.c_oflag, settings.c_cflag, settings.c_lflag],
            characters: settings.c_cc,
            speed: settings.c_ospeed,
        }
    }

    fn is_raw(&self) -> bool {
        let [input, _, _, local] = self.flags;
        local & (libc::ECHO | libc::ICANON | libc::ISIG | libc::IEXTEN) == 0
            && input & (libc::ICRNL | libc::IXON) == 0
    }
}

impl Terminal {
    fn start(command: &mut Command) -> Self {
        let (mut master, mut slave) = (-1, -1);
        // SAFETY: two numbers to write to, and no name, settings or size.
        let opened = unsafe {
            libc::openpty(
                &raw mut master,
                &raw mut slave,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
        assert_eq!(opened, 0, "{}", io::Error::last_os_error());
        // SAFETY: both descriptors are new and nobody else's.
        let (master, slave) = unsafe { (File::from_raw_fd(master), File::from_raw_fd(slave)) };
        // Settings that nobody would put there by accident.
        // SAFETY: as in `Settings::of`.
        unsafe {
            let mut settings: libc::termios = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(slave.as_raw_fd(), &raw mut settings), 0);
            settings.c_cc[libc::VKILL] = 0x19;
            settings.c_lflag &= !libc::ECHOE;
            assert_eq!(libc::tcsetattr(slave.as_raw_fd(), libc::TCSANOW, &raw const settings), 0);
        }
        let before = Settings::of(&master);
        assert!(!before.is_raw());
        let stream = || slave.try_clone().unwrap();
        command.stdin(stream()).stdout(stream()).stderr(stream());
        // SAFETY: both calls may be made between fork and exec.
        unsafe {
            command.pre_exec(|| match (libc::setsid(), libc::ioctl(0, libc::TIOCSCTTY, 0)) {
                (-1, _) | (_, -1) => Err(io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        let child = command.spawn().unwrap();
        let screen = Screen::follow(master.try_clone().unwrap());
        Self { keyboard: master, screen, child, before }
    }

    fn settings(&self) -> Settings {
        Settings::of(&self.keyboard)
    }

    /// Lines, echo and signals, as before the command.
    fn make_cooked(&self) {
        let [input, _, _, local] = self.before.flags;
        // SAFETY: as in `Settings::of`.
        unsafe {
            let mut settings: libc::termios = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(self.keyboard.as_raw_fd(), &raw mut settings), 0);
            (settings.c_iflag, settings.c_lflag) = (input, local);
            assert_eq!(libc::tcsetattr(self.keyboard.as_raw_fd(), libc::TCSANOW, &raw const settings), 0);
        }
        assert!(!self.settings().is_raw());
    }

    fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    /// Waits for the end, after which the terminal has to be as it was.
    fn finish(self) -> (ExitStatus, String) {
        self.finish_at("")
    }

    /// [`Self::finish`], once this has come too: what was written last may still be on its way
    /// through the terminal when its writer has ended.
    fn finish_at(mut self, last: &str) -> (ExitStatus, String) {
        let screen = self.screen.clone();
        let status = wait(&mut self.child, "the command on a terminal", PATIENCE, || screen.text());
        assert_eq!(self.settings(), self.before, "the settings were not restored");
        if !last.is_empty() {
            self.screen.wait_for(last);
        }
        (status, self.screen.text())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Of a test that has failed; one that has ended is not signalled.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The guest that sends back what is typed, at work.
fn echo() -> Terminal {
    let terminal = Terminal::start(&mut guest("echo"));
    terminal.screen.wait_for("echo: end with Ctrl-D or a line `quit`");
    terminal.screen.wait_for("\n");
    assert!(terminal.settings().is_raw(), "{:?}", terminal.settings());
    terminal
}

#[test]
fn keys_reach_the_guest_one_by_one_and_unchanged() {
    if kvm().is_none() {
        return;
    }
    let mut terminal = echo();
    // Interrupt, suspend, quit, stop, start, kill, erase, literal-next: all are the guest's.
    for key in
        [b"a", b"\x03", b"\x1a", b"\x1c", b"\x13", b"\x11", b"\x15", b"\x7f", b"\x16", b"\x1b", b"\xff"]
    {
        terminal.press(key);
        terminal.screen.wait_for_bytes(key, PATIENCE);
    }
    terminal.press(b"\r");
    terminal.screen.wait_for("\r\n");
    terminal.press(b"quit\r");
    let (status, text) = terminal.finish_at("quit\r");
    assert_eq!(status.code(), Some(0), "{text}");
    assert_eq!(text.matches("quit\r").count(), 1, "typed once, shown once:\n{text}");
}

#[test]
fn the_escape_key_quits() {
    if kvm().is_none() {
        return;
    }
    for words in ["boot spin", "boot halt", "boot flood", "boot echo"] {
        let mut terminal = Terminal::start(&mut guest(words));
        terminal.screen.wait_for("B");
        assert!(terminal.settings().is_raw());
        if words == "boot echo" {
            // The guest takes keys once its driver is up.
            terminal.screen.wait_for("echo: end");
        }
        terminal.press(b"\x01x");
        let (status, text) = terminal.finish();
        assert_eq!(status.code(), Some(0), "{words}: {text}");
    }
}

#[test]
fn the_escape_key_quits_from_a_virtio_console_that_the_guest_does_not_know() {
    if kvm().is_none() {
        return;
    }
    let options = ["--console", "off", "--virtio-console", "where=stdio"];
    let mut terminal = Terminal::start(guest("boot spin").args(options));
    let start = Instant::now();
    while !terminal.settings().is_raw() {
        assert!(start.elapsed() < PATIENCE, "the terminal does not become raw");
        thread::sleep(Duration::from_millis(1));
    }
    terminal.press(b"abc\x01x");
    let (status, text) = terminal.finish();
    assert_eq!(status.code(), Some(0), "{text}");
    assert_eq!(text, "");
}

#[test]
fn the_escape_key_explains_itself_and_can_be_typed() {
    if kvm().is_none() {
        return;
    }
    let mut terminal = echo();
    terminal.press(b"\x01c");
    terminal.screen.wait_for("Ctrl-A x quits");
    terminal.screen.wait_for("\r\n");
    terminal.press(b"\x01\x01");
    terminal.screen.wait_for("\x01");
    terminal.press(b"\x01z.\x04");
    let (status, text) = terminal.finish_at(".");
    assert_eq!(status.code(), Some(0), "{text}");
    // The command's two keys were not the guest's.
    assert!(text.ends_with("\x01."), "{text:?}");
}

#[test]
fn the_terminal_is_restored_after_every_end() {
    if kvm().is_none() {
        return;
    }
    for (words, code) in
        [("boot", 0), ("boot end=exit:5", 11), ("fault=triple", 6), ("fault=internal", 8), ("end=reboot", 4)]
    {
        let (status, text) = Terminal::start(&mut guest(words)).finish();
        assert_eq!(status.code(), Some(code), "{words}: {text}");
    }
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let terminal = echo();
        let pid = terminal.child.id().try_into().unwrap();
        // SAFETY: the child has not been waited for, so its process id is its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        let (status, text) = terminal.finish();
        assert_eq!(status.code(), Some(128 + signal), "{text}");
    }
}

#[test]
fn the_terminal_is_raw_again_after_a_stop() {
    if kvm().is_none() {
        return;
    }
    let mut terminal = echo();
    let pid = terminal.child.id().try_into().unwrap();
    // SAFETY: the child has not been waited for, so its process id is its own.
    let signal = |signal| assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    signal(libc::SIGSTOP);
    // SAFETY: as above; what the child's state is written to is live and may be all zeroes.
    unsafe {
        let mut state: libc::siginfo_t = std::mem::zeroed();
        let waited = libc::waitid(libc::P_PID, terminal.child.id(), &raw mut state, libc::WSTOPPED);
        assert_eq!(waited, 0);
    }
    // What a shell does while it has the terminal.
    terminal.make_cooked();
    signal(libc::SIGCONT);
    let late = Instant::now() + PATIENCE;
    while !terminal.settings().is_raw() {
        assert!(Instant::now() < late, "{:?}", terminal.settings());
        thread::sleep(Duration::from_millis(1));
    }
    terminal.press(b"\x03.\x04");
    let (status, text) = terminal.finish_at(".");
    assert_eq!(status.code(), Some(0), "{text}");
    assert!(text.ends_with("\x03."), "{text:?}");
}

#[test]
fn a_mistake_leaves_the_terminal_alone() {
    let mut command = guest("");
    let (status, text) = Terminal::start(command.args(["--kernel", "/nonexistent/kernel"])).finish();
    assert_eq!(status.code(), Some(1), "{text}");
}

#[test]
fn reports_begin_at_the_left() {
    if kvm().is_none() {
        return;
    }
    let (status, text) = Terminal::start(guest("boot").args(["--timings", "--stats"])).finish_at("\nall ");
    assert_eq!(status.code(), Some(0));
    assert!(text.starts_with('B') && text.contains("phase"), "{text}");
    // The last line may not be all here yet.
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    let lines = whole.split_inclusive('\n');
    assert!(lines.clone().all(|line| line.ends_with("\r\n")), "{text:?}");
}

#[test]
fn a_job_in_the_background_leaves_the_terminal_alone() {
    if kvm().is_none() {
        return;
    }
    // A shell with job control, whose own process group has the terminal.
    let line = format!(
        "set -m; {} run --memory 32M --cmdline 'boot halt' & wait_for_it=$!; read -r key; kill $wait_for_it; \
         wait $wait_for_it; exit $?",
        env!("CARGO_BIN_EXE_bantam")
    );
    let mut terminal = Terminal::start(Command::new("bash").args(["-c", &line]));
    terminal.screen.wait_for("B");
    assert_eq!(terminal.settings(), terminal.before);
    terminal.press(b"key\n");
    let (status, text) = terminal.finish();
    assert_eq!(status.code(), Some(143), "{text}");
}
