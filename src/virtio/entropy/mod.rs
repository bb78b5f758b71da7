//! The entropy device (VIRTIO 1.2, section 5.4): random bytes from the host's own generator.

// The generator is a system call.
#![allow(unsafe_code)]

pub mod config;

use std::io;

use self::config::Entropy;
use super::{Attach, Chain, Description, Device, Io, OpenError, Place, Served};

const ID: u32 = 4;
const QUEUE_SIZE: u16 = 256;
/// Most bytes a request: what getrandom(2) gives without being interrupted.
const MOST: usize = 256;

impl Attach for Entropy {
    fn open(&self, _: &Place<'_>) -> Result<Box<dyn Device>, OpenError> {
        Ok(Box::new(Rng))
    }
}

/// The device.
struct Rng;

impl Device for Rng {
    fn describe(&self) -> Description {
        Description::new(ID, vec![QUEUE_SIZE])
    }

    fn queue_event(&mut self, queue: usize, io: &mut Io<'_>) {
        if let Some(queue) = io.queue(queue) {
            queue.drain(serve);
        }
    }
}

/// Fills what the driver wants, or as much of it as one request gives.
fn serve(chain: &Chain<'_>) -> Served {
    let mut bytes = [0; MOST];
    let mut to = chain.writable();
    let wanted = to.remaining().min(MOST);
    let Some(bytes) = bytes.get_mut(..wanted) else { return Served::Done(0) };
    match fill(bytes) {
        Ok(()) => Served::Done(u32::try_from(to.write(bytes)).unwrap_or_default()),
        Err(error) => {
            log::debug!("the host has no random numbers: {error}");
            Served::Done(0)
        }
    }
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
