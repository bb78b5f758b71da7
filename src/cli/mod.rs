//! The command line: one file a subcommand.

// A clock is read, and the allocator set, by a C call.
#![allow(unsafe_code)]

mod attended;
mod bench;
mod config;
mod console;
mod ctl;
mod devices;
mod doctor;
mod documents;
mod fork;
mod lines;
mod progress;
mod ps;
mod report;
mod restore;
mod run;
mod session;
mod signals;
mod snapshot;
mod terminal;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};

/// Exit code for an error of the user's or the host's; usage errors are clap's 2.
const EXIT_ERROR: u8 = 1;

const EXAMPLES: &str = "\
Examples:
  bantam run                                     boot the embedded guest: a tour of its machine
  bantam run --kernel vmlinux --initrd root.cpio --memory 512M --cpus 2
  bantam run --cmdline 'exits=1000 kind=pio' --timings --stats
  bantam doctor                                  what can this host do?";

/// Exit code for a defect of this program.
const EXIT_DEFECT: i32 = 10;

/// Exit code of what a signal has ended.
fn signal_code(signal: i32) -> u8 {
    u8::try_from(signal).unwrap_or_default().saturating_add(128)
}

/// A small, fast KVM hypervisor for microVMs.
#[derive(Debug, Parser)]
#[command(name = "bantam", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// Say more about what happens; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a virtual machine and run it until it ends.
    Run(run::Run),
    /// Print the configuration that `run` would use with the same options, as TOML or JSON.
    Config(config::Config),
    /// Ask a running machine for something.
    Ctl(ctl::Ctl),
    /// List the running machines that have names.
    Ps(ps::Ps),
    /// Go on with a machine from where a snapshot was made.
    Restore(restore::Restore),
    /// Run many machines that go on from where one was: from a snapshot, or from a running machine.
    Fork(fork::Fork),
    /// Make snapshots of running machines, look at them, check and remove them.
    Snapshot(snapshot::Snapshot),
    /// Measure this VMM beside others, compare results.
    Bench(bench::Bench),
    /// Say what this host can do for microVMs, and what it lacks.
    Doctor(doctor::Doctor),
    /// Print a shell's completions.
    Completions(documents::Completions),
    /// Print the manual page, in roff.
    Man,
}

/// The command with a part of its subcommands.
#[derive(Debug, Parser)]
#[command(name = "bantam", version, max_term_width = 100)]
struct Part<C: Subcommand> {
    /// Say more about what happens; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: C,
}

#[derive(Debug, Subcommand)]
enum RunAlone {
    /// Boot a virtual machine and run it until it ends.
    Run(run::Run),
}

#[derive(Debug, Subcommand)]
enum RestoreAlone {
    /// Go on with a machine from where a snapshot was made.
    Restore(restore::Restore),
}

/// Parses the process's arguments. What starts one machine is parsed alone: to make all subcommands takes a good
/// part of the time that a machine needs to start.
fn parse() -> Cli {
    let first = std::env::args_os().nth(1).unwrap_or_default();
    match first.to_str() {
        Some("run") => {
            let Part { verbose, command: RunAlone::Run(run) } = Part::parse();
            Cli { verbose, command: Command::Run(run) }
        }
        Some("restore") => {
            let Part { verbose, command: RestoreAlone::Restore(restore) } = Part::parse();
            Cli { verbose, command: Command::Restore(restore) }
        }
        _ => Cli::parse(),
    }
}

/// Prints what the library logs.
struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        terminal::note(&format!("{}: {}", record.level().as_str().to_lowercase(), record.args()));
    }

    fn flush(&self) {}
}

/// When the process began, as well as it can be told from inside: the processor time that it has
/// had before its first line ran went into starting it.
#[must_use]
pub fn process_start() -> Instant {
    let now = Instant::now();
    now.checked_sub(processor_time()).unwrap_or(now)
}

fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    if unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) } != 0 {
        return Duration::ZERO;
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or_default())
}

/// Threads of this program allocate next to nothing: an arena for each would cost more than it saves.
fn share_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number in the allocator, before there is a second thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// A panic, on whichever thread, ends the process with its own exit code and leaves the terminal
/// usable; without this it would end in a signal, as the release is built to abort.
fn end_at_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        terminal::restore();
        print(panic);
        std::process::exit(EXIT_DEFECT);
    }));
}

/// Parses the process's arguments and does what they say.
#[must_use]
pub fn main(process_start: Instant) -> ExitCode {
    share_allocator();
    end_at_panics();
    let cli = match bench::floor() {
        Some(done) => return ended(done),
        None => parse(),
    };
    let level = match cli.verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Trace,
    };
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(level);
    }
    ended(match cli.command {
        Command::Run(run) => run.run(process_start),
        Command::Config(config) => config.run(),
        Command::Ctl(ctl) => ctl.run(),
        Command::Ps(ps) => ps.run(),
        Command::Restore(restore) => restore.run(process_start),
        Command::Fork(fork) => fork.run(),
        Command::Snapshot(snapshot) => snapshot.run(),
        Command::Bench(bench) => bench.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man => documents::man(),
    })
}

/// The exit code; an error is printed.
fn ended(done: anyhow::Result<ExitCode>) -> ExitCode {
    done.unwrap_or_else(|error| {
        terminal::note(&crate::doctor::chain(error.as_ref()));
        ExitCode::from(EXIT_ERROR)
    })
}
