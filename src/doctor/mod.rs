//! What a host can do for microVMs and what it lacks, what each lack costs, and how to mend it.
//!
//! [`examine`] looks at the host it runs on. Underneath, every check is a function of what it is
//! given: files below a root folder that a test makes up, and answers of the running kernel that
//! were asked for once, as `Probes`.
//!
//! ```no_run
//! let report = bantam::doctor::examine();
//! println!("{}", report.verdict());
//! for check in report.checks.iter().filter(|check| check.status.is_remark()) {
//!     println!("{}: {}", check.name, check.finding);
//! }
//! ```

mod confinement;
mod deadline;
mod io;
mod kvm;
mod memory;
mod probes;
mod processor;
mod root;
mod speed;
mod sys;

use serde::Serialize;

pub use speed::Mips;
pub(crate) use speed::chain;

use probes::Probes;
use root::Root;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nothing that Bantam does is lost.
    Ok,
    /// There, but slow, small or off.
    Warn,
    /// Not there, or not for this user.
    Missing,
    /// The host does not tell.
    Unknown,
}

impl Status {
    /// Whether it deserves the reader's attention.
    #[must_use]
    pub fn is_remark(self) -> bool {
        self != Self::Ok
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name, which stays the same from host to host.
    pub name: &'static str,
    /// How it ended.
    pub status: Status,
    /// Whether no machine runs without it.
    pub required: bool,
    /// What there is.
    pub finding: String,
    /// What lacking it costs.
    pub cost: Option<String>,
    /// How to mend it.
    pub fix: Option<String>,
}

impl Check {
    fn new(name: &'static str, status: Status, finding: impl Into<String>) -> Self {
        Self { name, status, required: false, finding: finding.into(), cost: None, fix: None }
    }

    fn ok(name: &'static str, finding: impl Into<String>) -> Self {
        Self::new(name, Status::Ok, finding)
    }

    fn warn(name: &'static str, finding: impl Into<String>) -> Self {
        Self::new(name, Status::Warn, finding)
    }

    fn missing(name: &'static str, finding: impl Into<String>) -> Self {
        Self::new(name, Status::Missing, finding)
    }

    fn unknown(name: &'static str, finding: impl Into<String>) -> Self {
        Self::new(name, Status::Unknown, finding)
    }

    fn required(mut self) -> Self {
        self.required = true;
        self
    }

    fn cost(mut self, cost: impl Into<String>) -> Self {
        self.cost = Some(cost.into());
        self
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// Everything that was looked at.
#[derive(Clone, Debug)]
pub struct Report {
    /// The checks, from the processor up to the limits of this process.
    pub checks: Vec<Check>,
    /// How fast a guest ran, if one did.
    pub guest_mips: Option<Mips>,
}

impl Report {
    fn of(root: &Root, probes: &Probes) -> Self {
        let mut checks = processor::checks(root, probes);
        checks.extend(kvm::checks(root, probes));
        checks.push(speed::check(probes.guest.as_ref()));
        checks.extend(memory::checks(root, probes));
        checks.extend(io::checks(root, probes));
        checks.extend(confinement::checks(root, probes));
        let guest_mips = probes.guest.as_ref().and_then(|guest| guest.as_ref().ok()).copied();
        Self { checks, guest_mips }
    }

    /// Whether a machine runs here.
    #[must_use]
    pub fn can_run(&self) -> bool {
        self.obstacles().next().is_none()
    }

    fn obstacles(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.required && check.status == Status::Missing)
    }

    /// The report in one sentence.
    #[must_use]
    pub fn verdict(&self) -> String {
        if let Some(check) = self.obstacles().next() {
            return format!("Bantam cannot run here: {}: {}.", check.name, check.finding);
        }
        match self.checks.iter().filter(|check| check.status.is_remark()).count() {
            0 => "This host runs Bantam.".to_owned(),
            1 => "This host runs Bantam, with 1 remark.".to_owned(),
            many => format!("This host runs Bantam, with {many} remarks."),
        }
    }
}

/// Looks at this host. Takes well under a second; 20 where a guest hangs.
#[must_use]
pub fn examine() -> Report {
    Report::of(&Root::new("/"), &Probes::ask())
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
