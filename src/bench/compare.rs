//! What changed from one run to another, beyond noise.
//!
//! Where both runs have the floor, or another reference, beside a figure, the ratios to it are compared: a host that
//! is slower today slows both. A change counts if the whole 95 % interval of the ratio of the two medians lies beyond
//! the threshold, so that neither a wide interval nor a small but steady difference between two runs is one.

use serde::Serialize;

use super::results::{Better, Case, Measured, Results, Unit};
use super::stats::{ENOUGH, interval_of_change, median};
use super::{BANTAM, REFERENCES, is_bantams};

/// A change by less than this part is none.
pub const THRESHOLD: f64 = 0.05;

/// And so is one by less than this, where there is nothing beside it: between two runs a shared host has been seen to
/// become slower by as much.
pub const THRESHOLD_ALONE: f64 = 0.3;

/// One contender's figure in two runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The figure's id.
    pub id: String,
    /// Whose.
    pub vmm: String,
    /// Its unit, or none where ratios are compared.
    pub unit: Option<Unit>,
    /// What the ratios are to: the floor, or fio.
    pub to: Option<String>,
    /// The median before.
    pub before: f64,
    /// And after.
    pub after: f64,
    /// The 95 % interval of after / before.
    pub interval: (f64, f64),
    /// What to think of it.
    pub verdict: Verdict,
}

/// What to think of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It has become worse.
    Regression,
    /// It has become better.
    Improvement,
    /// No change that could be told from noise.
    Same,
}

/// Two runs beside each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Of what both have measured.
    pub changes: Vec<Change>,
    /// Why to take the comparison with care.
    pub warnings: Vec<String>,
    /// Figures of Bantam's that are in one of the runs only.
    pub missing: Vec<String>,
    /// Those of Bantam's that have too few samples to tell.
    pub few: Vec<String>,
}

impl Comparison {
    /// Compares two runs; changes by less than a part of so much are none.
    #[must_use]
    pub fn of(before: &Results, after: &Results, threshold: f64) -> Self {
        let mut warnings = Vec::new();
        if !before.host.is_like(&after.host) {
            warnings.push("the runs are of different machines".to_owned());
        }
        if before.host.kernel != after.host.kernel || before.host.governor != after.host.governor {
            warnings.push("the runs are of different kernels, or governors".to_owned());
        }
        if before.effort != after.effort {
            warnings.push("a quick and a full run do not measure the same work".to_owned());
        }
        for (run, results) in [("before", before), ("after", after)] {
            warnings.extend(results.quiet.disturbed.iter().map(|why| format!("{run}: {why}")));
        }
        let (mut changes, mut missing, mut few) = (Vec::new(), Vec::new(), Vec::new());
        // Those that were the same in both runs.
        let peers = before.vmms.iter().filter(|vmm| after.vmms.contains(vmm)).map(|vmm| vmm.name.as_str());
        let peers: Vec<_> = peers.filter(|name| !is_bantams(name) && !REFERENCES.contains(name)).collect();
        for case in &before.cases {
            let id = case.figure.id.as_str();
            let other = after.cases.iter().find(|other| other.figure.id == id);
            for series in &case.series {
                let Some(first) = series.measured() else { continue };
                let second = other.and_then(|other| Some((other, other.of(&series.vmm)?.measured()?)));
                match second {
                    Some((other, second)) => {
                        match change(&series.vmm, (case, first), (other, second), &peers, threshold) {
                            Some(change) => changes.push(change),
                            None if series.vmm == BANTAM => few.push(id.to_owned()),
                            None => {}
                        }
                    }
                    None if series.vmm == BANTAM => missing.push(format!("{id} (before only)")),
                    None => {}
                }
            }
        }
        let new = after.cases.iter().filter(|case| {
            let there = |case: &Case| case.of(BANTAM).is_some_and(|series| series.measured().is_some());
            let before = before.cases.iter().find(|before| before.figure.id == case.figure.id);
            there(case) && !before.is_some_and(there)
        });
        missing.extend(new.map(|case| format!("{} (after only)", case.figure.id)));
        Self { changes, warnings, missing, few }
    }

    /// Whether something of Bantam's has become worse beside something else. What has nothing beside it may have met
    /// a slower host: it is told, and decides nothing.
    #[must_use]
    pub fn has_regression(&self) -> bool {
        self.changes.iter().any(|change| {
            is_bantams(&change.vmm) && change.to.is_some() && change.verdict == Verdict::Regression
        })
    }
}

/// What a contender's figure is compared with where both runs have it: for Bantam, if nothing else, a peer.
fn references<'a>(vmm: &str, peers: &[&'a str]) -> Vec<&'a str> {
    let without_vmm = REFERENCES.into_iter().filter(|_| !REFERENCES.contains(&vmm));
    without_vmm.chain(peers.iter().copied().filter(|_| is_bantams(vmm))).collect()
}

fn change(
    vmm: &str,
    before: (&Case, &Measured),
    after: (&Case, &Measured),
    peers: &[&str],
    threshold: f64,
) -> Option<Change> {
    let to = references(vmm, peers).into_iter().find(|name| {
        let has = |case: &Case| case.of(name).is_some_and(|series| series.measured().is_some());
        has(before.0) && has(after.0)
    });
    let relative = to.and_then(|to| Some((ratios_to(to, before)?, ratios_to(to, after)?)));
    let relative = relative.filter(|(first, second)| first.len().min(second.len()) >= ENOUGH);
    let relative_to = to.filter(|_| relative.is_some());
    let unit = relative.is_none().then_some(before.0.figure.unit);
    let own = |measured: &Measured| measured.samples.iter().flatten().copied().collect::<Vec<_>>();
    let (first, second) = relative.unwrap_or_else(|| (own(before.1), own(after.1)));
    let interval =
        interval_of_change(&first, &second).filter(|(low, high)| low.is_finite() && high.is_finite())?;
    let threshold = if relative_to.is_some() { threshold } else { threshold.max(THRESHOLD_ALONE) };
    let (more, less) = (interval.0 > 1.0 + threshold, interval.1 < 1.0 - threshold);
    let verdict = match (before.0.figure.better, more, less) {
        (Better::Neither, ..) => Verdict::Same,
        (Better::Lower, true, _) | (Better::Higher, _, true) => Verdict::Regression,
        (Better::Lower, _, true) | (Better::Higher, true, _) => Verdict::Improvement,
        _ => Verdict::Same,
    };
    Some(Change {
        id: before.0.figure.id.clone(),
        vmm: vmm.to_owned(),
        unit,
        to: relative_to.map(str::to_owned),
        before: median(&first)?,
        after: median(&second)?,
        interval,
        verdict,
    })
}

/// The ratio to another in each round that has both.
fn ratios_to(to: &str, (case, measured): (&Case, &Measured)) -> Option<Vec<f64>> {
    let floor = case.of(to)?.measured()?;
    let pairs = measured.samples.iter().zip(&floor.samples);
    Some(pairs.filter_map(|(sample, floor)| Some((*sample)? / (*floor)?)).collect())
}

#[cfg(test)]
mod tests;
