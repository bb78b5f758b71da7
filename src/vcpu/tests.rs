use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kvm_bindings::{kvm_regs, kvm_sregs};

use super::*;
use crate::bus::{Bus, Effect, Registers, lock};
use crate::hypervisor::{Exit, Failure, FailureKind, Seat, Vcpu};
use crate::timeline::{Phase, Timeline};

/// One step of a scripted guest.
#[derive(Clone, Debug)]
enum Step {
    In {
        port: u16,
        width: usize,
        len: usize,
    },
    Out {
        port: u16,
        width: usize,
        data: Vec<u8>,
    },
    Load {
        address: u64,
        len: usize,
    },
    Store {
        address: u64,
        data: Vec<u8>,
    },
    Eoi(u8),
    TripleFault,
    Interrupted,
    Fail(FailureKind),
    /// Another thread asks for this just before the next step.
    Ask(Desired),
}

/// What a step's read got.
type Reads = Arc<Mutex<Vec<Vec<u8>>>>;

/// Offset and bytes of each write.
type Writes = Arc<Mutex<Vec<(u64, Vec<u8>)>>>;

/// Plays its steps; past the end it is interrupted for ever.
struct Script {
    steps: VecDeque<Step>,
    /// The step whose exit is being handled, with its data.
    data: Vec<u8>,
    reading: bool,
    reads: Reads,
    control: Arc<Control>,
    runs: Arc<AtomicUsize>,
}

fn failure(kind: FailureKind) -> Box<Failure> {
    Box::new(Failure {
        kind,
        vcpu: 0,
        instruction: vec![0x48, 0x0f, 0xc7, 0x0f],
        regs: kvm_regs { rip: 0xffff_ffff_8100_0000, ..Default::default() },
        sregs: kvm_sregs {
            cs: kvm_bindings::kvm_segment { l: 1, ..Default::default() },
            cr0: 1,
            ..Default::default()
        },
    })
}

impl Vcpu for Script {
    fn run(&mut self) -> Exit<'_> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        if std::mem::take(&mut self.reading) {
            lock(&self.reads).push(std::mem::take(&mut self.data));
        }
        loop {
            return match self.steps.pop_front() {
                None => Exit::Interrupted,
                Some(Step::Ask(desired)) => {
                    match desired {
                        Desired::Stopped => self.control.stop(),
                        Desired::Running => self.control.resume(),
                        Desired::Paused => {
                            let control = Arc::clone(&self.control);
                            std::thread::spawn(move || control.pause());
                            while self.control.desired() != Desired::Paused {
                                std::thread::yield_now();
                            }
                        }
                    }
                    continue;
                }
                Some(Step::In { port, width, len }) => {
                    (self.data, self.reading) = (vec![0; len], true);
                    Exit::PortRead { port, width, data: &mut self.data }
                }
                Some(Step::Out { port, width, data }) => {
                    self.data = data;
                    Exit::PortWrite { port, width, data: &self.data }
                }
                Some(Step::Load { address, len }) => {
                    (self.data, self.reading) = (vec![0; len], true);
                    Exit::MmioRead { address, data: &mut self.data }
                }
                Some(Step::Store { address, data }) => {
                    self.data = data;
                    Exit::MmioWrite { address, data: &self.data }
                }
                Some(Step::Eoi(vector)) => Exit::IoapicEoi { vector },
                Some(Step::TripleFault) => Exit::TripleFault,
                Some(Step::Interrupted) => Exit::Interrupted,
                Some(Step::Fail(kind)) => Exit::Failed(failure(kind)),
            };
        }
    }
}

/// Writes accesses down; an access to offset 0 has the effect that it holds.
struct Recorder {
    writes: Writes,
    effect: Effect,
}

impl Registers for Recorder {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0x10 + u8::try_from(offset).unwrap());
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        lock(&self.writes).push((offset, data.to_vec()));
        if offset == 0 { self.effect } else { Effect::None }
    }
}

struct Bench {
    control: Arc<Control>,
    buses: Arc<Buses>,
    reads: Reads,
    writes: Writes,
    ended: Arc<Mutex<Vec<u8>>>,
    runs: Arc<AtomicUsize>,
}

impl Bench {
    fn new(vcpus: usize, effect: Effect) -> Self {
        let writes = Arc::new(Mutex::new(Vec::new()));
        let device = || Arc::new(Mutex::new(Recorder { writes: Arc::clone(&writes), effect }));
        let (mut ports, mut mmio) = (Bus::ports(), Bus::mmio());
        ports.insert(0x100, 8, device()).unwrap();
        mmio.insert(0xd000_0000, 0x1000, device()).unwrap();
        let ended = Arc::new(Mutex::new(Vec::new()));
        let vectors = Arc::clone(&ended);
        let end_of_interrupt = Box::new(move |vector| lock(&vectors).push(vector));
        Self {
            control: Arc::new(Control::new(vcpus).unwrap()),
            buses: Arc::new(Buses { ports, mmio, end_of_interrupt }),
            reads: Reads::default(),
            writes,
            ended,
            runs: Arc::default(),
        }
    }

    fn script(&self, steps: &[Step]) -> Script {
        Script {
            steps: steps.to_vec().into(),
            data: Vec::new(),
            reading: false,
            reads: Arc::clone(&self.reads),
            control: Arc::clone(&self.control),
            runs: Arc::clone(&self.runs),
        }
    }

    /// Runs a script on this thread until it ends.
    fn run(&self, steps: &[Step]) -> (End, ExitStats) {
        self.control.resume();
        let exits = ExitCounter::new(true);
        let end = run(&mut Seat::take(&mut self.script(steps)), &self.buses, &self.control, &exits);
        (end, exits.read())
    }

    fn spawn(&self, index: usize, steps: &[Step]) -> VcpuThread {
        self.spawn_vcpu(index, self.script(steps), Arc::default())
    }

    fn spawn_vcpu(
        &self,
        index: usize,
        vcpu: impl Vcpu + Send + 'static,
        timeline: Arc<Timeline>,
    ) -> VcpuThread {
        let (buses, control) = (Arc::clone(&self.buses), Arc::clone(&self.control));
        VcpuThread::spawn(
            Arc::new(Mutex::new(vcpu)),
            index,
            buses,
            control,
            timeline,
            Arc::new(ExitCounter::new(false)),
        )
        .unwrap()
    }
}

fn out(port: u16, data: &[u8]) -> Step {
    Step::Out { port, width: data.len(), data: data.to_vec() }
}

#[test]
fn every_kind_of_exit_is_dispatched() {
    let bench = Bench::new(1, Effect::None);
    let (end, stats) = bench.run(&[
        out(0x101, &[1]),
        Step::In { port: 0x102, width: 4, len: 4 },
        Step::Store { address: 0xd000_0008, data: vec![1, 2, 3, 4, 5, 6, 7, 8] },
        Step::Load { address: 0xd000_0009, len: 2 },
        Step::Eoi(0x31),
        // Nobody there: ones, and nothing.
        Step::In { port: 0x200, width: 1, len: 1 },
        Step::Load { address: 0xd000_1000, len: 1 },
        out(0x200, &[9]),
        Step::Interrupted,
        Step::TripleFault,
    ]);
    assert_eq!(end, End::TripleFault);
    assert_eq!(*lock(&bench.writes), [(1, vec![1]), (8, vec![1, 2, 3, 4, 5, 6, 7, 8])]);
    assert_eq!(*lock(&bench.reads), [vec![0x12; 4], vec![0x19; 2], vec![0xff], vec![0xff]]);
    assert_eq!(*lock(&bench.ended), [0x31]);
    assert_eq!(stats.total(), 10);
    assert_eq!(stats.by_place().iter().map(|(_, count)| count.count).sum::<u64>(), 10);
    assert!(stats.by_place().iter().any(|(kind, _)| *kind == ExitKind::PortRead { port: 0x102 }));
}

#[test]
fn string_accesses_are_dispatched_one_by_one() {
    let bench = Bench::new(1, Effect::None);
    bench.run(&[
        Step::Out { port: 0x104, width: 2, data: vec![1, 2, 3, 4, 5, 6] },
        Step::In { port: 0x105, width: 1, len: 3 },
        Step::TripleFault,
    ]);
    assert_eq!(*lock(&bench.writes), [(4, vec![1, 2]), (4, vec![3, 4]), (4, vec![5, 6])]);
    assert_eq!(*lock(&bench.reads), [vec![0x15; 3]]);
}

#[test]
fn effects_end_the_machine_at_once() {
    let effects = [
        (Effect::PowerOff, End::PowerOff),
        (Effect::Reset, End::Reset),
        (Effect::DebugExit(7), End::DebugExit(7)),
    ];
    for (effect, expected) in effects {
        for step in [
            out(0x100, &[0]),
            Step::Out { port: 0x100, width: 1, data: vec![0, 1] },
            Step::Store { address: 0xd000_0000, data: vec![0] },
        ] {
            let bench = Bench::new(1, effect);
            let (end, _) = bench.run(&[step.clone(), out(0x101, &[1])]);
            assert_eq!(end, expected, "{step:?}");
            assert_eq!(lock(&bench.writes).len(), 1, "nothing comes after the end");
        }
    }
}

#[test]
fn failures_of_kvm_are_handed_on() {
    for kind in [
        FailureKind::Internal { suberror: 1 },
        FailureKind::Entry { reason: 0x8000_0021 },
        FailureKind::Memory { address: 0x1000 },
        FailureKind::Unexpected { reason: 99 },
        FailureKind::Run { errno: libc::EFAULT },
    ] {
        let (end, _) = Bench::new(1, Effect::None).run(&[out(0x101, &[1]), Step::Fail(kind)]);
        assert_eq!(end, End::Failed(failure(kind)));
        let report = FailureReport(&failure(kind)).to_string();
        for part in [
            "vCPU 0 cannot go on",
            "RIP 0xffffffff81000000, CPL 0, 64-bit mode",
            "48 0f c7 0f  cmpxchg16b",
            "rax",
            "efer",
            "hint",
        ] {
            assert!(report.contains(part), "{part} in {report}");
        }
    }
}

/// A guest of several steps of every kind, none of which ends it.
fn ordinary() -> Vec<Step> {
    vec![
        out(0x101, &[1]),
        Step::In { port: 0x102, width: 1, len: 1 },
        Step::Store { address: 0xd000_0008, data: vec![1] },
        Step::Load { address: 0xd000_0009, len: 1 },
        Step::Eoi(3),
        Step::Interrupted,
        out(0x103, &[2]),
    ]
}

#[test]
fn a_request_before_any_step_is_seen_with_all_exits_complete() {
    for desired in [Desired::Stopped, Desired::Paused] {
        for at in 0..=ordinary().len() {
            let bench = Bench::new(1, Effect::None);
            let mut steps = ordinary();
            // The vCPU is kicked out after the step that was under way.
            steps.insert(at, Step::Ask(desired));
            steps.insert(at + 1, Step::Interrupted);
            let reads_before =
                steps[..at].iter().filter(|step| matches!(step, Step::In { .. } | Step::Load { .. })).count();
            let (end, _) = bench.run(&steps);
            assert_eq!(end, End::Asked, "{desired:?} before step {at}");
            assert_eq!(lock(&bench.reads).len(), reads_before, "{desired:?} before step {at}");
            bench.control.stop();
        }
    }
}

#[test]
fn a_kick_that_nobody_asked_for_changes_nothing() {
    let bench = Bench::new(1, Effect::None);
    let mut steps: Vec<_> = ordinary().into_iter().flat_map(|step| [Step::Interrupted, step]).collect();
    steps.push(Step::TripleFault);
    assert_eq!(bench.run(&steps).0, End::TripleFault);
    assert_eq!(lock(&bench.writes).len(), 3);
}

#[test]
fn threads_pause_resume_and_stop_together() {
    let bench = Bench::new(3, Effect::None);
    // Past the end of its script a vCPU is interrupted for ever: it runs and does nothing.
    let threads: Vec<_> = (0..3).map(|index| bench.spawn(index, &ordinary())).collect();
    assert!(bench.control.pause(), "all are parked before they ran");
    assert_eq!(bench.runs.load(Ordering::SeqCst), 0);
    for _ in 0..50 {
        bench.control.resume();
        let before = bench.runs.load(Ordering::SeqCst);
        while bench.runs.load(Ordering::SeqCst) < before + 10 {
            std::thread::yield_now();
        }
        assert!(bench.control.pause());
        let paused = bench.runs.load(Ordering::SeqCst);
        std::thread::yield_now();
        assert_eq!(bench.runs.load(Ordering::SeqCst), paused, "a paused vCPU does not run");
    }
    bench.control.resume();
    bench.control.stop();
    bench.control.wait_for_end();
    assert!(threads.into_iter().all(|thread| thread.join()));
    assert_eq!(bench.control.take_end(), Some(End::Asked));
    assert!(!bench.control.pause(), "an ended machine cannot be paused");
    bench.control.resume();
    assert_eq!(bench.control.desired(), Desired::Stopped, "nor resumed");
}

#[test]
fn one_vcpu_that_ends_the_machine_ends_them_all_with_its_reason() {
    let bench = Bench::new(2, Effect::Reset);
    let threads = [bench.spawn(0, &[]), bench.spawn(1, &[out(0x100, &[1])])];
    bench.control.resume();
    bench.control.wait_for_end();
    assert!(threads.into_iter().all(|thread| thread.join()));
    assert_eq!(bench.control.take_end(), Some(End::Reset));
}

/// A vCPU whose thread panics.
struct Panics(Arc<AtomicBool>);

impl Vcpu for Panics {
    fn run(&mut self) -> Exit<'_> {
        self.0.store(true, Ordering::SeqCst);
        panic!("as a device of an embedder's might");
    }
}

#[test]
fn a_panic_on_one_thread_ends_the_machine() {
    let bench = Bench::new(2, Effect::None);
    let timeline = Arc::new(Timeline::default());
    let ran = Arc::new(AtomicBool::new(false));
    let calm = bench.spawn(0, &[]);
    let panics = bench.spawn_vcpu(1, Panics(Arc::clone(&ran)), Arc::clone(&timeline));
    bench.control.resume();
    bench.control.wait_for_end();
    assert!(!panics.join() && calm.join());
    assert!(ran.load(Ordering::SeqCst) && timeline.get(Phase::FirstRun).is_some());
}

#[test]
fn a_guest_that_touches_everything_does_not_grow_the_table() {
    let bench = Bench::new(1, Effect::None);
    let mut steps: Vec<_> = (0..6000_u16).map(|port| out(0x1000 + port, &[0])).collect();
    steps.push(Step::TripleFault);
    let (_, stats) = bench.run(&steps);
    assert_eq!(stats.total(), 6001);
    assert!(stats.by_place().len() <= 4097, "{}", stats.by_place().len());
    let other = stats.by_place().into_iter().find(|(kind, _)| *kind == ExitKind::Other).unwrap();
    assert_eq!(other.1.count, 6001 - 4096);

    let mut merged = ExitStats::default();
    merged.merge(&stats);
    merged.merge(&stats);
    assert_eq!(merged.total(), 12_002);
    assert_eq!(merged.by_place().iter().map(|(_, count)| count.count).sum::<u64>(), 12_002);
}
