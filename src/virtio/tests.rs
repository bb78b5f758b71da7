//! Tests of the transport, the queues and the worker, with a device that sends back what it gets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::status::bit;
use super::testing::{GuestDriver, conformance, reg, wait};
use super::*;
use crate::config::Size;
use crate::irq::fake::FakeLine;
use crate::state::State;

/// Answers with the bytes that it was sent. Its second queue keeps every chain until it is stopped.
#[derive(Default)]
struct Echo {
    kept: Vec<u16>,
    started: Arc<AtomicUsize>,
    written: Arc<AtomicUsize>,
}

impl Device for Echo {
    fn describe(&self) -> Description {
        let config = ConfigSpace::new(vec![1, 2, 3, 4, 0, 0, 0, 0], 4..6);
        Description { id: 42, features: 0b101, queue_sizes: vec![16, 8], config }
    }

    fn start(&mut self, _: &mut Io<'_>) {
        self.started.fetch_add(1, Ordering::SeqCst);
    }

    fn queue_event(&mut self, index: usize, io: &mut Io<'_>) {
        let Some(queue) = io.queue(index) else { return };
        queue.drain(|chain| {
            if index == 1 {
                self.kept.push(chain.head());
                return Served::Deferred;
            }
            let mut bytes = vec![0; chain.readable().remaining()];
            chain.readable().read(&mut bytes);
            Served::Done(u32::try_from(chain.writable().write(&bytes)).unwrap())
        });
    }

    fn config_event(&mut self, io: &mut Io<'_>) {
        self.written.store(usize::from(io.config.get::<2>(4)[0]), Ordering::SeqCst);
    }

    fn save(&mut self, _: &str, _: &mut State) -> Result<(), SaveError> {
        Ok(())
    }

    fn command(&mut self, command: &Command, io: &mut Io<'_>) -> Result<(), CommandError> {
        let Command::BalloonTarget(size) = command else { return Err(CommandError::Unknown(*command)) };
        io.config.update(0, &size.bytes().to_le_bytes()[..4]);
        io.config_changed();
        Ok(())
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        for head in self.kept.drain(..) {
            if let Some(queue) = io.queue(1) {
                queue.complete(head, 0);
            }
        }
    }
}

fn driver() -> GuestDriver {
    GuestDriver::new(Box::new(Echo::default()))
}

#[test]
fn conforms() {
    conformance(
        || Box::new(Echo::default()),
        |driver| {
            let (len, bytes) = driver.request(0, &[b"hello, ", b"world"], &[5, 20]);
            assert_eq!((len, &bytes[..12]), (12, b"hello, world".as_slice()));
        },
    );
}

#[test]
fn the_registers_say_what_the_device_is() {
    let driver = driver();
    let words: Vec<_> = (0..4).map(|index| driver.read(4 * index)).collect();
    assert_eq!(words, [0x7472_6976, 2, 42, u32::from_le_bytes(*b"Bant")]);
    assert_eq!(driver.offered(), 0b101 | feature::OF_TRANSPORT);
    assert_eq!([0, 1, 2].map(|queue| driver.queue_max(queue)), [16, 8, 0]);
    driver.write(reg::DEVICE_FEATURES_SEL, 2);
    assert_eq!(driver.read(reg::DEVICE_FEATURES), 0);
    // Shared memory regions: none.
    assert_eq!([0xb0, 0xb4, 0xb8, 0xbc].map(|register| driver.read(register)), [u32::MAX; 4]);
    // What is not a register, and what is not a whole one.
    assert_eq!([0x0c, 0x4c, 0xf0].map(|register| driver.read(register + 0x40)), [0; 3]);
    for (offset, len) in [(1, 4), (0, 1), (0, 2), (0, 8), (2, 2)] {
        let mut data = vec![0xaa; len];
        driver.read_bytes(offset, &mut data);
        assert_eq!(data, vec![0; len], "{offset} {len}");
    }
}

#[test]
fn the_steps_of_the_initialization_come_in_their_order() {
    let mut driver = driver();
    let set = |driver: &GuestDriver, bits: u8| {
        driver.write(reg::STATUS, bits.into());
        driver.status()
    };
    // Features before DRIVER are not taken, so there is no VERSION_1 later.
    driver.write(reg::DRIVER_FEATURES_SEL, 1);
    driver.write(reg::DRIVER_FEATURES, 1);
    let both = bit::ACKNOWLEDGE | bit::DRIVER;
    assert_eq!(set(&driver, both), both);
    assert_eq!(set(&driver, both | bit::FEATURES_OK), both);
    // Nor are queues before FEATURES_OK.
    driver.write(reg::QUEUE_SEL, 0);
    driver.write(reg::QUEUE_READY, 1);
    assert_eq!(driver.read(reg::QUEUE_READY), 0);
    driver.write(reg::DRIVER_FEATURES, 1);
    assert_eq!(set(&driver, both | bit::FEATURES_OK), both | bit::FEATURES_OK);
    // Features are fixed now, and bits are never taken back but all at once.
    driver.write(reg::DRIVER_FEATURES, 0xffff_ffff);
    assert_eq!(set(&driver, bit::ACKNOWLEDGE), both | bit::FEATURES_OK);
    assert_eq!(set(&driver, bit::FAILED), both | bit::FEATURES_OK | bit::FAILED);
    // The device's own bit is not the driver's.
    assert_eq!(set(&driver, bit::NEEDS_RESET) & bit::NEEDS_RESET, 0);
    driver.write(reg::STATUS, 0x100);
    assert_ne!(driver.status(), 0);
    driver.reset();
}

#[test]
fn the_driver_writes_its_own_part_of_the_configuration_space() {
    let echo = Echo::default();
    let written = Arc::clone(&echo.written);
    let driver = GuestDriver::new(Box::new(echo));
    driver.write_bytes(reg::CONFIG, &[9; 8]);
    assert_eq!(driver.config(0), [1, 2, 3, 4, 9, 9, 0, 0]);
    wait("the device is not told", || written.load(Ordering::SeqCst) == 9);
    driver.write_bytes(reg::CONFIG + 6, &[7; 8]);
    driver.write_bytes(0xffff_ffff_ffff_fff0, &[7; 8]);
    assert_eq!(driver.config(4), [9, 9, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn commands_change_the_configuration_and_interrupt_a_driver() {
    let mut driver = driver();
    let command = Command::BalloonTarget(Size::new(0x0102_0304));
    driver.handle.command(command).unwrap();
    assert_eq!((driver.config(0), driver.line.rises()), ([4, 3, 2, 1], 0));
    let generation = driver.read(0xfc);
    driver.set_up(0);
    driver.handle.command(command).unwrap();
    assert_eq!((driver.line.rises(), driver.read(reg::INTERRUPT_STATUS)), (1, 2));
    assert_ne!(driver.read(0xfc), generation);
    driver.write(reg::INTERRUPT_ACK, 2);
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), 0);
    let unknown = driver.handle.command(Command::DiskResized).unwrap_err();
    assert!(matches!(unknown, CommandError::Unknown(Command::DiskResized)));
    let handle = driver.handle.clone();
    drop(driver);
    assert!(matches!(handle.command(command), Err(CommandError::Gone)));
}

#[test]
fn the_driver_is_interrupted_as_it_wishes() {
    let mut driver = driver();
    driver.set_up(0);
    driver.request(0, &[b"a"], &[1]);
    wait("no interrupt", || driver.line.rises() == 1);
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), 1);
    // It polls.
    let (_, available, _) = GuestDriver::ring(0);
    driver.memory.write_obj(1_u16, GuestAddress(available)).unwrap();
    driver.request(0, &[b"a"], &[1]);
    driver.settle();
    assert_eq!(driver.line.rises(), 1);
    driver.reset();

    // EVENT_IDX: from the third used buffer on.
    driver.set_up(feature::RING_EVENT_IDX);
    driver.memory.write_obj(2_u16, GuestAddress(available + 4 + 2 * 16)).unwrap();
    for expected in [1, 1, 2, 2] {
        driver.request(0, &[b"a"], &[1]);
        driver.settle();
        assert_eq!(driver.line.rises(), expected);
    }
    // The device asks for the next kick only: nothing but the index after what it has seen.
    let (_, _, used) = GuestDriver::ring(0);
    assert_eq!(driver.memory.read_obj::<u16>(GuestAddress(used + 4 + 8 * 16)).unwrap(), 4);
}

#[test]
fn a_pause_completes_what_is_in_flight_and_a_kick_in_it_is_not_lost() {
    let mut driver = driver();
    driver.set_up(0);
    let head = driver.offer(1, &[b"kept"], &[]);
    driver.kick(1);
    driver.settle();
    assert!(driver.used(1).is_none());
    driver.pause();
    assert_eq!(driver.used(1).map(|used| used.0), Some(head));
    let head = driver.offer(0, &[b"later"], &[5]);
    driver.kick(0);
    assert!(driver.used(0).is_none());
    driver.resume();
    assert_eq!(driver.wait_used(0), (head, 5, b"later".to_vec()));
}

#[test]
fn more_chains_than_descriptors_are_a_broken_ring() {
    let mut driver = driver();
    driver.set_up(0);
    for _ in 0..9 {
        driver.make_available(1, 0);
        driver.kick(1);
        driver.settle();
    }
    driver.wait_needs_reset();
    assert_eq!(driver.read(reg::INTERRUPT_STATUS) & 2, 2, "the driver is told");
    driver.reset();
    driver.set_up(0);
    driver.request(0, &[b"a"], &[1]);
}

#[test]
fn bad_chains_do_not_keep_others_from_their_turn() {
    let memory = crate::memory::allocate(Size::mib(2)).unwrap();
    let status = Arc::new(DeviceStatus::new(Arc::new(FakeLine::default()), ConfigSpace::default()));
    let kick = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let setup = QueueSetup { size: 8, ready: true, descriptors: 0x1000, available: 0x2000, used: 0x3000 };
    let mut queue = VirtQueue::open(&Arc::new(memory.clone()), &setup, 8, false, &status, &kick).unwrap();
    // Descriptor 0 is outside memory, and one thread of the guest's offers it as fast as it can.
    memory.write_obj(u64::MAX, GuestAddress(0x1000)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let used: u16 = memory.load(GuestAddress(0x3002), Ordering::Acquire).unwrap();
                memory.store(used.wrapping_add(8), GuestAddress(0x2002), Ordering::Release).unwrap();
            }
        });
        wait("no chain", || memory.load::<u16>(GuestAddress(0x2002), Ordering::Acquire).unwrap() == 8);
        queue.drain(|_| Served::Done(0));
        done.store(true, Ordering::Relaxed);
    });
    assert!(queue.is_open());
    assert_eq!(queue.bad_chains(), 8);
    assert!(kick.read().is_ok(), "the queue is looked at again");
}

#[test]
fn a_device_is_started_once_however_often_its_driver_says_so() {
    let echo = Echo::default();
    let started = Arc::clone(&echo.started);
    let mut driver = GuestDriver::new(Box::new(echo));
    driver.set_up(0);
    for _ in 0..5 {
        driver.driver_ok();
    }
    driver.request(0, &[b"a"], &[1]);
    assert_eq!(started.load(Ordering::SeqCst), 1);
}

/// One thing that a hostile driver does.
#[derive(Clone, Debug)]
enum Act {
    Register(u64, u32),
    Bytes(u64, Vec<u8>),
    SetUp(u64),
    Memory(u64, u64),
    Kick(u32),
    Reset,
    PauseAndResume,
}

fn act() -> impl Strategy<Value = Act> {
    let register = (0..0x44_u64).prop_map(|index| index * 4);
    let value = prop_oneof![any::<u32>(), 0..16_u32, Just(0x10_0000)];
    // Rings of both queues, and what follows.
    let address = prop_oneof![0x10_0000..0x10_0200_u64, 0x11_8000..0x11_8040_u64, 0x14_0000..0x14_0200_u64];
    prop_oneof![
        4 => (register, value.clone()).prop_map(|(register, value)| Act::Register(register, value)),
        1 => (0..0x200_u64, prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Act::Bytes(at, bytes)),
        2 => any::<u64>().prop_map(Act::SetUp),
        6 => (address, prop_oneof![any::<u64>(), (0..0x4_0000_u64)]).prop_map(|(at, value)| Act::Memory(at, value)),
        4 => prop_oneof![0..3_u32, any::<u32>()].prop_map(Act::Kick),
        1 => Just(Act::Reset),
        1 => Just(Act::PauseAndResume),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a driver does, after a reset the device works.
    #[test]
    fn any_driver_is_survived(acts in prop::collection::vec(act(), 1..60)) {
        let mut driver = driver();
        for act in acts {
            match act {
                Act::Register(register, value) => driver.write(register, value),
                Act::Bytes(at, bytes) => driver.write_bytes(at, &bytes),
                Act::SetUp(features) => {
                    driver.reset();
                    driver.set_up(features & driver.offered());
                }
                Act::Memory(at, value) => driver.memory.write_obj(value, GuestAddress(at)).unwrap(),
                Act::Kick(queue) => driver.write(reg::QUEUE_NOTIFY, queue),
                Act::Reset => driver.reset(),
                Act::PauseAndResume => {
                    driver.pause();
                    driver.resume();
                }
            }
        }
        driver.reset();
        driver.set_up(feature::OF_TRANSPORT);
        let (_, bytes) = driver.request(0, &[b"alive"], &[5]);
        prop_assert_eq!(bytes, b"alive");
    }
}
