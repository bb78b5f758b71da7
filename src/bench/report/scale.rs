//! From values to places on an axis.

use super::super::results::Unit;
use super::text::brief;

/// Ticks on an axis, as a rule.
const TICKS: f64 = 5.0;
/// And never more.
const MOST_TICKS: usize = 9;
/// Medians that differ by more than this factor begin on a logarithmic scale: else the least could not be seen.
const FAR: f64 = 8.0;
/// Values that begin at this part of the greatest, or above, can be magnified.
const ZOOMED: f64 = 0.3;
/// Values within less than this factor look the same on a logarithmic scale and another.
const NEAR: f64 = 3.0;

/// How values are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// From zero: lengths are in proportion.
    Zero,
    /// From the least value to the greatest.
    Zoom,
    /// Equal ratios are equal lengths.
    Log,
}

impl View {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Zero => "from zero",
            Self::Zoom => "magnified",
            Self::Log => "logarithmic",
        }
    }
}

/// An axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    pub(super) view: View,
    low: f64,
    high: f64,
}

impl Scale {
    /// The views of some values in which something can be seen, that which shows most of the medians first. What is
    /// above the limit may lie beyond an axis in equal steps, so that a few outliers do not squeeze all the others;
    /// then the logarithmic one has them.
    pub(super) fn views(values: &[f64], medians: &[f64], limit: f64) -> Vec<Self> {
        let ((low, most), (least_median, most_median)) = (range(values), range(medians));
        let high = if low > 0.0 { most.min(limit) } else { most };
        let mut views = vec![Self::new(View::Zero, low, high)];
        if low > high * ZOOMED && high > low {
            views.push(Self::new(View::Zoom, low, high));
        }
        if low > 0.0 && (most > low * NEAR || most > high) {
            let at = if most_median > least_median * FAR { 0 } else { views.len() };
            views.insert(at, Self::new(View::Log, low, most));
        }
        views
    }

    /// A logarithmic one where it can be, for ratios: 1 is on it.
    pub(super) fn around_one(values: &[f64]) -> Self {
        let (low, high) = range(values);
        Self::new(if low > 0.0 { View::Log } else { View::Zero }, low.min(1.0 / 1.5), high.max(1.5))
    }

    /// For places on an axis that are known.
    pub(super) fn along(values: &[f64]) -> Self {
        let (low, high) = range(values);
        let log = low > 0.0 && high > low * FAR;
        Self { view: if log { View::Log } else { View::Zoom }, low, high }
    }

    fn new(view: View, low: f64, high: f64) -> Self {
        let margin = (high - low) * 0.03;
        let (low, high) = match view {
            View::Zero => (low.min(0.0) * 1.02, high.max(0.0) * 1.02),
            View::Zoom => (low - margin, high + margin),
            View::Log => (low * (low / high).powf(0.03), high * (high / low).powf(0.03)),
        };
        Self { view, low, high }
    }

    /// Whether a value lies past the end.
    pub(super) fn is_beyond(&self, value: f64) -> bool {
        value > self.high
    }

    /// Where a value lies, from 0 to 1.
    pub(super) fn place(&self, value: f64) -> f64 {
        let along =
            |value: f64| if self.view == View::Log { value.max(f64::MIN_POSITIVE).ln() } else { value };
        let (low, high) = (along(self.low), along(self.high));
        let place = (along(value) - low) / (high - low);
        if place.is_finite() { place.clamp(0.0, 1.0) } else { 0.5 }
    }

    /// Ticks: the value, and what it is called.
    pub(super) fn ticks(&self, unit: Unit) -> Vec<(f64, String)> {
        let values = if self.view == View::Log { self.powers(unit) } else { self.steps(unit) };
        let inside = values.into_iter().filter(|value| (self.low..=self.high).contains(value));
        inside.take(MOST_TICKS).map(|value| (value, brief(value, unit))).collect()
    }

    /// Round numbers in equal steps, of the unit that they are told in.
    fn steps(&self, unit: Unit) -> Vec<f64> {
        let thousand = thousand(unit);
        let size = self.high.abs().max(self.low.abs());
        let one = if size >= 1.0 { thousand.powf(size.log(thousand).floor().clamp(0.0, 3.0)) } else { 1.0 };
        let rough = (self.high - self.low) / one / TICKS;
        if !(rough.is_normal() && rough > 0.0) {
            return vec![self.low];
        }
        let ten = 10f64.powf(rough.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * ten >= rough).unwrap_or(10.0) * ten * one;
        let first = (self.low / step).ceil();
        (0..MOST_TICKS).map(|index| (first + number(index)) * step).collect()
    }

    /// Powers of ten, or of two where bytes are told, and some between where there is room.
    fn powers(&self, unit: Unit) -> Vec<f64> {
        let binary = thousand(unit) > 1000.0;
        let base: f64 = if binary { 2.0 } else { 10.0 };
        let (first, last) = (self.low.log(base).floor(), self.high.log(base).ceil());
        let stride = ((last - first) / (TICKS + 2.0)).ceil().max(1.0);
        let between: &[f64] = match last - first {
            _ if binary => &[1.0],
            decades if decades <= 2.0 => &[1.0, 2.0, 5.0],
            decades if decades <= 3.0 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let first = (first / stride).floor();
        let powers = (0..2 * MOST_TICKS).map(|index| base.powf((first + number(index)) * stride));
        powers.flat_map(|power| between.iter().map(move |times| times * power)).collect()
    }
}

fn thousand(unit: Unit) -> f64 {
    match unit {
        Unit::Bytes | Unit::BytesPerSecond => 1024.0,
        Unit::Nanoseconds | Unit::PerSecond | Unit::Count => 1000.0,
    }
}

#[allow(clippy::cast_precision_loss, reason = "a small number of ticks")]
fn number(index: usize) -> f64 {
    index as f64
}

/// The least and the greatest; 0 to 1 of nothing.
fn range(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().reduce(f64::min);
    let greatest = values.iter().copied().reduce(f64::max);
    least.zip(greatest).unwrap_or((0.0, 1.0))
}
