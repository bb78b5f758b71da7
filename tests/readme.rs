//! The figures in the README are those of the newest full run of the bench, `benches/results/bench.json`.
//!
//! `make bench-readme` writes them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail")]

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use bantam::bench::results::{Case, Measured, Results};
use bantam::bench::stats::ENOUGH;
use bantam::bench::table::show;
use bantam::bench::{BANTAM, FIO, FLOOR};

const BEGIN: &str = "<!-- figures: written by `make bench-readme` -->\n";
const END: &str = "<!-- end of figures -->\n";
/// Set, the figures are written instead of compared.
const WRITE: &str = "BANTAM_WRITE_README";
/// What is told beside Bantam's: of what is done without a VMM, or without what makes it fast.
const BESIDE: [&str; 3] = [FLOOR, FIO, "bantam-lazy"];
/// The peer that everybody has.
const PEER: &str = "qemu";

/// Text that takes part in a table of Markdown.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn of<'a>(case: &'a Case, vmm: &str) -> Option<&'a Measured> {
    case.of(vmm)?.measured()
}

/// The ratio to another, with its interval where there are samples enough for one.
fn ratio(measured: &Measured, to: &str) -> Option<String> {
    let ratio = measured.ratio_to(to)?;
    let interval = format!(" ({:.2} to {:.2})", ratio.low, ratio.high);
    let interval = if ratio.n < ENOUGH { String::new() } else { interval };
    Some(format!("{:.2}{interval}", ratio.p50))
}

fn row(case: &Case) -> Option<String> {
    let bantam = of(case, BANTAM)?;
    let value =
        |vmm| of(case, vmm).map(|measured| show(measured.summary.p50, case.figure.unit)).unwrap_or_default();
    let reference = BESIDE.into_iter().find(|name| of(case, name).is_some()).unwrap_or(FLOOR);
    let ratio = |to| ratio(bantam, to);
    Some(format!(
        "| {} | {} | {} | {} | {} | {} |\n",
        cell(&case.figure.title),
        value(reference),
        value(BANTAM),
        ratio(reference).unwrap_or_default(),
        value(PEER),
        ratio(PEER).unwrap_or_default(),
    ))
}

/// Whether a figure is one for the README: Bantam's exits in parts are for those who look for them.
fn is_told(case: &Case) -> bool {
    let beside = BESIDE.into_iter().chain([PEER]).any(|name| of(case, name).is_some());
    beside || (case.figure.part_of.is_none() && case.figure.group() != "exits")
}

/// The section in Markdown.
fn figures(results: &Results) -> String {
    let host = &results.host;
    let mut text = format!(
        "One run of `bantam bench all --full` ([bench.json](benches/results/bench.json)), {}, commit {}, on an {} ({} cores, {}KVM by `{}`, guest \
         kernel code {}), Linux {}. Medians, with the 95 % interval of each ratio; all in turns, round by round. The page that \
         `bantam bench report benches/results/bench.json` makes of it has the rest: exits in parts, phases of a start, engines, curves.",
        results.began.get(..10).unwrap_or_default(),
        results.commit.as_deref().unwrap_or("unknown"),
        host.cpu,
        host.cores,
        if host.nested.is_some() { "itself a virtual machine, " } else { "" },
        host.kvm.join(" "),
        host.guest_code,
        host.kernel,
    );
    if !results.quiet.disturbed.is_empty() {
        let _ = write!(
            text,
            " The machine was not quiet ({}): ratios count for more than times.",
            results.quiet.disturbed.join("; ")
        );
    }
    let version = results.vmms.iter().find(|vmm| vmm.name == PEER).and_then(|vmm| vmm.version.clone());
    let _ = writeln!(text, " The peer is {}.", version.unwrap_or_else(|| "not there".to_owned()));
    for cases in results.cases.chunk_by(|one, next| one.figure.group() == next.figure.group()) {
        let rows: String = cases.iter().filter(|case| is_told(case)).filter_map(row).collect();
        if !rows.is_empty() {
            let _ = write!(
                text,
                "\n| {} | floor, fio, or without prefetching | Bantam | Bantam / that | QEMU | Bantam / QEMU |\n|---|---|---|---|---|---|\n{rows}",
                cases[0].figure.group()
            );
        }
    }
    text
}

#[test]
fn the_figures_are_those_of_the_newest_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let results = fs::read(root.join("benches/results/bench.json")).unwrap();
    let results: Results = serde_json::from_slice(&results).unwrap();
    assert_eq!(results.effort, "full");
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("the README has figures");
    let (there, after) = rest.split_once(END).expect("the figures end");
    let expected = figures(&results);
    if env::var_os(WRITE).is_some() {
        fs::write(root.join("README.md"), format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
        println!("written to README.md");
        return;
    }
    assert_eq!(
        there, expected,
        "`make bench-readme` writes the figures of benches/results/bench.json into the README"
    );
}
