//! What the samples amount to.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::Results;
use crate::limits::{Limited, Verified};
use crate::support::host::Fingerprint;
use crate::support::stats::{Summary, median_ratio};

const TARGET_TO_QEMU: f64 = 1.0;
const TARGET_TO_FIO: f64 = 0.7;
const TARGET_LIMIT: [f64; 2] = [0.95, 1.05];
/// The contenders whose figures are to meet targets: what one gets who asks for nothing in particular.
const DEFAULTS: [&str; 2] = ["bantam", "bantam io_uring"];

/// What one run of one contender gave.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    /// Requests or frames.
    pub(crate) a_second: f64,
    pub(crate) mib_a_second: f64,
    /// Notifications of the device for each request or frame; none without a guest.
    pub(crate) kicks: Option<f64>,
}

/// The samples of a round by contender.
pub(crate) type Round = BTreeMap<String, Sample>;

/// One kind of work, and how fast each contender does it.
#[derive(Serialize)]
pub(crate) struct Comparison {
    pub(crate) work: String,
    contenders: BTreeMap<String, Figures>,
}

/// One contender's figures.
#[derive(Serialize)]
struct Figures {
    a_second: Summary,
    mib_a_second: Summary,
    kicks: Option<f64>,
    /// Median of each round's ratio to the faster QEMU of that round, and to fio.
    to_qemu: Option<f64>,
    to_fio: Option<f64>,
}

impl Comparison {
    pub(crate) fn of(work: String, names: &[String], rounds: &[Round]) -> Self {
        let contenders = names.iter().filter_map(|name| Some((name.clone(), Figures::of(name, rounds)?)));
        Self { work, contenders: contenders.collect() }
    }
}

impl Figures {
    fn of(name: &str, rounds: &[Round]) -> Option<Self> {
        let series = |pick: fn(&Sample) -> f64| {
            Summary::of(rounds.iter().filter_map(|round| round.get(name)).map(pick))
        };
        let to = |base: &str| {
            let best = |round: &Round| {
                let bases = round.iter().filter(|(name, _)| name.starts_with(base));
                bases.map(|(_, sample)| sample.a_second).max_by(f64::total_cmp)
            };
            let pair = |round: &Round| Some((round.get(name)?.a_second, best(round)?));
            (!name.starts_with(base)).then(|| median_ratio(rounds.iter().filter_map(pair))).flatten()
        };
        let kicks = rounds.iter().filter_map(|round| round.get(name)?.kicks);
        Some(Self {
            a_second: series(|sample| sample.a_second)?,
            mib_a_second: series(|sample| sample.mib_a_second)?,
            kicks: Summary::of(kicks).map(|kicks| kicks.p50),
            to_qemu: to("qemu"),
            to_fio: to("fio"),
        })
    }
}

/// A figure that Bantam wants to keep within bounds.
#[derive(Serialize)]
pub(crate) struct Target {
    what: String,
    at_least: f64,
    at_most: Option<f64>,
    is: Option<f64>,
    /// A busy host spoils it.
    timing: bool,
}

pub(crate) fn targets(
    disk: &[Comparison],
    limited: &[Limited],
    verified: &[Verified],
    net: &[Comparison],
) -> Vec<Target> {
    let mut targets = Vec::new();
    for Comparison { work, contenders } in disk.iter().chain(net) {
        let Some(figures) = DEFAULTS.iter().find_map(|name| contenders.get(*name)) else { continue };
        let ratios = [("qemu", TARGET_TO_QEMU, figures.to_qemu), ("fio", TARGET_TO_FIO, figures.to_fio)];
        for (base, at_least, is) in ratios.into_iter().filter(|(.., is)| is.is_some()) {
            targets.push(Target {
                what: format!("{work}: x {base}"),
                at_least,
                at_most: None,
                is,
                timing: true,
            });
        }
    }
    let [at_least, at_most] = TARGET_LIMIT;
    for Limited { rate, limit, passed, .. } in limited {
        let is = passed.map(|passed| passed.p50 / limit);
        targets.push(Target {
            what: format!("rate={rate}: x limit"),
            at_least,
            at_most: Some(at_most),
            is,
            timing: true,
        });
    }
    for Verified { mib, rate, .. } in verified {
        // The run fails otherwise.
        let what = format!("{mib} MiB written and read again, rate={}: right", rate.unwrap_or("none"));
        targets.push(Target { what, at_least: 1.0, at_most: None, is: Some(1.0), timing: false });
    }
    targets
}

pub(crate) fn print_host(host: &Fingerprint) {
    let Fingerprint { date, commit, cpu, cores, kernel, kvm, load } = host;
    println!("{date}, commit {commit}\n{cpu}, {cores} cores, Linux {kernel}, {}", kvm.join(" "));
    if host.is_busy() {
        println!("This host is busy (load {load}): measure again when it is quiet.");
    }
}

fn print_comparison(unit: &str, Comparison { work, contenders }: &Comparison) {
    let second = format!("{unit}/s");
    println!(
        "\n{work:<40} {second:>10} {:>10} {:>10} {:>9} {:>8} {:>7} {:>7}",
        "p25", "p75", "MiB/s", "kicks", "x qemu", "x fio"
    );
    let cell =
        |number: Option<f64>, digits| number.map_or(String::new(), |number| format!("{number:.digits$}"));
    for (name, figures) in contenders {
        let Figures { a_second: Summary { p25, p50, p75, .. }, mib_a_second, kicks, to_qemu, to_fio } =
            figures;
        println!(
            "  {name:<38} {p50:>10.0} {p25:>10.0} {p75:>10.0} {:>9.1} {:>8} {:>7} {:>7}",
            mib_a_second.p50,
            cell(*kicks, 4),
            cell(*to_qemu, 2),
            cell(*to_fio, 2)
        );
    }
}

pub(crate) fn print(results: &Results) {
    results.disk.iter().for_each(|comparison| print_comparison("requests", comparison));
    results.net.iter().for_each(|comparison| print_comparison("frames", comparison));
    println!();
    for Limited { rate, limit, unit, passed } in &results.limits {
        if let Some(Summary { min, p50, .. }) = passed {
            println!("rate={rate}: {p50:.2} {unit} of {limit} (min {min:.2})");
        }
    }
    for Verified { mib, rate, mib_a_second } in &results.verified {
        let rate = rate.unwrap_or("none");
        println!("{mib} MiB written and read again, rate={rate}: {mib_a_second:.1} MiB/s");
    }
    for (name, reason) in &results.absent {
        println!("{name}: not available: {reason}");
    }
    println!();
    let busy = results.host.is_busy();
    for Target { what, at_least, at_most, is, timing } in &results.targets {
        let bound = at_most.map_or(format!(">= {at_least}"), |at_most| format!("{at_least} .. {at_most}"));
        let met = |is: f64| is >= *at_least && at_most.is_none_or(|at_most| is <= at_most);
        let verdict = match is {
            Some(is) if *timing && busy => format!("{is:.2}: no verdict, the host is busy"),
            Some(is) => format!("{is:.2}: {}", if met(*is) { "met" } else { "missed" }),
            None => "not measured".to_owned(),
        };
        println!("target {what} {bound}: {verdict}");
    }
}
