//! A machine into a snapshot, on request.

use std::error::Error;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Answer, Machine, Progress, SnapshotRequest};
use crate::snapshot::{Lost, Options, Taken, save_running};
use crate::timeline::milliseconds;

/// How long the guest may stand still when nobody has said how long.
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// Saves the machine, which is then in the state that it was in.
pub(super) fn save(machine: Machine, wanted: &SnapshotRequest, progress: &Progress) -> (Machine, Answer) {
    let options = Options { base: wanted.diff_of.clone(), track: wanted.track };
    let mut report = |done, total| progress.report(done, total);
    let (machine, taken, pause) = match machine {
        Machine::Running(machine) => {
            let max_pause = wanted.max_pause.map(Duration::from).or(wanted.live.then_some(MAX_PAUSE));
            match save_running(machine, &wanted.path, &options, max_pause, &mut report) {
                Ok(live) => (Machine::Running(live.machine), live.taken, live.pause),
                Err(Lost::Ended(outcome)) => return refused(Machine::Ended(outcome)),
                Err(Lost::Failed(error)) => return refused(Machine::Failed(error)),
            }
        }
        Machine::Paused(mut machine) => {
            let start = Instant::now();
            let taken = Taken::take(&mut machine, &wanted.path, &options, &mut report);
            (Machine::Paused(machine), taken, start.elapsed())
        }
        machine @ (Machine::Ended(_) | Machine::Failed(_)) => return refused(machine),
    };
    let answer = match taken.and_then(|taken| taken.finish(&mut report)) {
        Ok(saved) => Answer::fields(&json!({
            "id": saved.id.to_string(),
            "memory_bytes": saved.memory_bytes,
            "pause_ms": milliseconds(pause),
        })),
        Err(error) => Answer::Error(chain(&error)),
    };
    (machine, answer)
}

fn refused(machine: Machine) -> (Machine, Answer) {
    let answer = machine.acknowledged();
    (machine, answer)
}

/// An error and its reasons, in one line.
fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        line = format!("{line}: {error}");
        next = error.source();
    }
    line
}
