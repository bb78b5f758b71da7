//! `block`: reads and writes of a disk, past the host's page cache and through it; beside fio on the same file, without
//! a guest.

mod fio;
mod image;
mod limits;

use std::time::Duration;

use self::image::Image;
use super::job::{self, Said};
use super::peers::{Disk, Guest, Vmm, on_path};
use super::results::{Case, Figure, Unit};
use super::rounds::{Contest, Sample};
use super::{Effort, FIO, Progress, Setup, hold};

const MEMORY_MIB: u64 = 256;
/// fio takes part in one quick round of so many: it mostly sleeps.
const FIO_EVERY: usize = 2;
/// Other engines than a VMM's default take part in one round of so many.
const ENGINES_EVERY: usize = 2;

/// What is done.
struct Work {
    name: &'static str,
    title: &'static str,
    /// The guest's word, and fio's.
    op: &'static str,
    fio: &'static str,
    block: &'static str,
    depth: u32,
    /// Of the figure: so many requests or bytes a second, or the time of a request.
    unit: Unit,
}

const WORKLOADS: [Work; 4] = [
    Work {
        name: "randread",
        title: "4 KiB random reads, 32 at a time",
        op: "randread",
        fio: "randread",
        block: "4k",
        depth: 32,
        unit: Unit::PerSecond,
    },
    Work {
        name: "latency",
        title: "a 4 KiB random read, one at a time",
        op: "randread",
        fio: "randread",
        block: "4k",
        depth: 1,
        unit: Unit::Nanoseconds,
    },
    Work {
        name: "seqread",
        title: "1 MiB sequential reads, 8 at a time",
        op: "seqread",
        fio: "read",
        block: "1m",
        depth: 8,
        unit: Unit::BytesPerSecond,
    },
    Work {
        name: "seqwrite",
        title: "1 MiB sequential writes, 8 at a time",
        op: "seqwrite",
        fio: "write",
        block: "1m",
        depth: 8,
        unit: Unit::BytesPerSecond,
    },
];

impl Work {
    fn id(&self, direct: bool) -> String {
        format!("block/{}-{}", self.name, if direct { "direct" } else { "cached" })
    }

    fn figure(&self, direct: bool) -> Figure {
        let title = format!("{}, {}", self.title, if direct { "direct" } else { "page cache" });
        match self.unit {
            Unit::Nanoseconds => Figure::lower(self.id(direct), title, self.unit),
            _ => Figure::higher(self.id(direct), title, self.unit),
        }
    }

    /// The figure's number.
    fn of(&self, requests_a_second: f64, bytes_a_second: f64) -> f64 {
        match self.unit {
            Unit::Nanoseconds => 1e9 / requests_a_second,
            Unit::BytesPerSecond => bytes_a_second,
            _ => requests_a_second,
        }
    }
}

pub(super) fn measure(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let image = Image::make(setup.folder(), setup.effort.pick(256, 1024))?;
    let mut cases = disks(setup, &image, false, progress)?;
    cases.extend(disks(setup, &image, true, progress)?);
    if setup.effort == Effort::Full {
        cases.extend(limits::measure(setup, &image, progress)?);
    }
    Ok(cases)
}

/// All works, past the page cache or through it.
fn disks(setup: &Setup, image: &Image, direct: bool, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let figures = WORKLOADS.iter().map(|work| work.figure(direct)).collect();
    let mut contest = Contest::new(figures, setup.effort.pick(0, 1), setup.rounds(3, 8));
    let time = Duration::from_millis(setup.effort.pick(100, 300));
    let refused = if direct { image.goes_direct().err() } else { None };
    for vmm in &setup.vmms {
        let disk = Disk { path: image.path(), direct, engine: None };
        let guest = Guest { disk: Some(disk), ..setup.guest(MEMORY_MIB, "") };
        let why = refused.as_ref().map(|error| format!("no direct reads and writes here: {error}"));
        if let Some(why) = why.map_or_else(|| job::lacks(setup, vmm, &guest), |why| Ok(Some(why)))? {
            contest.lacks(&vmm.name, why);
            continue;
        }
        contest.add(&vmm.name, move || all_works(setup, vmm, image, disk, time));
        for engine in other_engines(setup.effort, vmm) {
            let disk = Disk { engine: Some(engine), ..disk };
            let name = format!("{}-{engine}", vmm.name);
            contest.add_every(ENGINES_EVERY, name, move || all_works(setup, vmm, image, disk, time));
        }
    }
    match on_path(FIO) {
        Some(program) => contest.add_every(setup.effort.pick(FIO_EVERY, 1), FIO, move || {
            let sample = fio::run(&program, image.path(), direct, time)?;
            image.sync()?;
            Ok(sample)
        }),
        None => contest.lacks(FIO, "it is not installed"),
    }
    image.cached(!direct)?;
    hold(contest, if direct { "block, direct" } else { "block, page cache" }, progress)
}

/// All but the default.
fn other_engines(effort: Effort, vmm: &Vmm) -> &'static [&'static str] {
    effort.pick(&[], vmm.disk_engines().get(1..).unwrap_or_default())
}

/// One run of a VMM for each work.
fn all_works(
    setup: &Setup,
    vmm: &Vmm,
    image: &Image,
    disk: Disk<'_>,
    time: Duration,
) -> anyhow::Result<Sample> {
    let one = |work: &Work| {
        let Work { op, block, depth, .. } = work;
        let job = format!("blk={op} bs={block} depth={depth} ms={} quiet", time.as_millis());
        let guest = Guest { disk: Some(disk), ..setup.guest(MEMORY_MIB, job) };
        let value = value(work, &job::run(setup, vmm, &guest)?)?;
        image.sync()?;
        Ok((work.id(disk.direct), value))
    };
    WORKLOADS.iter().map(one).collect()
}

fn value(work: &Work, said: &Said) -> anyhow::Result<f64> {
    Ok(work.of(said.a_second("n")?, said.a_second("bytes")?))
}

#[cfg(test)]
mod tests;
