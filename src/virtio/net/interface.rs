//! The host's end of a tap as a network interface (netdevice(7)).

// The calls are ioctls.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

use super::config::HostAddress;
use super::port::check;

/// A request about the interface of this name, all else zero. A name that is too long is cut.
pub(super) fn request(name: &str) -> libc::ifreq {
    // SAFETY: an ifreq is plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().take(room).zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request
}

/// The name in a request.
pub(super) fn name(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.iter().take_while(|letter| **letter != 0);
    let bytes: Vec<u8> = bytes.flat_map(|letter| letter.to_ne_bytes()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether there is an interface of this name.
pub(super) fn exists(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: the string is live and ends in a zero.
    unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
}

/// An interface that is being set up.
pub(super) struct Interface<'a> {
    name: &'a str,
    /// Any socket will do.
    socket: UdpSocket,
}

impl<'a> Interface<'a> {
    pub(super) fn new(name: &'a str) -> io::Result<Self> {
        Ok(Self { name, socket: UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))? })
    }

    fn call(&self, number: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: each of the calls below reads or writes an ifreq, and this one is live.
        check(unsafe { libc::ioctl(self.socket.as_raw_fd(), number, std::ptr::from_mut(request)) })
    }

    /// Whether it is up.
    pub(super) fn is_up(&self) -> io::Result<bool> {
        Ok(self.flags()? & IFF_UP != 0)
    }

    fn flags(&self) -> io::Result<libc::c_short> {
        let mut request = request(self.name);
        self.call(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: the call has set the flags.
        Ok(unsafe { request.ifr_ifru.ifru_flags })
    }

    pub(super) fn set_up(&self) -> io::Result<()> {
        let mut request = request(self.name);
        request.ifr_ifru.ifru_flags = self.flags()? | IFF_UP;
        self.call(libc::SIOCSIFFLAGS, &mut request)
    }

    pub(super) fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        let mut request = request(self.name);
        request.ifr_ifru.ifru_mtu = mtu.into();
        self.call(libc::SIOCSIFMTU, &mut request)
    }

    pub(super) fn set_address(&self, address: &HostAddress) -> io::Result<()> {
        let parts = [(libc::SIOCSIFADDR, address.address), (libc::SIOCSIFNETMASK, address.mask())];
        parts.into_iter().try_for_each(|(number, address)| {
            let mut request = request(self.name);
            request.ifr_ifru.ifru_addr = socket_address(address);
            self.call(number, &mut request)
        })
    }
}

const IFF_UP: libc::c_short = 1;

/// A `sockaddr_in` in the shape of a `sockaddr` (ip(7)): port, address, padding.
fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: a sockaddr is plain data, for which zeroes are valid.
    let mut socket: libc::sockaddr = unsafe { std::mem::zeroed() };
    socket.sa_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default();
    for (to, from) in socket.sa_data.iter_mut().skip(2).zip(address.octets()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    socket
}
