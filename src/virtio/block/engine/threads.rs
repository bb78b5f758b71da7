//! Operations on a few threads that block.

// The eventfd is lent by its number.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{Backend, Completion, Engine, Operation};

/// Threads of a pool: as many operations are done at a time.
const THREADS: usize = 4;

/// What the threads and the engine share.
struct Shared {
    backend: Arc<dyn Backend>,
    state: Mutex<State>,
    /// There is something to do, or the pool ends.
    work: Condvar,
    /// Nothing is left to do.
    idle: Condvar,
    event: EventFd,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(u64, Operation)>,
    running: usize,
    done: Vec<Completion>,
    ending: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a thread does until the pool ends.
    fn serve(&self) {
        let mut state = self.state();
        loop {
            let Some((token, operation)) = state.waiting.pop_front() else {
                if state.ending {
                    return;
                }
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.running += 1;
            drop(state);
            // An operation is told of whatever happens, or the guest and a pause would wait for ever.
            let result = catch_unwind(AssertUnwindSafe(|| self.backend.run(operation)))
                .unwrap_or_else(|_| Err(io::Error::from_raw_os_error(libc::EIO)));
            state = self.state();
            state.running -= 1;
            state.done.push(Completion { token, result });
            if state.running == 0 && state.waiting.is_empty() {
                self.idle.notify_all();
            }
            if state.done.len() == 1 {
                // It fails when the counter is full: then it is readable already.
                let _ = self.event.write(1);
            }
        }
    }
}

/// A pool of threads.
pub(in crate::virtio::block) struct Threads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    batch: Vec<(u64, Operation)>,
    pending: usize,
}

impl Threads {
    /// Starts the pool.
    ///
    /// # Errors
    /// The host gives no thread or no eventfd.
    pub(in crate::virtio::block) fn start(backend: Arc<dyn Backend>) -> io::Result<Self> {
        let shared = Shared {
            backend,
            state: Mutex::default(),
            work: Condvar::new(),
            idle: Condvar::new(),
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        };
        let mut pool = Self { shared: Arc::new(shared), threads: Vec::new(), batch: Vec::new(), pending: 0 };
        for _ in 0..THREADS {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new().name("disk".to_owned()).spawn(move || shared.serve());
            match thread {
                Ok(thread) => pool.threads.push(thread),
                // Fewer will do.
                Err(error) if pool.threads.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(pool)
    }
}

impl Engine for Threads {
    fn submit(&mut self, token: u64, operation: Operation) {
        self.pending += 1;
        self.batch.push((token, operation));
    }

    fn kick(&mut self) -> io::Result<()> {
        let several = match self.batch.len() {
            0 => return Ok(()),
            len => len > 1,
        };
        self.shared.state().waiting.extend(self.batch.drain(..));
        if several {
            self.shared.work.notify_all();
        } else {
            self.shared.work.notify_one();
        }
        Ok(())
    }

    fn completions(&mut self, sink: &mut Vec<Completion>) -> io::Result<()> {
        // Empty is what it may be.
        let _ = self.shared.event.read();
        let before = sink.len();
        sink.append(&mut self.shared.state().done);
        self.pending -= sink.len() - before;
        Ok(())
    }

    fn wait_all(&mut self) -> io::Result<()> {
        self.kick()?;
        let mut state = self.shared.state();
        while state.running > 0 || !state.waiting.is_empty() {
            state = self.shared.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the eventfd is open as long as `self` is, which the result borrows.
        Some(unsafe { BorrowedFd::borrow_raw(self.shared.event.as_raw_fd()) })
    }

    fn pending(&self) -> usize {
        self.pending
    }

    fn name(&self) -> &'static str {
        "threads"
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // The threads finish what is there before they end.
        let _ = self.kick();
        self.shared.state().ending = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
