//! How fast guest code runs, measured with the embedded guest.
//!
//! A KVM on VT-x or AMD-V runs a guest's kernel and its processes alike, natively. One that has
//! neither may run processes (CPL 3) natively and interpret the kernel (CPL 0).

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

use super::{Check, deadline};
use crate::config::{MachineConfig, Size};
use crate::hypervisor::Hypervisor;
use crate::machine::{self, Builder, ExitReason};

const NAME: &str = "guest speed";
/// The machine is stopped after this.
const GUEST_LIMIT: Duration = Duration::from_secs(10);
/// Building and stopping it may take this much more.
const BUILD_LIMIT: Duration = Duration::from_secs(5);
/// Output beyond this is no guest's of ours.
const OUTPUT_MAX: usize = 64 << 10;
/// Any processor that runs 64-bit code natively is faster, and any interpreter slower.
const NATIVE_MIPS: f64 = 50.0;
/// Native code at CPL 0 and at CPL 3 differs by noise alone.
const NATIVE_RATIO: f64 = 20.0;
/// What a counter of hundredths can show at least.
const LEAST_MIPS: f64 = 0.01;

/// Millions of instructions a second, of the same loop at both privilege levels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mips {
    /// In the guest's kernel.
    pub cpl0: f64,
    /// In the guest's processes.
    pub cpl3: f64,
}

impl Mips {
    /// Whether the host interprets guest kernel code, though it runs guest processes natively.
    #[must_use]
    pub fn kernel_is_interpreted(&self) -> bool {
        !self.all_is_slow() && (self.cpl0 < NATIVE_MIPS || self.cpl0 * NATIVE_RATIO < self.cpl3)
    }

    fn all_is_slow(&self) -> bool {
        self.cpl3 < NATIVE_MIPS
    }

    /// Reads the line `mips cpl0=0.52 cpl3=2480.10` out of the guest's output.
    fn parse(output: &str) -> Option<Self> {
        output.lines().find_map(|line| {
            let mut words = line.trim().split(' ');
            if words.next() != Some("mips") {
                return None;
            }
            let cpl0 = number(words.next()?.strip_prefix("cpl0=")?)?;
            let cpl3 = number(words.next()?.strip_prefix("cpl3=")?)?;
            words.next().is_none().then_some(Self { cpl0, cpl3 })
        })
    }
}

/// A decimal number as the guest writes it, and nothing else that a float can be spelled as.
fn number(text: &str) -> Option<f64> {
    let plain = text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if plain { text.parse().ok() } else { None }
}

/// Why there is no speed.
#[derive(Debug, Error)]
pub(super) enum Error {
    /// The machine cannot be built.
    #[error("{}", chain(.0))]
    Build(#[source] Box<machine::Error>),
    /// Its guest did not end.
    #[error("the guest did not end within {} seconds", GUEST_LIMIT.as_secs())]
    Late,
    /// The machine did not so much as start or stop.
    #[error("KVM did not give the machine back within {} seconds", (GUEST_LIMIT + BUILD_LIMIT).as_secs())]
    Hung,
    /// It ended otherwise than by power-off.
    #[error("{0}")]
    Ended(String),
    /// It ended well and did not say how fast it was.
    #[error("the guest ran, but measured nothing")]
    Untold,
}

/// An error and its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // A transparent error repeats its source.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}

/// What the guest has said.
#[derive(Clone, Default)]
struct Capture(Arc<Mutex<Vec<u8>>>);

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = OUTPUT_MAX.saturating_sub(output.len());
        output.extend(bytes.iter().take(room));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Boots the embedded guest and lets it measure itself.
pub(super) fn measure(hypervisor: Hypervisor) -> Result<Mips, Error> {
    let work = || run(hypervisor, "mips", GUEST_LIMIT);
    deadline::within(GUEST_LIMIT + BUILD_LIMIT, work).unwrap_or(Err(Error::Hung))
}

/// Runs the embedded guest with these words until it ends, or for so long.
fn run(hypervisor: Hypervisor, words: &str, limit: Duration) -> Result<Mips, Error> {
    let capture = Capture::default();
    let config =
        MachineConfig { cmdline: words.to_owned(), memory: Size::mib(16), ..MachineConfig::default() };
    let machine = Builder::new(config)
        .hypervisor(hypervisor)
        .console_output(capture.clone())
        .build()
        .map_err(|error| Error::Build(Box::new(error)))?;
    let stop = machine.stop_handle();
    let (ended, end) = mpsc::channel::<()>();
    let watch = move || {
        if end.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            stop.stop();
        }
    };
    // Without the watchdog the caller's own limit still holds.
    let _ = thread::Builder::new().name("watchdog".to_owned()).spawn(watch);
    let outcome = machine.resume().map_err(|error| Error::Build(Box::new(error)))?.wait();
    drop(ended);
    match outcome.reason {
        ExitReason::PowerOff => {}
        ExitReason::Stopped => return Err(Error::Late),
        reason => return Err(Error::Ended(reason.to_string())),
    }
    let output = capture.0.lock().unwrap_or_else(PoisonError::into_inner);
    Mips::parse(&String::from_utf8_lossy(&output)).ok_or(Error::Untold)
}

/// Two digits that count.
fn rounded(ratio: f64) -> String {
    let mut unit = 1.0;
    while ratio / unit >= 100.0 {
        unit *= 10.0;
    }
    format!("{:.0}", (ratio / unit).round() * unit)
}

/// The verdict on a measurement; none where there was no KVM to measure.
pub(super) fn check(guest: Option<&Result<Mips, Error>>) -> Check {
    let mips = match guest {
        None => return Check::unknown(NAME, "not measured: no guest runs without KVM").required(),
        Some(Err(error @ Error::Untold)) => return Check::unknown(NAME, error.to_string()).required(),
        Some(Err(error)) => {
            return Check::missing(NAME, format!("no guest runs: {}", one_line(&error.to_string())))
                .required()
                .cost("no machine runs")
                .fix("`bantam run -v` tells more; is another hypervisor using the processor?");
        }
        Some(Ok(mips)) => mips,
    };
    let speeds = format!("{} MIPS at CPL 0, {} at CPL 3", shown(mips.cpl0), shown(mips.cpl3));
    let check = if mips.all_is_slow() {
        Check::warn(NAME, format!("slow: {speeds}"))
            .cost("guests run far slower than their host's own processes")
            .fix("use a host with VT-x or AMD-V, and with processor time to spare")
    } else if mips.kernel_is_interpreted() {
        let times = rounded(mips.cpl3 / mips.cpl0.max(LEAST_MIPS));
        Check::warn(NAME, format!("interpreted: {speeds}"))
            .cost(format!(
                "a guest's kernel runs {times} times slower than its processes; stock kernels, \
                 which use instructions that the interpreter lacks, do not boot"
            ))
            .fix(
                "use a host with VT-x or AMD-V exposed to it; here, boot kernels that are built as \
                 resources/linux does",
            )
    } else {
        Check::ok(NAME, format!("native: {speeds}"))
    };
    check.required()
}

fn shown(mips: f64) -> String {
    if mips < NATIVE_MIPS { format!("{mips:.2}") } else { format!("{mips:.0}") }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
