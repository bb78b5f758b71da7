//! One run of a program, timed from before it starts to after it is gone.

// What a process used is told by a C call only.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, bail, ensure};

/// How long a program may be silent.
const PATIENCE: Duration = Duration::from_secs(20);

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// From the start of the process to the first byte on its standard output.
    pub first_byte: Duration,
    /// From the start of the process to its end.
    pub end: Duration,
    /// Processor time of all its threads, in itself and in the kernel.
    pub cpu: Duration,
}

/// The command that runs a program as from a plain shell. Cargo's own variables do not reach it:
/// its library path alone costs the dynamic loader some two hundred system calls.
pub fn command(program: &Path, arguments: &[OsString]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
    command
}

/// Runs a program with no input and takes its output from a pipe. The clock starts before the
/// process exists: the cost of making one is in every program's figures alike.
pub fn time(command: &mut Command) -> anyhow::Result<Run> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let mut first = [0];
    let pipe = child.stdout.take().context("standard output is a pipe")?;
    let mut output = Output { child: &mut child, pipe, patience: PATIENCE };
    let got = output.read(&mut first).with_context(|| format!("the output of {command:?}"))?;
    let first_byte = start.elapsed();
    io::copy(&mut output, &mut io::sink()).with_context(|| format!("the output of {command:?}"))?;
    let (status, usage) = wait(&child)?;
    let end = start.elapsed();
    ensure!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{command:?} failed: {status:#x}");
    ensure!(got == 1, "{command:?} printed nothing");
    let cpu = duration(usage.ru_utime)? + duration(usage.ru_stime)?;
    Ok(Run { first_byte, end, cpu })
}

/// Runs a program with no input to its end and gives what it printed. It may be silent for `patience`.
pub fn output(command: &mut Command, patience: Duration) -> anyhow::Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let pipe = child.stdout.take().context("standard output is a pipe")?;
    let mut text = String::new();
    Output { child: &mut child, pipe, patience }
        .read_to_string(&mut text)
        .with_context(|| format!("the output of {command:?}"))?;
    let status = child.wait()?;
    ensure!(status.success(), "{command:?} failed ({status}): {text}");
    Ok(text)
}

/// Runs a program with no input until its output has a marker in it, and ends it then: how long that took. It may be
/// silent for `patience`.
pub fn time_to(command: &mut Command, marker: &[u8], patience: Duration) -> anyhow::Result<Duration> {
    ensure!(!marker.is_empty(), "an empty marker");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let pipe = child.stdout.take().context("standard output is a pipe")?;
    let mut running = Running(child);
    let mut output = Output { child: &mut running.0, pipe, patience };
    let (mut tail, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let got = output.read(&mut chunk).with_context(|| format!("the output of {command:?}"))?;
        tail.extend_from_slice(chunk.get(..got).unwrap_or_default());
        if tail.windows(marker.len()).any(|window| window == marker) {
            return Ok(start.elapsed());
        }
        ensure!(got > 0, "{command:?} ended before it printed {:?}", String::from_utf8_lossy(marker));
        // A marker may come in two pieces.
        tail.drain(..tail.len().saturating_sub(marker.len() - 1));
    }
}

/// A program that runs until it is told to end; it is, whatever happens.
pub struct Running(Child);

impl Running {
    /// Starts a program with neither input nor output.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Self).with_context(|| format!("cannot start {command:?}"))
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> io::Result<bool> {
        self.0.try_wait().map(|status| status.is_some())
    }

    /// The processor time that it has used, in steps of a clock tick.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        let path = format!("/proc/{}/stat", self.id());
        let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
        // The name, in parentheses, may hold anything; what follows it are numbers, of which the
        // 12th and 13th are the ticks in user space and in the kernel (proc(5)).
        let (_, numbers) = stat.rsplit_once(')').context(path)?;
        let ticks =
            numbers.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        // SAFETY: the call takes and gives a number.
        let ticks_a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        Ok(Duration::from_millis(ticks * 1000 / u64::try_from(ticks_a_second)?.max(1)))
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(mut self) -> anyhow::Result<()> {
        signal(self.id(), libc::SIGTERM);
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if self.has_ended()? {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("a process does not end when asked to")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The output of a program that is killed when it is silent for too long.
struct Output<'a> {
    child: &'a mut Child,
    pipe: ChildStdout,
    patience: Duration,
}

impl Read for Output<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let patience = i32::try_from(self.patience.as_millis()).unwrap_or(i32::MAX);
        let mut poll = libc::pollfd { fd: self.pipe.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `poll` is one valid entry.
        match unsafe { libc::poll(&raw mut poll, 1, patience) } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                self.child.kill()?;
                self.child.wait()?;
                Err(io::ErrorKind::TimedOut.into())
            }
            _ => self.pipe.read(buffer),
        }
    }
}

/// How many system calls a run of the program makes; none where strace(1) is missing or may not
/// trace.
pub fn system_calls(program: &Path, arguments: &[OsString]) -> Option<u64> {
    let options = ["-f", "-c", "-U", "calls,name"].map(OsString::from);
    let arguments: Vec<_> = options.into_iter().chain([program.into()]).chain(arguments.to_vec()).collect();
    let output = command(Path::new("strace"), &arguments).stdin(Stdio::null()).output().ok()?;
    let report = String::from_utf8_lossy(&output.stderr);
    let total = report.lines().rfind(|line| line.trim_end().ends_with(" total"))?;
    total.split_whitespace().next()?.parse().ok()
}

fn signal(id: u32, number: i32) {
    if let Ok(id) = i32::try_from(id) {
        // SAFETY: the call takes two numbers. The process is a child of ours that nobody has waited
        // for, so the number is still its own.
        unsafe { libc::kill(id, number) };
    }
}

/// Waits for the end of a child and tells its status and what it used.
fn wait(child: &Child) -> anyhow::Result<(i32, libc::rusage)> {
    let id = i32::try_from(child.id())?;
    let (mut status, mut usage) = (0, MaybeUninit::uninit());
    loop {
        // SAFETY: both pointers are to live memory of the right type.
        if unsafe { libc::wait4(id, &raw mut status, 0, usage.as_mut_ptr()) } == id {
            // SAFETY: the call succeeded, so it has filled the structure.
            return Ok((status, unsafe { usage.assume_init() }));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error).context("cannot wait for a process");
        }
    }
}

fn duration(time: libc::timeval) -> anyhow::Result<Duration> {
    Ok(Duration::from_secs(time.tv_sec.try_into()?) + Duration::from_micros(time.tv_usec.try_into()?))
}
