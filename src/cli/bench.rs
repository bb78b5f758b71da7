//! `bantam bench`.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::NamedTempFile;

use super::documents::print;
use super::terminal::harmless_lines;
use crate::bench::compare::{self, Comparison, Verdict};
use crate::bench::linux::Linux;
use crate::bench::peers::Vmm;
use crate::bench::results::{Results, SCHEMA};
use crate::bench::{self, Effort, Group, Setup, table};

const BENCH_HELP: &str = "\
All VMMs that are found on PATH, or named by --vmm, run the same guest in turns, beside the bare calls to
KVM (the floor). A VMM that cannot do something is told of, with the reason.

Examples:
  bantam bench all --quick --output results.json
  bantam bench start --vmm qemu-9.2=/opt/qemu/bin/qemu-system-x86_64
  bantam bench compare before.json after.json";

#[derive(Args, Debug)]
#[command(after_help = BENCH_HELP)]
pub(super) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Everything; leaves results, and a page to look at.
    All(Measure),
    /// From the start of the process to the guest's first byte, to its end, and until all is gone.
    Start(Measure),
    /// Round trips from the guest to its VMM and back, by kind.
    Exits(Measure),
    /// What a VMM takes of the host's memory beside its guest's.
    Memory(Measure),
    /// From opening a snapshot to the guest's first instruction.
    Restore(Measure),
    /// Many copies of one snapshot.
    Fork(Measure),
    /// Reads and writes of a disk.
    Block(Measure),
    /// Frames to and from a tap.
    Net(Measure),
    /// Streams between guest and host.
    Vsock(Measure),
    /// Machines a second, and how many fit.
    Scale(Measure),
    /// From exec to a marker on a Linux's console.
    Linux(Measure),
    /// What has changed from one run to another, beyond noise; exit code 3 if something has become worse.
    Compare(Compare),
    /// A page to look at, of one run or more: in one file, with nothing from elsewhere.
    Report(Report),
    /// Many machines in one process, as a program of their own.
    #[command(hide = true)]
    Crowd(Crowd),
}

#[derive(Args, Debug)]
struct Measure {
    /// Fewer rounds: everything in less than two minutes.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// As many rounds as make intervals narrow. The default, but for `all`.
    #[arg(long)]
    full: bool,
    /// So many rounds each.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..))]
    rounds: Option<u16>,
    /// A VMM by its adapter's name, or by that, a dash and more, and its program.
    #[arg(long, value_name = "NAME=PATH", value_parser = named)]
    vmm: Vec<(String, PathBuf)>,
    /// Write the results to this file, as JSON. `all` does in any case, to bench.json, and makes a page to look at
    /// beside it.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the results as JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// The kernel for `linux`: an ELF vmlinux, or what all VMMs can boot.
    #[arg(long, value_name = "FILE", requires = "marker")]
    kernel: Option<PathBuf>,
    /// The initial RAM disk for `linux`.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// More of the kernel's command line for `linux`.
    #[arg(long, value_name = "WORDS", requires = "kernel", default_value = "")]
    cmdline: String,
    /// What the Linux says on its console when it is up.
    #[arg(long, value_name = "TEXT", requires = "kernel", value_parser = NonEmptyStringValueParser::new())]
    marker: Option<String>,
    /// MiB of memory for `linux`.
    #[arg(long, value_name = "MIB", requires = "kernel", default_value_t = 256)]
    linux_memory: u64,
    /// Make disks and snapshots in this folder; its file system is measured along.
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
}

#[derive(Args, Debug)]
struct Compare {
    /// Results of `--output`.
    before: PathBuf,
    after: PathBuf,
    /// Per cent of change that counts.
    #[arg(long, value_name = "PERCENT", default_value_t = compare::THRESHOLD * 100.0)]
    threshold: f64,
    /// Print the comparison as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct Report {
    /// Results of `--output`, the newest first.
    #[arg(required = true)]
    results: Vec<PathBuf>,
    /// The page.
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,
}

#[derive(Args, Debug)]
struct Crowd {
    #[arg(long)]
    count: usize,
    /// MiB of each.
    #[arg(long)]
    memory: u64,
    words: String,
}

/// Where the results of `all` go without another word.
const ALL_RESULTS: &str = "bench.json";

/// Exit code when something has become worse.
const EXIT_REGRESSION: u8 = 3;

fn named(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("give NAME=PATH")?;
    Ok((name.to_owned(), path.into()))
}

/// Does what the floor's process does, if this is one: `bantam bench floor MIB WORDS`. It is no subcommand, as to
/// parse those takes time, which the bare calls do not need.
pub(super) fn floor() -> Option<anyhow::Result<ExitCode>> {
    let mut arguments = std::env::args_os().skip(1).map_while(|word| word.into_string().ok());
    let is_floor = arguments.next()? == "bench" && arguments.next()? == "floor";
    let (memory, words) = (arguments.next()?.parse().ok()?, arguments.next()?);
    is_floor.then(|| bench::floor::run(memory, &words).map(|()| ExitCode::SUCCESS))
}

impl Bench {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.what {
            What::All(measure) => measure.run(&Group::ALL),
            What::Start(measure) => measure.run(&[Group::Start]),
            What::Exits(measure) => measure.run(&[Group::Exits]),
            What::Memory(measure) => measure.run(&[Group::Memory]),
            What::Restore(measure) => measure.run(&[Group::Restore]),
            What::Fork(measure) => measure.run(&[Group::Fork]),
            What::Block(measure) => measure.run(&[Group::Block]),
            What::Net(measure) => measure.run(&[Group::Net]),
            What::Vsock(measure) => measure.run(&[Group::Vsock]),
            What::Scale(measure) => measure.run(&[Group::Scale]),
            What::Linux(measure) => measure.run(&[Group::Linux]),
            What::Report(report) => report.run(),
            What::Compare(compare) => compare.run(),
            What::Crowd(Crowd { count, memory, words }) => {
                super::session::raise_descriptor_limit();
                bench::crowd::run(count, memory, &words).map(|()| ExitCode::SUCCESS)
            }
        }
    }
}

impl Measure {
    fn run(self, groups: &[Group]) -> anyhow::Result<ExitCode> {
        let bantam = std::env::current_exe().context("the path of this program")?;
        let vmms = Vmm::all(&bantam, &self.vmm)?;
        let all = groups.len() > 1;
        let quick = self.quick || (all && !self.full);
        let effort = if quick { Effort::Quick } else { Effort::Full };
        // Mistakes are told before minutes of measuring, not after.
        let output = self.output.or_else(|| all.then(|| ALL_RESULTS.into()));
        let page = output.as_ref().filter(|_| all).map(|path| path.with_extension("html"));
        let (output, page) =
            (output.map(Replacement::begin).transpose()?, page.map(Replacement::begin).transpose()?);
        for file in self.kernel.iter().chain(&self.initrd) {
            File::open(file).with_context(|| file.display().to_string())?;
        }
        let mut setup = Setup::new(vmms, effort, self.rounds.map(usize::from), &self.folder)?;
        if let (Some(kernel), Some(marker)) = (self.kernel, self.marker) {
            let (initrd, words, memory_mib) = (self.initrd, self.cmdline, self.linux_memory);
            setup.linux = Some(Linux { kernel, initrd, words, marker, memory_mib });
        } else if groups == [Group::Linux] {
            bail!("name a Linux to boot: --kernel FILE --initrd FILE --marker TEXT");
        }
        end_when_interrupted();
        let results = bench::run(groups, &setup, &mut progress())?;
        let json = || serde_json::to_string(&results).map(|text| text + "\n");
        if let Some(output) = output {
            output.finish(&json()?)?;
        }
        if let Some(page) = page {
            page.finish(&bench::report::page(std::slice::from_ref(&results)))?;
        }
        let text = if self.json { json()? } else { harmless_lines(&table::table(&results)) };
        print(text.as_bytes())
    }
}

/// A file that takes the place of another, or of none, when it is whole.
struct Replacement {
    path: PathBuf,
    new: NamedTempFile,
}

impl Replacement {
    fn begin(path: PathBuf) -> anyhow::Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        let new = tempfile::Builder::new().permissions(readable).tempfile_in(folder);
        let new = new.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, new })
    }

    fn finish(mut self, text: &str) -> anyhow::Result<()> {
        let about = || format!("cannot write {}", self.path.display());
        self.new.write_all(text.as_bytes()).with_context(about)?;
        self.new.persist(&self.path).with_context(about)?;
        Ok(())
    }
}

extern "C" fn interrupted(_: libc::c_int) {
    bench::interrupt();
}

/// Has the first signal that asks for the end wait for the run that is under way, and everything put back; the
/// second one ends the process.
#[allow(unsafe_code)]
fn end_when_interrupted() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: a zeroed sigaction is one without a mask; the handler stores to an atomic and does nothing else.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = interrupted as extern "C" fn(libc::c_int) as usize;
            action.sa_flags = libc::SA_RESTART | libc::SA_RESETHAND;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

/// A line on a terminal at standard error, or nothing.
fn progress() -> impl FnMut(&str, usize, usize) {
    let bar = io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos} of {len}, {elapsed}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(0).with_style(style.progress_chars("=> "));
        bar.with_finish(indicatif::ProgressFinish::AndClear)
    });
    move |what, round, rounds| {
        let Some(bar) = &bar else { return };
        bar.set_length(u64::try_from(rounds).unwrap_or_default());
        bar.set_position(u64::try_from(round).unwrap_or_default());
        bar.set_message(what.to_owned());
    }
}

/// Results of a run.
fn read(path: &Path) -> anyhow::Result<Results> {
    let about = || path.display().to_string();
    let text = fs::read_to_string(path).with_context(about)?;
    let schema = serde_json::from_str::<serde_json::Value>(&text).with_context(about)?.get("schema").cloned();
    ensure!(
        schema == Some(SCHEMA.into()),
        "{}: schema {}, and this program reads {SCHEMA}",
        about(),
        schema.unwrap_or_default()
    );
    serde_json::from_str(&text).with_context(about)
}

impl Report {
    fn run(self) -> anyhow::Result<ExitCode> {
        let results: Vec<_> = self.results.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
        let page = bench::report::page(&results);
        Replacement::begin(self.output)?.finish(&page)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Compare {
    fn run(self) -> anyhow::Result<ExitCode> {
        ensure!(self.threshold >= 0.0, "a threshold is no less than 0 per cent");
        let (before, after) = (read(&self.before)?, read(&self.after)?);
        let comparison = Comparison::of(&before, &after, self.threshold / 100.0);
        let text = if self.json {
            serde_json::to_string_pretty(&comparison)? + "\n"
        } else {
            harmless_lines(&text(&comparison))
        };
        let printed = print(text.as_bytes())?;
        Ok(if comparison.has_regression() { ExitCode::from(EXIT_REGRESSION) } else { printed })
    }
}

fn text(comparison: &Comparison) -> String {
    let mut text = String::new();
    for warning in &comparison.warnings {
        text += &format!("take care: {warning}\n");
    }
    for change in &comparison.changes {
        let word = match change.verdict {
            Verdict::Regression => "WORSE",
            Verdict::Improvement => "better",
            Verdict::Same => continue,
        };
        let show = |value| match change.unit {
            Some(unit) => table::show(value, unit),
            None => format!("{value:.2} x {}", change.to.as_deref().unwrap_or_default()),
        };
        let (low, high) = change.interval;
        text += &format!(
            "{word:<6} {:<10} {:<28} {} -> {} (x {low:.2} to {high:.2})\n",
            change.vmm,
            change.id,
            show(change.before),
            show(change.after),
        );
    }
    let same = comparison.changes.iter().filter(|change| change.verdict == Verdict::Same).count();
    text += &format!("{same} of {} figures have not changed beyond noise\n", comparison.changes.len());
    if !comparison.few.is_empty() {
        text += &format!(
            "{} figures have too few samples in one of the runs to tell: --full, or --rounds, makes more\n",
            comparison.few.len()
        );
    }
    for missing in &comparison.missing {
        text += &format!("not compared: {missing}\n");
    }
    text
}
