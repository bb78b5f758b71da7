//! The user's terminal: raw while a guest has it, and always put back.

// Terminal settings are C calls.
#![allow(unsafe_code)]

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::sync::Mutex;

/// The settings to put back; there is one controlling terminal a process.
static SAVED: Mutex<Option<libc::termios>> = Mutex::new(None);

/// Writes one line to standard error, in the program's name. A standard error that is gone is no
/// reason to fail. The line may have a file's name in it, or anything: it does nothing to a terminal.
pub(super) fn note(line: &str) {
    let _ = writeln!(io::stderr(), "bantam: {}", harmless(line));
}

/// As [`note`], of a text whose line breaks are meant.
pub(super) fn note_lines(text: &str) {
    let _ = writeln!(io::stderr(), "bantam: {}", harmless_lines(text));
}

/// The text with control characters spelled out, but for line breaks.
pub(super) fn harmless_lines(text: &str) -> String {
    harmless_but(text, |letter| letter == '\n')
}

/// The text with control characters spelled out.
pub(super) fn harmless(text: &str) -> String {
    harmless_but(text, |_| false)
}

/// The text with control characters spelled out, but for some.
fn harmless_but(text: &str, may_stay: impl Fn(char) -> bool) -> String {
    let mut spelled = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() && !may_stay(letter) {
            spelled.extend(letter.escape_debug());
        } else {
            spelled.push(letter);
        }
    }
    spelled
}

/// Whether standard input is a terminal that this process may take: one in the background may not.
pub(super) fn stdin_is_ours() -> bool {
    let stdin = io::stdin();
    // SAFETY: both calls take a descriptor or nothing and give a number.
    stdin.is_terminal() && unsafe { libc::tcgetpgrp(stdin.as_raw_fd()) == libc::getpgrp() }
}

/// Columns and rows of the terminal on standard output.
pub(super) fn size() -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the pointer is to a live winsize, which the call fills if there is a terminal.
    let done = unsafe { libc::ioctl(io::stdout().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) } == 0;
    done.then_some((size.ws_col, size.ws_row))
}

/// While this lives, the terminal passes every key on as it is: no echo, no lines, no signals.
pub(super) struct RawMode(());

impl RawMode {
    /// Makes the terminal on standard input raw; none where there is no terminal of ours.
    pub(super) fn enter() -> Option<Self> {
        if !stdin_is_ours() {
            return None;
        }
        let fd = io::stdin().as_raw_fd();
        // SAFETY: all zeroes is a valid termios, and tcgetattr fills it.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live termios.
        if unsafe { libc::tcgetattr(fd, &raw mut settings) } != 0 {
            return None;
        }
        if let Ok(mut saved) = SAVED.lock() {
            *saved = Some(settings);
        }
        make_raw(settings);
        Some(Self(()))
    }

    /// After a stop: the shell has put its own settings there.
    pub(super) fn enter_again(&self) {
        let saved = SAVED.lock().ok().and_then(|saved| *saved);
        if let Some(settings) = saved.filter(|_| stdin_is_ours()) {
            make_raw(settings);
        }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes the terminal raw, from these settings.
fn make_raw(mut settings: libc::termios) {
    let output = settings.c_oflag;
    // SAFETY: the pointer is to a live termios.
    unsafe { libc::cfmakeraw(&raw mut settings) };
    // Lines of our own, in the middle of the guest's, still begin at the left.
    settings.c_oflag = output;
    // SAFETY: as above.
    unsafe { libc::tcsetattr(io::stdin().as_raw_fd(), libc::TCSANOW, &raw const settings) };
}

/// Puts the terminal back as it was found, unless it is another job's by now.
pub(super) fn restore() {
    // A thread that panics while it holds the lock has put the settings back already.
    let saved = SAVED.try_lock().ok().and_then(|mut saved| saved.take());
    if let Some(settings) = saved.filter(|_| stdin_is_ours()) {
        // SAFETY: the settings came from tcgetattr for the same descriptor.
        unsafe { libc::tcsetattr(io::stdin().as_raw_fd(), libc::TCSANOW, &raw const settings) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelled_out() {
        let spelled = |letter| harmless_but("a\u{1b}[2J\r\n\u{9b}ü", |stays| stays == letter);
        assert_eq!(spelled('a'), "a\\u{1b}[2J\\r\\n\\u{9b}ü");
        assert_eq!(spelled('\n'), "a\\u{1b}[2J\\r\n\\u{9b}ü");
    }
}
