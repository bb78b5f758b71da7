//! The host's ends of a console: where a guest's output goes and its input comes from.

// A new pseudo-terminal comes from C calls; descriptors are polled and duplicated.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use thiserror::Error;

use crate::config;

/// Why a console's streams cannot be opened.
#[derive(Debug, Error)]
pub enum Error {
    /// The console's file cannot be made.
    #[error("cannot write the console to {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// There is no pseudo-terminal to be had.
    #[error("cannot open a pseudo-terminal for the console")]
    Pty(#[source] io::Error),
    /// Standard input or output is not there.
    #[error("cannot use {0} for the console")]
    Stdio(&'static str, #[source] io::Error),
}

/// A stream that brings the guest's input: any reader with a descriptor to wait for. A read that
/// has nothing for the guest right now says [`io::ErrorKind::WouldBlock`]; zero bytes are its end.
pub trait Input: Read + AsFd + Send {}

impl<T: Read + AsFd + Send> Input for T {}

/// What is told when the output stream breaks.
pub type OnLost = Box<dyn FnOnce(&io::Error) + Send>;

/// What an embedder's code gives; none if it panics, which must not take the event loop along.
pub(crate) fn shielded<T>(code: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(code)).ok()
}

/// A stream that takes the guest's output.
pub enum Output {
    /// A descriptor. It is written only when it is ready, so its reader may be as slow as it likes;
    /// one that is not a file or a pipe has to be non-blocking for that.
    Fd(File),
    /// Any writer. It is called on the machine's event loop and should not block for long; one that
    /// says [`io::ErrorKind::WouldBlock`] is lost, as nobody can tell when it is ready again.
    Writer(Box<dyn Write + Send>),
}

impl Output {
    /// A descriptor of ours alone, made non-blocking.
    pub(crate) fn of_fd(fd: OwnedFd) -> Self {
        // SAFETY: both calls take the descriptor and flags. Without the flag the output still goes
        // its way, if in larger steps than the reader might like.
        unsafe {
            let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
            if flags >= 0 {
                libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK);
            }
        }
        Self::Fd(fd.into())
    }

    /// Writes what can be written without waiting; how much that was.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Writer(writer) => shielded(|| writer.write(bytes).and_then(|n| writer.flush().map(|()| n)))
                .unwrap_or_else(|| Err(io::Error::other("its writer panicked"))),
            Self::Fd(file) if is_writable(file)? => file.write(bytes),
            Self::Fd(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// The descriptor to wait for when it takes nothing now.
    pub(crate) fn fd(&self) -> Option<RawFd> {
        match self {
            Self::Fd(file) => Some(file.as_raw_fd()),
            Self::Writer(_) => None,
        }
    }
}

fn is_writable(file: &File) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: `poll` is one valid entry, and the call does not wait.
    match unsafe { libc::poll(&raw mut poll, 1, 0) } {
        -1 => Err(io::Error::last_os_error()),
        // A broken pipe counts as ready: the write tells the error.
        ready => Ok(ready > 0),
    }
}

/// A pseudo-terminal.
pub struct Pty {
    /// Its name.
    pub path: PathBuf,
    /// Kept open so that the machine's side stays usable while nobody else has it open.
    _terminal: File,
}

/// The two ends of a console, and its pseudo-terminal if it has one.
#[derive(Default)]
pub struct Streams {
    /// Where output goes; nowhere if there is none.
    pub output: Option<Output>,
    /// Where input comes from.
    pub input: Option<Box<dyn Input>>,
    /// The pseudo-terminal that the other side opens.
    pub pty: Option<Pty>,
}

impl Streams {
    /// Opens what a configuration names. A machine that `goes_on` from where it was saved goes on with its file,
    /// too; another one begins it anew.
    ///
    /// # Errors
    /// The host does not give it.
    pub fn open(console: &config::Console, goes_on: bool) -> Result<Self, Error> {
        match console {
            config::Console::Off => Ok(Self::default()),
            config::Console::Stdio => {
                let input =
                    duplicate(&io::stdin()).map_err(|source| Error::Stdio("standard input", source))?;
                let output = match reopen_terminal(&io::stdout()) {
                    Some(terminal) => terminal,
                    None => {
                        duplicate(&io::stdout()).map_err(|source| Error::Stdio("standard output", source))?
                    }
                };
                Ok(Self { output: Some(Output::Fd(output)), input: Some(Box::new(input)), pty: None })
            }
            config::Console::File(path) => {
                // A pipe that nobody reads is an error, and no wait. Several machines may share a file.
                let mut options = File::options();
                options.create(true).append(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
                let file = options
                    .open(path)
                    .and_then(|file| {
                        if !goes_on && file.metadata()?.is_file() {
                            file.set_len(0)?;
                        }
                        Ok(file)
                    })
                    .map_err(|source| Error::File { path: path.clone(), source })?;
                Ok(Self { output: Some(Output::Fd(file)), ..Self::default() })
            }
            config::Console::Pty => Self::open_pty().map_err(Error::Pty),
        }
    }

    fn open_pty() -> io::Result<Self> {
        // SAFETY: the call takes flags and gives a new descriptor or -1.
        let master =
            unsafe { libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK) };
        if master < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let master = unsafe { OwnedFd::from_raw_fd(master) };
        let mut name = [0 as libc::c_char; 64];
        // SAFETY: the descriptor is a pseudo-terminal's master, the buffer is as long as told.
        let named = unsafe {
            libc::grantpt(master.as_raw_fd()) == 0
                && libc::unlockpt(master.as_raw_fd()) == 0
                && libc::ptsname_r(master.as_raw_fd(), name.as_mut_ptr(), name.len()) == 0
        };
        if !named {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: ptsname_r has written a string that ends within the buffer.
        let path = unsafe { std::ffi::CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        let terminal = File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(&path)?;
        make_raw(&terminal)?;
        let input = File::from(master.try_clone()?);
        Ok(Self {
            output: Some(Output::Fd(File::from(master))),
            input: Some(Box::new(input)),
            pty: Some(Pty { path: path.into(), _terminal: terminal }),
        })
    }
}

/// Has a terminal pass everything on as it is. A new one echoes: the guest would be typed its own
/// output.
fn make_raw(terminal: &File) -> io::Result<()> {
    // SAFETY: all zeroes is a valid termios, and tcgetattr fills it.
    let mut settings: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, the pointers are to a live termios.
    let done = unsafe {
        libc::tcgetattr(terminal.as_raw_fd(), &raw mut settings) == 0 && {
            libc::cfmakeraw(&raw mut settings);
            libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, &raw const settings) == 0
        }
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A terminal, opened anew so that it can be non-blocking for us alone: whoever else has it, the
/// shell say, shares the flags of the old one. A terminal that is "ready" may still block on a write.
fn reopen_terminal(stream: &(impl AsFd + IsTerminal)) -> Option<File> {
    if !stream.is_terminal() {
        return None;
    }
    let path = format!("/proc/self/fd/{}", stream.as_fd().as_raw_fd());
    File::options().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).ok()
}

/// Another descriptor for the same stream.
fn duplicate(stream: &impl AsFd) -> io::Result<File> {
    stream.as_fd().try_clone_to_owned().map(File::from)
}
