//! One queue of a tap: a descriptor that takes or gives one frame a call, its header in front.

// Vectored input and output, and ioctls.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::virtio::iovec::IoVecs;

/// The descriptor, which does not block.
#[derive(Debug)]
pub(super) struct Port(OwnedFd);

impl Port {
    /// Takes a descriptor as it is.
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(super) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Sends a frame.
    pub(super) fn send(&self, frame: &IoVecs) -> io::Result<usize> {
        let buffers = frame.buffers();
        let count = libc::c_int::try_from(buffers.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the array is live, and the buffers in it are mapped as long as `frame` lives. The kernel
        // reads them only.
        let sent = unsafe { libc::writev(self.fd(), buffers.as_ptr(), count) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Receives a frame into `parts`, and what does not fit these into `rest`: the frame's number of
    /// bytes. What fits neither is lost.
    pub(super) fn receive<'a>(
        &self,
        parts: impl Iterator<Item = &'a IoVecs> + Clone,
        rest: &mut [u8],
    ) -> io::Result<usize> {
        let mut buffers: Vec<libc::iovec> = parts.clone().flat_map(IoVecs::buffers).copied().collect();
        buffers.push(libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() });
        let count = libc::c_int::try_from(buffers.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the array is live; its buffers are guest memory, which is mapped as long as `parts` are
        // borrowed, and `rest`, which is borrowed for writing.
        let received = unsafe { libc::readv(self.fd(), buffers.as_ptr(), count) };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        let mut left = received as u64;
        for part in parts {
            part.mark(left);
            left = left.saturating_sub(part.len());
        }
        Ok(received)
    }

    /// Has the kernel leave to us what is in `flags` (`TUN_F_…` of `linux/if_tun.h`).
    pub(super) fn set_offload(&self, flags: u32) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes a number.
        check(unsafe { libc::ioctl(self.fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) })
    }

    /// Whether the kernel is to put frames into this queue.
    pub(super) fn set_attached(&self, attached: bool) -> io::Result<()> {
        let flags = if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
        let mut request = super::interface::request("");
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap_or_default();
        // SAFETY: TUNSETQUEUE reads a live ifreq, whose flags are set.
        check(unsafe { libc::ioctl(self.fd(), libc::TUNSETQUEUE, &raw const request) })
    }

    /// Throws away what waits here, at most `count` frames.
    pub(super) fn discard(&self, count: usize) {
        let mut header = [0; super::HEADER];
        let mut waits = || matches!(self.receive(std::iter::empty(), &mut header), Ok(1..));
        let late = (0..count).take_while(|_| waits()).count();
        log::debug!("{late} frames are too late for their driver");
    }
}

pub(super) fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
