//! Frames for the guest (VIRTIO 1.2, section 5.1.6.4).

// Chains are kept beyond the call that brings them.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;

use super::port::Port;
use super::{FRAME, HEADER, Turn};
use crate::memory::GuestMemory;
use crate::virtio::iovec::IoVecs;
use crate::virtio::pace::Pace;
use crate::virtio::{Chain, Served, VirtQueue};

/// Most frames before others on the event loop have their turn.
const BUDGET: usize = 64;
/// Buffers that are kept, about: a chain has at most 256, a call takes 1024.
const BUFFERS: usize = 512;
/// Where the header says how many chains a frame takes (section 5.1.6).
const NUM_BUFFERS: u64 = 10;

/// One receive queue. It keeps chains of the driver's at hand for the largest frame, so that one call
/// brings a frame, whatever its length, to where it belongs.
#[derive(Default)]
pub(super) struct Receiver {
    /// Whether a frame may take several chains.
    merge: bool,
    rooms: VecDeque<Room>,
    /// Bytes of the rooms, and the largest number that was ever there.
    len: usize,
    most: usize,
    /// Buffers of the rooms.
    buffers: usize,
    /// A frame that has been received, but not given to the driver.
    pending: Option<Frame>,
    /// The end of that frame, when it is longer than the rooms were.
    rest: Vec<u8>,
    /// Keeps the rooms mapped.
    memory: Option<GuestMemory>,
    dropped: u64,
}

/// A chain for a frame or a part of one.
struct Room {
    head: u16,
    len: usize,
    buffers: IoVecs,
}

/// A frame in the first `rooms` rooms, and in `rest` as far as it is longer than these.
#[derive(Clone, Copy)]
struct Frame {
    len: usize,
    rooms: usize,
    placed: usize,
}

impl Receiver {
    /// As the driver wants it.
    pub(super) fn activate(&mut self, merge: bool) {
        *self = Self { merge, rest: vec![0; FRAME], dropped: self.dropped, ..Self::default() };
    }

    /// Frames that the guest did not get.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Gives the driver what has come, as far as it has room.
    pub(super) fn run(
        &mut self,
        queue: &mut VirtQueue,
        memory: &GuestMemory,
        port: &Port,
        pace: &mut Pace,
    ) -> Turn {
        let mut turn = Turn::More;
        for _ in 0..BUDGET {
            if let Err(end) = self.one(queue, memory, port, pace) {
                turn = end;
                break;
            }
        }
        queue.signal();
        turn
    }

    /// One frame, or why there is none.
    fn one(
        &mut self,
        queue: &mut VirtQueue,
        memory: &GuestMemory,
        port: &Port,
        pace: &mut Pace,
    ) -> Result<(), Turn> {
        if self.len < FRAME {
            self.collect(queue, memory);
        }
        let frame = match self.pending {
            Some(frame) => frame,
            None => self.receive(port)?,
        };
        if !self.fits(frame) {
            return self.wait_for_room(frame);
        }
        self.pending = Some(frame);
        pace.take(frame.len as u64).map_err(Turn::Wait)?;
        self.deliver(frame, queue);
        Ok(())
    }

    /// Takes what the driver has made available, enough for two frames.
    fn collect(&mut self, queue: &mut VirtQueue, memory: &GuestMemory) {
        self.memory.get_or_insert_with(|| memory.clone());
        queue.drain(|chain| {
            if self.len >= 2 * FRAME || self.buffers >= BUFFERS {
                return Served::Stop;
            }
            self.keep(chain)
        });
        self.most = self.most.max(self.len);
    }

    fn keep(&mut self, chain: &Chain<'_>) -> Served {
        // SAFETY: `self.memory` is a clone of the memory that the chain lies in, and is dropped with or
        // after the rooms.
        let buffers = unsafe { IoVecs::from_slices(chain.writable().slices()) };
        let len = usize::try_from(buffers.len()).unwrap_or_default();
        // Section 5.1.6.3.1: no driver gives less than a header.
        if len < HEADER {
            return Served::Done(0);
        }
        self.len = self.len.saturating_add(len);
        self.buffers += buffers.buffers().len();
        self.rooms.push_back(Room { head: chain.head(), len, buffers });
        Served::Deferred
    }

    fn receive(&mut self, port: &Port) -> Result<Frame, Turn> {
        let (mut rooms, mut placed) = (0, 0);
        for room in &self.rooms {
            if placed >= FRAME || (rooms == 1 && !self.merge) {
                break;
            }
            placed += room.len;
            rooms += 1;
        }
        if rooms == 0 {
            return Err(Turn::Starved);
        }
        let parts = self.rooms.iter().take(rooms).map(|room| &room.buffers);
        match port.receive(parts, &mut self.rest) {
            Ok(0) => Err(Turn::Broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(len) => Ok(Frame { len, rooms, placed }),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Err(Turn::Idle),
                _ => Err(Turn::Broken(error)),
            },
        }
    }

    fn fits(&self, frame: Frame) -> bool {
        frame.len >= HEADER && frame.len <= if self.merge { self.len } else { frame.placed }
    }

    /// A frame that is longer than what the driver has made available waits for more, if the driver has
    /// ever had room for as much.
    fn wait_for_room(&mut self, frame: Frame) -> Result<(), Turn> {
        let hope =
            self.merge && (HEADER..=self.most.min(FRAME)).contains(&frame.len) && self.buffers < BUFFERS;
        self.pending = hope.then_some(frame);
        if hope {
            return Err(Turn::Starved);
        }
        self.dropped += 1;
        log::debug!("the guest has no room for a frame of {} bytes", frame.len);
        Ok(())
    }

    /// Gives the driver a frame that fits.
    fn deliver(&mut self, frame: Frame, queue: &mut VirtQueue) {
        self.pending = None;
        let (mut count, mut covered) = (0_u16, 0);
        let mut rest = self.rest.get(..frame.len.saturating_sub(frame.placed)).unwrap_or_default();
        for (index, room) in self.rooms.iter().enumerate() {
            if covered >= frame.len {
                break;
            }
            if index >= frame.rooms {
                rest = rest.get(room.buffers.copy_from(rest)..).unwrap_or_default();
            }
            covered += room.len;
            count += 1;
            self.buffers -= room.buffers.buffers().len();
        }
        self.len -= covered;
        if let Some(first) = self.rooms.front_mut() {
            first.buffers.advance(NUM_BUFFERS);
            first.buffers.copy_from(&count.to_le_bytes());
        }
        let mut left = frame.len;
        let done = self.rooms.drain(..usize::from(count)).map(|room| {
            let part = room.len.min(left);
            left -= part;
            (room.head, u32::try_from(part).unwrap_or(u32::MAX))
        });
        queue.complete_all(done);
    }

    /// Leaves the chains with the driver. A frame that waits gets to the guest if there is room.
    pub(super) fn stop(&mut self, queue: &mut VirtQueue) {
        if let Some(frame) = self.pending.take() {
            if self.fits(frame) {
                self.deliver(frame, queue);
            } else {
                self.dropped += 1;
            }
        }
        queue.give_back(u16::try_from(self.rooms.len()).unwrap_or(u16::MAX));
        self.rooms.clear();
        self.memory = None;
        (self.len, self.buffers) = (0, 0);
    }
}
