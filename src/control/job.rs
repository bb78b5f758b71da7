//! What takes long is done on a thread of its own, which has the machine meanwhile: whoever attends to
//! the machine attends to everything else, and to how far it is.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SendError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use libc::EFD_CLOEXEC;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Answer, Machine};
use crate::machine::{ExitReason, Outcome, StopHandle};
use crate::vcpu::ExitStats;

/// How often is told how far it is.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// How far a job is, and whether it is still wanted.
pub struct Progress {
    begun: Instant,
    /// When was told last, in milliseconds since the beginning.
    told: AtomicU64,
    done: AtomicU64,
    total: AtomicU64,
    cancelled: AtomicBool,
    finished: AtomicBool,
    changed: EventFd,
}

impl Progress {
    fn new() -> io::Result<Self> {
        Ok(Self {
            begun: Instant::now(),
            told: AtomicU64::new(0),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            changed: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })
    }

    /// So much of so much is done. A break means that nobody wants the rest.
    pub fn report(&self, done: u64, total: u64) -> ControlFlow<()> {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        if Duration::from_millis(now.saturating_sub(self.told.load(Ordering::Relaxed))) >= TELL_EVERY {
            self.told.store(now, Ordering::Relaxed);
            self.tell();
        }
        if self.cancelled.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn tell(&self) {
        // It fails only when the counter is full, and then it is readable.
        let _ = self.changed.write(1);
    }
}

/// Says that the thread is done, however it ends.
struct Finishing(Arc<Progress>);

impl Drop for Finishing {
    fn drop(&mut self) {
        self.0.finished.store(true, Ordering::SeqCst);
        self.0.tell();
    }
}

/// Something that takes long, with the machine that it is done to. Dropping it gives it up and stops
/// the machine.
pub struct Job {
    what: &'static str,
    /// Until it is joined.
    thread: Option<JoinHandle<Option<(Machine, Answer)>>>,
    progress: Arc<Progress>,
    stop: Option<StopHandle>,
}

impl Job {
    /// Begins it; `what` is the machine's state meanwhile, in a word.
    ///
    /// # Errors
    /// The host gives no thread: the machine is back.
    pub fn start(
        machine: Machine,
        what: &'static str,
        work: impl FnOnce(Machine, &Progress) -> (Machine, Answer) + Send + 'static,
    ) -> Result<Self, (Box<Machine>, io::Error)> {
        let progress = match Progress::new() {
            Ok(progress) => Arc::new(progress),
            Err(error) => return Err((Box::new(machine), error)),
        };
        let stop = machine.stop_handle();
        let (give, take) = channel();
        let finishing = Finishing(Arc::clone(&progress));
        let body = move || take.recv().ok().map(|machine| work(machine, &finishing.0));
        let thread = match thread::Builder::new().name(what.to_owned()).spawn(body) {
            Ok(thread) => thread,
            Err(error) => return Err((Box::new(machine), error)),
        };
        match give.send(machine) {
            Ok(()) => Ok(Self { what, thread: Some(thread), progress, stop }),
            Err(SendError(machine)) => Err((Box::new(machine), io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// The machine's state, in a word.
    #[must_use]
    pub fn what(&self) -> &'static str {
        self.what
    }

    /// Nobody wants the rest.
    pub fn cancel(&self) {
        self.progress.cancelled.store(true, Ordering::Relaxed);
    }

    /// Gives it up and stops the machine.
    pub fn stop(&self) {
        self.cancel();
        if let Some(stop) = &self.stop {
            stop.stop();
        }
    }

    /// How far it is, or none when it is done: then [`Self::finish`] does not wait.
    #[must_use]
    pub fn progress(&self) -> Option<(u64, u64)> {
        // It fails when nothing has changed.
        let _ = self.progress.changed.read();
        let at = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let finished = self.progress.finished.load(Ordering::SeqCst);
        (!finished).then(|| (at(&self.progress.done), at(&self.progress.total)))
    }

    /// Waits for its end; the machine is back. It has ended if the job panicked, which is a defect.
    #[must_use]
    pub fn finish(mut self) -> (Machine, Answer) {
        let done = self.thread.take().and_then(|thread| thread.join().ok()).flatten();
        done.unwrap_or_else(|| {
            let outcome = Outcome {
                reason: ExitReason::Panicked,
                stats: ExitStats::default(),
                timeline: Arc::default(),
            };
            (Machine::Ended(Box::new(outcome)), Answer::refused(&"a defect of bantam has ended the machine"))
        })
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stop();
            let _ = thread.join();
        }
    }
}

/// Readable when it is further, or done.
impl AsRawFd for Job {
    fn as_raw_fd(&self) -> RawFd {
        self.progress.changed.as_raw_fd()
    }
}
