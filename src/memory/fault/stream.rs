//! Pages that come by in order, as somebody sends them: through a pipe, a socket, or out of a file.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use super::super::image::CHUNK;
use super::super::layout::PAGE_SIZE;
use crate::config::Size;

/// What a stream is read from: readable when there is something.
trait Input: Read + AsFd + Send {}

impl<T: Read + AsFd + Send> Input for T {}

/// The image of a memory, from its first byte to its last. What has come is not given on before it is known to
/// be right: a [`CHUNK`] at a time.
pub struct Stream {
    /// Until all has come. Then whoever sends is told so by its end.
    input: Option<Box<dyn Input>>,
    size: u64,
    /// The CRC-32 of each chunk.
    sums: Vec<u32>,
    /// Where the chunk begins that comes or is given on.
    start: u64,
    chunk: Vec<u8>,
    /// How much of the chunk has come.
    come: usize,
    /// How much of the chunk has been given on, once all of it has come and is right.
    given: usize,
    given_up: Box<dyn Fn() -> bool + Send>,
}

impl Stream {
    /// So much memory from this input, with the CRC-32 of each [`CHUNK`] of it. It is only read when its
    /// descriptor is readable, and may be non-blocking. When `given_up` says so, the rest is not waited for: who
    /// sends may be slow, or have stopped, and whoever waits for a page does so until it comes.
    #[must_use]
    pub fn new(
        input: impl Read + AsFd + Send + 'static,
        size: Size,
        sums: Vec<u32>,
        given_up: impl Fn() -> bool + Send + 'static,
    ) -> Self {
        let mut new = Self {
            input: Some(Box::new(input)),
            size: size.bytes(),
            sums,
            start: 0,
            chunk: Vec::new(),
            come: 0,
            given: 0,
            given_up: Box::new(given_up),
        };
        new.begin(0);
        new
    }

    /// Whether there is more to come, and nobody wants it.
    pub(super) fn is_given_up(&self) -> bool {
        self.input.is_some() && (self.given_up)()
    }

    /// Begins with the chunk from `start` on.
    fn begin(&mut self, start: u64) {
        let len = usize::try_from(CHUNK.min(self.size.saturating_sub(start))).unwrap_or_default();
        self.chunk.resize(len, 0);
        (self.start, self.come, self.given) = (start, 0, 0);
        if len == 0 {
            self.input = None;
        }
    }

    fn is_whole(&self) -> bool {
        self.come == self.chunk.len()
    }

    /// What is readable when more has come. None while there are pages to give on, and when all has come.
    pub(super) fn awaits(&self) -> Option<RawFd> {
        let input = self.input.as_ref().filter(|_| !self.is_whole());
        input.map(|input| input.as_fd().as_raw_fd())
    }

    /// How far memory has been given on: what comes before is where it belongs.
    pub(super) fn position(&self) -> u64 {
        self.start + self.given as u64
    }

    /// Takes what has come.
    pub(super) fn receive(&mut self) -> io::Result<()> {
        let at = self.start + self.come as u64;
        let (Some(input), Some(rest)) = (&mut self.input, self.chunk.get_mut(self.come..)) else {
            return Ok(());
        };
        if rest.is_empty() {
            return Ok(());
        }
        match input.read(rest) {
            Ok(0) => {
                let error = format!("the stream has ended after {at} of {} bytes", self.size);
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, error));
            }
            Ok(count) => self.come += count,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
        if self.is_whole() { self.check() } else { Ok(()) }
    }

    /// Whether the chunk is what was saved.
    fn check(&self) -> io::Result<()> {
        let sum = usize::try_from(self.start / CHUNK).ok().and_then(|number| self.sums.get(number));
        if sum == Some(&crc32fast::hash(&self.chunk)) {
            return Ok(());
        }
        let (len, start) = (self.chunk.len(), self.start);
        let error =
            format!("it is not the snapshot's: the checksum of the {len} bytes from {start:#x} on is wrong");
        Err(io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// The next page to be given on, if it has come.
    pub(super) fn page(&self) -> Option<&[u8]> {
        let page = usize::try_from(PAGE_SIZE).unwrap_or_default();
        self.chunk.get(self.given..self.given + page).filter(|_| self.is_whole())
    }

    /// That page is where it belongs.
    pub(super) fn advance(&mut self) {
        self.given += usize::try_from(PAGE_SIZE).unwrap_or_default();
        if self.given >= self.chunk.len() {
            self.begin(self.start + self.chunk.len() as u64);
        }
    }
}

#[cfg(test)]
mod tests;
