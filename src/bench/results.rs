//! What a run of the bench found, as it is kept: one JSON file, documented in `docs/bench-results.md`.

use serde::{Deserialize, Serialize};

use super::REFERENCES;
use super::host::{Host, Quiet};
use super::stats::{Ratio, Summary};

/// The version of the file's form. A reader takes its own and older ones.
pub const SCHEMA: u32 = 1;

/// One run of the bench.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The version of the Bantam that measured.
    pub bantam: String,
    /// The commit of the checkout that its program is in, if it is in one; with `, changed` if files differ from it.
    pub commit: Option<String>,
    /// When the run began: UTC, as in RFC 3339.
    pub began: String,
    /// How long it took, in seconds.
    pub took_s: f64,
    /// `quick` or `full`.
    pub effort: String,
    /// The machine.
    pub host: Host,
    /// What else went on there meanwhile.
    pub quiet: Quiet,
    /// The VMMs that took part, the floor among them.
    pub vmms: Vec<Contender>,
    /// Everything that was measured.
    pub cases: Vec<Case>,
}

/// A VMM, or what stands beside one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contender {
    /// As in [`Series::vmm`].
    pub name: String,
    /// What it calls itself.
    pub version: Option<String>,
    /// The file that ran.
    pub program: Option<String>,
}

/// One figure, of everyone who was asked for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// What was measured and what is said about it.
    #[serde(flatten)]
    pub figure: Figure,
    /// A series for each contender, in the order of the report.
    pub series: Vec<Series>,
}

/// What a number means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Stable from run to run: the subcommand's name, a slash, and its own: `start/first-byte`.
    pub id: String,
    /// In words.
    pub title: String,
    /// Of all samples.
    pub unit: Unit,
    /// Which way is better.
    pub better: Better,
    /// The whole of which this is a part, by its id: such figures are stacked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_of: Option<String>,
    /// The point of a curve, where the same is measured at several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<Point>,
}

/// Where on a curve a figure lies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The curve's name: its points have it in common.
    pub curve: String,
    /// What the axis tells, with its unit: `guest memory, MiB`.
    pub axis: String,
    /// The place on the axis.
    pub at: f64,
}

/// The unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Nanoseconds.
    Nanoseconds,
    /// Bytes.
    Bytes,
    /// Operations a second.
    PerSecond,
    /// Bytes a second.
    BytesPerSecond,
    /// A number of things.
    Count,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// Less is.
    Lower,
    /// More is.
    Higher,
    /// Neither: it should be one, or is there to be known.
    Neither,
}

/// One contender's samples of a figure, or why there are none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Whose: `bantam`, `floor`, `qemu`, or the name that `--vmm` gave.
    pub vmm: String,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of measuring a figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was measured.
    Measured(Measured),
    /// It cannot be had, for this reason.
    NotSupported(String),
}

/// Samples, and what is said about them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// A sample for each round; none for a round in which this contender did not take part.
    pub samples: Vec<Option<f64>>,
    /// Of the samples.
    pub summary: Summary,
    /// To each of the others that has samples of the same rounds.
    pub ratios: Vec<Ratio>,
}

impl Figure {
    /// A figure for which less is better, with no further relations.
    #[must_use]
    pub fn lower(id: impl Into<String>, title: impl Into<String>, unit: Unit) -> Self {
        Self { id: id.into(), title: title.into(), unit, better: Better::Lower, part_of: None, point: None }
    }

    /// A figure for which more is better, with no further relations.
    #[must_use]
    pub fn higher(id: impl Into<String>, title: impl Into<String>, unit: Unit) -> Self {
        Self { better: Better::Higher, ..Self::lower(id, title, unit) }
    }

    /// A figure that is there to be known.
    #[must_use]
    pub fn neither(id: impl Into<String>, title: impl Into<String>, unit: Unit) -> Self {
        Self { better: Better::Neither, ..Self::lower(id, title, unit) }
    }

    /// The same as a part of a whole.
    #[must_use]
    pub fn part_of(self, whole: impl Into<String>) -> Self {
        Self { part_of: Some(whole.into()), ..self }
    }

    /// The same as a point of a curve.
    #[must_use]
    pub fn on(self, curve: impl Into<String>, axis: impl Into<String>, at: f64) -> Self {
        Self { point: Some(Point { curve: curve.into(), axis: axis.into(), at }), ..self }
    }

    /// The subcommand that measures it.
    #[must_use]
    pub fn group(&self) -> &str {
        self.id.split_once('/').map_or(self.id.as_str(), |(group, _)| group)
    }
}

impl Case {
    /// The series of one contender.
    #[must_use]
    pub fn of(&self, vmm: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.vmm == vmm)
    }
}

impl Series {
    /// The samples, if there are any.
    #[must_use]
    pub fn measured(&self) -> Option<&Measured> {
        match &self.outcome {
            Outcome::Measured(measured) => Some(measured),
            Outcome::NotSupported(_) => None,
        }
    }
}

impl Measured {
    /// The ratio to what is measured without a VMM: the floor, or fio for disks.
    #[must_use]
    pub fn to_reference(&self) -> Option<&Ratio> {
        REFERENCES.iter().find_map(|name| self.ratio_to(name))
    }

    /// The ratio to another contender.
    #[must_use]
    pub fn ratio_to(&self, vmm: &str) -> Option<&Ratio> {
        self.ratios.iter().find(|ratio| ratio.to == vmm)
    }
}
