//! Frames of the guest's (VIRTIO 1.2, section 5.1.6.2).

// The kernel reads them where they are.
#![allow(unsafe_code)]

use std::io;

use super::port::Port;
use super::{FRAME, HEADER, Turn};
use crate::virtio::iovec::IoVecs;
use crate::virtio::pace::Pace;
use crate::virtio::{Chain, Served, VirtQueue};

/// Bytes after which others on the event loop have their turn.
const BUDGET: usize = 1 << 20;
/// Shortest frame: its two addresses and its type.
const SHORTEST: usize = HEADER + 14;

/// One transmit queue.
#[derive(Default)]
pub(super) struct Transmitter {
    /// Whether the limiter has let the next frame pass, which the port then did not take.
    paid: bool,
    /// Whether the host has heard of a port that takes nothing.
    warned: bool,
    dropped: u64,
}

impl Transmitter {
    pub(super) fn activate(&mut self) {
        self.paid = false;
    }

    /// Frames that went nowhere.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Sends what the driver has made available, as far as the port takes it.
    pub(super) fn run(&mut self, queue: &mut VirtQueue, port: &Port, pace: &mut Pace) -> Turn {
        let mut turn = Turn::Idle;
        let mut budget = BUDGET;
        queue.drain(|chain| match self.send(chain, port, pace, &mut budget) {
            Ok(()) => Served::Done(0),
            Err(end) => {
                turn = end;
                Served::Stop
            }
        });
        turn
    }

    fn send(
        &mut self,
        chain: &Chain<'_>,
        port: &Port,
        pace: &mut Pace,
        budget: &mut usize,
    ) -> Result<(), Turn> {
        let len = chain.readable().remaining();
        if !(SHORTEST..=FRAME).contains(&len) {
            self.drop_frame(len, &io::ErrorKind::InvalidInput.into());
            return Ok(());
        }
        if *budget == 0 {
            return Err(Turn::More);
        }
        *budget = budget.saturating_sub(len);
        if !self.paid {
            pace.take(len as u64).map_err(Turn::Wait)?;
            self.paid = true;
        }
        // SAFETY: the chain's memory is borrowed until the call below is done.
        let frame = unsafe { IoVecs::from_slices(chain.readable().slices()) };
        match port.send(&frame) {
            Ok(_) => {}
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Err(Turn::Full),
                io::ErrorKind::Interrupted => return Err(Turn::More),
                _ => self.drop_frame(len, &error),
            },
        }
        self.paid = false;
        Ok(())
    }

    /// A frame that nobody can send. What is wrong with it is the guest's affair (a tap says EINVAL), what
    /// is wrong with the port is told once.
    fn drop_frame(&mut self, len: usize, error: &io::Error) {
        self.dropped += 1;
        if error.kind() == io::ErrorKind::InvalidInput || self.warned {
            log::debug!("a frame of {len} bytes is dropped: {error}");
        } else {
            self.warned = true;
            log::warn!("a tap takes no frames, they are dropped: {error}");
        }
    }
}
