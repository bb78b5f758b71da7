//! Linux that is stopped at any instant while it works, kept in files, and goes on from there. As with
//! `linux.rs`, the guest comes from `BANTAM_LINUX`.

// The helpers here are a test's too: they may fail as loudly.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, PipeWriter, Read, Write, pipe};
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use bantam::hypervisor::Hypervisor;
use bantam::machine::{Builder, ExitReason, RunningMachine};
use bantam::snapshot::{Options, Restoring, Snapshot, Taken, save_running};
use common::booted::{Booted, jobs, with_booted_on_a_network};
use common::linux::{PATIENCE, linux, root};
use common::live::word;
use common::netns::ip;
use common::peer::sum;
use common::saving::tsc_can_be_set;
use common::{Screen, kvm, number, skip, watched_for};

/// At how many instants a machine is saved.
const INSTANTS: usize = 10;
/// Bytes of the file that each CPU writes in a round of the guest's job `steady`, and that job's seed.
const KEPT: usize = 16 << 10;
const SEED: u64 = 1;
/// Each so many answers the guest's job `busy` tells of them.
const TOLD: u64 = 8;
const TCP: &str = "talk tcp:10.0.0.1:5000 ";
const VSOCK: &str = "talk vsock:2:5000 ";
/// What the kernel says of a copy.
const FORKED: &str = "identity kernel said: random: crng reseeded due to virtual machine fork";

fn quiet(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// splitmix64, as the guest has it.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// A machine that runs, and how long its guest has run before it, in the machines that it goes on from.
struct Machine {
    machine: RunningMachine,
    screen: Screen,
    keys: PipeWriter,
    ran: Duration,
    since: Instant,
    began: Instant,
}

/// What is known of a machine that was saved.
#[derive(Clone)]
struct Saved {
    path: PathBuf,
    /// All that the guest has said until then, if that is known.
    text: String,
    /// How long it has run.
    ran: Duration,
    /// When the first machine was started.
    began: Instant,
}

impl Machine {
    fn start(kvm: &Hypervisor, builder: Builder, before: Option<&Saved>) -> Self {
        let (keyboard, keys) = pipe().unwrap();
        let (screen, since) = (Screen::default(), Instant::now());
        let builder = builder.hypervisor(kvm.clone()).console_input(keyboard);
        let machine = builder.console_output(screen.clone()).build().unwrap().resume().unwrap();
        let ran = before.map_or(Duration::ZERO, |saved| saved.ran);
        Self { machine, screen, keys, ran, since, began: before.map_or(since, |saved| saved.began) }
    }

    fn restore(kvm: &Hypervisor, saved: &Saved) -> Self {
        let start = Instant::now();
        let snapshot = Snapshot::open(&saved.path).unwrap();
        let builder = snapshot.builder(snapshot.config(), Restoring::default()).unwrap();
        let machine = Self::start(kvm, builder, Some(saved));
        println!("restored in {:?}", start.elapsed());
        machine
    }

    /// The guest had run for so long when this machine was started, or less.
    fn count_from(&mut self, ran: Duration) {
        self.ran = ran;
        self.began = self.since - ran;
    }

    /// How long the guest has run, no less; with the time that it was kept, where its clock cannot stand
    /// still then.
    fn ran(&self, stands_still: bool) -> Duration {
        if stands_still { self.ran + self.since.elapsed() } else { self.began.elapsed() }
    }

    /// Ends it, having saved it.
    fn save(self, path: PathBuf, before: &str) -> Saved {
        let start = Instant::now();
        let mut machine = self.machine.pause().unwrap();
        let paused = start.elapsed();
        let taken = Taken::take(&mut machine, &path, &Options::default(), &mut quiet).unwrap();
        let (ran, pause) = (self.ran + self.since.elapsed(), start.elapsed());
        drop(machine);
        let written = taken.finish(&mut quiet).unwrap().memory_bytes;
        let all = start.elapsed();
        println!("saved {written} bytes of memory: pausing {paused:?}, paused for {pause:?}, all {all:?}");
        Saved { path, text: format!("{before}{}", self.screen.text()), ran, began: self.began }
    }

    /// Saves it while it runs on. What the guest had said by then is not known to the byte.
    fn save_running(self, path: PathBuf) -> (Self, Saved) {
        let max_pause = Some(Duration::from_secs(1));
        let live = save_running(self.machine, &path, &Options::default(), max_pause, &mut quiet).unwrap();
        let ran = self.ran + self.since.elapsed();
        let written = live.taken.unwrap().finish(&mut quiet).unwrap().memory_bytes;
        println!("saved {written} bytes of memory while it runs, paused for {:?}", live.pause);
        let saved = Saved { path, text: String::new(), ran, began: self.began };
        (Self { machine: live.machine, ..self }, saved)
    }

    /// Ends the guest's work; it has to power the machine off. All that it said.
    fn end(mut self) -> String {
        self.keys.write_all(b"end\n").unwrap();
        let machine = self.machine;
        let outcome = watched_for(PATIENCE, "the end", move || machine.wait());
        assert_eq!(outcome.reason, ExitReason::PowerOff, "{}", self.screen.text());
        self.screen.text()
    }
}

/// Whether this is enough to see that a guest with its two connections works.
fn works(said: &str, cpus: u64) -> bool {
    // The last line may not be whole.
    let lines: Vec<_> = said.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
    let from = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
    let answered = |talk: &str| from(&format!("{talk}answered="));
    (0..cpus).all(|cpu| from(&format!("steady cpu={cpu} ")) >= 2)
        && answered(TCP) >= 1
        && answered(VSOCK) >= 1
        && from("identity random=") >= 1
}

/// The guest has learned that it is a copy, and has told its random numbers since.
fn knows_that_it_is_a_copy(said: &str) -> bool {
    let since = said.split_once(FORKED).and_then(|(_, rest)| rest.split_once("identity random="));
    since.is_some_and(|(_, rest)| rest.contains('\n'))
}

/// [`works`], of a guest that goes on from a snapshot: that it is a copy is known to it, and its connection
/// over vsock is a new one.
fn goes_on(said: &str, cpus: u64, tcp: bool) -> bool {
    let new = said.split_once(&format!("{VSOCK}connected\r\n"));
    let talks = format!("{VSOCK}answered=");
    new.is_some_and(|(_, rest)| rest.contains(&talks) && rest.rsplit(&talks).next().unwrap().contains('\n'))
        && knows_that_it_is_a_copy(said)
        && works(&if tcp { said.to_owned() } else { format!("{TCP}answered=\n{said}") }, cpus)
}

/// What a guest has said, checked line by line.
#[derive(Default)]
struct Said {
    /// By CPU: the last round, and how far time and the count of interrupts were.
    rounds: BTreeMap<u64, (u64, u64, u64)>,
    /// How many questions were answered over [`TCP`] and [`VSOCK`], how often each was connected and lost.
    answered: [u64; 2],
    connected: [usize; 2],
    lost: [usize; 2],
    forks: usize,
    /// The kernel's random numbers and the device's, by turns.
    random: Vec<String>,
}

impl Said {
    /// What is said here since the boot, in all machines that the guest was in; or in the last one alone, and
    /// the first line may lack its beginning.
    fn of(text: &str) -> Self {
        let job = text.split_once("=== job busy\r\n").map(|(_, job)| job);
        let starts = ["steady ", "talk ", "identity "];
        let job = job.unwrap_or_else(|| match text.split_once("\r\n") {
            Some((first, rest)) if !starts.iter().any(|start| first.starts_with(start)) => rest,
            _ => text,
        });
        let mut said = Self::default();
        for line in job.rsplit_once("\r\n").unwrap().0.split("\r\n") {
            let why = || format!("{line}\nin:\n{text}");
            if line.starts_with("steady ") {
                said.steady(line, why);
            } else if let Some(what) = line.strip_prefix(TCP) {
                said.talk(0, what, why);
            } else if let Some(what) = line.strip_prefix(VSOCK) {
                said.talk(1, what, why);
            } else if line == FORKED {
                said.forks += 1;
            } else if line.starts_with("identity random=") {
                said.random.extend([word(line, "random"), word(line, "hwrng")].map(str::to_owned));
                assert!(line.ends_with(" mac=02:00:00:00:00:05 cid=3"), "{}", why());
            } else {
                // The kernel would say here what it does not like.
                assert_eq!(line, "vmgenid BANT0001:00", "{}", why());
            }
        }
        said
    }

    fn steady(&mut self, line: &str, why: impl Fn() -> String) {
        let [cpu, round, uptime, interrupts] =
            ["cpu", "round", "uptime_ms", "interrupts"].map(|name| number(line, name));
        if let Some(before) = self.rounds.insert(cpu, (round, uptime, interrupts)) {
            assert_eq!(round, before.0 + 1, "{}", why());
            assert!(uptime > before.1 && interrupts > before.2, "{}", why());
        }
        assert_eq!(number(line, "wrong"), 0, "{}", why());
        let mut state = (SEED + cpu) ^ (round << 16);
        let data: Vec<u8> = (0..KEPT / 8).flat_map(|_| next(&mut state).to_le_bytes()).collect();
        assert_eq!(word(line, "sum"), sum(&data), "{}", why());
    }

    fn talk(&mut self, talk: usize, what: &str, why: impl Fn() -> String) {
        /// What a receiver learns, and a sender.
        const LOST: [&str; 4] =
            ["Connection reset by peer", "end", "Broken pipe", "Transport endpoint is not connected"];
        if what == "connected" {
            self.connected[talk] += 1;
        } else if let Some(lost) = what.strip_prefix("lost: ") {
            assert!(LOST.contains(&lost), "{}", why());
            self.lost[talk] += 1;
        } else if what == "unconnected: Operation timed out" {
            // The guest asks again: on a busy host an answer may take longer than it waits.
        } else {
            let (before, now) = (self.answered[talk], number(what, "answered"));
            assert!(before == 0 || now == before + TOLD, "{}", why());
            self.answered[talk] = now;
        }
    }

    /// The time since the guest's boot, by its own clock.
    fn uptime(&self) -> Duration {
        self.rounds.values().map(|(_, uptime, _)| Duration::from_millis(*uptime)).max().unwrap()
    }

    /// The guest knows of as many copies and has lost its connection over vsock as often, it got no random
    /// number twice, and no more time has gone by for it than it has run.
    fn check(&self, text: &str, copies_and_losses: [usize; 2], ran: Duration) {
        assert_eq!([self.forks, self.lost[1]], copies_and_losses, "in:\n{text}");
        assert_eq!(self.random.iter().collect::<BTreeSet<_>>().len(), self.random.len(), "{:?}", self.random);
        let uptime = self.uptime();
        println!("up for {uptime:?} by the guest's clock, has run for {ran:?}");
        assert!(uptime <= ran && uptime > ran / 2, "up for {uptime:?} after {ran:?}:\n{text}");
    }
}

/// Sends back what comes.
fn answer(mut stream: impl Read + Write) {
    let mut bytes = vec![0; 1 << 16];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) if stream.write_all(&bytes[..count]).is_ok() => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => break,
        }
    }
}

/// Takes connections and answers in each; how many there were.
fn serve<T: Read + Write + Send + 'static>(
    mut accept: impl FnMut() -> std::io::Result<T> + Send + 'static,
) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    thread::spawn(move || {
        while let Ok(stream) = accept() {
            counter.fetch_add(1, Ordering::Relaxed);
            thread::spawn(move || answer(stream));
        }
    });
    count
}

/// One guest in a row of machines, busy with memory, a disk, a network and vsock: each is saved at a random instant, and the next goes on from the files. The
/// host's end of the TCP connection notices nothing. Then copies of the first snapshot and of one that was
/// taken of a running machine: for them that connection's other end is ahead.
fn goes_on_from_any_instant(kvm: &Hypervisor, linux: &Path, booted: &Booted, cpus: u32) {
    let folder = tempfile::tempdir().unwrap();
    ip("tuntap add tap0 mode tap vnet_hdr");
    ip("addr add 10.0.0.1/24 dev tap0");
    ip("link set tap0 up");
    let tcp = TcpListener::bind("0.0.0.0:5000").unwrap();
    let vsock = UnixListener::bind(folder.path().join("v_5000")).unwrap();
    let tcp = serve(move || tcp.accept().map(|(stream, _)| stream));
    let vsock = serve(move || vsock.accept().map(|(stream, _)| stream));

    let seed = std::env::var("BANTAM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        u64::from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos())
    });
    println!("BANTAM_SEED={seed}");
    let mut random = seed;
    let vcpus = u64::from(cpus);

    let stands_still = tsc_can_be_set();
    println!("the time-stamp counter can be set: {stands_still}");
    let (base, overlay) = (root(linux, folder.path()), folder.path().join("over.qcow2"));
    let disk = format!("path={},overlay={}", base.display(), overlay.display());
    let builder = booted.builder(folder.path(), &disk, Some("tap0"));
    let mut machine = Machine::start(kvm, builder, None);
    machine.keys.write_all(format!("{}\n", jobs("busy", "")).as_bytes()).unwrap();
    machine.screen.wait_until("work", PATIENCE, |said| works(said, vcpus) && knows_that_it_is_a_copy(said));
    println!("at work in {:?}", machine.since.elapsed());
    machine.count_from(Said::of(&machine.screen.text()).uptime());
    let mut saves: Vec<Saved> = Vec::new();
    for instant in 1..=INSTANTS {
        thread::sleep(Duration::from_micros(next(&mut random) % 1_000_000));
        let before = saves.last().map(|saved| saved.text.as_str()).unwrap_or_default();
        let saved = machine.save(folder.path().join(instant.to_string()), before);
        machine = Machine::restore(kvm, &saved);
        machine.screen.wait_until("going on", PATIENCE, |said| goes_on(said, vcpus, true));
        println!("instant {instant}: goes on, as seen {:?} after the start", machine.since.elapsed());
        let text = format!("{}{}", saved.text, machine.screen.text());
        let said = Said::of(&text);
        said.check(&text, [instant + 1, instant], machine.ran(stands_still));
        assert_eq!((said.connected, said.lost[0]), ([1, instant + 1], 0), "in:\n{text}");
        saves.push(saved);
    }
    assert_eq!((tcp.load(Ordering::Relaxed), vsock.load(Ordering::Relaxed)), (1, INSTANTS + 1));

    let (machine, live) = machine.save_running(folder.path().join("live"));
    let before = machine.screen.text().len();
    let more = |said: &str| works(&format!("identity random=\n{}", &said[before..]), vcpus);
    machine.screen.wait_until("going on meanwhile", PATIENCE, more);
    let text = saves.last().unwrap().text.clone() + &machine.screen.text();
    let said = Said::of(&text);
    said.check(&text, [INSTANTS + 1, INSTANTS], machine.ran(stands_still));
    assert_eq!((said.connected, said.lost[0]), ([1, INSTANTS + 1], 0), "in:\n{text}");
    let text = machine.end();
    assert!(text.contains("busy: ok\r\n"), "{text}");

    for saved in [&live, &saves[0]] {
        let again = Machine::restore(kvm, saved);
        again.screen.wait_until("going on again", PATIENCE, |said| goes_on(said, vcpus, false));
        let text = format!("{}{}", saved.text, again.screen.text());
        let said = Said::of(&text);
        let is_whole = !saved.text.is_empty();
        said.check(&text, [1 + usize::from(is_whole), 1], again.ran(stands_still));
        if is_whole {
            let other = Said::of(&saves[1].text);
            assert_eq!(said.random[..4], other.random[..4]);
            assert!(said.random[4] != other.random[4] && said.random[5] != other.random[5], "{text}");
        }
    }
}

fn test(cpus: u32) {
    let Some(linux) = linux() else { return };
    let Some(kvm) = kvm() else { return };
    if Command::new("ip").arg("-V").output().is_err() {
        let _ = skip::<()>("ip is not installed; see resources/linux/host-tools.sh");
        return;
    }
    with_booted_on_a_network(cpus, |booted| goes_on_from_any_instant(&kvm, &linux, booted, cpus));
}

#[test]
fn one_vcpu_goes_on_from_any_instant() {
    test(1);
}

#[test]
fn two_vcpus_go_on_from_any_instant() {
    test(2);
}
