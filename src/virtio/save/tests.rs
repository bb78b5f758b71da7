//! What a device goes on with where another one was saved.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::state::Section;
use crate::virtio::testing::{GuestDriver, copy, reg, wait};
use crate::virtio::{Description, Device, Io, Served};

/// Gives every chain back as it is, and knows what it was told of its configuration space.
#[derive(Default)]
struct Mirror {
    offered: u64,
    queues: usize,
    /// Bytes of the configuration space that are not the driver's.
    own: u8,
    told: Arc<AtomicU64>,
    unsaveable: bool,
}

impl Device for Mirror {
    fn describe(&self) -> Description {
        let config = ConfigSpace::new(vec![self.own, 2, 0, 0], 2..4);
        Description { features: self.offered, config, ..Description::new(2, vec![8; self.queues.max(1)]) }
    }

    fn queue_event(&mut self, index: usize, io: &mut Io<'_>) {
        if let Some(queue) = io.queue(index) {
            queue.drain(|_| Served::Done(0));
        }
    }

    fn config_event(&mut self, io: &mut Io<'_>) {
        self.told.store(u16::from_le_bytes(io.config.get(2)).into(), Ordering::SeqCst);
    }

    fn save(&mut self, id: &str, _: &mut State) -> Result<(), SaveError> {
        if self.unsaveable { Err(SaveError::Unsaveable(id.to_owned())) } else { Ok(()) }
    }
}

fn driver(device: Mirror) -> GuestDriver {
    GuestDriver::new(Box::new(device))
}

/// Has `device` go on for what is paused.
fn heir(driver: &mut GuestDriver, device: Mirror) -> Result<GuestDriver, SaveError> {
    let state = driver.save()?;
    driver.heir(Box::new(device), copy(&driver.memory), state, Allow::default())
}

fn refusal(driver: &mut GuestDriver, device: Mirror) -> String {
    heir(driver, device).err().unwrap().to_string()
}

#[test]
fn what_the_device_has_not_seen_yet_it_sees_later() {
    let mut driver = driver(Mirror::default());
    driver.pause();
    // The driver sets the device up and writes its configuration, and the worker knows of nothing.
    driver.set_up(0);
    driver.write_bytes(reg::CONFIG + 2, &[7, 1]);
    let head = driver.offer(0, &[b"a"], &[]);
    driver.kick(0);
    let told = Arc::new(AtomicU64::new(0));
    let mut other = heir(&mut driver, Mirror { told: Arc::clone(&told), ..Mirror::default() }).unwrap();
    // Once more, before it has run.
    let mut third = heir(&mut other, Mirror { told: Arc::clone(&told), ..Mirror::default() }).unwrap();
    third.resume();
    assert_eq!(third.wait_used(0).0, head);
    wait("it is not told", || told.load(Ordering::SeqCst) == 0x107);
    assert_eq!(third.config(0), [0, 2, 7, 1]);
    driver.resume();
    assert_eq!(driver.wait_used(0).0, head);
}

#[test]
fn registers_are_where_they_were() {
    let mut driver = driver(Mirror { offered: 1 << 5, queues: 2, ..Mirror::default() });
    assert!(driver.negotiate(feature::VERSION_1 | 1 << 5));
    driver.write(reg::QUEUE_SEL, 1);
    driver.write(reg::QUEUE_NUM, 4);
    driver.write(reg::QUEUE_DESC, 0x1_2340);
    driver.write(reg::DEVICE_FEATURES_SEL, 1);
    driver.write(reg::DRIVER_FEATURES_SEL, 1);
    driver.pause();
    let state = driver.save().unwrap();
    let mut other = heir(&mut driver, Mirror { offered: 0xff, queues: 2, ..Mirror::default() }).unwrap();
    assert_eq!(other.save().unwrap(), state);
    assert_eq!(other.status(), 0b1011);
    assert_eq!(other.read(reg::DEVICE_FEATURES), 1);
}

#[test]
fn an_interrupt_that_the_driver_has_not_noticed_comes_again() {
    let mut driver = driver(Mirror::default());
    driver.set_up(0);
    driver.request(0, &[b"a"], &[]);
    wait("no interrupt", || driver.read(reg::INTERRUPT_STATUS) == 1);
    driver.pause();
    let mut other = heir(&mut driver, Mirror::default()).unwrap();
    assert_eq!((other.read(reg::INTERRUPT_STATUS), other.line.rises()), (1, 0));
    other.resume();
    wait("no interrupt", || other.line.rises() == 1);
    other.write(reg::INTERRUPT_ACK, 1);
    // A pause is no reason for another one.
    other.pause();
    other.resume();
    other.settle();
    other.settle();
    assert_eq!(other.line.rises(), 1);
    other.pause();
    let mut third = heir(&mut other, Mirror::default()).unwrap();
    third.resume();
    third.settle();
    third.settle();
    assert_eq!(third.line.rises(), 0);
}

#[test]
fn a_configuration_that_the_driver_has_not_read_is_told() {
    let mut driver = driver(Mirror::default());
    let generation = |driver: &GuestDriver| driver.read(0xfc);
    driver.set_up(0);
    driver.pause();
    let mut other = heir(&mut driver, Mirror { own: 9, ..Mirror::default() }).unwrap();
    assert_eq!(other.config(0), [9, 2, 0, 0]);
    assert_eq!(generation(&other), generation(&driver) + 1);
    // It is still told where that one has never run.
    let mut third = heir(&mut other, Mirror { own: 9, ..Mirror::default() }).unwrap();
    assert_eq!(generation(&third), generation(&other));
    third.resume();
    wait("no interrupt", || third.line.rises() == 1);
    assert_eq!(third.read(reg::INTERRUPT_STATUS), 2);
}

#[test]
fn a_device_that_needs_a_reset_needs_it_still() {
    let mut driver = driver(Mirror { queues: 2, ..Mirror::default() });
    driver.set_up(0);
    driver.publish(0, 0x8000);
    driver.kick(0);
    driver.wait_needs_reset();
    driver.pause();
    let mut other = heir(&mut driver, Mirror { queues: 2, ..Mirror::default() }).unwrap();
    other.resume();
    other.wait_needs_reset();
    // The other queue still works.
    other.request(1, &[b"a"], &[]);
    other.kick(0);
    other.settle();
    assert_eq!(other.used(0), None);
    other.reset();
    other.set_up(0);
    other.request(0, &[b"a"], &[]);
}

#[test]
fn a_ring_that_does_not_fit_the_memory_ends_in_a_reset() {
    let mut driver = driver(Mirror::default());
    driver.set_up(0);
    driver.request(0, &[b"a"], &[]);
    driver.pause();
    driver.publish(0, 0x4000);
    let mut other = heir(&mut driver, Mirror::default()).unwrap();
    other.resume();
    other.wait_needs_reset();
}

#[test]
fn what_does_not_fit_is_said() {
    let all = 1 << 9 | 1 << 13 | 1 << 60;
    let mut driver = driver(Mirror { offered: all, queues: 2, ..Mirror::default() });
    driver.set_up(all);
    driver.pause();
    let mirror = |offered, queues| Mirror { offered, queues, ..Mirror::default() };
    assert_eq!(
        refusal(&mut driver, mirror(1 << 9, 2)),
        "test: the guest uses VIRTIO_BLK_F_DISCARD, feature 60, which the device does not have here: give it the \
         options that it had; or the host lacks them"
    );
    assert_eq!(
        refusal(&mut driver, mirror(all, 3)),
        "the state of 'test' cannot be: it had 2 queues, and has 3 here"
    );
    let state = driver.save().unwrap();
    let other = driver.heir(Box::new(Keeper), copy(&driver.memory), state, Allow::default());
    assert!(matches!(other, Err(SaveError::Kind { saved: 2, here: 77, .. })));
    let mut unsaveable = GuestDriver::new(Box::new(Mirror { unsaveable: true, ..Mirror::default() }));
    unsaveable.pause();
    assert!(matches!(unsaveable.save(), Err(SaveError::Unsaveable(name)) if name == "test"));
}

/// Keeps what it gets, also when it is stopped.
struct Keeper;

impl Device for Keeper {
    fn describe(&self) -> Description {
        Description::new(77, vec![8, 8])
    }

    fn queue_event(&mut self, queue: usize, io: &mut Io<'_>) {
        if let Some(queue) = io.queue(queue) {
            queue.drain(|_| Served::Deferred);
        }
    }
}

#[test]
fn a_device_that_keeps_chains_or_does_not_say_what_it_keeps_is_not_saved() {
    let mut driver = GuestDriver::new(Box::new(Keeper));
    driver.pause();
    assert!(matches!(driver.save(), Err(SaveError::Unsaveable(_))));
    driver.resume();
    driver.set_up(0);
    driver.offer(1, &[b"a"], &[]);
    driver.kick(1);
    driver.settle();
    driver.pause();
    assert!(matches!(driver.save(), Err(SaveError::InFlight { queue: 1, .. })));
}

/// A state with one of its structures changed.
fn changed<T: Saved>(state: &State, change: impl FnOnce(&mut T)) -> State {
    let mut sections = state.sections().to_vec();
    for section in &mut sections {
        if section.kind == T::KIND {
            let mut saved: T = section.open().unwrap();
            change(&mut saved);
            *section = Section::of(&section.id, &saved).unwrap();
            break;
        }
    }
    sections.into_iter().collect()
}

#[test]
fn states_that_cannot_be_are_refused() {
    let mut driver = driver(Mirror::default());
    driver.set_up(0);
    driver.request(0, &[b"a"], &[]);
    driver.pause();
    let state = driver.save().unwrap();
    let memory = copy(&driver.memory);
    let refused = |state: State| {
        let result = driver.heir(Box::new(Mirror::default()), memory.clone(), state, Allow::default());
        result.err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(refused(state.clone()), "");
    let with = |change: fn(&mut MmioState)| refused(changed(&state, change));
    let status = "the state of 'test' cannot be: no device has such a status";
    for bits in [0xff, 0x10, bit::DRIVER_OK, bit::DRIVER_OK | bit::FEATURES_OK] {
        assert_eq!(refused(changed::<MmioState>(&state, |saved| saved.status = bits)), status);
    }
    let queue = "the state of 'test' cannot be: a queue makes no sense, or is not in the guest's memory";
    assert_eq!(with(|saved| saved.queues[0].used = u64::MAX - 3), queue);
    assert_eq!(with(|saved| saved.queues[0].descriptors += 1), queue);
    assert_eq!(with(|saved| saved.queues[0].size = 3), queue);
    assert_eq!(
        with(|saved| saved.queues.clear()),
        "the state of 'test' cannot be: it had 0 queues, and has 1 here"
    );
    let driverless = "the state of 'test' cannot be: it has queues without a driver";
    assert_eq!(with(|saved| saved.status = bit::FEATURES_OK), driverless);
    assert!(with(|saved| saved.driver_features |= 1 << 7).contains("the guest uses feature 7"));
    assert!(with(|saved| saved.driver_features = 0).contains("before VIRTIO 1.0"));
    let rings = |change: fn(&mut Vec<Ring>)| {
        refused(changed(&state, |saved: &mut Rings| change(saved.rings.as_mut().unwrap())))
    };
    assert!(rings(Vec::clear).contains("does not say of each queue"));
    assert!(rings(|rings| rings[0].closed = true).contains("a broken queue and needs no reset"));
    assert!(refused(State::default()).contains("there is no state 'virtio-mmio' of 'test'"));
    let mut twice = state.clone();
    twice.push(state.sections()[0].clone());
    assert!(refused(twice).contains("nothing in this machine that it belongs to"));
}
