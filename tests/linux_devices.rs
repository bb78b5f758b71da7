//! Linux with Bantam's virtio devices, as it goes on from `common::booted`. As with `linux.rs`, the guest comes
//! from `BANTAM_LINUX`.

// The helpers here are a test's too: they may fail as loudly.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bantam::hypervisor::Hypervisor;
use common::booted::{Booted, MAC, jobs, tell, with_booted, with_booted_on_a_network};
use common::linux::{Jobs, PATIENCE, assert_clean, linux, root, to_raw, tools};
use common::live::{Live, word};
use common::netns::ip;
use common::peer::{connect_vsock, dial, echo, pattern, sum};
use common::process::{Process, bantam, finish, start};
use common::{Screen, kvm, number};

#[test]
fn a_file_system_is_clean_and_whole_after_each_machine() {
    let Some(linux) = linux() else { return };
    let Some(()) = tools(&["fsck.ext4"]) else { return };
    with_booted(1, |booted| {
        let folder = tempfile::tempdir().unwrap();
        let image = root(&linux, folder.path());
        let disk = format!("path={},engine=io_uring", image.display());
        for found in ["disk written", "disk found"] {
            let mut command = booted.with_disk(folder.path(), &disk);
            Jobs::finish(tell(&mut command, &jobs("disk", ""))).line("disk", found);
            assert_clean(&image);
        }
    });
}

/// Each engine and format gets random writes, and disks of one size the same, so that afterwards their
/// images hold the same. Where kernel code is interpreted 32 MiB take some 20 s on an idle machine, so one
/// disk alone is as large.
#[test]
fn random_writes_are_read_back_from_every_kind_of_disk() {
    let Some(()) = tools(&["qemu-img"]) else { return };
    let kinds = [
        "engine=io_uring",
        "engine=threads",
        "engine=sync",
        "direct",
        "engine=threads,overlay=",
        "engine=sync,overlay=",
    ];
    with_booted(1, |booted| {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let mib = |index| if index == 0 { 32 } else { 8 };
        let words = jobs("verify", "bantam.raw=/dev/vda bantam.mib=0 bantam.kib=1024");
        let mut expected = Vec::new();
        for (index, kind) in kinds.iter().enumerate() {
            let mut image = file(&format!("{index}.img"));
            let overlay = file(&format!("{index}.qcow2"));
            File::create(&image).unwrap().set_len(mib(index) << 20).unwrap();
            let mut disk = format!("path={},{kind}", image.display());
            if kind.ends_with('=') {
                disk.push_str(overlay.to_str().unwrap());
            }
            let jobs = Jobs::finish(tell(&mut booted.with_disk(folder.path(), &disk), &words));
            let verified = jobs.line("verify", "verify ok ");
            println!("{kind}: {verified}");
            assert_eq!(number(verified, "bytes") >> 20, mib(index));
            if kind.ends_with('=') {
                assert!(fs::read(&image).unwrap().iter().all(|byte| *byte == 0), "{kind}");
                image = file("converted");
                to_raw(&overlay, &image);
            }
            let found = fs::read(&image).unwrap();
            assert!(found.iter().any(|byte| *byte != 0));
            if index == 1 {
                expected = found;
            } else if index > 1 {
                assert!(found == expected, "{kind}");
            }
        }
    });
}

/// Accepts a connection on a thread that may be given up, with what the guest has said to tell then.
fn accept<T: Send + 'static>(
    process: &Process,
    accept: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || sender.send(accept()));
    let received = receiver.recv_timeout(PATIENCE);
    received.unwrap_or_else(|_| panic!("no end of a connection, but:\n{}", process.stdout.text())).unwrap()
}

/// A frame of TCP over IPv4, as it was on the tap.
struct Frame {
    bytes: u64,
    from_guest: bool,
    stream: u64,
    ip_good: bool,
    tcp_good: bool,
    /// The checksum of the pseudo-header alone (RFC 9293, section 3.1) is in the checksum's place: what a
    /// sender writes there who leaves the rest to the device.
    tcp_partial: bool,
}

/// Dissects a capture.
fn frames(capture: &Path) -> Vec<Frame> {
    let fields = [
        "frame.len",
        "ip.src",
        "ip.dst",
        "tcp.stream",
        "ip.checksum.status",
        "tcp.checksum.status",
        "tcp.checksum",
        "ip.len",
        "ip.hdr_len",
    ];
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(capture).args(["-Y", "tcp", "-T", "fields", "-E", "separator=/s"]);
    tshark.args(["-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"]);
    tshark.args(fields.iter().flat_map(|field| ["-e", field]));
    let ended = finish(&mut tshark);
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    let good = |word: &str| word == "1" || word == "Good";
    let frame = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        assert_eq!(words.len(), fields.len(), "{line}");
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        let halves = |address: &str| {
            let octets = address.parse::<std::net::Ipv4Addr>().unwrap().to_bits();
            u64::from(octets >> 16) + u64::from(octets & 0xffff)
        };
        let mut pseudo = halves(words[1]) + halves(words[2]) + 6 + number(7) - number(8);
        while pseudo > 0xffff {
            pseudo = (pseudo >> 16) + (pseudo & 0xffff);
        }
        let found = u64::from_str_radix(words[6].trim_start_matches("0x"), 16).unwrap();
        Frame {
            bytes: number(0),
            from_guest: words[1] == "10.0.0.2",
            stream: number(3),
            ip_good: good(words[4]),
            tcp_good: good(words[5]),
            tcp_partial: found == pseudo,
        }
    };
    ended.stdout.lines().map(frame).collect()
}

/// What is checked of the frames, in three connections: the guest's with its offloads on, the guest's with
/// its offloads off, and the host's.
///
/// A tap shows frames as its two sides hand them over. With offloads on those are larger than the MTU and
/// have the checksum of their pseudo-header only; whoever cuts them up, or takes them as they are, does the
/// rest. So neither side's checksum proves anything then, other than that it was rightly left undone: that
/// the data arrives shows that the receiver was told so. With its offloads off the guest computes all of
/// them itself and keeps to the MTU. (What the host sends, it goes on sending with its own on: Linux' driver
/// cannot take back that it takes such frames.)
fn check_frames(frames: &[Frame]) {
    const LARGEST: u64 = 1514;
    assert!(frames.iter().all(|frame| frame.ip_good), "the IP header's checksum is nobody's offload");
    let of = |stream, from_guest| {
        let these =
            frames.iter().filter(move |frame| (frame.stream, frame.from_guest) == (stream, from_guest));
        assert!(these.clone().count() > 3, "connection {stream}, from the guest {from_guest}: no frames");
        these
    };
    for (stream, from_guest) in [(0, true), (0, false), (1, true), (1, false), (2, true), (2, false)] {
        let count = |what: fn(&&Frame) -> bool| of(stream, from_guest).filter(what).count();
        println!(
            "connection {stream}, from the guest {from_guest}: frames {}, large {}, good {}, partial {}",
            count(|_| true),
            count(|frame| frame.bytes > LARGEST),
            count(|frame| frame.tcp_good),
            count(|frame| frame.tcp_partial)
        );
    }
    for stream in [0, 2] {
        assert!(of(stream, true).all(|frame| frame.tcp_good || frame.tcp_partial), "{stream}");
        assert!(of(stream, true).any(|frame| frame.bytes > LARGEST), "no segmentation was left to the host");
        assert!(of(stream, false).any(|frame| frame.bytes > LARGEST), "none was left to the guest");
    }
    assert!(of(1, true).all(|frame| frame.tcp_good), "a bad checksum of the guest's own");
    assert!(of(1, true).all(|frame| frame.bytes <= LARGEST), "a frame larger than the MTU");
}

/// What the guest said of a stream, in one line, agrees with what the host has of it.
fn assert_same(line: &str, data: &[u8]) {
    let (bytes, sum) = (data.len(), sum(data));
    let expected = format!(" sent={bytes} sum={sum} received={bytes} sum={sum} same=yes ");
    assert!(line.contains(&expected), "no '{expected}' in: {line}");
}

#[test]
fn tcp_and_vsock_carry_streams_both_ways() {
    let Some(()) = tools(&["ip", "dumpcap", "tshark"]) else { return };
    with_booted_on_a_network(1, |booted| {
        let folder = tempfile::tempdir().unwrap();
        let (capture, uds) = (folder.path().join("tap.pcap"), folder.path().join("v"));
        // The tap is there before the machine and after it, so that all of it is captured.
        ip("tuntap add tap0 mode tap vnet_hdr");
        ip("link set tap0 up");
        let mut dumpcap = Command::new("dumpcap");
        let dumpcap = start(dumpcap.args(["-i", "tap0", "-w"]).arg(&capture)).patient(PATIENCE);
        dumpcap.stderr.wait_for("File: ");
        let tcp = Arc::new(TcpListener::bind("0.0.0.0:5000").unwrap());
        let vsock = UnixListener::bind(folder.path().join("v_5000")).unwrap();

        let mut command = booted.command(folder.path());
        command.args(["--net", &format!("tap=tap0,ip=10.0.0.1/24,mac={MAC}")]);
        let process = tell(&mut command, &jobs("net,listen,vsock", "bantam.size=256"));
        let [offloaded, plain] = [(); 2].map(|()| {
            let tcp = Arc::clone(&tcp);
            accept(&process, move || tcp.accept().map(|(stream, _)| echo(&stream)))
        });
        process.stdout.wait_for_bytes(b"listen tcp:5000 ready", PATIENCE);
        let question = pattern(256 << 10);
        assert!(dial(&TcpStream::connect("10.0.0.2:5000").unwrap(), &question) == question);
        let over_vsock = accept(&process, move || vsock.accept().map(|(stream, _)| echo(&stream)));
        process.stdout.wait_for_bytes(b"listen vsock:5000 ready", PATIENCE);
        assert!(dial(&connect_vsock(&uds, 5000), &question) == question);

        let jobs = Jobs::finish(process);
        println!("{}", jobs.text());
        dumpcap.signal(libc::SIGINT);
        dumpcap.finish();
        let dials = jobs.lines("net", "dial tcp:10.0.0.1:5000 sent=");
        assert_eq!(dials.len(), 2);
        assert_same(dials[0], &offloaded);
        assert_same(dials[1], &plain);
        assert!(jobs.job("net").contains("3 packets transmitted, 3 packets received"), "{}", jobs.job("net"));
        assert_same(jobs.line("listen", "listen tcp:5000 sent="), &question);
        assert_same(jobs.line("vsock", "dial vsock:2:5000 sent="), &over_vsock);
        assert_same(jobs.line("vsock", "listen vsock:5000 sent="), &question);
        check_frames(&frames(&capture));
    });
}

/// The resident memory of a process, in KiB.
fn resident(process: &Process) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid())).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// The balloon gives the host memory that the guest has touched, and the guest touches it again afterwards.
#[test]
fn random_numbers_a_second_console_and_a_balloon() {
    with_booted(1, random_numbers_a_console_and_a_balloon);
}

fn random_numbers_a_console_and_a_balloon(booted: &Booted) {
    /// In KiB: the balloon; what the guest does not touch of its free memory, without which it could not work;
    /// and what the VMM's own memory may change.
    const BALLOON: u64 = 8 << 10;
    const SPARED: u64 = 4 << 10;
    const OWN: u64 = 1 << 9;
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control");
    let ctl = |words: &[&str]| {
        let ended = finish(bantam(["ctl"]).arg(&control).args(words));
        assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""), "{words:?}");
        ended.stdout
    };
    let mut command = booted.command(folder.path());
    command.arg("--control").arg(&control).args(["--virtio-console", "where=pty"]);
    let settings = format!("bantam.seconds=900 bantam.spare={SPARED}");
    let process = tell(&mut command, &jobs("hwrng,fill,balloon,fill,console", &settings));
    process.stderr.wait_for_bytes(b"virtio_console0: /dev/pts/", PATIENCE);
    let said = process.stderr.text();
    let pty = said.lines().find_map(|line| line.split_once("virtio_console0: ")).unwrap().1.to_owned();
    let mut typist = File::options().read(true).write(true).open(pty.trim()).unwrap();
    let window = Screen::follow(typist.try_clone().unwrap());
    let says = |text: &str| process.stdout.wait_for_bytes(text.as_bytes(), PATIENCE);

    says("hwrng current=virtio_rng.0");
    says("hwrng bytes=64 ");
    says("memory at=start ");
    let inflated = |kib: u64| {
        let deadline = Instant::now() + PATIENCE;
        let wanted = format!("actual_bytes {}\n", kib << 10);
        while !ctl(&["metrics", "balloon0"]).contains(&wanted) {
            assert!(Instant::now() < deadline, "no {wanted}: {}", ctl(&["metrics", "balloon0"]));
            thread::sleep(Duration::from_millis(500));
        }
    };
    let before = resident(&process);
    ctl(&["balloon", "8M"]);
    inflated(BALLOON);
    let taken = resident(&process);
    says("memory at=change ");
    says(" KiB");
    ctl(&["balloon", "0"]);
    inflated(0);
    says("memory at=end ");

    says("=== job console");
    window.wait_for_bytes(b"ready", PATIENCE);
    let given = resident(&process);
    println!("resident: {before} KiB, {taken} KiB with the balloon, {given} KiB after it");
    let moved = BALLOON - SPARED - OWN;
    assert!(before.saturating_sub(taken) > moved, "{before} KiB, then {taken} KiB");
    assert!(given.saturating_sub(taken) > moved, "{taken} KiB, then {given} KiB");
    typist.write_all(b"one and two\n").unwrap();
    window.wait_for_bytes(b"echo one and two", PATIENCE);
    ctl(&["window", "virtio_console0", "132", "43"]);
    says("console /dev/hvc0 columns=132 rows=43");
    typist.write_all(b"end\n").unwrap();
    says("console /dev/hvc0 lines=1");

    let ended = process.finish();
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    let jobs = Jobs::in_text(&ended.stdout);
    let totals: Vec<_> =
        jobs.lines("balloon", "memory at=").into_iter().map(|line| number(line, "total")).collect();
    assert_eq!(totals, [totals[0], totals[0] - BALLOON, totals[0], totals[0]], "{}", jobs.text());
    let random = word(jobs.line("hwrng", "hwrng bytes=64 "), "data");
    assert!(random.len() == 128 && random.bytes().any(|digit| digit != random.as_bytes()[0]), "{random}");
}

/// What a copy is told, without a copy: the driver finds the id, hears of a new one, and the kernel's random
/// numbers start anew; while all else goes on, files on a disk among it.
#[test]
fn a_new_generation_is_noticed_and_nothing_else_changes() {
    let Some(linux) = linux() else { return };
    let Some(kvm) = kvm() else { return };
    with_booted(1, |booted| a_new_generation_is_noticed(&kvm, &linux, booted));
}

fn a_new_generation_is_noticed(kvm: &Hypervisor, linux: &Path, booted: &Booted) {
    let folder = tempfile::tempdir().unwrap();
    let disk = format!("path={}", root(linux, folder.path()).display());
    let builder = booted.builder(folder.path(), &disk, None);
    let mut live = Live::build(kvm, builder).patient(PATIENCE);
    live.type_in(&format!("{}\n", jobs("live", "")));
    live.line("vmgenid BANT0001:00");
    // The kernel knows already that it is a copy, of the one that booted.
    live.line("identity kernel said: random: crng reseeded due to virtual machine fork");
    let mut seen = vec![word(&live.line("identity random="), "random").to_owned()];
    for _ in 0..2 {
        live.line("steady cpu=0 round=");
        live.paused(|machine| machine.renew_generation().unwrap());
        live.line("identity kernel said: random: crng reseeded due to virtual machine fork");
        let line = live.line("identity random=");
        let random = word(&line, "random");
        assert!(random.len() == 32 && !seen.contains(&random.to_owned()), "{line}");
        seen.push(random.to_owned());
    }
    live.line("steady cpu=0 round=");
    let text = live.end("end\n");
    assert!(text.contains("live: ok"), "{text}");
    let steady: Vec<_> = text.lines().filter(|line| line.starts_with("steady cpu=")).collect();
    assert!(steady.iter().all(|line| number(line, "wrong") == 0), "{text}");
}
