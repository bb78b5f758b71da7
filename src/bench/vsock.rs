//! `vsock`: streams between a guest and a program on the host, which is the bench; beside the same between two threads
//! of it, over a pair of Unix sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};

use super::job::{self, Said};
use super::peers::{Guest, Vmm};
use super::results::{Case, Figure, Unit};
use super::rounds::Contest;
use super::stats::median;
use super::{FLOOR, Progress, Setup, hold, nanoseconds};

const MEMORY_MIB: u64 = 64;
const CID: u32 = 3;
/// The host's port to which the guest connects.
const PORT: u32 = 5000;
/// Bytes that go to the guest and back.
const MESSAGE: usize = 64;
/// Bytes that the host reads or writes at once.
const CHUNK: usize = 64 << 10;
/// What is sent is zero but for the last byte of all.
const LAST: u8 = 1;

/// What goes over the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ToHost,
    ToGuest,
    RoundTrip,
}

impl Way {
    const ALL: [Self; 3] = [Self::ToHost, Self::ToGuest, Self::RoundTrip];

    fn figure(self) -> Figure {
        let rate = Unit::BytesPerSecond;
        match self {
            Self::ToHost => {
                Figure::higher("vsock/to-host", "a stream from the guest, in packets of 16 KiB", rate)
            }
            Self::ToGuest => {
                Figure::higher("vsock/to-guest", "a stream to the guest, in packets of 16 KiB", rate)
            }
            Self::RoundTrip => {
                Figure::lower("vsock/round-trip", "64 bytes to the guest and back", Unit::Nanoseconds)
            }
        }
    }
}

pub(super) fn measure(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for way in Way::ALL {
        cases.extend(one_way(setup, way, progress)?);
    }
    Ok(cases)
}

fn one_way(setup: &Setup, way: Way, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let figure = way.figure();
    let (id, title) = (figure.id.clone(), figure.title.clone());
    let mut contest = Contest::new(vec![figure], 1, setup.rounds(5, 12));
    let time = Duration::from_millis(setup.effort.pick(100, 300));
    let sample = |value: anyhow::Result<f64>| Ok(vec![(id.clone(), value?)]);
    for vmm in &setup.vmms {
        if vmm.name == FLOOR {
            contest.add(FLOOR, move || sample(between_threads(way, time)));
            continue;
        }
        let anywhere = setup.folder().join("vsock");
        match job::lacks(setup, vmm, &guest(setup, "", &anywhere))? {
            Some(why) => contest.lacks(&vmm.name, why),
            None => contest.add(&vmm.name, move || sample(with_guest(setup, vmm, way, time))),
        }
    }
    hold(contest, &title, progress)
}

fn guest<'a>(setup: &'a Setup, words: impl Into<String>, socket: &'a Path) -> Guest<'a> {
    Guest { vsock: Some((CID, socket)), ..setup.guest(MEMORY_MIB, words) }
}

/// One run of a VMM.
fn with_guest(setup: &Setup, vmm: &Vmm, way: Way, time: Duration) -> anyhow::Result<f64> {
    let (said, bytes) = match way {
        Way::ToHost => {
            let words = format!("vsock=send ms={} quiet", time.as_millis());
            connected(setup, vmm, &words, |mut host| take(&mut host))?
        }
        Way::ToGuest => connected(setup, vmm, "vsock=recv quiet", |mut host| give(&mut host, time))?,
        Way::RoundTrip => {
            let words = "vsock=echo quiet";
            return Ok(connected(setup, vmm, words, |mut host| round_trip(&mut host, time))?.1);
        }
    };
    let told = said.number("bytes")?;
    ensure!((told - bytes).abs() < 0.5, "{told} bytes at the guest's end, {bytes} at the host's");
    said.a_second("bytes")
}

/// Runs a guest that connects, and the host's end of the connection.
fn connected<T: Send>(
    setup: &Setup,
    vmm: &Vmm,
    words: &str,
    host: impl FnOnce(UnixStream) -> anyhow::Result<T> + Send,
) -> anyhow::Result<(Said, T)> {
    // Not among the other files: the path of a socket has to be short.
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("vsock");
    let port = folder.path().join(format!("vsock_{PORT}"));
    let listener = UnixListener::bind(&port).with_context(|| port.display().to_string())?;
    thread::scope(|scope| {
        let side = scope.spawn(move || host(listener.accept()?.0));
        let said = job::run(setup, vmm, &guest(setup, words, &socket));
        // If the guest has not come, the host's side waits no longer.
        let _ = UnixStream::connect(&port);
        let result = side.join().map_err(|_| anyhow!("the host's side has failed"))?;
        Ok((said?, result.context("the host's side")?))
    })
}

/// The same without a guest, and without a VMM.
fn between_threads(way: Way, time: Duration) -> anyhow::Result<f64> {
    match way {
        Way::ToHost => Ok(paired(|mut guest| send(&mut guest, time), |mut host| take(&mut host))?.0),
        Way::ToGuest => Ok(paired(|mut guest| rate_of(&mut guest), |mut host| give(&mut host, time))?.0),
        Way::RoundTrip => Ok(paired(|mut guest| echo(&mut guest), |mut host| round_trip(&mut host, time))?.1),
    }
}

/// Both ends at work, each on a thread.
fn paired<G: Send, H>(
    guest: impl FnOnce(UnixStream) -> anyhow::Result<G> + Send,
    host: impl FnOnce(UnixStream) -> anyhow::Result<H>,
) -> anyhow::Result<(G, H)> {
    let (ours, theirs) = UnixStream::pair()?;
    thread::scope(|scope| {
        let side = scope.spawn(move || guest(theirs));
        let result = host(ours);
        let side = side.join().map_err(|_| anyhow!("the other thread has failed"))?;
        Ok((side?, result?))
    })
}

/// Reads up to the last byte, which is not zero; how many they were. Then it closes.
fn take(stream: &mut UnixStream) -> anyhow::Result<f64> {
    let (mut chunk, mut bytes) = (vec![0; CHUNK], 0.0);
    loop {
        let count = stream.read(&mut chunk)?;
        bytes += f64::from(u32::try_from(count)?);
        if count == 0 || chunk.get(count - 1) == Some(&LAST) {
            stream.shutdown(Shutdown::Both)?;
            return Ok(bytes);
        }
    }
}

/// Writes for so long, and waits until the other end has it all and closes; how many bytes they were.
fn give(stream: &mut UnixStream, time: Duration) -> anyhow::Result<f64> {
    let (chunk, start, mut bytes) = (vec![0; CHUNK], Instant::now(), 0.0);
    while start.elapsed() < time {
        stream.write_all(&chunk)?;
        bytes += f64::from(u32::try_from(CHUNK)?);
    }
    stream.shutdown(Shutdown::Write)?;
    wait_for_end(stream)?;
    Ok(bytes)
}

/// Sends messages and waits for each to come back, for so long; the median of the times.
fn round_trip(stream: &mut UnixStream, time: Duration) -> anyhow::Result<f64> {
    let (start, mut times) = (Instant::now(), Vec::new());
    let mut answer = [0; MESSAGE];
    for number in (0..=u8::MAX).cycle() {
        let message = [number; MESSAGE];
        let sent = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut answer)?;
        times.push(nanoseconds(sent.elapsed()));
        ensure!(answer == message, "another message has come back");
        if start.elapsed() >= time {
            break;
        }
    }
    stream.shutdown(Shutdown::Both)?;
    median(&times).context("no message has come back")
}

/// The guest's `vsock=send`: bytes a second.
fn send(stream: &mut UnixStream, time: Duration) -> anyhow::Result<f64> {
    let (mut chunk, start, mut bytes) = (vec![0; CHUNK], Instant::now(), 0.0);
    while start.elapsed() < time {
        stream.write_all(&chunk)?;
        bytes += f64::from(u32::try_from(CHUNK)?);
    }
    chunk.truncate(1);
    chunk.fill(LAST);
    stream.write_all(&chunk)?;
    wait_for_end(stream)?;
    Ok((bytes + 1.0) / start.elapsed().as_secs_f64())
}

/// The guest's `vsock=recv`: bytes a second.
fn rate_of(stream: &mut UnixStream) -> anyhow::Result<f64> {
    let (start, bytes) = (Instant::now(), take(stream)?);
    Ok(bytes / start.elapsed().as_secs_f64())
}

/// The guest's `vsock=echo`.
fn echo(stream: &mut UnixStream) -> anyhow::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            count => stream.write_all(chunk.get(..count).unwrap_or_default())?,
        }
    }
}

/// Nothing more is to come.
fn wait_for_end(stream: &mut UnixStream) -> anyhow::Result<()> {
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(anyhow!("something has come that nobody has sent")),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
