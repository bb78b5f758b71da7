//! What the vCPU threads of a machine share with whoever controls it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libc::EFD_CLOEXEC;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::lock;
use crate::hypervisor::KickHandle;

use super::run::End;

/// How long a kick has to take a vCPU out of its guest before the next.
const KICK_AGAIN: Duration = Duration::from_millis(10);

/// What a machine's vCPUs are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Desired {
    /// Wait, with all exits complete.
    Paused = 0,
    /// Run the guest.
    Running = 1,
    /// End the thread.
    Stopped = 2,
}

/// Whose turn it is: the machine's vCPU threads and their controller meet here.
pub struct Control {
    state: Mutex<State>,
    changed: Condvar,
    /// A copy of `state.desired` that the exit loop reads without the lock.
    desired: AtomicU8,
    kicks: Vec<KickHandle>,
    /// Readable once the machine has ended.
    ended: EventFd,
}

struct State {
    desired: Desired,
    /// vCPU threads that are out of the guest.
    parked: usize,
    /// vCPU threads that have ended.
    gone: usize,
    /// Why the machine ended, once it has.
    end: Option<End>,
}

impl Control {
    /// For a machine with so many vCPUs, all paused.
    ///
    /// # Errors
    /// The host gives no eventfd.
    pub fn new(vcpus: usize) -> io::Result<Self> {
        Ok(Self {
            state: Mutex::new(State { desired: Desired::Paused, parked: 0, gone: 0, end: None }),
            changed: Condvar::new(),
            desired: AtomicU8::new(Desired::Paused as u8),
            kicks: (0..vcpus).map(|_| KickHandle::default()).collect(),
            ended: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })
    }

    /// What the vCPUs are to do now.
    #[must_use]
    pub fn desired(&self) -> Desired {
        match self.desired.load(Ordering::SeqCst) {
            0 => Desired::Paused,
            1 => Desired::Running,
            _ => Desired::Stopped,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: &mut State, desired: Desired) {
        // Once stopped, for ever: a machine that has ended does not run again.
        if state.desired != Desired::Stopped {
            state.desired = desired;
            self.desired.store(desired as u8, Ordering::SeqCst);
        }
        self.changed.notify_all();
    }

    fn kick_all(&self) {
        self.kicks.iter().for_each(KickHandle::kick);
    }

    /// Lets the vCPUs run.
    pub fn resume(&self) {
        self.set(&mut self.state(), Desired::Running);
    }

    /// Takes all vCPUs out of the guest and waits until they are. False when the machine has
    /// ended instead.
    #[must_use]
    pub fn pause(&self) -> bool {
        let mut state = self.state();
        self.set(&mut state, Desired::Paused);
        self.kick_all();
        while state.desired == Desired::Paused && state.parked < self.kicks.len() {
            state = self.wait_or_kick(state);
        }
        state.desired == Desired::Paused
    }

    /// Waits until so many vCPU threads have ended, after [`Self::stop`].
    pub fn wait_until_gone(&self, threads: usize) {
        let mut state = self.state();
        while state.gone < threads {
            state = self.wait_or_kick(state);
        }
    }

    /// Waits for a change, for a while, then kicks again: the host may have refused a kick.
    fn wait_or_kick<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let (state, waited) =
            self.changed.wait_timeout(state, KICK_AGAIN).unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            self.kick_all();
        }
        state
    }

    /// A vCPU's thread ends. One that nobody asked to takes the machine along.
    pub(super) fn leave(&self) {
        self.stop();
        self.state().gone += 1;
        self.changed.notify_all();
    }

    /// Ends all vCPU threads, without waiting for them.
    pub fn stop(&self) {
        self.finish(End::Asked);
    }

    /// The machine ends for this reason, unless it has ended already.
    pub(super) fn finish(&self, end: End) {
        let mut state = self.state();
        state.end.get_or_insert(end);
        self.set(&mut state, Desired::Stopped);
        drop(state);
        // It fails only when the counter is full, and then it is readable.
        let _ = self.ended.write(1);
        self.kick_all();
    }

    /// Waits until the machine has ended.
    pub fn wait_for_end(&self) {
        let mut state = self.state();
        while state.desired != Desired::Stopped {
            state = self.wait(state);
        }
    }

    /// A descriptor that is readable once the machine has ended.
    pub fn ended(&self) -> RawFd {
        self.ended.as_raw_fd()
    }

    /// Why the machine ended; told once.
    pub fn take_end(&self) -> Option<End> {
        self.state().end.take()
    }

    /// A vCPU's thread, out of the guest, waits for its turn; it says what to do then.
    pub(super) fn park(&self) -> Desired {
        let mut state = self.state();
        state.parked += 1;
        self.changed.notify_all();
        while state.desired == Desired::Paused {
            state = self.wait(state);
        }
        state.parked -= 1;
        state.desired
    }

    /// The kicks of vCPU `index`.
    pub(super) fn kick_handle(&self, index: usize) -> Option<&KickHandle> {
        self.kicks.get(index)
    }
}
