//! An operation on a raw image as a sequence of calls to the kernel, without making them: what to call next,
//! and what an answer means. Engines differ in how they call.

use std::io;

use super::{AlignedBuffer, Rules};
use crate::virtio::block::config::Cache;
use crate::virtio::block::engine::Operation;
use crate::virtio::block::host::Call;
use crate::virtio::iovec::IoVecs;

/// Most bytes that are copied for a call, where the guest's memory does not do.
const BOUNCE: u64 = 256 << 10;
/// Memory for zeroes, and how much of them is written with a call: the same memory many times.
const ZEROES: u64 = 64 << 10;
const ZEROES_A_CALL: u64 = 4 << 20;

const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// What an operation is at.
#[derive(Debug)]
enum Stage {
    Read(IoVecs),
    Write(IoVecs),
    /// Freeing space. What cannot be freed stays.
    Discard,
    /// Zeroes without writing them, by a mode of `fallocate`.
    Zero(i32),
    /// So many zeroes are still to be written.
    WriteZeroes(u64),
    Sync,
}

/// An operation on its way.
#[derive(Debug)]
pub(in crate::virtio::block) struct Task {
    stage: Stage,
    /// Where the next call is about, and how much the operation is about from there.
    offset: u64,
    left: u64,
    /// What a reader or writer is told in the end.
    total: u64,
    bounce: Option<AlignedBuffer>,
    /// Unit of transfers that a file opened for direct ones takes.
    block: u64,
    /// What `fallocate` does is made safe too.
    durable: bool,
}

impl Task {
    /// The task of an operation, or what the operation comes to at once.
    pub(in crate::virtio::block) fn new(
        operation: Operation,
        rules: &Rules,
    ) -> Result<Self, io::Result<u64>> {
        rules.check(&operation).map_err(Err)?;
        let (offset, left) = operation.extent();
        let stage = match operation {
            Operation::Flush if rules.cache == Cache::Unsafe => return Err(Ok(0)),
            Operation::Flush => Stage::Sync,
            _ if left == 0 => return Err(Ok(0)),
            Operation::Read { buffers, .. } => Stage::Read(buffers),
            Operation::Write { buffers, .. } => Stage::Write(buffers),
            Operation::Discard { .. } => Stage::Discard,
            Operation::WriteZeroes { unmap: true, .. } => Stage::Zero(PUNCH),
            Operation::WriteZeroes { unmap: false, .. } => Stage::Zero(ZERO),
        };
        let mut task = Self {
            total: if matches!(stage, Stage::Read(_) | Stage::Write(_)) { left } else { 0 },
            stage,
            offset,
            left,
            bounce: None,
            block: rules.alignment.offset.into(),
            durable: rules.cache == Cache::Writethrough,
        };
        let alignment = rules.alignment.memory.max(usize::try_from(task.block).unwrap_or(1));
        if let Stage::Read(buffers) | Stage::Write(buffers) = &task.stage
            && !buffers.are_aligned(alignment)
        {
            task.take_bounce(left.min(BOUNCE), alignment).map_err(Err)?;
        }
        task.prepare();
        Ok(task)
    }

    fn take_bounce(&mut self, len: u64, alignment: usize) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        self.bounce = Some(AlignedBuffer::new(len, alignment)?);
        Ok(())
    }

    /// Fills the memory that stands in for the guest's, for the next call.
    fn prepare(&mut self) {
        let Some(bounce) = &mut self.bounce else { return };
        match &self.stage {
            Stage::Read(_) => bounce.frame(self.left.min(BOUNCE)),
            Stage::Write(buffers) => {
                buffers.copy_to(bounce.bytes_mut());
                bounce.frame(self.left.min(BOUNCE));
            }
            Stage::WriteZeroes(left) => bounce.frame((*left).min(ZEROES_A_CALL)),
            Stage::Discard | Stage::Zero(_) | Stage::Sync => {}
        }
    }

    /// The next call. The list of buffers that it refers to stays at its place until
    /// [`returned`](Self::returned), also when the task moves.
    pub(in crate::virtio::block) fn call(&self) -> Call<'_> {
        let offset = self.offset;
        let own = self.bounce.as_ref().map(AlignedBuffer::frames);
        match &self.stage {
            Stage::Read(buffers) => Call::Read { buffers: own.unwrap_or(buffers.buffers()), offset },
            Stage::Write(buffers) => Call::Write { buffers: own.unwrap_or(buffers.buffers()), offset },
            Stage::WriteZeroes(_) => Call::Write { buffers: own.unwrap_or_default(), offset },
            Stage::Discard => Call::Allocate { mode: PUNCH, offset, len: self.left },
            Stage::Zero(mode) => Call::Allocate { mode: *mode, offset, len: self.left },
            Stage::Sync => Call::Sync,
        }
    }

    /// Takes the answer to the call: bytes, or an error's number. Gives the operation's result when there is
    /// nothing left to call.
    pub(in crate::virtio::block) fn returned(&mut self, answer: Result<u64, i32>) -> Option<io::Result<u64>> {
        if let (Stage::Read(buffers), None) = (&self.stage, &self.bounce) {
            // Also a call that has failed may have filled some.
            buffers.mark(answer.unwrap_or(self.left));
        }
        let more = match answer {
            // The same again.
            Err(libc::EINTR | libc::EAGAIN) => Ok(true),
            Err(errno) => self.refused(errno),
            Ok(count) => self.advanced(count),
        };
        match more {
            Ok(true) => {
                self.prepare();
                None
            }
            Ok(false) => Some(Ok(self.total)),
            Err(error) => Some(Err(error)),
        }
    }

    /// Another way, where the host does not know the one that was tried.
    fn refused(&mut self, errno: i32) -> io::Result<bool> {
        // A device takes whole sectors of its own only, and says EINVAL.
        let unknown = matches!(errno, libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ENODEV);
        match self.stage {
            Stage::Discard if unknown => Ok(false),
            Stage::Zero(PUNCH) if unknown => {
                self.stage = Stage::Zero(ZERO);
                Ok(true)
            }
            Stage::Zero(_) if unknown => {
                self.stage = Stage::WriteZeroes(self.left);
                let alignment = usize::try_from(self.block.max(4096)).unwrap_or(4096);
                self.take_bounce(self.left.min(ZEROES), alignment)?;
                Ok(true)
            }
            _ => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Whether anything is left when so many bytes are done.
    fn advanced(&mut self, count: u64) -> io::Result<bool> {
        // No call does more than it was asked; should one, nothing here counts below zero.
        let count = count.min(self.left);
        match &mut self.stage {
            Stage::Discard | Stage::Zero(_) if self.durable => {
                self.stage = Stage::Sync;
                return Ok(true);
            }
            Stage::Discard | Stage::Zero(_) | Stage::Sync => return Ok(false),
            // The file ends here: it is shorter than it was. What the guest's memory holds is not on disk.
            Stage::Read(_) if count == 0 || !count.is_multiple_of(self.block) => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Stage::Write(_) | Stage::WriteZeroes(_) if count == 0 => {
                return Err(io::ErrorKind::WriteZero.into());
            }
            Stage::Read(buffers) => {
                if let Some(bounce) = &self.bounce {
                    let read = usize::try_from(count).unwrap_or(usize::MAX);
                    buffers.copy_from(bounce.bytes().get(..read).unwrap_or_default());
                }
                buffers.advance(count);
            }
            Stage::Write(buffers) => buffers.advance(count),
            Stage::WriteZeroes(left) => *left -= count,
        }
        self.offset += count;
        self.left -= count;
        Ok(self.left > 0)
    }
}

#[cfg(test)]
mod tests;
