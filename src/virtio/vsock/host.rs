//! The Unix sockets of the host's side.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};
use thiserror::Error;

/// Most bytes of the line by which a program on the host asks for a port of the guest's.
const LINE_MAX: usize = 32;

/// Why there is no Unix socket.
#[derive(Debug, Error)]
pub(super) enum Error {
    /// Something has that name.
    #[error("{0} exists already: if no other machine uses it, remove it; or give another uds")]
    Exists(PathBuf),
    /// There is no folder for it.
    #[error("there is no folder for {0}: make it, or give another uds")]
    Folder(PathBuf),
    /// The host refuses.
    #[error("cannot make the socket {path}")]
    Bind {
        /// Where it would be.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

/// The Unix socket where programs of the host's ask for ports of the guest's. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Door {
    path: PathBuf,
    listener: UnixListener,
    /// Device and number of the file, by which it is known again.
    file: (u64, u64),
}

impl Door {
    /// Makes the socket.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source: io::Error| match source.kind() {
            ErrorKind::AddrInUse => Error::Exists(path.to_owned()),
            ErrorKind::NotFound => Error::Folder(path.to_owned()),
            _ => Error::Bind { path: path.to_owned(), source },
        };
        let listener = UnixListener::bind(path).map_err(failed)?;
        let file = identity(path).map_err(failed)?;
        let door = Self { path: path.to_owned(), listener, file };
        door.listener.set_nonblocking(true).map_err(failed)?;
        Ok(door)
    }

    /// The next program that has connected.
    pub(super) fn accept(&self) -> io::Result<UnixStream> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let stream: OwnedFd = rustix::net::accept_with(&self.listener, flags)?;
        Ok(stream.into())
    }

    /// Connects to the program that listens for a port of the host's.
    pub(super) fn dial(&self, port: u32) -> io::Result<UnixStream> {
        let mut path: OsString = self.path.clone().into();
        path.push(format!("_{port}"));
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &address)?;
        Ok(socket.into())
    }
}

impl AsRawFd for Door {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

/// Removes the file, if nobody has put another one there.
impl Drop for Door {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("cannot remove the socket {}: {error}", self.path.display());
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// What a program on the host has said first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// Not all of it yet.
    Partial,
    /// It wants this port of the guest's.
    Connect(u32),
    /// Nothing that is understood, or it has gone.
    Nonsense,
}

impl Greeting {
    /// Reads the first line, and nothing of what follows it.
    pub(super) fn read(stream: &UnixStream) -> Self {
        let mut buffer = [0; LINE_MAX];
        let peeked = match rustix::net::recv(stream, &mut buffer, RecvFlags::PEEK) {
            Ok((count, _)) => buffer.get(..count).unwrap_or_default(),
            Err(error) if error == rustix::io::Errno::AGAIN => return Self::Partial,
            Err(_) => return Self::Nonsense,
        };
        if peeked.is_empty() {
            return Self::Nonsense;
        }
        let greeting = Self::parse(peeked);
        if let Self::Connect(_) = greeting {
            let line = peeked.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let mut taken = [0; LINE_MAX];
            let taken = taken.get_mut(..line).unwrap_or_default();
            match rustix::net::recv(stream, taken, RecvFlags::empty()) {
                Ok((count, _)) if count == line => {}
                _ => return Self::Nonsense,
            }
        }
        greeting
    }

    /// `CONNECT port` and the end of the line.
    fn parse(bytes: &[u8]) -> Self {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            return if bytes.len() < LINE_MAX { Self::Partial } else { Self::Nonsense };
        };
        let line = bytes.get(..end).and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let command = words.next().is_some_and(|word| word.eq_ignore_ascii_case("connect"));
        match (command, words.next().map(str::parse), words.next()) {
            (true, Some(Ok(port)), None) => Self::Connect(port),
            _ => Self::Nonsense,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_a_port_or_nonsense() {
        let cases: [(&[u8], Greeting); 12] = [
            (b"CONNECT 52\n", Greeting::Connect(52)),
            (b"connect 4294967295\r\nGET /", Greeting::Connect(u32::MAX)),
            (b"CONN", Greeting::Partial),
            (b"", Greeting::Partial),
            (b"CONNECT 4294967296\n", Greeting::Nonsense),
            (b"CONNECT -1\n", Greeting::Nonsense),
            (b"CONNECT\n", Greeting::Nonsense),
            (b"CONNECT 1 2\n", Greeting::Nonsense),
            (b"\n", Greeting::Nonsense),
            (b"\xff\xfe\n", Greeting::Nonsense),
            (b"CONNECT 52                     \n", Greeting::Connect(52)),
            (b"CONNECT 52                      ", Greeting::Nonsense),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Greeting::parse(bytes), expected, "{bytes:?}");
        }
    }
}
