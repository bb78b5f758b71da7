#![no_main]
//! On one tap for all runs. It takes the right to make one: `unshare -rn cargo fuzz run net`, which
//! also keeps the host's network out of it.

use std::ffi::c_short;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::OnceLock;

use bantam::virtio::fuzz::{drive, open};
use bantam::virtio::net::config::Net;
use libfuzzer_sys::fuzz_target;

static TAP: OnceLock<File> = OnceLock::new();

/// A tap with frame headers, up.
fn tap() -> RawFd {
    TAP.get_or_init(|| {
        let file = File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
        // SAFETY: all zeroes is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as c_short;
        // SAFETY: both calls take a live ifreq.
        let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        assert_eq!(made, 0, "no tap: {}", std::io::Error::last_os_error());
        // SAFETY: a socket is a descriptor; the ifreq is live and names the tap.
        unsafe {
            let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
            request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as c_short;
            libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw mut request);
            libc::close(socket);
        }
        file
    })
    .as_raw_fd()
}

fuzz_target!(|data: &[u8]| {
    let fd = u32::try_from(tap()).expect("a descriptor is not negative");
    let offload = data.first().is_none_or(|first| first % 2 == 0);
    drive(open(&Net { fd: Some(fd), offload, ..Net::default() }), data);
});
