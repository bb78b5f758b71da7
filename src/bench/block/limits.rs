//! Limits: whether a disk carries what its limit says, no more and no less.

use anyhow::Context;

use super::{Image, MEMORY_MIB};
use crate::bench::job::{self, Said};
use crate::bench::results::{Case, Figure, Unit};
use crate::bench::rounds::Contest;
use crate::bench::{BANTAM, Progress, Setup, hold};

/// A clock decides, not the host: little time and few rounds do.
const MILLISECONDS: u64 = 2000;
const ROUNDS: usize = 3;

struct Limit {
    id: &'static str,
    title: &'static str,
    /// For Bantam's `rate=`.
    rate: &'static str,
    job: &'static str,
    /// What the job counts, how much of it may pass in a second, and how much at once at the start.
    key: &'static str,
    a_second: f64,
    burst: f64,
}

const LIMITS: [Limit; 2] = [
    Limit {
        id: "block/limit-bytes",
        title: "what passes a limit of 64 MiB/s, as a part of it",
        rate: "64M:1M",
        job: "blk=seqread bs=64K depth=8",
        key: "bytes",
        a_second: 64.0 * 1_048_576.0,
        burst: 1_048_576.0,
    },
    Limit {
        id: "block/limit-requests",
        title: "what passes a limit of 5000 requests a second, as a part of it",
        rate: "/5000:/100",
        job: "blk=randread bs=4K depth=32",
        key: "n",
        a_second: 5000.0,
        burst: 100.0,
    },
];

impl Limit {
    /// The part of the limit that was carried. What passes at once at the start is no part of it.
    fn passed(&self, said: &Said) -> anyhow::Result<f64> {
        Ok((said.number(self.key)? - self.burst) / said.seconds()? / self.a_second)
    }
}

pub(super) fn measure(setup: &Setup, image: &Image, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    image.cached(true)?;
    let figures = LIMITS.iter().map(|limit| Figure::neither(limit.id, limit.title, Unit::Count)).collect();
    let mut contest = Contest::new(figures, 0, setup.rounds(ROUNDS, ROUNDS));
    let bantam = setup.vmm(BANTAM).context("Bantam is always there")?;
    let one = |limit: &Limit| {
        let job = format!("{} ms={MILLISECONDS} quiet", limit.job);
        let said = setup.start(bantam, &setup.guest(MEMORY_MIB, job.as_str()), |mut command| {
            let mut disk = std::ffi::OsString::from("path=");
            disk.push(image.path());
            disk.push(format!(",format=raw,rate={}", limit.rate));
            job::said(command.arg("--disk").arg(disk), &job)
        })?;
        Ok((limit.id.to_owned(), limit.passed(&said)?))
    };
    contest.add(BANTAM, || LIMITS.iter().map(one).collect());
    for vmm in setup.vmms.iter().filter(|vmm| vmm.name != BANTAM) {
        contest.lacks(&vmm.name, "limits are not the same thing everywhere: only Bantam's own are looked at");
    }
    hold(contest, "block, limits", progress)
}

#[cfg(test)]
mod tests;
