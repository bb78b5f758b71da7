//! The answering side. It has no thread: whoever owns it polls it and has it serve.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::{Answer, Error, Request};

/// Most clients at a time; who comes then is sent away.
const MOST_CLIENTS: usize = 16;
/// Longest request.
const MOST_REQUEST: usize = 16 << 10;

/// A socket at which requests come in. Its file goes when it does.
pub struct Server {
    path: PathBuf,
    listener: UnixListener,
    clients: HashMap<RawFd, Client>,
    epoll: Epoll,
}

/// Somebody who asks.
struct Client {
    stream: UnixStream,
    /// What has been read and not answered.
    begun: Vec<u8>,
}

/// A client that has gone, or that has to.
struct Gone;

impl Server {
    /// Listens at this path, for this user alone. A socket that a dead process has left is replaced.
    ///
    /// # Errors
    /// There is something at that path, or the host does not permit it.
    pub fn listen(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Bind { path: path.to_owned(), source };
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                clear(path)?;
                UnixListener::bind(path).map_err(failed)?
            }
            listener => listener.map_err(failed)?,
        };
        let epoll = Epoll::new().map_err(failed)?;
        // From here on the file is ours to remove.
        let server = Self { path: path.to_owned(), listener, clients: HashMap::new(), epoll };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        server.listener.set_nonblocking(true).map_err(failed)?;
        server.watch(&server.listener).map_err(failed)?;
        Ok(server)
    }

    fn watch(&self, file: &impl AsRawFd) -> io::Result<()> {
        let fd = file.as_raw_fd();
        let data = u64::try_from(fd).unwrap_or_default();
        self.epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, data))
    }

    /// Has what has come in answered, by whatever the answers depend on and change. Never waits.
    pub fn serve<T>(&mut self, mut state: T, mut answer: impl FnMut(T, Request) -> (T, Answer)) -> T {
        let mut events = vec![EpollEvent::default(); MOST_CLIENTS + 1];
        let count = self.epoll.wait(0, &mut events).unwrap_or_default();
        for event in events.iter().take(count) {
            let fd = event.fd();
            if fd == self.listener.as_raw_fd() {
                self.accept();
                continue;
            }
            let Some(client) = self.clients.get_mut(&fd) else { continue };
            let mut stays = client.read();
            while let Some(line) = client.line().filter(|_| stays.is_ok()) {
                let said = match serde_json::from_slice(&line) {
                    Ok(request) => {
                        let (next, said) = answer(state, request);
                        state = next;
                        said
                    }
                    Err(error) => Answer::Error(format!("not a request: {error}")),
                };
                stays = client.say(&said);
            }
            if stays.is_err() {
                // Closed, it is no longer watched.
                self.clients.remove(&fd);
            }
        }
        state
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        let mut client = Client { stream, begun: Vec::new() };
        if self.clients.len() >= MOST_CLIENTS {
            let _ = client.say(&Answer::refused(&"too many clients"));
            return;
        }
        if client.stream.set_nonblocking(true).and_then(|()| self.watch(&client.stream)).is_ok() {
            self.clients.insert(client.stream.as_raw_fd(), client);
        }
    }
}

/// Removes a socket at which nobody listens any more.
fn clear(path: &Path) -> Result<(), Error> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if !is_socket {
        return Err(Error::NoSocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|source| Error::Bind { path: path.to_owned(), source })
        }
        _ => Err(Error::InUse(path.to_owned())),
    }
}

impl Client {
    /// Reads once.
    fn read(&mut self) -> Result<(), Gone> {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(Gone),
            Ok(count) => {
                self.begun.extend(bytes.iter().take(count));
                if self.begun.len() > MOST_REQUEST {
                    let _ = self.say(&Answer::refused(&"a request of more than 16 KiB"));
                    return Err(Gone);
                }
                Ok(())
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
                _ => Err(Gone),
            },
        }
    }

    /// The next line that is whole.
    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.begun.iter().position(|byte| *byte == b'\n')?;
        Some(self.begun.drain(..=end).collect())
    }

    /// A client that does not read its answers is let go.
    fn say(&mut self, answer: &Answer) -> Result<(), Gone> {
        let mut line = serde_json::to_vec(answer).map_err(|_| Gone)?;
        line.push(b'\n');
        self.stream.write_all(&line).map_err(|_| Gone)
    }
}

/// Readable when there is something to serve.
impl AsRawFd for Server {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been removed already.
        let _ = fs::remove_file(&self.path);
    }
}
