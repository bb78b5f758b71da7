//! A device is saved, and another one goes on for it.

use super::*;
use crate::state::{Section, State};
use crate::virtio::{self, Allow, SaveError};

/// A page of memory.
const PAGE: usize = 4096;

impl GuestDriver {
    /// What the device keeps. It is paused.
    pub(crate) fn save(&mut self) -> Result<State, SaveError> {
        let mut state = State::default();
        virtio::save(NAME, &lock(&self.registers), &mut self.parked[0], &mut state).map(|()| state)
    }

    /// The file that is to be copied with that.
    #[cfg(test)]
    pub(crate) fn overlay(&self) -> Option<std::path::PathBuf> {
        self.parked[0].overlay()
    }

    /// Makes a device that is on no loop yet what another one was.
    fn restore(&mut self, mut state: State, allow: Allow) -> Result<(), SaveError> {
        virtio::restore(NAME, &mut lock(&self.registers), &mut self.parked[0], &mut state, allow)?;
        Ok(state.finish()?)
    }

    /// Another device for the same driver, off its loop, on a memory.
    pub(crate) fn heir(
        &self,
        device: Box<dyn Device>,
        memory: GuestMemory,
        state: State,
        allow: Allow,
    ) -> Result<Self, SaveError> {
        let mut heir = Self::build(device, memory, false);
        heir.restore(state, allow)?;
        heir.queues.clone_from(&self.queues);
        heir.inputs.clone_from(&self.inputs);
        (heir.next_buffer, heir.indirect, heir.which) = (self.next_buffer, self.indirect, self.which + 1);
        Ok(heir)
    }

    /// Has `device` go on for this one, which is paused, with a copy of its memory. It is on no loop yet.
    pub(crate) fn hand_over(&mut self, device: Box<dyn Device>) {
        let state = self.save().unwrap();
        let heir = self.heir(device, copy(&self.memory), state, Allow::default()).unwrap();
        self.predecessor = Some(Box::new(std::mem::replace(self, heir)));
    }
}

/// The same bytes elsewhere.
pub(crate) fn copy(memory: &GuestMemory) -> GuestMemory {
    let other = memory::allocate(MEMORY).unwrap();
    let mut page = [0; PAGE];
    for at in (0..MEMORY.bytes()).step_by(PAGE).map(GuestAddress) {
        memory.read_slice(&mut page, at).unwrap();
        if page != [0; PAGE] {
            other.write_slice(&page, at).unwrap();
        }
    }
    other
}

/// The part of the suite that is about saving.
pub(super) fn conformance(
    mut driver: GuestDriver,
    mut make: impl FnMut() -> Box<dyn Device>,
    mut exchange: impl FnMut(&mut GuestDriver),
) {
    let offered = driver.offered();
    let mut latest = 0;
    // A driver that is not there, or has not come far.
    for steps in 0..3 {
        if steps > 0 {
            driver.write(reg::STATUS, u32::from(bit::ACKNOWLEDGE));
        }
        if steps > 1 {
            assert!(driver.negotiate(offered));
        }
        driver.pause();
        driver.hand_over(make());
        let status = driver.status();
        driver.resume();
        let first = driver.predecessor.take().unwrap();
        assert_eq!(first.status(), status);
        latest += 1;
        driver.which = latest;
        driver.reset();
        driver.set_up(0);
        exchange(&mut driver);
        driver = *first;
        driver.resume();
        driver.reset();
    }
    for features in [0, feature::OF_TRANSPORT, offered] {
        driver.set_up(features);
        exchange(&mut driver);
        // Requests that are there and not taken are the successor's, and after that, its predecessor's.
        driver.pause();
        let which = std::mem::replace(&mut driver.which, latest);
        driver.successor = Some(make());
        latest += 1;
        exchange(&mut driver);
        exchange(&mut driver);
        driver.pause();
        driver.resume();
        exchange(&mut driver);
        let first = driver.predecessor.take().unwrap();
        driver = *first;
        driver.which = which;
        driver.resume();
        let served = wait_any(&mut driver);
        driver.settle();
        assert_eq!(driver.used(served), None, "it is served twice");
        while (0..driver.queues.len()).any(|queue| driver.used(queue).is_some()) {}
        exchange(&mut driver);
        driver.reset();
    }
    hostile_states(driver, make, exchange, latest);
}

/// Waits until a chain in some queue is used: in which.
fn wait_any(driver: &mut GuestDriver) -> usize {
    let mut found = None;
    wait("the device uses no buffer", || {
        found = (0..driver.queues.len()).rev().find(|queue| driver.used(*queue).is_some());
        found.is_some()
    });
    found.unwrap()
}

/// Whatever the state is, the device refuses it or is a working one.
fn hostile_states(
    mut driver: GuestDriver,
    mut make: impl FnMut() -> Box<dyn Device>,
    mut exchange: impl FnMut(&mut GuestDriver),
    mut latest: usize,
) {
    let offered = driver.offered();
    driver.set_up(offered);
    driver.pause();
    let state = driver.save().unwrap();
    let memory = copy(&driver.memory);
    let mut random = Random(0x5eed);
    let (mut refused, mut taken) = (0, 0);
    for (index, section) in state.sections().iter().enumerate() {
        for bad in damaged(section, &mut random) {
            let mut sections = state.sections().to_vec();
            sections[index] = bad;
            let device = make();
            latest += 1;
            let allow = Allow { changed_disks: true, ..Allow::default() };
            let Ok(mut heir) = driver.heir(device, memory.clone(), sections.into_iter().collect(), allow)
            else {
                refused += 1;
                continue;
            };
            taken += 1;
            heir.which = latest;
            heir.resume();
            (0..heir.queues.len()).for_each(|queue| heir.kick(queue));
            heir.settle();
            heir.reset();
            heir.set_up(feature::OF_TRANSPORT);
            exchange(&mut heir);
        }
    }
    assert!(refused > 0 && taken > 0, "{refused} states are refused, and {taken} taken");
    // The machine ends with the driver set up.
    driver.resume();
}

/// A section that is cut, or has other bits.
fn damaged(section: &Section, random: &mut Random) -> Vec<Section> {
    let len = section.payload.len();
    let with = |payload: Vec<u8>| Section { payload, ..section.clone() };
    let mut all: Vec<_> =
        (0..len).step_by(len.div_ceil(8)).map(|end| with(section.payload[..end].to_vec())).collect();
    for _ in 0..40 {
        let mut payload = section.payload.clone();
        for _ in 0..1 + random.below(3) {
            let bit = random.below(8 * len);
            payload[bit / 8] ^= 1 << (bit % 8);
        }
        all.push(with(payload));
    }
    all
}

/// Numbers that are the same each time (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        for shift in [13, -7, 17] {
            self.0 ^= if shift > 0 { self.0 << shift } else { self.0 >> -shift };
        }
        (self.0 % end as u64) as usize
    }
}
