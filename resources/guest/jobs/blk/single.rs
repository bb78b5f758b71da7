//! Requests one at a time: what the device says of itself, discarding, zeroing.

use super::super::device_index;
use crate::Machine;
use crate::clock::Stopwatch;
use crate::console::{print, println, write_text};
use crate::virtio::Result;
use crate::virtio::blk::{Block, Kind, OK, SECTOR, SINGLE, bit};

/// Of a device's name (VIRTIO 1.2, 5.2.6).
const ID_BYTES: u32 = 20;
/// `struct virtio_blk_discard_write_zeroes`.
const RANGE_BYTES: u32 = 16;

pub fn info(machine: &mut Machine) -> Result<()> {
    let block = Block::start(machine, device_index(machine.words), SINGLE)?;
    let info = block.info;
    print!("blk op=info sectors={} features={:#x}", info.capacity, info.features);
    print!(" blk_size={} size_max={} seg_max={}", info.blk_size, info.size_max, info.seg_max);
    print!(" queues={} readonly={}", info.num_queues, u8::from(info.has(bit::RO)));
    println!(" max_discard={} max_zeroes={}", info.max_discard, info.max_zeroes);
    block.stop()
}

pub fn id(machine: &mut Machine) -> Result<()> {
    let mut block = Block::start(machine, device_index(machine.words), SINGLE)?;
    let slot = block.slot().ok_or("no slot")?;
    let status = block.request(slot, Kind::GetId, 0, ID_BYTES)?;
    let data = block.data(slot);
    print!("blk op=id status={status} id=");
    for byte in (0..ID_BYTES.into()).map(|at| data.read8(at)).take_while(|&byte| byte != 0) {
        write_text(&[byte]);
    }
    println!();
    block.stop()
}

/// Discards or zeroes `len=` bytes from `off=` on, in pieces as large as the
/// device takes.
pub fn ranges(machine: &mut Machine, name: &str, kind: Kind) -> Result<()> {
    let words = machine.words;
    let mut block = Block::start(machine, device_index(words), SINGLE)?;
    let (offered, most) = match kind {
        Kind::Discard => (block.info.has(bit::DISCARD), block.info.max_discard),
        _ => (block.info.has(bit::WRITE_ZEROES), block.info.max_zeroes),
    };
    if !offered || most == 0 {
        return Err("the device does not offer it");
    }
    let first = words.number("off").unwrap_or(0) / SECTOR;
    let rest = block.info.capacity.saturating_sub(first);
    let end = first + words.number("len").map_or(rest, |bytes| bytes / SECTOR);
    let slot = block.slot().ok_or("no slot")?;
    let (watch, mut sector, mut requests, mut errors) = (Stopwatch::start(), first, 0, 0);
    while sector < end {
        let count = (end - sector).min(most.into());
        let data = block.data(slot);
        data.write64(0, sector);
        data.write32(8, count as u32);
        data.write32(12, 0);
        errors += u64::from(block.request(slot, kind, 0, RANGE_BYTES)? != OK);
        requests += 1;
        sector += count;
    }
    let (bytes, nanoseconds) = ((end - first) * SECTOR, watch.nanoseconds());
    println!("blk op={name} n={requests} bytes={bytes} ns={nanoseconds} errors={errors}");
    block.stop()
}
