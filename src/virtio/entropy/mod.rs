//! The entropy device (VIRTIO 1.2, section 5.4): random bytes from the host's own generator.

// The generator is a system call.
#![allow(unsafe_code)]

pub mod config;

use std::io;
use std::os::fd::AsRawFd;
use std::time::Instant;

use thiserror::Error;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::timerfd::TimerFd;

use self::config::Entropy;
use super::rate::Limiter;
use super::{Attach, Chain, Cursor, Description, Device, Io, Metric, OpenError, Place, Served};

const ID: u32 = 4;
const QUEUE_SIZE: u16 = 256;
/// Most bytes a request: what getrandom(2) gives without being interrupted.
const MOST: usize = 256;

/// Why there are no random numbers.
#[derive(Debug, Error)]
enum Error {
    #[error("cannot make the timer of the rate")]
    Timer(#[source] io::Error),
}

impl Attach for Entropy {
    fn open(&self, place: &Place<'_>) -> Result<Box<dyn Device>, OpenError> {
        let limit = match &self.rate {
            Some(rate) => {
                let timer = TimerFd::new().map_err(|error| Error::Timer(error.into()))?;
                Some(Limit { limiter: Limiter::new(rate, Instant::now()), timer })
            }
            None => None,
        };
        Ok(Box::new(Rng { name: place.name.to_owned(), limit, given: 0, failures: 0 }))
    }
}

/// The device.
struct Rng {
    /// For what it has to say.
    name: String,
    limit: Option<Limit>,
    /// Bytes that the guest has had.
    given: u64,
    /// Times that the host gave none.
    failures: u64,
}

/// How much may pass, and what calls when more may.
struct Limit {
    limiter: Limiter,
    timer: TimerFd,
}

impl Limit {
    /// Whether a request of so many bytes may pass now; if not, the timer runs until it may.
    fn passes(&mut self, bytes: usize) -> io::Result<bool> {
        match self.limiter.take(bytes as u64, 1, Instant::now()) {
            Ok(()) => Ok(true),
            Err(wait) => {
                self.timer.reset(wait, None)?;
                Ok(false)
            }
        }
    }
}

impl Rng {
    /// Fills what the driver wants, or as much of it as one request gives.
    fn serve(&mut self, chain: &Chain<'_>) -> Served {
        let mut to = chain.writable();
        let wanted = to.remaining().min(MOST);
        match self.limit.as_mut().map_or(Ok(true), |limit| limit.passes(wanted)) {
            Ok(true) => {}
            Ok(false) => return Served::Stop,
            Err(error) => return self.fail(&error),
        }
        match give(&mut to, wanted) {
            Ok(written) => {
                self.given += written as u64;
                Served::Done(u32::try_from(written).unwrap_or_default())
            }
            Err(error) => self.fail(&error),
        }
    }

    /// A request without an answer. The guest could have it said for ever.
    fn fail(&mut self, error: &io::Error) -> Served {
        if self.failures == 0 {
            log::warn!("{}: the host has no random numbers: {error}", self.name);
        }
        self.failures += 1;
        Served::Done(0)
    }
}

impl Device for Rng {
    fn describe(&self) -> Description {
        Description::new(ID, vec![QUEUE_SIZE])
    }

    fn start(&mut self, io: &mut Io<'_>) {
        if let Some(limit) = &self.limit {
            io.watch(limit.timer.as_raw_fd(), 0, EventSet::IN);
        }
    }

    fn queue_event(&mut self, queue: usize, io: &mut Io<'_>) {
        if let Some(queue) = io.queue(queue) {
            queue.drain(|chain| self.serve(chain));
        }
    }

    fn fd_event(&mut self, _: u32, _: EventSet, io: &mut Io<'_>) {
        self.stop(io);
        self.queue_event(0, io);
    }

    fn metrics(&self) -> Vec<Metric> {
        vec![("given_bytes", self.given), ("failures_total", self.failures)]
    }

    fn stop(&mut self, _: &mut Io<'_>) {
        if let Some(limit) = &mut self.limit
            && let Err(error) = limit.timer.clear()
        {
            log::debug!("{}: the timer runs on: {error}", self.name);
        }
    }
}

/// Writes so many random bytes; how many there was room for.
fn give(to: &mut Cursor<'_, '_>, wanted: usize) -> io::Result<usize> {
    let mut bytes = [0; MOST];
    let Some(bytes) = bytes.get_mut(..wanted) else { return Ok(0) };
    fill(bytes)?;
    Ok(to.write(bytes))
}

fn fill(bytes: &mut [u8]) -> io::Result<()> {
    // SAFETY: the pointer and length are of a live buffer.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    match usize::try_from(got) {
        Ok(got) if got == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests;
