//! The entropy device (VIRTIO 1.2, section 5.4): random bytes from the host's own generator.

// The generator is a system call.
#![allow(unsafe_code)]

pub mod config;

use std::io;

use vmm_sys_util::epoll::EventSet;

use self::config::Entropy;
use super::pace::Pace;
use super::{Attach, Chain, Cursor, Description, Device, Io, Metric, OpenError, Place, SaveError, Served};
use crate::state::State;

const ID: u32 = 4;
const QUEUE_SIZE: u16 = 256;
/// Most bytes a request: what getrandom(2) gives without being interrupted.
const MOST: usize = 256;

impl Attach for Entropy {
    fn open(&self, place: &Place<'_>) -> Result<Box<dyn Device>, OpenError> {
        let pace = Pace::new(self.rate.as_ref())?;
        Ok(Box::new(Rng { name: place.name.to_owned(), pace, given: 0, failures: 0 }))
    }
}

/// The device.
struct Rng {
    /// For what it has to say.
    name: String,
    /// How much may pass.
    pace: Pace,
    /// Bytes that the guest has had.
    given: u64,
    /// Times that the host gave none.
    failures: u64,
}

impl Rng {
    /// Fills what the driver wants, or as much of it as one request gives.
    fn serve(&mut self, chain: &Chain<'_>) -> Served {
        let mut to = chain.writable();
        let wanted = to.remaining().min(MOST);
        if let Err(time) = self.pace.take(wanted as u64) {
            return match self.pace.wait(0, time) {
                Ok(()) => Served::Stop,
                Err(error) => self.fail(&error),
            };
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
        if let Some(timer) = self.pace.timer() {
            io.watch(timer, 0, EventSet::IN);
        }
    }

    fn queue_event(&mut self, queue: usize, io: &mut Io<'_>) {
        if let Some(queue) = io.queue(queue) {
            queue.drain(|chain| self.serve(chain));
        }
    }

    fn fd_event(&mut self, _: u32, _: EventSet, io: &mut Io<'_>) {
        self.pace.end_wait();
        self.queue_event(0, io);
    }

    fn metrics(&self) -> Vec<Metric> {
        vec![("given_bytes", self.given), ("failures_total", self.failures)]
    }

    fn stop(&mut self, _: &mut Io<'_>) {
        self.pace.end_wait();
    }

    /// No random bytes are ever kept: there is nothing to keep.
    fn save(&mut self, _: &str, _: &mut State) -> Result<(), SaveError> {
        let Self { name: _, pace: _, given: _, failures: _ } = self;
        Ok(())
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
