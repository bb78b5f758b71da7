//! A tap in a network of its own, and the host's end of it.

// A namespace, and many datagrams at once, are C calls.
#![allow(unsafe_code)]

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{array, fs, io, thread};

use anyhow::{Context, ensure};

use super::frame::{self, UDP_HEADERS};

/// The tap's name.
pub(super) const NAME: &str = "bench0";
/// The host's address, and the guest's.
pub(super) const HOST: &str = "10.0.0.1";
pub(super) const GUEST: &str = "10.0.0.2";
/// The port to which the guest listens.
const PORT: u16 = 9;
/// Datagrams that the host sends with one call.
const BATCH: usize = 64;

/// Moves this thread, and all that it starts, into a network of its own, and makes a tap there. Both go with the
/// last of them.
pub(super) fn prepare() -> anyhow::Result<()> {
    // SAFETY: the call takes a number. Threads and processes that start later are in the new namespace.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error()).context(
            "no network of its own for a tap (run as root, or with CAP_SYS_ADMIN and CAP_NET_ADMIN)",
        );
    }
    ip(&["tuntap", "add", "dev", NAME, "mode", "tap", "vnet_hdr"])?;
    // The host has nothing of its own to say there.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{NAME}/disable_ipv6"), "1");
    ip(&["link", "set", "dev", NAME, "address", &frame::text(frame::HOST), "up"])?;
    ip(&["addr", "add", &format!("{HOST}/24"), "dev", NAME])?;
    let guest = frame::text(frame::GUEST);
    ip(&["neigh", "replace", GUEST, "lladdr", &guest, "nud", "permanent", "dev", NAME])
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(words).output().context("ip(8) is not installed")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", words.join(" "), complaint.trim());
    Ok(())
}

/// Frames that have come out of the guest. (What is a reception for the host.)
pub(super) fn frames_seen() -> anyhow::Result<f64> {
    received(&fs::read_to_string("/proc/thread-self/net/dev")?, NAME)
}

/// The second number of an interface's line: received packets (proc_pid_net(5)).
pub(super) fn received(table: &str, name: &str) -> anyhow::Result<f64> {
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'));
    let word = line.and_then(|line| line.split_whitespace().nth(1)).context("the tap has no counters")?;
    Ok(word.parse()?)
}

/// Sends frames of so many bytes to the guest for as long as something takes.
pub(super) fn while_sending<T>(bytes: usize, act: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let socket = UdpSocket::bind((HOST, 0))?;
    socket.connect((GUEST, PORT))?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| send(&socket, bytes.saturating_sub(UDP_HEADERS), &stop));
        let result = act();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

/// Sends mostly when nobody else wants the core: what is measured is how fast frames are taken, and
/// nothing tells a sender that its frames are dropped.
fn send(socket: &UdpSocket, bytes: usize, stop: &AtomicBool) {
    // SAFETY: the call takes a number. It is for this thread alone.
    let _ = unsafe { libc::nice(10) };
    let data = vec![0x5a_u8; bytes];
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: bytes };
    let mut messages: [libc::mmsghdr; BATCH] = array::from_fn(|_| {
        // SAFETY: a message of zeroes is a message without name, data and options.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        message.msg_hdr.msg_iov = &raw mut part;
        message.msg_hdr.msg_iovlen = 1;
        message
    });
    let count = u32::try_from(BATCH).unwrap_or(1);
    while !stop.load(Ordering::Relaxed) {
        // SAFETY: the messages are so many; their part and its data live, and are only read.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
        if sent <= 0 {
            // Nobody has the tap open.
            thread::sleep(Duration::from_millis(1));
        }
    }
}
