//! Contenders measured in turns, so that a busy moment of the host meets all of them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};

use super::results::{Case, Figure, Measured, Outcome, Series};
use super::stats::{Summary, ratios};

/// What one run of a contender gives: a number for each figure, by its id.
pub type Sample = Vec<(String, f64)>;

/// Someone who is measured.
pub struct Contestant<'a> {
    /// As in [`Series::vmm`].
    pub name: String,
    /// Takes part in one round of so many: what is slow, and far behind, need not be run as often.
    pub every: usize,
    /// Measures once.
    pub run: Box<dyn FnMut() -> anyhow::Result<Sample> + 'a>,
}

/// Something to measure, and those who do it.
pub struct Contest<'a> {
    /// What each run gives.
    pub figures: Vec<Figure>,
    /// In the order of the report.
    pub contestants: Vec<Contestant<'a>>,
    /// Those who cannot do it, and why.
    pub absent: Vec<(String, String)>,
    /// Single figures that a contestant cannot give: its name, the figure's id, and why.
    pub gaps: Vec<(String, String, String)>,
    /// Rounds before those that count.
    pub warm_up: usize,
    /// Rounds that count.
    pub rounds: usize,
}

impl<'a> Contest<'a> {
    /// One with nobody in it yet.
    #[must_use]
    pub fn new(figures: Vec<Figure>, warm_up: usize, rounds: usize) -> Self {
        Self { figures, contestants: Vec::new(), absent: Vec::new(), gaps: Vec::new(), warm_up, rounds }
    }

    /// Adds one who takes part in each round.
    pub fn add(&mut self, name: impl Into<String>, run: impl FnMut() -> anyhow::Result<Sample> + 'a) {
        self.add_every(1, name, run);
    }

    /// Adds one who takes part in one round of so many.
    pub fn add_every(
        &mut self,
        every: usize,
        name: impl Into<String>,
        run: impl FnMut() -> anyhow::Result<Sample> + 'a,
    ) {
        self.contestants.push(Contestant { name: name.into(), every, run: Box::new(run) });
    }

    /// Tells of one who cannot take part.
    pub fn lacks(&mut self, name: impl Into<String>, why: impl Into<String>) {
        self.absent.push((name.into(), why.into()));
    }

    /// Tells of a figure that one who takes part cannot give.
    pub fn gap(&mut self, name: impl Into<String>, figure: impl Into<String>, why: impl Into<String>) {
        self.gaps.push((name.into(), figure.into(), why.into()));
    }

    /// Runs all rounds, forth and back in turns, so that none has always the same one before it. A peer that fails
    /// is out, with its reason; Bantam and the floor must not fail.
    ///
    /// # Errors
    /// Bantam or the floor has failed, or a run has not given what it should.
    pub fn run(mut self, progress: &mut dyn FnMut(usize, usize)) -> anyhow::Result<Vec<Case>> {
        let all = self.warm_up + self.rounds;
        let names: BTreeSet<_> = self.contestants.iter().map(|contestant| &contestant.name).collect();
        ensure!(names.len() == self.contestants.len(), "two contenders have one name: {names:?}");
        let mut samples: BTreeMap<String, Vec<Option<Sample>>> = BTreeMap::new();
        for round in 0..all {
            progress(round, all);
            let counted = round.checked_sub(self.warm_up);
            let mut order: Vec<usize> = (0..self.contestants.len()).collect();
            // Two rounds forth, two back: who takes part in every other one has both.
            if round / 2 % 2 == 1 {
                order.reverse();
            }
            let mut failed = Vec::new();
            for index in order {
                let Some(contestant) = self.contestants.get_mut(index) else { continue };
                let name = contestant.name.clone();
                ensure!(!super::is_interrupted(), "interrupted");
                let takes_part = counted.is_none_or(|round| round % contestant.every.max(1) == 0);
                let result = takes_part.then(|| (contestant.run)()).transpose();
                match result {
                    Ok(sample) if counted.is_some() => samples.entry(name).or_default().push(sample),
                    Ok(_) => {}
                    Err(error) if is_ours(&name) => return Err(error).with_context(|| name),
                    Err(error) => failed.push((name, format!("{error:#}"))),
                }
            }
            for (name, why) in failed {
                self.contestants.retain(|contestant| contestant.name != name);
                samples.remove(&name);
                self.absent.push((name, why));
            }
        }
        progress(all, all);
        self.cases(&samples)
    }

    fn cases(&self, samples: &BTreeMap<String, Vec<Option<Sample>>>) -> anyhow::Result<Vec<Case>> {
        let figure = |figure: &Figure| {
            let of =
                |sample: &Sample| sample.iter().find(|(id, _)| *id == figure.id).map(|(_, value)| *value);
            let columns: BTreeMap<String, Vec<Option<f64>>> = samples
                .iter()
                .map(|(name, rounds)| {
                    (name.clone(), rounds.iter().map(|round| of(round.as_ref()?)).collect())
                })
                .collect();
            let measured = self.contestants.iter().map(|contestant| {
                let name = contestant.name.as_str();
                let gap = self.gaps.iter().find(|(whose, which, _)| whose == name && *which == figure.id);
                series(name, figure, &columns, gap.map(|(_, _, why)| why.as_str()))
            });
            let absent = self.absent.iter().map(|(name, why)| {
                Ok(Series { vmm: name.clone(), outcome: Outcome::NotSupported(why.clone()) })
            });
            let series: Vec<_> = measured.chain(absent).collect::<anyhow::Result<_>>()?;
            ensure!(!series.is_empty(), "nobody has measured {}", figure.id);
            Ok(Case { figure: figure.clone(), series })
        };
        self.figures.iter().map(figure).collect()
    }
}

/// Whether a failure is one of the bench's own: of the floor, or of Bantam, whichever way it is run.
fn is_ours(name: &str) -> bool {
    name == super::FLOOR || super::is_bantams(name)
}

/// One contestant's series of a figure; where it has none, it has said why.
fn series(
    name: &str,
    figure: &Figure,
    columns: &BTreeMap<String, Vec<Option<f64>>>,
    gap: Option<&str>,
) -> anyhow::Result<Series> {
    let samples = columns.get(name).cloned().unwrap_or_default();
    let there: Vec<f64> = samples.iter().flatten().copied().collect();
    ensure!(there.iter().all(|sample| sample.is_finite()), "{name}: {}: {there:?}", figure.id);
    let outcome = match Summary::of(&there) {
        Some(summary) => Outcome::Measured(Measured { samples, summary, ratios: ratios(name, columns) }),
        None => Outcome::NotSupported(
            gap.with_context(|| format!("{name} has not measured {}, and not said why", figure.id))?
                .to_owned(),
        ),
    };
    Ok(Series { vmm: name.to_owned(), outcome })
}

#[cfg(test)]
mod tests;
