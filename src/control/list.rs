//! The machines that have names.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{Error, Folder, Info, Name, Request, client, server};

/// How long all machines together have to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A machine with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: Name,
    /// Where it listens.
    pub socket: PathBuf,
    /// The process that listens, if the host tells.
    pub pid: Option<u32>,
    /// What it says of itself; none if it says nothing, as when its process is stopped.
    pub info: Option<Info>,
}

/// The user's machines that have names. Sockets at which nobody listens are removed.
///
/// # Errors
/// Others than the user can enter the sockets' folder, or it cannot be read.
pub fn list() -> Result<Vec<Listed>, Error> {
    let Some(folder) = Folder::find()? else { return Ok(Vec::new()) };
    let mut asked = Vec::new();
    for name in folder.names()? {
        let socket = folder.socket(&name);
        match connect(&socket) {
            Ok(stream) => {
                // Nobody waits for the one before: all are asked, and then all are listened to.
                let sent = client::send(&stream, &Request::Info).is_ok();
                asked.push((name, socket, Some(stream).filter(|_| sent)));
            }
            Err(Errno::CONNREFUSED) => server::sweep(&socket),
            Err(Errno::NOENT) => {}
            // Its queue is full, for example.
            Err(_) => asked.push((name, socket, None)),
        }
    }
    let deadline = Instant::now() + ANSWER_WITHIN;
    Ok(asked.into_iter().map(|(name, socket, stream)| listen(name, socket, stream, deadline)).collect())
}

fn connect(path: &Path) -> Result<UnixStream, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket: OwnedFd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

fn listen(name: Name, socket: PathBuf, stream: Option<UnixStream>, deadline: Instant) -> Listed {
    let pid = stream.as_ref().and_then(|stream| {
        let peer = rustix::net::sockopt::socket_peercred(stream).ok()?;
        u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
    });
    let info = stream.and_then(|stream| receive(&stream, deadline).ok());
    Listed { name, socket, pid, info }
}

fn receive(stream: &UnixStream, deadline: Instant) -> io::Result<Info> {
    // An answer that has come is read even when the time is over.
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(left))?;
    let fields = client::receive(stream, |_, _| {})?.map_err(io::Error::other)?;
    Ok(serde_json::from_value(fields.into())?)
}
