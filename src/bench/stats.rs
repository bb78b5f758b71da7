//! Samples and what is said about them.
//!
//! Times on a shared host are skewed, with rare long ones: medians and quantiles are told, no means. How sure a
//! median is, is told by a bootstrap (Efron 1979): its spread over series drawn anew, with replacement, from the
//! samples.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Series drawn for an interval.
const DRAWS: usize = 2000;
/// The interval leaves out so much at each end: together it has 95 in 100 of the draws.
const TAIL: f64 = 0.025;
/// With fewer samples an interval is their range, and has the true median in it far less often than it should:
/// it is not told, nor are changes.
pub const ENOUGH: usize = 5;
/// A sample so many times the distance between the quartiles beyond one of them is an outlier (Tukey).
const FENCE: f64 = 3.0;

/// What is reported of a series of samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many.
    pub n: usize,
    /// The least.
    pub min: f64,
    /// The first quartile.
    pub p25: f64,
    /// The median.
    pub p50: f64,
    /// The third quartile.
    pub p75: f64,
    /// Nine of ten are not above this.
    pub p90: f64,
    /// And 99 of a hundred are not above this; with fewer samples, near the greatest.
    pub p99: f64,
    /// The 95 % interval of the median.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// Samples far outside the quartiles. They are counted, not left out.
    pub outliers: usize,
}

/// How one contender's samples compare with another's of the same rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The other.
    pub to: String,
    /// Rounds in which both have a sample.
    pub n: usize,
    /// The median of the ratios in each round: what slowed a whole round down slowed both, and falls out.
    pub p50: f64,
    /// The 95 % interval of that median.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Summary {
    /// Of some samples; none where there are none.
    #[must_use]
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |part| quantile(&sorted, part);
        let (p25, p75) = (at(0.25)?, at(0.75)?);
        let (lowest, highest) = (p25 - FENCE * (p75 - p25), p75 + FENCE * (p75 - p25));
        let (low, high) = interval_of_median(samples)?;
        Some(Self {
            n: sorted.len(),
            min: *sorted.first()?,
            p25,
            p50: at(0.5)?,
            p75,
            p90: at(0.9)?,
            p99: at(0.99)?,
            low,
            high,
            outliers: sorted.iter().filter(|sample| **sample < lowest || **sample > highest).count(),
        })
    }
}

impl Ratio {
    /// Of the rounds in which both have a sample; none where there are none, or another's is zero.
    #[must_use]
    pub fn of(samples: &[Option<f64>], to: &str, others: &[Option<f64>]) -> Option<Self> {
        let ratios = samples.iter().zip(others).filter_map(|(sample, other)| Some((*sample)? / (*other)?));
        let ratios: Vec<_> = ratios.collect();
        if !ratios.iter().all(|ratio| ratio.is_finite()) {
            return None;
        }
        let (low, high) = interval_of_median(&ratios)?;
        Some(Self { to: to.to_owned(), n: ratios.len(), p50: median(&ratios)?, low, high })
    }
}

/// The median; none of nothing.
#[must_use]
pub fn median(samples: &[f64]) -> Option<f64> {
    let (middle, even) = (samples.len() / 2, samples.len().is_multiple_of(2));
    let mut samples = samples.to_vec();
    // Without sorting them all: an interval takes thousands of medians.
    let (below, upper, _) =
        (middle < samples.len()).then(|| samples.select_nth_unstable_by(middle, f64::total_cmp))?;
    let lower = if even { below.iter().copied().fold(f64::NEG_INFINITY, f64::max) } else { *upper };
    Some(f64::midpoint(lower, *upper))
}

/// The sample below which such a part of the sorted samples lies, interpolated between the two nearest.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of samples, and a place among them"
)]
fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let at = sorted.len().checked_sub(1)? as f64 * part;
    let below = *sorted.get(at as usize)?;
    let above = *sorted.get(at as usize + 1).unwrap_or(&below);
    Some(below + (above - below) * at.fract())
}

/// The 95 % interval of the median, by the percentiles of the medians of drawn series. The same samples always
/// have the same interval.
#[must_use]
pub fn interval_of_median(samples: &[f64]) -> Option<(f64, f64)> {
    let mut random = Random(0);
    let medians = (0..DRAWS).map(|_| {
        let drawn: Option<Vec<_>> = (0..samples.len()).map(|_| random.pick(samples)).collect();
        median(&drawn?)
    });
    let mut medians: Vec<_> = medians.collect::<Option<_>>()?;
    medians.sort_by(f64::total_cmp);
    Some((quantile(&medians, TAIL)?, quantile(&medians, 1.0 - TAIL)?))
}

/// The 95 % interval of the ratio of two medians that were measured in different runs; none of fewer samples
/// than [`ENOUGH`].
#[must_use]
pub fn interval_of_change(before: &[f64], after: &[f64]) -> Option<(f64, f64)> {
    if before.len() < ENOUGH || after.len() < ENOUGH {
        return None;
    }
    let mut random = Random(1);
    let mut draw = |samples: &[f64]| {
        let drawn: Option<Vec<_>> = (0..samples.len()).map(|_| random.pick(samples)).collect();
        median(&drawn?)
    };
    let changes = (0..DRAWS).map(|_| Some(draw(after)? / draw(before)?));
    let mut changes: Vec<_> = changes.collect::<Option<_>>()?;
    changes.sort_by(f64::total_cmp);
    Some((quantile(&changes, TAIL)?, quantile(&changes, 1.0 - TAIL)?))
}

/// splitmix64: good enough to draw samples, and the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn pick(&mut self, samples: &[f64]) -> Option<f64> {
        let at = self.next() % u64::try_from(samples.len()).ok().filter(|len| *len > 0)?;
        samples.get(usize::try_from(at).ok()?).copied()
    }
}

/// The samples of each name, round by round, and how they compare.
#[must_use]
pub fn ratios(of: &str, all: &BTreeMap<String, Vec<Option<f64>>>) -> Vec<Ratio> {
    let Some(samples) = all.get(of) else { return Vec::new() };
    let others = all.iter().filter(|(name, _)| name.as_str() != of);
    others.filter_map(|(name, others)| Ratio::of(samples, name, others)).collect()
}

#[cfg(test)]
mod tests;
