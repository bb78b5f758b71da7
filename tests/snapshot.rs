//! Machines that are saved and go on elsewhere.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs::File;
use std::io::Write;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bantam::config::{Devices, MachineConfig, Size, parse_options};
use bantam::hypervisor::Hypervisor;
use bantam::machine::{Builder, Kept};
use bantam::memory::{self, GuestMemory};
use bantam::snapshot::verify::verify as verify_one;
use bantam::snapshot::{MemorySource, Options, Restoring, Snapshot, Taken, folder};
use bantam::virtio::Allow;
use bantam::virtio::block::config::{Disk, EngineKind, Overlay};
use common::netns::{on_a_tap, packets};
use common::saving::{Machine, Random, clocks, pause, quiet, save};
use common::{PATIENCE, Screen, config, kvm, number, skip};
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

/// The same bytes in other memory.
fn copy(from: &GuestMemory, config: &MachineConfig) -> GuestMemory {
    let to = memory::allocate(config.memory).unwrap();
    for region in from.iter() {
        let mut bytes = vec![0; usize::try_from(region.len()).unwrap()];
        from.read_slice(&mut bytes, region.start_addr()).unwrap();
        to.write_slice(&bytes, region.start_addr()).unwrap();
    }
    to
}

/// All that `flood` says in its first lines.
fn flood() -> String {
    (0..100_000).map(|number| format!("flood {number}\r\n")).collect()
}

/// Output that goes on in another machine goes on where it was, to the byte: the guest's registers, its
/// memory and the serial port are what they were.
#[test]
fn a_guest_does_not_notice_that_it_goes_on_elsewhere() {
    let Some(kvm) = kvm() else { return };
    let config = config("flood");
    let Machine { running, screen, .. } = Machine::start(&kvm, config.clone());
    screen.wait_for("flood 10\r\n");
    let mut machine = pause(running);
    let mut text = screen.text();
    for round in 0..20 {
        let state = machine.save().unwrap();
        let memory = copy(machine.memory(), &config);
        drop(machine);
        let screen = Screen::default();
        let builder = Builder::new(config.clone()).hypervisor(kvm.clone()).console_output(screen.clone());
        let running = builder
            .restore(Kept {
                memory,
                state,
                layers: None,
                allow: Allow::default(),
                track_since: None,
                prefetch: None,
                lifeline: None,
            })
            .build()
            .unwrap()
            .resume()
            .unwrap();
        screen.wait_for("flood");
        sleep(Duration::from_millis(round % 7));
        machine = pause(running);
        text += &screen.text();
    }
    let start = text.find("flood 0").unwrap();
    let said = &text[start..];
    assert!(said.lines().count() > 40, "{said}");
    assert!(flood().starts_with(said), "{said}");
}

/// The guest's output goes on to the byte from snapshot to snapshot: whole ones, diffs on diffs, and those
/// that are taken while the guest runs and says more, which the one that goes on from there says again.
#[test]
fn a_guest_goes_on_from_files() {
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let all = flood();
    let mut machine = Machine::start(&kvm, config("quiet flood"));
    machine.screen.wait_for("flood 0\r\n");
    // Where in `all` the machine began to speak; the first one says words of its own before.
    let mut at = 0;
    let mut base = None;
    for round in 0..12 {
        let path = folder.path().join(round.to_string());
        // Every fourth has all of the memory; the others are diffs to the one before.
        let options = Options { base: base.take().filter(|_| round % 4 != 0), track: true };
        machine.screen.wait_for("\r\n");
        let (before, said) = if round % 3 == 2 {
            let before = machine.screen.text().len();
            let live = machine.save_live(&path, &options, Duration::from_secs(1));
            live.screen.wait_for("\r\n");
            (Some(before), live.destroy())
        } else {
            let (saved, said) = machine.save(&path, &options);
            assert!(options.base.is_none() || saved.memory_bytes < 1 << 20, "{saved:?}");
            (None, said)
        };
        let skipped = if round == 0 { said.find("flood 0").unwrap() } else { 0 };
        assert!(all[at..].starts_with(&said[skipped..]), "round {round} from {at}: {said}");
        let end = at + said.len() - skipped;

        machine = Machine::restore(&kvm, &path);
        machine.screen.wait_for("flood");
        machine.screen.wait_for("\r\n");
        let text = machine.screen.text();
        // The first whole line tells where this one has begun.
        let line = text.find("flood ").unwrap();
        let number = &text[line..=text[line..].find('\n').unwrap() + line];
        let begun = all.find(number).unwrap() - line;
        match before {
            None => assert_eq!(begun, end, "round {round}: {said} goes on with {text}"),
            Some(before) => {
                assert!((at + before..=end).contains(&begun), "round {round}: {said} goes on with {text}");
            }
        }
        at = begun;
    }
    let said = machine.destroy();
    assert!(all[at..].starts_with(&said), "from {at}: {said}");
}

/// Copies are machines of their own, whatever their memory comes from.
#[test]
fn many_go_on_from_one() {
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::start(&kvm, config("flood"));
    machine.screen.wait_for("flood 10\r\n");
    let path = folder.path().join("snapshot");
    machine.save(&path, &Options::default());
    let snapshot = Snapshot::open(&path).unwrap();
    for memory in [MemorySource::Map, MemorySource::Fault] {
        let screens: Vec<Screen> = (0..10).map(|_| Screen::default()).collect();
        let how = Restoring { memory, ..Restoring::default() };
        let machines =
            snapshot.fork(10, &how, |index, builder| builder.console_output(screens[index].clone()));
        let running: Vec<_> =
            machines.unwrap().into_iter().map(|machine| machine.resume().unwrap()).collect();
        screens.iter().for_each(|screen| screen.wait_for("flood"));
        drop(running);
    }
}

/// The longest chain that there may be goes on as well as any, and is not made longer.
#[test]
fn the_longest_chain() {
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |index: usize| folder.path().join(index.to_string());
    let config = MachineConfig {
        memory: Size::mib(16),
        ..config(&format!("quiet churn every=1 touch=1{}", clocks()))
    };
    let mut machine = Machine::start(&kvm, config);
    machine.line("churn round=");
    for index in 0..folder::MAX_CHAIN {
        let options = Options { base: index.checked_sub(1).map(path), track: true };
        if index % 16 == 15 {
            machine.save(&path(index), &options);
            machine = Machine::restore(&kvm, &path(index));
        } else {
            let mut paused = pause(machine.running);
            save(&mut paused, &path(index), &options);
            machine.running = paused.resume().unwrap();
        }
        machine.line("churn round=");
    }
    let last = path(folder::MAX_CHAIN - 1);
    let mut paused = pause(machine.running);
    let options = Options { base: Some(last.clone()), track: true };
    let taken = Taken::take(&mut paused, &path(folder::MAX_CHAIN), &options, &mut quiet);
    let error = taken.unwrap().finish(&mut quiet).unwrap_err();
    assert!(error.to_string().contains("merge some of them"), "{error}");
    drop(paused);
    verify(&last);
    let machine = Machine::restore(&kvm, &last);
    for _ in 0..4 {
        machine.line("churn round=");
    }
    assert_right(&machine.quit());
}

/// Every byte of a snapshot and of all that it is a diff to is what it was.
fn verify(path: &Path) {
    let snapshot = Snapshot::open(path).unwrap();
    for folder in [snapshot.folder()].into_iter().chain(snapshot.bases()) {
        verify_one(folder, &mut quiet).unwrap();
    }
}

/// The guest has found nothing wrong.
fn assert_right(text: &str) {
    assert!(!text.contains("churn wrong") && !text.contains("error"), "{text}");
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    for line in whole.filter(|line| line.contains(" wrong=")) {
        assert_eq!(number(line, "wrong"), 0, "{text}");
    }
}

/// How a sequence of machines is made, each from the one before.
struct Sequence {
    cpus: u32,
    /// Whether the image is qcow2, and the overlays have names.
    qcow2: bool,
    engine: EngineKind,
}

/// Snapshots in a sequence: the copy of a disk's overlay stands on the one before, and so many can.
const INSTANTS: u64 = 25;
/// Rounds of churn from one line to the next.
const EVERY: u64 = 2;

impl Sequence {
    fn config(&self, folder: &Path) -> MachineConfig {
        let raw = folder.join("disk.img");
        File::create(&raw).unwrap().set_len(32 << 20).unwrap();
        let image = if self.qcow2 { folder.join("disk.qcow2") } else { raw.clone() };
        if self.qcow2 {
            // An overlay is a qcow2 image as any other.
            let disk = Disk { overlay: Some(Overlay::Path(image.clone())), ..Disk::new(raw) };
            let devices = Devices { disk: vec![disk], ..Devices::default() };
            drop(Builder::new(MachineConfig { devices, ..config("boot") }).build().unwrap());
        }
        let disk = Disk { overlay: Some(self.overlay(folder, 0)), engine: self.engine, ..Disk::new(image) };
        let vsock = format!("cid=9,uds={}", folder.join("vsock").display());
        let devices = Devices {
            disk: vec![disk],
            entropy: vec![parse_options("").unwrap()],
            balloon: vec![parse_options("").unwrap()],
            vsock: vec![parse_options(&vsock).unwrap()],
            ..Devices::default()
        };
        let words = format!("quiet churn every={EVERY} touch=2 span=4M{}", clocks());
        MachineConfig { cpus: self.cpus, memory: Size::mib(24), devices, ..config(&words) }
    }

    fn overlay(&self, folder: &Path, index: u64) -> Overlay {
        if self.qcow2 { Overlay::Path(folder.join(format!("overlay{index}.qcow2"))) } else { Overlay::Temp }
    }

    fn run(&self, kvm: &Hypervisor, random: &mut Random) {
        let folder = tempfile::tempdir().unwrap();
        let mut said = Said { text: String::new(), least: 0, skip: 0, start: Instant::now() };
        let mut machine = Machine::start(kvm, self.config(folder.path()));
        machine.line("churn round=");
        let mut base: Option<PathBuf> = None;
        for index in 0..INSTANTS {
            sleep(Duration::from_micros(random.below(60_000)));
            let path = folder.path().join(index.to_string());
            let options = Options { base: base.take().filter(|_| random.below(5) > 0), track: true };
            let live = random.below(3) == 0;
            if live {
                said.at_least(&machine.screen.text());
                said.add(&machine.save_live(&path, &options, Duration::from_secs(10)).destroy());
            } else {
                said.add(&machine.save(&path, &options).1);
            }
            machine = Machine::restore_as(kvm, &path, |config| {
                config.devices.disk[0].overlay = Some(self.overlay(folder.path(), index + 1));
            });
            if live {
                machine.line("churn round=");
                said.goes_on(&machine.screen.text());
            }
            base = Some(path);
        }
        verify(&base.unwrap());
        // All that moves a guest still does.
        let mut moving = vec!["round", "slowest", "ticks", "serial", "written", "verified"];
        moving.extend((self.cpus > 1).then_some("peers"));
        let first = machine.line("churn round=");
        let mut last = machine.line("churn round=");
        while moving.iter().any(|name| number(&last, name) <= number(&first, name)) {
            last = machine.line("churn round=");
        }
        said.add(&machine.quit());
        said.check();
    }
}

/// What the machines of a sequence have said, one going on where the other was.
struct Said {
    text: String,
    /// The last round before a machine was saved that ran on.
    least: u64,
    /// What of the next machine's text is only the end of a line.
    skip: usize,
    start: Instant,
}

impl Said {
    /// The running machine has said this, and its snapshot is made now.
    fn at_least(&mut self, text: &str) {
        self.least = rounds(&self.text).chain(rounds(&text[self.skip..])).last().unwrap();
    }

    /// A machine has said all this. No clock has gone on by more than the time that has passed, or back.
    fn add(&mut self, text: &str) {
        assert_right(text);
        let passed = self.start.elapsed().as_nanos();
        for line in lines(text) {
            let most = number(line, "gap_ns").max(number(line, "skew_ns"));
            assert!(u128::from(most) <= passed, "{most} ns of {passed}: {text}");
            assert_eq!(number(line, "back"), 0, "{text}");
        }
        self.text += &text[std::mem::take(&mut self.skip)..];
    }

    /// A machine that was saved running goes on with this. It says again what the other one has said since.
    fn goes_on(&mut self, text: &str) {
        let next = rounds(text).next().unwrap();
        assert!(next > self.least, "{}\ngoes on with\n{text}", self.text);
        if let Some(again) = self.text.find(&format!("\nchurn round={next} ")) {
            self.text.truncate(again + 1);
        }
        // Without the line that the machine was about to say when it was destroyed.
        self.text.truncate(self.text.rfind('\n').map_or(0, |end| end + 1));
        let starts = text.match_indices('\n').map(|(at, _)| at + 1);
        let is_line = |at: &usize| ["churn ", "identity "].iter().any(|word| text[*at..].starts_with(word));
        self.skip = [0].into_iter().chain(starts).find(is_line).unwrap();
        let last = rounds(&self.text).last().unwrap();
        if self.skip > 0 && last + 2 * EVERY == next {
            // Each of them has said a part of it.
            self.text += &format!("churn round={} \r\n", last + EVERY);
        }
    }

    /// No round is missing, and none is there twice.
    fn check(&self) {
        let found: Vec<_> = rounds(&self.text).collect();
        let expected: Vec<_> = (1..=found.len() as u64).map(|index| index * EVERY).collect();
        assert_eq!(found, expected, "{}", self.text);
    }
}

/// The whole lines in a text that tell of a round.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.filter(|line| line.starts_with("churn round="))
}

/// Their rounds.
fn rounds(text: &str) -> impl Iterator<Item = u64> {
    lines(text).map(|line| number(line, "round"))
}

/// A hundred machines are saved at any instant with everything in flight, and destroyed; each of them goes on.
#[test]
fn a_hundred_random_instants() {
    let Some(kvm) = kvm() else { return };
    let mut random = Random::new();
    for (cpus, qcow2, engine) in [
        (1, false, EngineKind::IoUring),
        (2, false, EngineKind::Threads),
        (1, true, EngineKind::Threads),
        (2, true, EngineKind::Sync),
    ] {
        Sequence { cpus, qcow2, engine }.run(&kvm, &mut random);
    }
}

/// A machine with an interface on the tap `tap0`.
fn networked(words: &str, options: &str) -> MachineConfig {
    let net = parse_options(&format!("tap=tap0,ip=10.0.0.1/24{options}")).unwrap();
    let devices = Devices { net: vec![net], ..Devices::default() };
    MachineConfig { memory: Size::mib(24), devices, ..config(words) }
}

/// Frames are on their way whenever the machine is saved: each of them arrives, and none does twice.
#[test]
fn no_frame_is_lost_or_sent_twice() {
    const COUNT: u64 = 6000;
    let Some(kvm) = kvm() else { return };
    let mut random = Random::new();
    on_a_tap(|| {
        let folder = tempfile::tempdir().unwrap();
        let [before, _] = packets();
        let words = format!("quiet boot net=send count={COUNT} size=200");
        let mut machine = Machine::start(&kvm, networked(&words, ",rate=100M/3000:1M/100"));
        machine.screen.wait_for("B");
        let mut base = None;
        for index in 0..12 {
            sleep(Duration::from_micros(random.below(60_000)));
            let path = folder.path().join(index.to_string());
            let options = Options { base: base.take().filter(|_| random.below(3) > 0), track: true };
            machine.save(&path, &options);
            machine = Machine::restore(&kvm, &path);
            base = Some(path);
        }
        assert!(packets()[0] - before < COUNT, "all of them were sent before the last snapshot");
        let line = machine.line("net op=send ");
        assert_eq!((number(&line, "n"), number(&line, "errors")), (COUNT, 0), "{line}");
        assert_eq!(packets()[0] - before, COUNT);
    });
}

/// A guest that answers is found at its address again, with its buffers where they were.
#[test]
fn datagrams_come_back_from_machine_after_machine() {
    let Some(kvm) = kvm() else { return };
    on_a_tap(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut machine = Machine::start(&kvm, networked("quiet net=echo", ",mac=02:00:00:00:00:02"));
        machine.screen.wait_for("net ready ");
        let socket = UdpSocket::bind("10.0.0.1:0").unwrap();
        socket.connect("10.0.0.2:9").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        for index in 0..12_u64 {
            for number in 0..5 {
                let (sent, mut answer) = ([index, number].map(u64::to_le_bytes).concat(), [0; 64]);
                socket.send(&sent).unwrap();
                let bytes = socket.recv(&mut answer).unwrap();
                assert_eq!(answer[..bytes], sent);
            }
            let path = folder.path().join(index.to_string());
            machine.save(&path, &Options { base: None, track: true });
            machine = Machine::restore(&kvm, &path);
        }
        machine.destroy();
    });
}

/// A machine that is saved while its memory still comes is saved with what has not come yet.
#[test]
fn a_snapshot_waits_for_a_stream() {
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let words = format!("quiet churn every=1 touch=1 span=8M{}", clocks());
    let machine = Machine::start(&kvm, MachineConfig { memory: Size::mib(16), ..config(&words) });
    machine.line("churn round=");
    machine.save(&path("first"), &Options::default());
    let bytes = std::fs::read(path("first/memory")).unwrap();
    let (stream, mut sender) = std::io::pipe().unwrap();
    let snapshot = Snapshot::open_without_memory(&path("first")).unwrap();
    let builder = match snapshot.builder_of_stream(snapshot.config(), &Restoring::default(), stream) {
        Ok(builder) => builder,
        Err(error) => return skip::<()>(&error.to_string()).unwrap_or_default(),
    };
    let (first, rest) = bytes.split_at(15 << 20);
    let machine = std::thread::scope(|scope| {
        let (begun, waiting) = std::sync::mpsc::channel();
        scope.spawn(move || {
            sender.write_all(first).unwrap();
            waiting.recv().unwrap();
            sender.write_all(rest).unwrap();
        });
        let mut paused = builder.hypervisor(kvm.clone()).build().unwrap();
        let mut progress = |_, _| {
            // It has begun to write, and the last part is not there.
            let _ = begun.send(());
            quiet(0, 0)
        };
        let taken = Taken::take(&mut paused, &path("second"), &Options::default(), &mut progress).unwrap();
        taken.finish(&mut quiet).unwrap();
        paused
    });
    drop(machine);
    let machine = Machine::restore(&kvm, &path("second"));
    for _ in 0..4 {
        machine.line("churn round=");
    }
    assert_right(&machine.quit());
}
