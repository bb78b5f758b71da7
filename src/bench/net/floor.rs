//! The floor: frames written to the tap and read from it, one a call, by a loop that does nothing else.

// A tap is opened by C calls.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::frame::{self, VNET_HEADER};
use super::{Passed, Way, tap};

/// How long the first frame may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// As long as a frame may be that comes from the tap.
const LONGEST: usize = 1 << 16;

/// Lets frames pass for so long.
pub(super) fn pass(way: Way, time: Duration) -> anyhow::Result<Passed> {
    let mut tap = open()?;
    match way {
        Way::Send(_) | Way::SendLarge => send(&mut tap, &frame::of(way), time),
        Way::Receive(_) => receive(&mut tap, time),
    }
}

fn open() -> anyhow::Result<File> {
    let tun = "/dev/net/tun";
    let tap = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(tun).context(tun)?;
    // SAFETY: an ifreq of zeroes is one without a name.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(tap::NAME.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags)?;
    let header = libc::c_int::try_from(VNET_HEADER)?;
    // SAFETY: the calls read an ifreq and a number, both live, and take a number.
    let results = unsafe {
        [
            libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request),
            libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header),
            libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, 0),
        ]
    };
    ensure!(results == [0; 3], "the tap: {}", io::Error::last_os_error());
    Ok(tap)
}

fn send(tap: &mut File, frame: &[u8], time: Duration) -> anyhow::Result<Passed> {
    let (start, mut frames) = (Instant::now(), 0.0);
    while start.elapsed() < time {
        tap.write_all(frame).context("a frame to the tap")?;
        frames += 1.0;
    }
    let bytes = f64::from(u32::try_from(frame.len() - VNET_HEADER)?) * frames;
    Ok(Passed { frames, bytes, seconds: start.elapsed().as_secs_f64() })
}

/// Asks again and again, as the embedded guest does, from the first frame on for so long.
fn receive(tap: &mut File, time: Duration) -> anyhow::Result<Passed> {
    let (mut buffer, mut end) = (vec![0; LONGEST], Instant::now() + PATIENCE);
    let mut passed = Passed { frames: 0.0, bytes: 0.0, seconds: time.as_secs_f64() };
    while Instant::now() < end {
        match tap.read(&mut buffer) {
            Ok(count) => {
                if passed.frames == 0.0 {
                    end = Instant::now() + time;
                }
                passed.frames += 1.0;
                passed.bytes += f64::from(u32::try_from(count.saturating_sub(VNET_HEADER))?);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("a frame from the tap"),
        }
    }
    Ok(passed)
}
