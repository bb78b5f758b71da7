//! A running machine into a snapshot.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use thiserror::Error as ThisError;

use super::take::Begun;
use super::{Error, Options, Progress, Taken};
use crate::machine::{self, Outcome, PausedMachine, RunningMachine};
use crate::memory::layout::PAGE_SIZE;
use crate::memory::{self, DirtyPages, dirty};

/// How often what has changed meanwhile is written while the guest runs, at the most.
const ROUNDS: usize = 30;
/// How long a pause takes beside the writing of memory.
const BESIDE: Duration = Duration::from_millis(2);
/// How fast memory is written, in bytes a second, as long as none has been.
const SPEED: f64 = 1e9;

/// There is no machine any more.
#[derive(Debug, ThisError)]
pub enum Lost {
    /// It has ended.
    #[error("the machine has ended: {}", .0.reason)]
    Ended(Box<Outcome>),
    /// It could not go on after a pause.
    #[error(transparent)]
    Failed(#[from] machine::Error),
}

/// What came of a snapshot of a running machine.
pub struct Live {
    /// The machine, which runs on.
    pub machine: RunningMachine,
    /// The snapshot, to be finished.
    pub taken: Result<Taken, Error>,
    /// How long the guest stood still at a time, at the most.
    pub pause: Duration,
}

/// Saves a running machine. Without `max_pause` it stands still while its memory is written. With it, memory is
/// written while the guest runs, and written again where the guest has changed it, until what is left is
/// little: the guest stands still for that, and for no longer.
///
/// # Errors
/// The machine has ended. What else goes wrong is in [`Live::taken`], and the machine runs on.
pub fn save_running(
    machine: RunningMachine,
    target: &Path,
    options: &Options,
    max_pause: Option<Duration>,
    progress: Progress<'_>,
) -> Result<Live, Lost> {
    let Some(allowed) = max_pause else {
        let take = |machine: &mut PausedMachine| Taken::take(machine, target, options, progress);
        let (machine, taken, pause) = paused(machine, take)?;
        return Ok(Live { machine, taken, pause });
    };
    let mut copy = match Begun::new(machine.tracked_since(), target, options) {
        Ok(begun) => Copy { begun, allowed, left: DirtyPages::default(), spent: Duration::ZERO },
        Err(error) => return Ok(Live { machine, taken: Err(error), pause: Duration::ZERO }),
    };
    let tracked = dirty::is_tracked(machine.memory());
    let track = |machine: &mut PausedMachine| {
        if tracked { Ok(()) } else { machine.track_dirty(true) }
    };
    let (mut machine, tracking, first) = paused(machine, track)?;
    let tracking = tracking.map_err(|error| machine::Error::from(error).into());
    let written = tracking.and_then(|()| copy.write_most(&mut machine, progress));
    let start = Instant::now();
    let (machine, taken, pause) = paused(machine, |machine| {
        let taken = written.and_then(|()| copy.finish(machine, start));
        // It was tracked for this only.
        if !tracked && machine.tracked_since().next().is_none() {
            machine.track_dirty(false).map_err(machine::Error::from)?;
        }
        taken
    })?;
    Ok(Live { machine, taken, pause: pause.max(first) })
}

/// Does something with the machine standing still, and says how long it did.
fn paused<T>(
    machine: RunningMachine,
    work: impl FnOnce(&mut PausedMachine) -> T,
) -> Result<(RunningMachine, T, Duration), Lost> {
    let start = Instant::now();
    let mut machine = machine.pause().map_err(Lost::Ended)?;
    let result = work(&mut machine);
    let machine = machine.resume()?;
    Ok((machine, result, start.elapsed()))
}

/// A copy of memory, on its way.
struct Copy {
    begun: Begun,
    allowed: Duration,
    /// What has changed since it was written.
    left: DirtyPages,
    /// How long writing has taken.
    spent: Duration,
}

impl Copy {
    /// Writes memory until what is left can be written in the time that there is.
    fn write_most(&mut self, machine: &mut RunningMachine, progress: Progress<'_>) -> Result<(), Error> {
        let start = Instant::now();
        match self.begun.base() {
            None => {
                // What was changed before is in what is written now.
                machine.take_dirty().map_err(machine::Error::from)?;
                self.begun.write_all(machine.memory(), machine.layers(), progress)?;
            }
            Some(base) => {
                let changed = machine.changed_since(base)?.clone();
                self.begun.write(machine.memory(), &changed, progress)?;
            }
        }
        self.spent = start.elapsed();
        for _ in 0..ROUNDS {
            self.left = machine.take_dirty().map_err(machine::Error::from)?;
            // The guest goes on until it stands still.
            if self.needed() <= self.allowed / 2 {
                return Ok(());
            }
            let (start, left) = (Instant::now(), std::mem::take(&mut self.left));
            self.begun.write(machine.memory(), &left, progress)?;
            self.spent += start.elapsed();
            self.left = left;
        }
        Err(self.too_long())
    }

    /// How long what is left takes, at the speed so far.
    fn needed(&self) -> Duration {
        let spent = self.spent.as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "an estimate")]
        let (written, left) = (self.begun.memory_bytes() as f64, (self.left.len() * PAGE_SIZE) as f64);
        let speed = if written > 0.0 && spent > 0.0 { written / spent } else { SPEED };
        BESIDE + Duration::try_from_secs_f64(left / speed).unwrap_or(Duration::MAX / 2)
    }

    fn too_long(&self) -> Error {
        Error::Pause { needed: self.needed(), allowed: self.allowed }
    }

    /// Writes the rest, and the state, as long as the time since `start` is not over. What cannot be
    /// ended when it takes too long, as a disk that is flushed, has the snapshot refused all the same.
    fn finish(mut self, machine: &mut PausedMachine, start: Instant) -> Result<Taken, Error> {
        let last = machine.take_dirty().map_err(machine::Error::from)?;
        self.left = self.left.union(&last);
        let allowed = self.allowed;
        let is_late = || start.elapsed() >= allowed;
        let mut in_time = |_, _| if is_late() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        match self.begun.write(machine.memory(), &self.left, &mut in_time) {
            Err(Error::Memory(memory::Error::GivenUp)) => return Err(self.too_long()),
            result => result?,
        }
        let too_long = || Error::Pause { needed: start.elapsed(), allowed };
        self.begun.take(machine, || if is_late() { Err(too_long()) } else { Ok(()) })
    }
}
