//! Linux with Bantam's virtio devices. As with `linux.rs`, the guest comes from `BANTAM_LINUX`; where KVM
//! interprets kernel code each boot costs half a minute or more, so a boot here does many things.

// The helpers here are a test's too: they may fail as loudly.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bantam::config::{Devices, MachineConfig, Size, parse_options};
use common::linux::{CMDLINE, Jobs, PATIENCE, boot, devices, linux};
use common::live::{Live, word};
use common::netns::{in_network_of_its_own, ip};
use common::peer::{connect_vsock, dial, echo, pattern, sum};
use common::process::{Process, bantam, finish, start};
use common::{Screen, config, kvm, number, skip};

/// Whether these programs are there, or a printed reason why the test is skipped.
fn tools(programs: &[&str]) -> Option<()> {
    for program in programs {
        // Each knows this, or complains about it; it is the start that counts.
        if Command::new(program).arg("--version").output().is_err() {
            return skip(&format!("{program} is not installed; see resources/linux/host-tools.sh"));
        }
    }
    Some(())
}

/// A copy of the guest's root file system.
fn root(linux: &Path, folder: &Path) -> PathBuf {
    let path = folder.join("root.ext4");
    fs::copy(linux.join("root.ext4"), &path).unwrap();
    path
}

/// The file system in this raw image is clean, not only in its own words.
fn assert_clean(image: &Path) {
    let checked = finish(Command::new("fsck.ext4").arg("-fn").arg(image));
    assert_eq!(checked.code(), 0, "{}\n{}", checked.stdout, checked.stderr);
}

/// A boot from this disk, with its number as the guest has counted.
fn boot_from_disk(linux: &Path, disk: &str, settings: &str, options: &[&str], number: u32) -> Jobs {
    let mut command = devices(linux, 32, "root,disk,features", settings);
    command.args(["--root", disk]).args(options);
    // Without ACPI Linux knows no way to turn a machine off; the guest resets it then.
    let code = if settings.contains("acpi=off") { 4 } else { 0 };
    let jobs = Jobs::of(&boot(&mut command).finish(), code);
    let root = jobs.line("root", "root device=");
    assert!(root.starts_with("root device=/dev/root type=ext4 options=rw,"), "{root}");
    assert!(root.ends_with(&format!(" boots={number}")), "{root}");
    // It is mounted a second time for this, which ext4 takes for the same.
    let found = if number == 1 { "disk written" } else { "disk found" };
    jobs.line("disk", found);
    jobs
}

#[test]
fn a_root_disk_is_clean_and_whole_after_each_boot() {
    let Some(linux) = linux() else { return };
    let Some(()) = tools(&["fsck.ext4"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let image = root(&linux, folder.path());
    let disk = format!("path={},engine=io_uring", image.display());
    for number in 1..=2 {
        boot_from_disk(&linux, &disk, "", &[], number);
        assert_clean(&image);
    }
}

/// The second boot is one without ACPI, where the kernel has the devices from its command line, with two
/// vCPUs and as many queues.
#[test]
fn an_overlay_keeps_what_a_root_disk_is_written() {
    let Some(linux) = linux() else { return };
    let Some(()) = tools(&["fsck.ext4", "qemu-img"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (base, overlay) = (root(&linux, folder.path()), folder.path().join("over.qcow2"));
    let before = fs::read(&base).unwrap();
    let disk = format!("path={},overlay={},engine=threads", base.display(), overlay.display());
    let check = || {
        assert!(fs::read(&base).unwrap() == before, "the base has changed");
        let checked = finish(Command::new("qemu-img").arg("check").arg(&overlay));
        assert_eq!(checked.code(), 0, "{}\n{}", checked.stdout, checked.stderr);
        let whole = folder.path().join("whole.ext4");
        let convert = ["convert", "-f", "qcow2", "-O", "raw"];
        let converted = finish(Command::new("qemu-img").args(convert).arg(&overlay).arg(&whole));
        assert_eq!(converted.code(), 0, "{}", converted.stderr);
        assert_clean(&whole);
    };
    boot_from_disk(&linux, &disk, "", &[], 1);
    check();
    let jobs = boot_from_disk(&linux, &format!("{disk},queues=2"), "acpi=off", &["--cpus", "2"], 2);
    check();
    assert!(jobs.job("features").contains("virtio0/device:0x0002"), "{}", jobs.job("features"));
    // VIRTIO_BLK_F_MQ (VIRTIO 1.2, section 5.2.3) is bit 12, and bit 0 comes first.
    let features = jobs.line("features", "virtio0/features:").rsplit(':').next().unwrap();
    assert_eq!(features.as_bytes()[12], b'1', "{features}");
}

/// Each engine and format gets random writes, and disks of one size the same, so that afterwards their
/// images hold the same. Where kernel code is interpreted 32 MiB take some 20 s on an idle machine, so one
/// disk alone is as large.
#[test]
fn random_writes_are_read_back_from_every_kind_of_disk() {
    let Some(linux) = linux() else { return };
    let Some(()) = tools(&["qemu-img"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let kinds = [
        "engine=io_uring",
        "engine=threads",
        "engine=sync",
        "direct",
        "engine=threads,overlay=",
        "engine=sync,overlay=",
    ];
    let raw: Vec<_> =
        (b'a'..).take(kinds.len()).map(|letter| format!("/dev/vd{}", char::from(letter))).collect();
    let mib = |index| if index == 0 { 32 } else { 8 };
    let settings = format!("bantam.raw={} bantam.mib=0 bantam.kib=1024", raw.join(","));
    let mut command = devices(&linux, 32, "verify", &settings);
    command.arg("--initrd").arg(linux.join("devices.cpio"));
    for (index, kind) in kinds.iter().enumerate() {
        let image = file(&format!("{index}.img"));
        File::create(&image).unwrap().set_len(mib(index) << 20).unwrap();
        let mut disk = format!("path={},{kind}", image.display());
        if kind.ends_with('=') {
            disk.push_str(file(&format!("{index}.qcow2")).to_str().unwrap());
        }
        command.args(["--disk", &disk]);
    }
    let jobs = Jobs::finish(boot(&mut command));
    let verified = jobs.lines("verify", "verify ok ");
    println!("{}", verified.join("\n"));
    let bytes: Vec<_> = verified.iter().map(|line| number(line, "bytes") >> 20).collect();
    assert_eq!(bytes, (0..kinds.len()).map(mib).collect::<Vec<_>>());
    let expected = fs::read(file("1.img")).unwrap();
    assert!(expected.iter().any(|byte| *byte != 0));
    for (index, kind) in kinds.iter().enumerate().skip(2) {
        let mut image = file(&format!("{index}.img"));
        if kind.ends_with('=') {
            assert!(fs::read(&image).unwrap().iter().all(|byte| *byte == 0), "{kind}");
            let overlay = file(&format!("{index}.qcow2"));
            image = file("converted");
            let convert = ["convert", "-f", "qcow2", "-O", "raw"];
            let converted = finish(Command::new("qemu-img").args(convert).arg(&overlay).arg(&image));
            assert_eq!(converted.code(), 0, "{}", converted.stderr);
        }
        assert!(fs::read(&image).unwrap() == expected, "{kind}");
    }
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
    let Some(linux) = linux() else { return };
    let Some(()) = tools(&["ip", "dumpcap", "tshark"]) else { return };
    in_network_of_its_own(|| {
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

        let mut command = devices(&linux, 32, "net,listen,vsock", "bantam.size=256");
        command.arg("--initrd").arg(linux.join("devices.cpio"));
        command.args([
            "--net",
            "tap=tap0,ip=10.0.0.1/24",
            "--vsock",
            &format!("cid=3,uds={}", uds.display()),
        ]);
        let process = boot(&mut command);
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

/// The balloon gives the host memory that the guest has touched, and a guest with `init_on_free=1` touches
/// all of it: it clears what its memory's allocator gets, at the boot and when the balloon shrinks.
#[test]
fn random_numbers_a_second_console_and_a_balloon() {
    /// In KiB.
    const BALLOON: u64 = 64 << 10;
    let Some(linux) = linux() else { return };
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control");
    let ctl = |words: &[&str]| {
        let ended = finish(bantam(["ctl"]).arg(&control).args(words));
        assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""), "{words:?}");
        ended.stdout
    };
    let settings = "init_on_free=1 bantam.seconds=900";
    let mut command = devices(&linux, 104, "hwrng,console,balloon", settings);
    command.arg("--initrd").arg(linux.join("devices.cpio")).arg("--control").arg(&control);
    let mut process = boot(command.args(["--entropy", "--balloon", "--virtio-console", "where=pty"]));
    process.stderr.wait_for_bytes(b"virtio_console0: /dev/pts/", PATIENCE);
    let said = process.stderr.text();
    let pty = said.lines().find_map(|line| line.split_once("virtio_console0: ")).unwrap().1.to_owned();
    let mut typist = File::options().read(true).write(true).open(pty.trim()).unwrap();
    let window = Screen::follow(typist.try_clone().unwrap());
    let says = |text: &str| process.stdout.wait_for_bytes(text.as_bytes(), PATIENCE);

    says("hwrng current=virtio_rng.0");
    says("hwrng bytes=64 ");
    window.wait_for_bytes(b"ready", PATIENCE);
    typist.write_all(b"one and two\n").unwrap();
    window.wait_for_bytes(b"echo one and two", PATIENCE);
    ctl(&["window", "virtio_console0", "132", "43"]);
    says("console /dev/hvc0 columns=132 rows=43");
    typist.write_all(b"end\n").unwrap();
    says("console /dev/hvc0 lines=1");

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
    ctl(&["balloon", "64M"]);
    inflated(BALLOON);
    let taken = resident(&process);
    says("memory at=change ");
    says(" KiB");
    ctl(&["balloon", "0"]);
    inflated(0);
    let given = resident(&process);
    says("memory at=change ");
    says(" KiB");
    println!("resident: {before} KiB, {taken} KiB with the balloon, {given} KiB after it");
    assert!(before.saturating_sub(taken) > BALLOON / 16 * 15, "{before} KiB, then {taken} KiB");
    assert!(given.saturating_sub(taken) > BALLOON / 16 * 15, "{taken} KiB, then {given} KiB");

    ctl(&["stop"]);
    process.stdin = None;
    let ended = process.finish();
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    let totals: Vec<_> = ended
        .stdout
        .lines()
        .filter(|line| line.starts_with("memory at="))
        .map(|line| number(line, "total"))
        .collect();
    assert_eq!(totals, [totals[0], totals[0] - BALLOON, totals[0]], "{}", ended.stdout);
    let random = ended.stdout.lines().find_map(|line| line.split_once(" data=")).unwrap().1.trim();
    assert!(random.len() == 128 && random.bytes().any(|digit| digit != random.as_bytes()[0]), "{random}");
}

/// What a copy is told, without a copy: the driver finds the id, hears of a new one, and the kernel's random
/// numbers start anew; while all else goes on, files on a disk among it.
#[test]
fn a_new_generation_is_noticed_and_nothing_else_changes() {
    let Some(linux) = linux() else { return };
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = parse_options(&format!("path={}", root(&linux, folder.path()).display())).unwrap();
    let settings = "quiet bantam.init=devices bantam.jobs=live";
    let config = MachineConfig {
        memory: Size::mib(64),
        kernel: Some(linux.join("vmlinux")),
        initrd: Some(linux.join("devices.cpio")),
        devices: Devices { disk: vec![disk], ..Devices::default() },
        ..config(&format!("{settings} {}", CMDLINE.trim()))
    };
    let mut live = Live::start(&kvm, config).patient(PATIENCE);
    live.line("vmgenid BANT0001:00");
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
