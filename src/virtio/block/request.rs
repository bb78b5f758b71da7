//! A request of the driver's (VIRTIO 1.2, section 5.2.6), parsed whole before anything is done.

// The buffers of a request outlive the borrow of the chain that they come from.
#![allow(unsafe_code)]

use vm_memory::ByteValued;

use super::engine::Operation;
use super::image::SECTOR;
use crate::memory::GuestSlice;
use crate::virtio::iovec::IoVecs;
use crate::virtio::{Chain, Cursor};

/// Request types (section 5.2.6).
mod kind {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

/// Length of the string that GET_ID gives.
pub(super) const ID_LEN: usize = 20;
/// Most sectors of one DISCARD or WRITE_ZEROES.
pub(super) const MAX_RANGE_SECTORS: u32 = (64 << 20) / SECTOR;
/// The range of a WRITE_ZEROES may become unused.
const UNMAP: u32 = 1;

/// What a request says first.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Header {
    kind: u32,
    reserved: u32,
    sector: u64,
}

/// What a DISCARD or WRITE_ZEROES says next.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Range {
    sector: u64,
    sectors: u32,
    flags: u32,
}

// SAFETY: integers without padding between them; any bytes are valid.
unsafe impl ByteValued for Header {}
// SAFETY: likewise.
unsafe impl ByteValued for Range {}

/// What a request ends with (section 5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// What is to be done.
pub(super) enum Task {
    /// For the engine.
    Operation(Operation),
    /// Give the serial number.
    GetId(IoVecs),
    /// Nothing: the request cannot be.
    Refuse(Status),
}

/// A request with its place for the status.
pub(super) struct Request {
    pub(super) task: Task,
    /// The last byte of the chain.
    pub(super) status: IoVecs,
    /// Bytes for the driver before that.
    pub(super) room: u32,
}

/// What a disk allows.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// In sectors.
    pub(super) capacity: u64,
    pub(super) block_size: u32,
    pub(super) readonly: bool,
}

impl Request {
    /// The request of a chain; none if it has no header or no place for the status, so that nobody can be
    /// told anything.
    pub(super) fn parse(chain: &Chain<'_>, limits: Limits) -> Option<Self> {
        let mut readable = chain.readable();
        let mut writable = chain.writable();
        let header = readable.read_obj::<Header>()?;
        let room = writable.remaining().checked_sub(1)?;
        let data = writable.split(room);
        let status = vecs(writable.slices());
        let task = match u32::from_le(header.kind) {
            kind::IN | kind::OUT | kind::DISCARD | kind::WRITE_ZEROES | kind::FLUSH => {
                operation(header, readable, &data, limits).map_or_else(Task::Refuse, Task::Operation)
            }
            kind::GET_ID => Task::GetId(vecs(data)),
            _ => Task::Refuse(Status::Unsupported),
        };
        // A chain has less than 4 GiB.
        Some(Self { task, status, room: u32::try_from(room).ok()? })
    }
}

fn operation(
    header: Header,
    mut readable: Cursor<'_, '_>,
    data: &[GuestSlice<'_>],
    limits: Limits,
) -> Result<Operation, Status> {
    let sector = u64::from_le(header.sector);
    let kind = u32::from_le(header.kind);
    if limits.readonly && kind != kind::IN && kind != kind::FLUSH {
        return Err(Status::IoError);
    }
    Ok(match kind {
        kind::IN => {
            let buffers = vecs(data.iter().copied());
            Operation::Read { offset: limits.transfer(sector, buffers.len())?, buffers }
        }
        kind::OUT => {
            let buffers = vecs(readable.slices());
            Operation::Write { offset: limits.transfer(sector, buffers.len())?, buffers }
        }
        kind::FLUSH => Operation::Flush,
        _ => {
            let range = readable.read_obj::<Range>().filter(|_| readable.remaining() == 0);
            let range = range.ok_or(Status::IoError)?;
            let (flags, sectors) = (u32::from_le(range.flags), u32::from_le(range.sectors));
            let zeroes = kind == kind::WRITE_ZEROES;
            if flags & !UNMAP != 0 || (!zeroes && flags != 0) {
                return Err(Status::Unsupported);
            }
            if sectors > MAX_RANGE_SECTORS {
                return Err(Status::IoError);
            }
            let len = u64::from(sectors) * u64::from(SECTOR);
            let offset = limits.transfer(u64::from_le(range.sector), len)?;
            if zeroes {
                Operation::WriteZeroes { offset, len, unmap: flags & UNMAP != 0 }
            } else {
                Operation::Discard { offset, len }
            }
        }
    })
}

impl Limits {
    /// Where a transfer of `len` bytes begins, if it is of whole blocks and ends before the disk does.
    fn transfer(&self, sector: u64, len: u64) -> Result<u64, Status> {
        let block = u64::from(self.block_size);
        let start = sector.checked_mul(u64::from(SECTOR)).ok_or(Status::IoError)?;
        let fits = len
            .is_multiple_of(u64::from(SECTOR))
            .then(|| sector.checked_add(len / u64::from(SECTOR)))
            .flatten()
            .is_some_and(|end| end <= self.capacity);
        let whole = start.is_multiple_of(block) && len.is_multiple_of(block);
        if fits && whole { Ok(start) } else { Err(Status::IoError) }
    }
}

/// Buffers that stay when the chain is gone.
fn vecs<'m>(slices: impl IntoIterator<Item = GuestSlice<'m>>) -> IoVecs {
    // SAFETY: the slices are of guest memory, which the device holds for as long as it has requests: an
    // engine waits for those that are in flight before it is dropped, and if it cannot, the device never
    // lets go of the memory.
    unsafe { IoVecs::from_slices(slices) }
}
