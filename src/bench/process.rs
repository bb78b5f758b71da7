//! One run of a program, timed from before it starts to after it is gone.

// What a process used is told by a C call only.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, ensure};

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
    let mut pipe = child.stdout.take().context("standard output is a pipe")?;
    let mut output = Output { child: &mut child, pipe: &mut pipe, patience: PATIENCE };
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
    let mut pipe = child.stdout.take().context("standard output is a pipe")?;
    let mut text = String::new();
    Output { child: &mut child, pipe: &mut pipe, patience }
        .read_to_string(&mut text)
        .with_context(|| format!("the output of {command:?}"))?;
    let status = child.wait()?;
    ensure!(status.success(), "{command:?} failed ({status}): {text}");
    Ok(text)
}

/// A program that runs until this is dropped.
pub struct Running {
    child: Child,
    /// Standard output. It stays open, as a program may end when nobody listens.
    output: Option<ChildStdout>,
    /// How long it may be silent.
    patience: Duration,
}

impl Running {
    /// Starts a program with neither input nor output.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child, output: None, patience: PATIENCE })
    }

    /// Starts a program with no input, and waits until it has printed enough: `enough` is asked about all that it
    /// has. Tells how long that took.
    pub fn start_until(
        command: &mut Command,
        enough: impl FnMut(&[u8]) -> bool,
    ) -> anyhow::Result<(Self, Duration)> {
        Self::spawn_until(command.stdin(Stdio::null()), PATIENCE, enough)
    }

    /// The same with standard input as the command has it, of a program that may be silent for `patience`.
    pub fn spawn_until(
        command: &mut Command,
        patience: Duration,
        mut enough: impl FnMut(&[u8]) -> bool,
    ) -> anyhow::Result<(Self, Duration)> {
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let start = Instant::now();
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let output = child.stdout.take();
        let mut running = Self { child, output, patience };
        let mut output = running.output().context("standard output is a pipe")?;
        let (mut printed, mut buffer) = (Vec::new(), [0; 4096]);
        while !enough(&printed) {
            let got = output.read(&mut buffer).with_context(|| format!("the output of {command:?}"))?;
            ensure!(got > 0, "{command:?} ended after {:?}", String::from_utf8_lossy(&printed));
            printed.extend(buffer.iter().take(got));
        }
        Ok((running, start.elapsed()))
    }

    fn output(&mut self) -> Option<Output<'_>> {
        Some(Output { child: &mut self.child, pipe: self.output.as_mut()?, patience: self.patience })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Has it end. Waiting for that is left to the drop, so that many can end at a time.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }

    /// Waits until it has used so much processor time.
    pub fn work_for(&mut self, time: Duration) -> anyhow::Result<()> {
        while self.cpu_time()? < time {
            ensure!(self.child.try_wait()?.is_none(), "a program has ended that should go on");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The processor time that it has used, in steps of a clock tick.
    fn cpu_time(&self) -> anyhow::Result<Duration> {
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
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end, and types something when it has printed this.
pub fn type_to(command: &mut Command, until: &str, keys: &[u8]) -> anyhow::Result<()> {
    let enough = |printed: &[u8]| count(printed, until) > 0;
    let (mut running, _) = Running::spawn_until(command.stdin(Stdio::piped()), PATIENCE, enough)?;
    let mut input = running.child.stdin.take().context("standard input is a pipe")?;
    input.write_all(keys).with_context(|| format!("the input of {command:?}"))?;
    io::copy(&mut running.output().context("standard output is a pipe")?, &mut io::sink())?;
    let status = running.child.wait()?;
    ensure!(status.success(), "{command:?} failed ({status})");
    Ok(())
}

/// The output of a program that is killed when it is silent for too long.
struct Output<'a> {
    child: &'a mut Child,
    pipe: &'a mut ChildStdout,
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

/// How often a text is in what was printed.
#[must_use]
pub fn count(printed: &[u8], text: &str) -> usize {
    printed.windows(text.len().max(1)).filter(|part| *part == text.as_bytes()).count()
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

#[cfg(test)]
mod tests;
