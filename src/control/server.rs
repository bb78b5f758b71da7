//! The answering side. It has no thread: whoever owns it polls it and has it serve.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::{Answer, Error, Request};

/// Most clients at a time; who comes then is sent away.
const MOST_CLIENTS: usize = 16;
/// Longest request.
const MOST_REQUEST: usize = 16 << 10;
/// How many may have connected and not been looked at.
const BACKLOG: i32 = 128;

/// A socket at which requests come in. Its file goes when it does.
pub struct Server {
    path: PathBuf,
    /// Device and number of the file, by which it is known again.
    file: (u64, u64),
    listener: UnixListener,
    clients: BTreeMap<RawFd, Client>,
    epoll: Epoll,
    /// A descriptor to give up when there are no others, so that a client can be sent away.
    spare: Option<File>,
}

/// Somebody who asks.
struct Client {
    stream: UnixStream,
    /// What has been read and not answered.
    begun: Vec<u8>,
    /// Its request is being done; what it says next has to wait.
    waits: bool,
    /// It will ask no more.
    quiet: bool,
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
        let locked = lock_folder(path);
        let listener = match bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_dead(path)?;
                bind(path).map_err(failed)?
            }
            listener => listener.map_err(failed)?,
        };
        let file = identity(path).map_err(failed)?;
        drop(locked);
        let epoll = Epoll::new().map_err(failed)?;
        let spare = File::open("/dev/null").ok();
        // From here on the file is ours to remove.
        let server = Self { path: path.to_owned(), file, listener, clients: BTreeMap::new(), epoll, spare };
        // Told once of each that comes: one that cannot be let in is no reason to be woken for ever.
        server.watch(&server.listener, EventSet::IN | EventSet::EDGE_TRIGGERED).map_err(failed)?;
        Ok(server)
    }

    fn watch(&self, file: &impl AsRawFd, events: EventSet) -> io::Result<()> {
        self.epoll.ctl(ControlOperation::Add, file.as_raw_fd(), event(file.as_raw_fd(), events))
    }

    /// Has what has come in answered, by whatever the answers depend on and change. Never waits. One
    /// who gets no answer is owed it: see [`Self::tell`].
    pub fn serve<T>(&mut self, mut state: T, mut answer: impl FnMut(T, Request) -> (T, Option<Answer>)) -> T {
        let mut events = vec![EpollEvent::default(); MOST_CLIENTS + 1];
        let count = self.epoll.wait(0, &mut events).unwrap_or_default();
        for event in events.iter().take(count) {
            self.read(event.fd(), event.event_set());
        }
        for fd in self.clients.keys().copied().collect::<Vec<_>>() {
            let Some(client) = self.clients.get_mut(&fd) else { continue };
            let mut stays = Ok(());
            while stays.is_ok()
                && let Some(line) = client.line()
            {
                let said = match serde_json::from_slice(&line) {
                    Ok(request) => {
                        let (next, said) = answer(state, request);
                        state = next;
                        said
                    }
                    Err(error) => Some(Answer::Error(format!("not a request: {error}"))),
                };
                client.waits = said.is_none();
                stays = said.map_or(Ok(()), |said| client.say(&said));
            }
            if stays.is_err() || client.is_through() {
                // Closed, it is no longer watched.
                self.clients.remove(&fd);
            }
        }
        self.accept();
        state
    }

    /// Reads what a client has sent.
    fn read(&mut self, fd: RawFd, events: EventSet) {
        let Some(client) = self.clients.get_mut(&fd) else { return };
        match client.read() {
            Ok(()) if !client.quiet => {}
            // It may still listen: it has to be gone before that is an event again.
            Ok(()) if client.waits && !events.contains(EventSet::HANG_UP) => {
                let deaf = event(fd, EventSet::empty());
                let _ = self.epoll.ctl(ControlOperation::Modify, fd, deaf);
            }
            Ok(()) | Err(Gone) => {
                self.clients.remove(&fd);
            }
        }
    }

    /// Whether somebody waits for an answer.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.clients.values().any(|client| client.waits)
    }

    /// Tells those who wait. Unless it is just how far it is, it is their answer, and what they have
    /// asked after it waits for [`Self::serve`].
    pub fn tell(&mut self, answer: &Answer) {
        let last = !matches!(answer, Answer::Progress { .. });
        self.clients.retain(|_, client| {
            if !client.waits {
                return true;
            }
            client.waits = !last;
            client.say(answer).is_ok()
        });
    }

    /// Lets in those who have come.
    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) if self.clients.len() < MOST_CLIENTS => self.admit(stream),
                Ok((stream, _)) => send_away(stream, "too many clients"),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {}
                Err(error) if is_out_of_descriptors(&error) && self.turn_away() => {}
                Err(_) => break,
            }
        }
    }

    /// Sends one away who has come and for whom there is no descriptor, if there is one.
    fn turn_away(&mut self) -> bool {
        if self.spare.take().is_none() {
            return false;
        }
        let accepted = self.listener.accept();
        let came = accepted.is_ok();
        if let Ok((stream, _)) = accepted {
            send_away(stream, "the machine's process has no descriptors left");
        }
        self.spare = File::open("/dev/null").ok();
        came
    }

    fn admit(&mut self, stream: UnixStream) {
        let watched = stream.set_nonblocking(true).and_then(|()| self.watch(&stream, EventSet::IN));
        if watched.is_ok() {
            let client = Client { stream, begun: Vec::new(), waits: false, quiet: false };
            self.clients.insert(client.stream.as_raw_fd(), client);
        }
    }
}

fn event(fd: RawFd, events: EventSet) -> EpollEvent {
    EpollEvent::new(events, u64::try_from(fd).unwrap_or_default())
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

fn send_away(stream: UnixStream, why: &str) {
    let mut client = Client { stream, begun: Vec::new(), waits: false, quiet: true };
    if client.stream.set_nonblocking(true).is_ok() {
        let _ = client.say(&Answer::refused(&why));
    }
}

/// A socket that nobody but its user can ever connect to: it has its mode before it has its name.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket: OwnedFd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file of a Unix socket gets the socket's own mode, less the umask.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Keeps others from replacing a dead socket, or from taking for dead one that is about to listen, until
/// it is dropped. Where the folder cannot be locked, nothing is.
fn lock_folder(path: &Path) -> Option<File> {
    let folder = match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => return None,
    };
    let folder = File::open(folder).ok()?;
    rustix::fs::flock(&folder, FlockOperation::LockExclusive).ok()?;
    Some(folder)
}

/// Removes a socket if nobody listens at it any more.
pub(super) fn sweep(path: &Path) {
    let _locked = lock_folder(path);
    // It may have been replaced by a living one.
    let _ = remove_dead(path);
}

/// Removes a socket at which nobody listens any more.
fn remove_dead(path: &Path) -> Result<(), Error> {
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

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

impl Client {
    /// Reads once.
    fn read(&mut self) -> Result<(), Gone> {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => {
                self.quiet = true;
                Ok(())
            }
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

    /// The next line that is whole, unless it is not its turn.
    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.begun.iter().position(|byte| *byte == b'\n').filter(|_| !self.waits)?;
        Some(self.begun.drain(..=end).collect())
    }

    /// Whether everything has been said, both ways.
    fn is_through(&self) -> bool {
        self.quiet && !self.waits
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

/// Removes the file, if nobody has put another one there.
impl Drop for Server {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
