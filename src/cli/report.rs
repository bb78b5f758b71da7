//! What `run` prints when its machine has ended.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use super::{documents, terminal};
use crate::machine::{ExitReason, Outcome};
use crate::timeline;
use crate::vcpu::{ExitCount, ExitKind};

/// Which reports are wanted, and where they go.
pub(super) struct Report {
    pub(super) timings: bool,
    pub(super) stats: bool,
    pub(super) json: bool,
    pub(super) to_stderr: bool,
}

impl Report {
    /// Prints them. How the guest ended counts for more than whether somebody can read of it.
    pub(super) fn print(&self, outcome: &Outcome) {
        match outcome.reason {
            ExitReason::PowerOff
            | ExitReason::Stopped
            | ExitReason::DebugExit(_)
            | ExitReason::MemoryLost => {}
            ref reason => terminal::note_lines(&reason.to_string()),
        }
        let mut text = String::new();
        if self.json {
            let _ = writeln!(text, "{}", to_json(outcome));
        } else {
            if self.timings {
                text += &timings(outcome);
            }
            if self.stats {
                text += &stats(outcome);
            }
        }
        let (stream, written) = if self.to_stderr {
            ("error", io::stderr().write_all(text.as_bytes()))
        } else {
            ("output", documents::write(text.as_bytes()))
        };
        match written {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                terminal::note(&format!("cannot write the report to standard {stream}: {error}"));
            }
            _ => {}
        }
    }
}

/// The phases as they came, with the time since the first and since the one before.
fn phases(outcome: &Outcome) -> Vec<(&'static str, Duration, Duration)> {
    let mut phases: Vec<_> = outcome.timeline.phases().collect();
    phases.sort_by_key(|(_, instant)| *instant);
    let Some((_, start)) = phases.first().copied() else { return Vec::new() };
    let mut before = start;
    phases
        .into_iter()
        .map(|(phase, instant)| {
            let row = (phase.name(), instant - start, instant - before);
            before = instant;
            row
        })
        .collect()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn timings(outcome: &Outcome) -> String {
    let mut text = format!("{:<20} {:>12} {:>12}\n", "phase", "at ms", "took ms");
    for (name, at, took) in phases(outcome) {
        let _ = writeln!(text, "{name:<20} {:>12.3} {:>12.3}", milliseconds(at), milliseconds(took));
    }
    text
}

/// A kind's name and its place.
fn describe(kind: ExitKind) -> (&'static str, String) {
    match kind {
        ExitKind::PortRead { port } => ("port read", format!("{port:#06x}")),
        ExitKind::PortWrite { port } => ("port write", format!("{port:#06x}")),
        ExitKind::MmioRead { address } => ("MMIO read", format!("{address:#x}")),
        ExitKind::MmioWrite { address } => ("MMIO write", format!("{address:#x}")),
        ExitKind::IoapicEoi => ("IOAPIC EOI", String::new()),
        ExitKind::Interrupted => ("interrupted", String::new()),
        ExitKind::TripleFault => ("triple fault", String::new()),
        ExitKind::Failed => ("failed", String::new()),
        ExitKind::Other => ("other places", String::new()),
    }
}

#[allow(clippy::cast_precision_loss, reason = "shares and means are shown to three digits")]
fn stats(outcome: &Outcome) -> String {
    let total = outcome.stats.total();
    let mut text = format!(
        "{:<12} {:>10} {:>10} {:>7} {:>12} {:>12} {:>10} {:>10}\n",
        "exit", "place", "count", "share", "in KVM ms", "in VMM ms", "KVM us/1", "VMM us/1"
    );
    let mut sum = ExitCount::default();
    for (kind, count) in outcome.stats.by_place() {
        let (name, place) = describe(kind);
        let each = |duration: Duration| milliseconds(duration) * 1e3 / count.count as f64;
        let _ = writeln!(
            text,
            "{name:<12} {place:>10} {:>10} {:>6.1}% {:>12.3} {:>12.3} {:>10.2} {:>10.2}",
            count.count,
            count.count as f64 * 100.0 / total as f64,
            milliseconds(count.in_kvm),
            milliseconds(count.in_vmm),
            each(count.in_kvm),
            each(count.in_vmm),
        );
        sum.in_kvm += count.in_kvm;
        sum.in_vmm += count.in_vmm;
    }
    let _ = writeln!(
        text,
        "{:<12} {:>10} {total:>10} {:>7} {:>12.3} {:>12.3}",
        "all",
        "",
        "",
        milliseconds(sum.in_kvm),
        milliseconds(sum.in_vmm)
    );
    text
}

/// Everything about an end.
pub(super) fn to_json(outcome: &Outcome) -> Value {
    let timings: serde_json::Map<_, _> = phases(outcome)
        .into_iter()
        .map(|(name, at, _)| {
            (name.to_lowercase().replace([' ', '-'], "_"), json!(timeline::milliseconds(at)))
        })
        .collect();
    let value = match outcome.reason {
        ExitReason::DebugExit(value) => json!(value),
        _ => Value::Null,
    };
    let mut text = json!({
        "reason": outcome.reason.name(),
        "code": outcome.reason.code(),
        "debug_exit": value,
        "message": outcome.reason.to_string(),
        "timings_ms": timings,
    });
    if let (Value::Object(all), Value::Object(exits)) = (&mut text, json!(outcome.stats)) {
        all.extend(exits);
    }
    text
}
