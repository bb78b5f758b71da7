//! Limits: whether a disk carries what its limit says; and 4 GiB written and read again.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::Effort;
use crate::guest;
use crate::image::Image;
use crate::support::stats::Summary;

/// A limit is measured for at least so long: a burst at the start then hardly counts.
const SECONDS: u64 = 4;
/// A few rounds do: a clock decides, not the host.
const MOST_ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

/// What was carried under a limit.
#[derive(Serialize)]
pub(crate) struct Limited {
    pub(crate) rate: &'static str,
    /// MiB or operations a second.
    pub(crate) limit: f64,
    pub(crate) unit: &'static str,
    /// What passed in a second; the burst at the start does not count.
    pub(crate) passed: Option<Summary>,
}

struct Case {
    rate: &'static str,
    limit: f64,
    unit: &'static str,
    /// The words of the job, and what it counts in the limit's unit.
    job: &'static str,
    key: &'static str,
    key_to_unit: f64,
    /// In the limit's unit.
    burst: f64,
}

const MIB: f64 = 1_048_576.0;

const CASES: [Case; 2] = [
    Case {
        rate: "64M:1M",
        limit: 64.0,
        unit: "MiB/s",
        job: "blk=seqread bs=64K depth=8",
        key: "bytes",
        key_to_unit: 1.0 / MIB,
        burst: 1.0,
    },
    Case {
        rate: "/5000:/100",
        limit: 5000.0,
        unit: "requests/s",
        job: "blk=randread bs=4K depth=32",
        key: "n",
        key_to_unit: 1.0,
        burst: 100.0,
    },
];

pub(crate) fn measure(bantam: &Path, image: &Image, effort: Effort) -> anyhow::Result<Vec<Limited>> {
    image.cached(true)?;
    let mut limited = Vec::new();
    for Case { rate, limit, unit, job, key, key_to_unit, burst } in CASES {
        let disk = format!("path={},format=raw,rate={rate}", image.path().display());
        let job = format!("{job} secs={}", SECONDS.max(effort.seconds));
        let mut passed = Vec::new();
        for _ in 0..effort.rounds.min(MOST_ROUNDS) {
            let said = guest::bantam(bantam, ["--disk", &disk], &job, PATIENCE)?;
            passed.push((said.number(key)? * key_to_unit - burst) / said.seconds()?);
        }
        limited.push(Limited { rate, limit, unit, passed: Summary::of(passed) });
    }
    Ok(limited)
}

/// An image that was written and read again, every byte as it should be.
#[derive(Serialize)]
pub(crate) struct Verified {
    pub(crate) mib: u64,
    pub(crate) rate: Option<&'static str>,
    /// Of reading and comparing.
    pub(crate) mib_a_second: f64,
}

const VERIFIED_MIB: u64 = 4096;
const VERIFIED_RATE: &str = "256M:1M";

pub(crate) fn verify(bantam: &Path) -> anyhow::Result<Vec<Verified>> {
    let mut verified = Vec::new();
    for rate in [None, Some(VERIFIED_RATE)] {
        let image = Image::empty(VERIFIED_MIB)?;
        let limit = rate.map(|rate| format!(",rate={rate}")).unwrap_or_default();
        let disk = format!("path={},format=raw{limit}", image.path().display());
        let patience = Duration::from_secs(600);
        let said = guest::bantam(bantam, ["--disk", &disk], "blk=fill-verify bs=1M depth=8", patience)?;
        anyhow::ensure!(said.number("bytes")? == 4096.0 * MIB, "the guest has not read all of it");
        verified.push(Verified { mib: VERIFIED_MIB, rate, mib_a_second: said.a_second("bytes")? / MIB });
    }
    Ok(verified)
}
