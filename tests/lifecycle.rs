//! A machine's life as an embedder has it: stopped, paused, dropped, many at once, with devices
//! and consoles of the embedder's that behave and that do not.

// The helpers here are a test's too: they may fail as loudly.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::{self, ErrorKind, PipeReader, Read, Write, pipe};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;

use bantam::bus::{Effect, Registers};
use bantam::config::MachineConfig;
use bantam::hypervisor::Hypervisor;
use bantam::machine::{Builder, ExitReason, Outcome, PausedMachine, RunningMachine, StopHandle};
use bantam::vcpu::ExitKind;
use common::{Screen, config, count, kvm, number, run_to_power_off, watched};

const PORT: u16 = 0xb80;
const ADDRESS: u64 = 0xd000_0000;

fn builder(kvm: &Hypervisor, words: &str) -> Builder {
    Builder::new(config(words)).hypervisor(kvm.clone())
}

/// A machine that runs, and its console once the guest has said that it is up.
fn up(kvm: &Hypervisor, words: &str) -> (RunningMachine, Screen) {
    let screen = Screen::default();
    let words = format!("boot {words}");
    let machine = builder(kvm, &words).console_output(screen.clone()).build().unwrap().resume().unwrap();
    screen.wait_for("B");
    (machine, screen)
}

fn wait(machine: RunningMachine) -> Outcome {
    watched("wait", move || machine.wait())
}

fn stop(machine: RunningMachine) -> Outcome {
    watched("stop", move || machine.stop())
}

fn pause(machine: RunningMachine) -> Result<PausedMachine, Box<Outcome>> {
    watched("pause", move || machine.pause())
}

#[test]
fn handles_go_between_threads() {
    fn sent<T: Send>() {}
    fn shared<T: Sync>() {}
    sent::<Builder>();
    sent::<PausedMachine>();
    sent::<RunningMachine>();
    sent::<Outcome>();
    sent::<StopHandle>();
    shared::<StopHandle>();
    sent::<Hypervisor>();
    shared::<Hypervisor>();
}

#[test]
fn thirty_two_machines_live_in_one_process() {
    let Some(kvm) = kvm() else { return };
    let jobs = ["exits=50", "smp", "spin", "spin=cpl0", "halt", "echo", "flood", "quiet memory=touch:4"];
    let mut machines = Vec::new();
    let mut keyboards = Vec::new();
    for job in jobs.iter().cycle().take(32) {
        let (keyboard, keys) = pipe().unwrap();
        keyboards.push(keys);
        let cpus = if *job == "smp" { 4 } else { 1 };
        let machine = MachineConfig { cpus, ..config(&format!("boot {job}")) };
        let screen = Screen::default();
        let machine = Builder::new(machine)
            .hypervisor(kvm.clone())
            .console_input(keyboard)
            .console_output(screen.clone())
            .build()
            .unwrap();
        machines.push((*job, machine.resume().unwrap(), screen));
    }
    for (_, _, screen) in &machines {
        screen.wait_for("B");
    }
    for (job, machine, screen) in machines {
        match job {
            "spin" | "spin=cpl0" | "halt" | "echo" | "flood" => {
                assert_eq!(stop(machine).reason, ExitReason::Stopped, "{job}");
            }
            _ => {
                assert_eq!(wait(machine).reason, ExitReason::PowerOff, "{job}: {}", screen.text());
                let line = ["exits kind=pio n=50 ", "smp cpus=4 online=4 ", "memory touched_mib=4 "];
                assert!(line.iter().any(|line| screen.text().contains(line)), "{job}: {}", screen.text());
            }
        }
    }
}

#[test]
fn a_guest_does_not_notice_pauses() {
    let Some(kvm) = kvm() else { return };
    const N: u64 = 20_000;
    for kind in ["pio", "mmio"] {
        let screen = Screen::default();
        let words = format!("quiet exits={N} kind={kind}");
        let mut machine =
            builder(&kvm, &words).console_output(screen.clone()).build().unwrap().resume().unwrap();
        let mut pauses = 0;
        let outcome = loop {
            match pause(machine) {
                Ok(paused) => machine = paused.resume().unwrap(),
                Err(outcome) => break outcome,
            }
            pauses += 1;
        };
        assert_eq!(outcome.reason, ExitReason::PowerOff);
        assert!(pauses > 10, "{pauses} pauses");
        assert_eq!(number(&screen.text(), "n"), N);
        let place = match kind {
            "pio" => ExitKind::PortWrite { port: PORT },
            _ => ExitKind::MmioRead { address: ADDRESS },
        };
        // An access that a pause had cut in two would be counted twice, or not at all.
        assert_eq!(count(&outcome, place), N, "{kind}, {pauses} pauses");
    }
}

#[test]
fn a_guest_of_several_cpus_does_not_notice_pauses() {
    let Some(kvm) = kvm() else { return };
    let screen = Screen::default();
    let machine = MachineConfig { cpus: 4, ..config("quiet smp exits=2000") };
    let builder = Builder::new(machine).hypervisor(kvm.clone()).console_output(screen.clone());
    let mut machine = builder.build().unwrap().resume().unwrap();
    let outcome = loop {
        match pause(machine) {
            Ok(paused) => machine = paused.resume().unwrap(),
            Err(outcome) => break outcome,
        }
    };
    assert_eq!(outcome.reason, ExitReason::PowerOff);
    assert!(screen.text().starts_with("smp cpus=4 online=4 ids=0,1,2,3\r\n"), "{}", screen.text());
    assert_eq!(count(&outcome, ExitKind::PortWrite { port: PORT }), 2000);
}

#[test]
fn whatever_a_guest_is_at_it_can_be_paused_and_stopped() {
    let Some(kvm) = kvm() else { return };
    for job in ["halt", "spin", "spin=cpl0", "flood", "echo", "exits=1000000000", "exits=100000000 kind=hlt"]
    {
        let (mut machine, _screen) = up(&kvm, job);
        for _ in 0..20 {
            machine = pause(machine).unwrap_or_else(|end| panic!("{job}: {}", end.reason)).resume().unwrap();
        }
        let paused = pause(machine).unwrap_or_else(|end| panic!("{job}: {}", end.reason));
        assert_eq!(stop(paused.resume().unwrap()).reason, ExitReason::Stopped, "{job}");
        let (machine, _screen) = up(&kvm, job);
        assert_eq!(stop(machine).reason, ExitReason::Stopped, "{job}");
    }
}

#[test]
fn a_machine_that_has_ended_is_not_paused() {
    let Some(kvm) = kvm() else { return };
    let (machine, _screen) = up(&kvm, "end=exit:5");
    let stop = machine.stop_handle();
    let ended = watched("end", move || {
        let mut machine = machine;
        loop {
            match machine.pause() {
                Ok(paused) => machine = paused.resume().unwrap(),
                Err(outcome) => break outcome,
            }
        }
    });
    assert_eq!(ended.reason, ExitReason::DebugExit(5));
    stop.stop();
}

#[test]
fn a_stop_handle_ends_a_wait_on_another_thread() {
    let Some(kvm) = kvm() else { return };
    for job in ["spin", "halt", "flood"] {
        let (machine, _screen) = up(&kvm, job);
        let handle = machine.stop_handle();
        let waiting = thread::spawn(move || machine.wait().reason);
        handle.stop();
        handle.stop();
        let reason = watched("join", move || waiting.join().unwrap());
        assert_eq!(reason, ExitReason::Stopped, "{job}");
    }
}

#[test]
fn a_paused_machine_can_be_stopped_from_afar() {
    let Some(kvm) = kvm() else { return };
    let fresh = builder(&kvm, "spin").build().unwrap();
    fresh.stop_handle().stop();
    assert_eq!(wait(fresh.resume().unwrap()).reason, ExitReason::Stopped);
    let (machine, _screen) = up(&kvm, "spin");
    let paused = pause(machine).map_err(|end| end.reason).unwrap();
    paused.stop_handle().stop();
    assert_eq!(wait(paused.resume().unwrap()).reason, ExitReason::Stopped);
}

#[test]
fn the_first_end_stays() {
    let Some(kvm) = kvm() else { return };
    let (machine, _screen) = up(&kvm, "end=exit:9");
    let handle = machine.stop_handle();
    let outcome = wait(machine);
    handle.stop();
    assert_eq!(outcome.reason, ExitReason::DebugExit(9));
}

/// One access as a device sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Access {
    Read(u64, usize),
    Write(u64, Vec<u8>),
}

/// Notes each access; a read gives the number of accesses so far.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Access>>>);

impl Recorder {
    fn take(&self) -> Vec<Access> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Registers for Recorder {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let mut accesses = self.0.lock().unwrap();
        accesses.push(Access::Read(offset, data.len()));
        data.fill(accesses.len().to_le_bytes()[0]);
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        self.0.lock().unwrap().push(Access::Write(offset, data.to_vec()));
        Effect::None
    }
}

/// Runs the guest with a recorder at the port or the address, and gives what it recorded.
fn record(kvm: &Hypervisor, words: &str) -> Vec<Access> {
    let recorder = Recorder::default();
    let machine = builder(kvm, &format!("quiet {words}"))
        .port_device(PORT, 4, recorder.clone())
        .mmio_device(ADDRESS, 0x1000, recorder.clone())
        .build()
        .unwrap();
    assert_eq!(wait(machine.resume().unwrap()).reason, ExitReason::PowerOff);
    recorder.take()
}

#[test]
fn an_embedders_device_sees_each_access_as_the_guest_made_it() {
    let Some(kvm) = kvm() else { return };
    for cpl in ["", " cpl=0"] {
        let ports = record(&kvm, &format!("exits=50{cpl}"));
        assert_eq!(ports.len(), 50);
        assert!(
            ports.iter().all(|access| matches!(access, Access::Write(0, data) if data.len() == 1)),
            "{ports:?}"
        );
        assert_eq!(record(&kvm, &format!("exits=50 kind=pio-in{cpl}")), vec![Access::Read(0, 1); 50]);
        assert_eq!(record(&kvm, &format!("exits=50 kind=mmio{cpl}")), vec![Access::Read(0, 4); 50]);
        let writes = record(&kvm, &format!("exits=50 kind=mmio-write addr=0xd0000ffc{cpl}"));
        assert_eq!(writes.len(), 50);
        assert!(
            writes.iter().all(|access| matches!(access, Access::Write(0xffc, data) if data.len() == 4)),
            "{writes:?}"
        );
    }
    // Beside the device nothing reaches it.
    assert_eq!(record(&kvm, "exits=50 port=0xb84"), []);
    assert_eq!(record(&kvm, "exits=50 port=0xb7f"), []);
    assert_eq!(record(&kvm, "exits=50 kind=mmio addr=0xd0001000"), []);
    assert_eq!(record(&kvm, "exits=50 kind=mmio addr=0xcffffffc"), []);
}

/// Does something at the third write.
struct Third<F>(u32, F);

impl<F: FnMut() -> Effect + Send> Registers for Third<F> {
    fn read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _: u64, _: &[u8]) -> Effect {
        self.0 += 1;
        if self.0 == 3 { (self.1)() } else { Effect::None }
    }
}

#[test]
fn an_embedders_device_can_end_the_machine() {
    let Some(kvm) = kvm() else { return };
    let cases: [(fn() -> Effect, _); 3] = [
        (|| Effect::PowerOff, ExitReason::PowerOff),
        (|| Effect::Reset, ExitReason::Reset),
        (|| Effect::DebugExit(77), ExitReason::DebugExit(77)),
    ];
    for (effect, reason) in cases {
        let machine = builder(&kvm, "exits=1000").port_device(PORT, 1, Third(0, effect)).build().unwrap();
        let outcome = wait(machine.resume().unwrap());
        assert_eq!(outcome.reason, reason);
        assert_eq!(count(&outcome, ExitKind::PortWrite { port: PORT }), 3);
    }
}

#[test]
fn a_device_that_panics_ends_its_machine_and_no_other() {
    let Some(kvm) = kvm() else { return };
    let (other, _screen) = up(&kvm, "spin");
    for cpus in [1, 4] {
        let machine = Builder::new(MachineConfig { cpus, ..config("quiet smp exits=1000") })
            .hypervisor(kvm.clone())
            .port_device(PORT, 1, Third(0, || panic!("a device's panic, as the test wants it")))
            .build()
            .unwrap();
        assert_eq!(wait(machine.resume().unwrap()).reason, ExitReason::Panicked);
    }
    assert_eq!(stop(other).reason, ExitReason::Stopped);
    run_to_power_off(&kvm, config("boot"));
}

/// A console's stream that does what its function says at each write.
struct Stream<F>(F);

impl<F: FnMut(&[u8]) -> io::Result<usize>> Write for Stream<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a guest that writes a lot to this stream. Gives its end, and how often the loss was told.
fn write_to(
    kvm: &Hypervisor,
    write: impl FnMut(&[u8]) -> io::Result<usize> + Send + 'static,
) -> (Outcome, Vec<ErrorKind>) {
    let lost = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&lost);
    let machine = builder(kvm, "hello exits=100 hello end=exit:3")
        .console_output(Stream(write))
        .on_console_lost(move |error| told.lock().unwrap().push(error.kind()))
        .build()
        .unwrap();
    let outcome = wait(machine.resume().unwrap());
    let lost = lost.lock().unwrap().clone();
    (outcome, lost)
}

#[test]
fn a_console_that_fails_is_told_once_and_the_guest_runs_on() {
    let Some(kvm) = kvm() else { return };
    let (outcome, lost) = write_to(&kvm, |_| Err(ErrorKind::StorageFull.into()));
    assert_eq!((outcome.reason, lost), (ExitReason::DebugExit(3), vec![ErrorKind::StorageFull]));
    let mut writes = 0;
    let (outcome, lost) = write_to(&kvm, move |bytes| {
        writes += 1;
        if writes > 3 { Err(ErrorKind::BrokenPipe.into()) } else { Ok(bytes.len()) }
    });
    assert_eq!((outcome.reason, lost), (ExitReason::DebugExit(3), vec![ErrorKind::BrokenPipe]));
}

#[test]
fn a_console_that_takes_little_gets_everything() {
    let Some(kvm) = kvm() else { return };
    let screen = Screen::default();
    let mut copy = screen.clone();
    let mut writes = 0_u32;
    let (outcome, lost) = write_to(&kvm, move |bytes| {
        writes += 1;
        match writes % 3 {
            0 => Err(ErrorKind::Interrupted.into()),
            _ => copy.write(&bytes[..1]),
        }
    });
    assert_eq!((outcome.reason, lost), (ExitReason::DebugExit(3), vec![]));
    assert_eq!(screen.text().matches("Bantam guest ").count(), 2, "{}", screen.text());
    assert!(screen.text().ends_with("\r\n"), "{}", screen.text());
}

/// `Write::write`: zero bytes mean that the stream takes no more.
#[test]
fn a_console_that_takes_nothing_is_lost() {
    let Some(kvm) = kvm() else { return };
    let (outcome, lost) = write_to(&kvm, |_| Ok(0));
    assert_eq!((outcome.reason, lost), (ExitReason::DebugExit(3), vec![ErrorKind::WriteZero]));
}

/// Nobody can tell when such a writer is ready again: it is lost, not waited for.
#[test]
fn a_console_that_would_block_is_lost() {
    let Some(kvm) = kvm() else { return };
    let (outcome, lost) = write_to(&kvm, |_| Err(ErrorKind::WouldBlock.into()));
    assert_eq!((outcome.reason, lost), (ExitReason::DebugExit(3), vec![ErrorKind::WouldBlock]));
}

#[test]
fn a_console_that_panics_is_lost_and_the_guest_runs_on() {
    let Some(kvm) = kvm() else { return };
    let (outcome, lost) = write_to(&kvm, |_| panic!("a console's panic, as the test wants it"));
    assert_eq!((outcome.reason, lost.len()), (ExitReason::DebugExit(3), 1));
    run_to_power_off(&kvm, config("boot"));
}

#[test]
fn a_console_that_blocks_holds_up_neither_guest_nor_pause() {
    let Some(kvm) = kvm() else { return };
    let (blocks, blocked) = channel();
    let (go_on, going_on) = channel();
    let (reached, reaching) = channel();
    let mut first = true;
    let write = move |bytes: &[u8]| {
        if std::mem::take(&mut first) {
            let _ = blocks.send(());
            let _ = going_on.recv();
        }
        Ok(bytes.len())
    };
    let machine = builder(&kvm, "boot exits=3 spin")
        .console_output(Stream(write))
        .port_device(
            PORT,
            1,
            Third(0, move || {
                let _ = reached.send(());
                Effect::None
            }),
        )
        .build()
        .unwrap()
        .resume()
        .unwrap();
    blocked.recv().unwrap();
    // The guest gets on, to its third write to the port, with its console blocked.
    let reached = watched("the guest", move || reaching.recv().is_ok());
    assert!(reached);
    let machine = pause(machine).map_err(|end| end.reason).unwrap().resume().unwrap();
    go_on.send(()).unwrap();
    assert_eq!(stop(machine).reason, ExitReason::Stopped);
}

/// A keyboard that panics when a key comes.
struct Stuck(PipeReader);

impl Read for Stuck {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        panic!("a keyboard's panic, as the test wants it")
    }
}

impl AsFd for Stuck {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[test]
fn a_keyboard_that_panics_takes_the_console_and_no_more() {
    let Some(kvm) = kvm() else { return };
    let (keyboard, mut keys) = pipe().unwrap();
    let screen = Screen::default();
    let machine = builder(&kvm, "hello exits=100 hello end=exit:3")
        .console_input(Stuck(keyboard))
        .console_output(screen.clone())
        .build()
        .unwrap()
        .resume()
        .unwrap();
    screen.wait_for("Bantam guest");
    keys.write_all(b"x").unwrap();
    assert_eq!(wait(machine).reason, ExitReason::DebugExit(3));
}

#[test]
fn a_pipe_that_nobody_reads_does_not_hold_up_a_stop() {
    let Some(kvm) = kvm() else { return };
    let (reader, writer) = pipe().unwrap();
    let machine = builder(&kvm, "flood").console_output_fd(writer.into()).build().unwrap().resume().unwrap();
    let mut reader = reader;
    // The guest is at it; from now on nobody reads.
    reader.read_exact(&mut [0; 4096]).unwrap();
    let machine = pause(machine).map_err(|end| end.reason).unwrap().resume().unwrap();
    assert_eq!(stop(machine).reason, ExitReason::Stopped);
}

/// A machine whose guest has powered off with more written than its console's pipe has room for, and
/// the pipe's other end.
fn ended_with_output_left(kvm: &Hypervisor) -> (RunningMachine, PipeReader) {
    let (reader, writer) = pipe().unwrap();
    // Over 64 KiB, what a pipe has room for.
    let words = format!("quiet {}", "hello ".repeat(100));
    let machine = builder(kvm, &words).console_output_fd(writer.into()).build().unwrap().resume().unwrap();
    let mut ended = libc::pollfd { fd: machine.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one whole entry.
    #[allow(unsafe_code)]
    let polled = unsafe { libc::poll(&raw mut ended, 1, 120_000) };
    assert_eq!(polled, 1, "the machine ends");
    (machine, reader)
}

#[test]
fn a_wait_gives_a_slow_reader_everything() {
    let Some(kvm) = kvm() else { return };
    let (machine, mut reader) = ended_with_output_left(&kvm);
    let waiting = thread::spawn(move || machine.wait());
    let mut text = String::new();
    let text = watched("reading", move || reader.read_to_string(&mut text).map(|_| text)).unwrap();
    let outcome = watched("join", move || waiting.join().unwrap());
    assert_eq!(outcome.reason, ExitReason::PowerOff);
    assert_eq!(text.matches("Bantam guest ").count(), 100);
    assert_eq!(text.lines().filter(|line| line.starts_with("  words ")).count(), 100);
}

#[test]
fn a_wait_for_a_slow_reader_can_be_stopped() {
    let Some(kvm) = kvm() else { return };
    let (machine, _reader) = ended_with_output_left(&kvm);
    let handle = machine.stop_handle();
    let waiting = thread::spawn(move || machine.wait());
    handle.stop();
    let outcome = watched("join", move || waiting.join().unwrap());
    assert_eq!(outcome.reason, ExitReason::PowerOff);
}

#[test]
fn neither_stop_nor_pause_waits_for_a_slow_reader() {
    let Some(kvm) = kvm() else { return };
    let (machine, _reader) = ended_with_output_left(&kvm);
    assert_eq!(stop(machine).reason, ExitReason::PowerOff);
    let (machine, _reader) = ended_with_output_left(&kvm);
    assert_eq!(pause(machine).unwrap_err().reason, ExitReason::PowerOff);
}

/// Threads inherit blocked signals, and a server that fetches its own by descriptor blocks them all.
#[test]
fn a_machine_of_a_thread_that_blocks_all_signals_can_be_paused_and_stopped() {
    let Some(kvm) = kvm() else { return };
    let masked = thread::spawn(move || {
        // SAFETY: a whole set, made by sigfillset, for this thread alone.
        #[allow(unsafe_code)]
        unsafe {
            let mut all = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
        }
        up(&kvm, "spin").0
    });
    let paused = pause(masked.join().unwrap()).unwrap();
    assert_eq!(stop(paused.resume().unwrap()).reason, ExitReason::Stopped);
}

/// Drops what it holds when the guest writes to it.
struct DropsOnWrite(Arc<Mutex<Option<RunningMachine>>>, std::sync::mpsc::Sender<()>);

impl Registers for DropsOnWrite {
    fn read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _: u64, _: &[u8]) -> Effect {
        if let Some(machine) = self.0.lock().unwrap().take() {
            drop(machine);
            self.1.send(()).unwrap();
        }
        Effect::None
    }
}

#[test]
fn a_machine_may_be_dropped_by_its_own_device() {
    let Some(kvm) = kvm() else { return };
    let held = Arc::new(Mutex::new(None));
    let (dropped, told) = channel();
    let device = DropsOnWrite(Arc::clone(&held), dropped);
    let guard = held.lock().unwrap();
    let machine = builder(&kvm, "exits=100000 kind=pio port=0xb80 end=halt")
        .port_device(PORT, 1, device)
        .build()
        .unwrap()
        .resume()
        .unwrap();
    let mut guard = guard;
    *guard = Some(machine);
    drop(guard);
    watched("drop", move || told.recv().unwrap());
}
