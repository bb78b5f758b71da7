//! Samples and what is said about them.

use serde::Serialize;

/// What is reported of a series of samples.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) samples: usize,
    pub(crate) min: f64,
    pub(crate) p25: f64,
    pub(crate) p50: f64,
    pub(crate) p75: f64,
    pub(crate) p90: f64,
}

impl Summary {
    /// The summary of some samples; none where there are none.
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<_> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            samples: sorted.len(),
            min: *sorted.first()?,
            p25: percentile(&sorted, 25)?,
            p50: percentile(&sorted, 50)?,
            p75: percentile(&sorted, 75)?,
            p90: percentile(&sorted, 90)?,
        })
    }
}

/// The sample below which so many hundredths of the sorted samples lie, interpolated between the
/// two nearest.
fn percentile(sorted: &[f64], hundredths: usize) -> Option<f64> {
    let at = sorted.len().checked_sub(1)? * hundredths;
    let below = sorted.get(at / 100)?;
    let above = sorted.get((at / 100) + 1).unwrap_or(below);
    let part = f64::from(u32::try_from(at % 100).ok()?) / 100.0;
    Some(below + (above - below) * part)
}

/// The median of the ratios that pairs of samples have, each pair taken in one round: what slowed a
/// whole round down slowed both, and falls out.
pub(crate) fn median_ratio(pairs: impl IntoIterator<Item = (f64, f64)>) -> Option<f64> {
    Summary::of(pairs.into_iter().map(|(sample, base)| sample / base)).map(|ratios| ratios.p50)
}
