//! Frames between a guest and a tap of the host's, in Bantam and in QEMU.

// A namespace, and many datagrams at once, are C calls.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{array, fs, thread};

use anyhow::{Context, ensure};

use crate::guest::{self, Said};
use crate::report::{Comparison, Sample};
use crate::{Effort, Programs};

const PATIENCE: Duration = Duration::from_secs(40);
const TAP: &str = "bench0";
const HOST_MAC: &str = "02:00:00:00:00:01";
const GUEST_MAC: &str = "02:00:00:00:00:02";
/// Nobody's: the host counts a frame for it and drops it at the first look.
const SINK_MAC: &str = "02:00:00:00:00:03";
const HOST: &str = "10.0.0.1";
const GUEST: &str = "10.0.0.2";
/// Bytes of a UDP frame before its data: Ethernet, IPv4, UDP.
const HEADERS: usize = 42;
/// Datagrams that the host sends with one call.
const BATCH: usize = 64;

/// What passes.
enum Work {
    /// The guest sends frames of this kind.
    Send(&'static str),
    /// The host sends frames of so many bytes.
    Receive(usize),
}

const WORKLOADS: [(&str, Work); 5] = [
    ("send 64 bytes", Work::Send("size=64")),
    ("send 1514 bytes", Work::Send("size=1514")),
    ("send 64 KiB, segmented (gso)", Work::Send("gso")),
    ("receive 64 bytes", Work::Receive(64)),
    ("receive 1514 bytes", Work::Receive(1514)),
];

/// Moves this process into a network of its own, and makes a tap there.
pub(crate) fn prepare() -> anyhow::Result<()> {
    // SAFETY: the call takes a number. Threads that start later are in the new namespace.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error()).context("no network namespace (run as root)");
    }
    ip(&["tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr"])?;
    // The host has nothing of its own to say there.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{TAP}/disable_ipv6"), "1");
    ip(&["link", "set", "dev", TAP, "address", HOST_MAC, "up"])?;
    ip(&["addr", "add", &format!("{HOST}/24"), "dev", TAP])?;
    ip(&["neigh", "replace", GUEST, "lladdr", GUEST_MAC, "nud", "permanent", "dev", TAP])
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(words).output().context("ip(8) is not installed")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", words.join(" "), complaint.trim());
    Ok(())
}

fn run(name: &str, program: &Path, job: &str) -> anyhow::Result<Said> {
    if name == "bantam" {
        let net = format!("tap={TAP},mac={GUEST_MAC}");
        return guest::bantam(program, ["--net", &net], job, PATIENCE);
    }
    let netdev = format!("tap,id=n,ifname={TAP},script=no,downscript=no,vhost=off");
    let device = format!("virtio-net-device,netdev=n,mac={GUEST_MAC}");
    guest::qemu(program, &["-netdev", &netdev, "-device", &device], job, PATIENCE)
}

fn sample(said: &Said) -> anyhow::Result<Sample> {
    Ok(Sample {
        a_second: said.a_second("n")?,
        mib_a_second: said.a_second("bytes")? / f64::from(1 << 20),
        kicks: Some(said.number("kicks")? / said.number("n")?.max(1.0)),
    })
}

fn one(name: &str, program: &Path, work: &Work, seconds: u64) -> anyhow::Result<Sample> {
    match work {
        Work::Send(what) => {
            let before = frames_seen()?;
            let job = format!("net=send {what} secs={seconds} src={GUEST} dst={HOST} dmac={SINK_MAC}");
            let said = run(name, program, &job)?;
            let (sent, seen) = (said.number("n")?, frames_seen()? - before);
            ensure!(seen >= sent, "{name}: the guest sends {sent} frames, the tap sees {seen}");
            sample(&said)
        }
        Work::Receive(bytes) => {
            let job = format!("net=recv secs={seconds} src={GUEST}");
            let said = while_sending(*bytes, || run(name, program, &job))?;
            ensure!(said.number("n")? > 0.0, "{name}: no frame reaches the guest");
            sample(&said)
        }
    }
}

/// Frames that have come out of the guest. (What is a reception for the host.)
fn frames_seen() -> anyhow::Result<f64> {
    let table = fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(TAP)?.strip_prefix(':'));
    let word = line.and_then(|line| line.split_whitespace().nth(1)).context("the tap has no counters")?;
    Ok(word.parse()?)
}

/// Sends datagrams to the guest for as long as something takes.
fn while_sending<T>(frame: usize, act: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let socket = UdpSocket::bind((HOST, 0))?;
    socket.connect((GUEST, 9))?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| send(&socket, frame - HEADERS, &stop));
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

/// Both monitors in turns, forth and back, for each kind of work.
pub(crate) fn measure(programs: &Programs, effort: Effort) -> anyhow::Result<Vec<Comparison>> {
    let bantam = ("bantam", programs.bantam.as_path());
    let qemu = programs.qemu.iter().map(|program| ("qemu", program.as_path()));
    let contenders: Vec<_> = [bantam].into_iter().chain(qemu).collect();
    let mut rounds = [const { Vec::new() }; WORKLOADS.len()];
    for round in 0..effort.rounds {
        for ((title, work), samples) in WORKLOADS.iter().zip(&mut rounds) {
            let mut order = contenders.clone();
            if round % 2 == 1 {
                order.reverse();
            }
            let mut of_round = BTreeMap::new();
            for (name, program) in order {
                let sample = one(name, program, work, effort.seconds);
                of_round.insert(name.to_owned(), sample.with_context(|| format!("{name}, {title}"))?);
            }
            samples.push(of_round);
        }
    }
    let names: Vec<_> = contenders.iter().map(|(name, _)| (*name).to_owned()).collect();
    let titles = WORKLOADS.iter().map(|(title, _)| (*title).to_owned());
    Ok(titles.zip(rounds).map(|(title, rounds)| Comparison::of(title, &names, &rounds)).collect())
}
