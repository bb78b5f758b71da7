//! Signals that ask the process to end: they stop the machine, and everything is put back. And those
//! that tell of the terminal: it is the guest's again, after a stop, or it has another size.

// Signal masks, signal descriptors and polls are C calls.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

const ENDING: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// The ending signals and those of the terminal, kept from interrupting anything; they wait to be
/// fetched.
pub(super) struct Signals {
    set: libc::sigset_t,
    fd: OwnedFd,
}

impl Signals {
    /// Blocks these signals in this thread and those that it will start. What the process was
    /// started with ignored, as `nohup` has it, stays so: a blocked signal would be kept.
    pub(super) fn block() -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset makes the set whole; the other calls then work on it.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            let mut set = set.assume_init();
            libc::sigaddset(&raw mut set, libc::SIGCONT);
            libc::sigaddset(&raw mut set, libc::SIGWINCH);
            for signal in ENDING.into_iter().filter(|signal| !is_ignored(*signal)) {
                libc::sigaddset(&raw mut set, signal);
            }
            set
        };
        mask(libc::SIG_BLOCK, &set)?;
        // SAFETY: the set is whole; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self { set, fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Waits for a signal, or until one of these descriptors, where there is one, is readable.
    pub(super) fn wait_beside(&self, fds: &[Option<RawFd>]) -> io::Result<Woken> {
        // A negative descriptor is passed over.
        let entry =
            |fd: Option<RawFd>| libc::pollfd { fd: fd.unwrap_or(-1), events: libc::POLLIN, revents: 0 };
        let all = std::iter::once(Some(self.fd.as_raw_fd())).chain(fds.iter().copied());
        let mut polled: Vec<_> = all.map(entry).collect();
        let count = libc::nfds_t::try_from(polled.len()).unwrap_or_default();
        // SAFETY: as many whole entries as it is told of; the call waits for as long as it takes.
        while unsafe { libc::poll(polled.as_mut_ptr(), count, -1) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        match polled.iter().position(|entry| entry.revents != 0).and_then(|first| first.checked_sub(1)) {
            Some(index) => Ok(Woken::Ready(index)),
            None => self.fetch(),
        }
    }

    /// The signal that is pending.
    fn fetch(&self) -> io::Result<Woken> {
        let mut number = 0;
        // SAFETY: the set is whole, the number has room, and a signal is pending.
        match unsafe { libc::sigwait(&raw const self.set, &raw mut number) } {
            0 if number == libc::SIGCONT => Ok(Woken::Continued),
            0 if number == libc::SIGWINCH => Ok(Woken::Resized),
            0 => Ok(Woken::Signal(number)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// The descriptor at this place is readable, the first that is.
    Ready(usize),
    /// This signal asks the process to end.
    Signal(i32),
    /// The process was stopped and goes on; whoever had the terminal meanwhile has changed it.
    Continued,
    /// The terminal has another size.
    Resized,
}

/// From here on a signal ends the process as it would any other.
impl Drop for Signals {
    fn drop(&mut self) {
        // It fails only for a wrong argument.
        let _ = mask(libc::SIG_UNBLOCK, &self.set);
    }
}

fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: nothing is set; what is set already goes where there is room, and is read if it did.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

fn mask(how: i32, set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: the set is whole, and the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(how, set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
