//! Checksums of an image: one for each MiB.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::super::{Error, Progress, host, report};

/// Bytes that have a checksum together; the last of them may be fewer.
pub const CHUNK: u64 = 1 << 20;

/// The checksums of a file: the CRC-32 (that of IEEE 802.3) of each [`CHUNK`], in order. Holes count as the
/// zeroes they stand for, and cost nothing.
///
/// # Errors
/// The file cannot be read.
pub fn checksums(file: &File, progress: Progress<'_>) -> Result<Vec<u32>, Error> {
    let sums = Sums::new(file).map_err(Error::Read)?;
    let len = sums.len;
    let sums = (1..).zip(sums).map(|(chunks, sum): (u64, _)| {
        report(progress, len.min(chunks * CHUNK), len)?;
        sum.map_err(Error::Read)
    });
    sums.collect()
}

/// The number of the first [`CHUNK`] that does not have its checksum; none if the file is whole. One that is
/// missing, or that has none, is wrong.
///
/// # Errors
/// The file cannot be read.
pub fn verify(file: &File, sums: &[u32], progress: Progress<'_>) -> Result<Option<u64>, Error> {
    let found = Sums::new(file).map_err(Error::Read)?;
    let len = found.len;
    let mut expected = sums.iter();
    let mut chunk = 0;
    for sum in found {
        if expected.next() != Some(&sum.map_err(Error::Read)?) {
            return Ok(Some(chunk));
        }
        chunk += 1;
        report(progress, len.min(chunk * CHUNK), len)?;
    }
    Ok(expected.next().map(|_| chunk))
}

/// Goes through a file, a chunk at a time.
struct Sums<'a> {
    file: &'a File,
    len: u64,
    at: u64,
    /// What is not a hole from here on.
    data: VecDeque<Range<u64>>,
    buffer: Vec<u8>,
    /// The sum of a whole chunk of zeroes.
    blank: u32,
}

impl<'a> Sums<'a> {
    fn new(file: &'a File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let buffer = vec![0; usize::try_from(CHUNK).map_err(io::Error::other)?];
        let blank = crc32fast::hash(&buffer);
        Ok(Self { file, len, at: 0, data: host::data(file, 0..len)?.into(), buffer, blank })
    }

    /// The sum of the bytes up to here, which are at most a chunk.
    fn sum(&mut self, end: u64) -> io::Result<u32> {
        let place = |at: u64| usize::try_from(at - self.at).unwrap_or(usize::MAX);
        let bytes = self.buffer.get_mut(..place(end)).unwrap_or_default();
        let whole = end - self.at == CHUNK;
        if whole && self.data.front().is_none_or(|data| data.start >= end) {
            return Ok(self.blank);
        }
        bytes.fill(0);
        while let Some(data) = self.data.front().filter(|data| data.start < end) {
            let (from, to) = (data.start.max(self.at), data.end.min(end));
            let part = bytes.get_mut(place(from)..place(to)).unwrap_or_default();
            self.file.read_exact_at(part, from)?;
            if data.end > end {
                break;
            }
            self.data.pop_front();
        }
        Ok(crc32fast::hash(bytes))
    }
}

impl Iterator for Sums<'_> {
    type Item = io::Result<u32>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = self.len.min(self.at + CHUNK);
        (self.at < end).then(|| {
            let sum = self.sum(end);
            self.at = end;
            sum
        })
    }
}

#[cfg(test)]
mod tests;
