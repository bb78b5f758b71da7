//! A network of a test's own.

// unshare(2) is a C call.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::panic::resume_unwind;
use std::process::Command;
use std::thread;

use super::process::finish;
use super::skip;

/// Leaves this thread's network for a fresh one.
fn leave() -> io::Result<()> {
    // SAFETY: the call changes the namespace of this thread and its children, nothing else.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Why a test cannot have a network of its own here.
pub fn obstacle() -> Option<String> {
    if let Err(error) = File::options().read(true).write(true).open("/dev/net/tun") {
        return Some(format!("/dev/net/tun: {error}"));
    }
    let left = thread::spawn(leave).join().unwrap();
    left.err().map(|error| format!("a network namespace of its own: {error}"))
}

/// Runs `body` on a thread in a fresh network namespace, as are the threads and processes that it
/// starts; or prints a reason why the test is skipped.
pub fn in_network_of_its_own(body: impl FnOnce() + Send) {
    if let Some(reason) = obstacle() {
        let _ = skip::<()>(&reason);
        return;
    }
    // The harness's own thread may go on to other tests.
    let name = thread::current().name().unwrap_or("test").to_owned();
    thread::scope(|scope| {
        let inside = move || {
            leave().unwrap();
            body();
        };
        let thread = thread::Builder::new().name(name).spawn_scoped(scope, inside).unwrap();
        thread.join().unwrap_or_else(|panic| resume_unwind(panic));
    });
}

/// `ip` with these words.
pub fn ip(words: &str) {
    let ended = finish(Command::new("ip").args(words.split(' ')));
    assert_eq!(ended.code(), 0, "ip {words}: {}", ended.stderr);
}

/// In a network with a tap, `tap0`, that stays, with its counts, when its machine goes.
pub fn on_a_tap(body: impl FnOnce() + Send) {
    if Command::new("ip").arg("-V").output().is_err() {
        let _ = skip::<()>("ip is not installed; see resources/linux/host-tools.sh");
        return;
    }
    in_network_of_its_own(|| {
        ip("tuntap add tap0 mode tap vnet_hdr");
        ip("link set tap0 up");
        body();
    });
}

/// How many packets the host has had from the tap, and how many it has sent there.
pub fn packets() -> [u64; 2] {
    // Of this thread's network, not of the process's.
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("tap0:")).unwrap_or_default();
    let numbers: Vec<u64> = line.split_whitespace().map(|number| number.parse().unwrap()).collect();
    [numbers[1], numbers[9]]
}
