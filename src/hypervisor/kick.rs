//! Taking a vCPU out of `KVM_RUN` from another thread.
//!
//! One real-time signal, `SIGRTMIN +` [`KICK_SIGNAL_OFFSET`], goes to the vCPU's thread. It
//! interrupts a running guest; its handler also raises `immediate_exit`, so that a signal that
//! arrives just before `KVM_RUN` is not lost: the call returns at once (KVM API, `kvm_run`).

// A signal handler, a signal sent to a thread, and a byte shared with the kernel.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use vmm_sys_util::errno;

use super::{Error, Exit, Vcpu};

/// The signal is `SIGRTMIN` plus this. Its handler is the only one that the library installs; a
/// process that embeds it must leave this signal alone.
pub const KICK_SIGNAL_OFFSET: i32 = 3;

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(null_mut()) };
}

fn signal() -> i32 {
    libc::SIGRTMIN() + KICK_SIGNAL_OFFSET
}

extern "C" fn on_kick(_: i32) {
    let byte = IMMEDIATE_EXIT.get();
    if !byte.is_null() {
        // SAFETY: the pointer is set only by `Seat`, which borrows the vCPU whose mapping it points
        // into, on this very thread. The byte is written atomically because the
        // thread that was interrupted may be about to read or clear it.
        unsafe { AtomicU8::from_ptr(byte) }.store(1, Ordering::Relaxed);
    }
}

/// Installs the handler, once a process.
pub(super) fn install_handler() -> Result<(), Error> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let install = || {
        // SAFETY: all zeroes is a valid sigaction; the fields that matter are set below.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_kick as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the action is valid, its handler touches a thread-local cell and one byte only.
        match unsafe { libc::sigaction(signal(), &raw const action, null_mut()) } {
            0 => Ok(()),
            _ => Err(errno::Error::last().errno()),
        }
    };
    INSTALLED.get_or_init(install).map_err(|code| Error::Signal(errno::Error::new(code)))
}

/// A vCPU's `immediate_exit`, a byte of its mapping.
#[derive(Clone, Copy)]
pub struct ImmediateExit(pub(super) *mut u8);

/// A vCPU on the thread that runs it: while this lives, a kick of the thread takes the vCPU out of
/// the guest. The vCPU cannot be had out of it, so its mapping stays.
pub struct Seat<'a, V: Vcpu> {
    vcpu: &'a mut V,
    before: *mut u8,
}

impl<'a, V: Vcpu> Seat<'a, V> {
    /// Seats the vCPU on the calling thread.
    pub fn take(vcpu: &'a mut V) -> Self {
        let byte = vcpu.immediate_exit().map_or(null_mut(), |byte| byte.0);
        Self { vcpu, before: IMMEDIATE_EXIT.replace(byte) }
    }

    /// Runs the guest until the next exit.
    pub fn run(&mut self) -> Exit<'_> {
        self.vcpu.run()
    }

    /// Lets the guest run again after a kick. What is read after this call is newer than the kick.
    pub fn forget_kick(&mut self) {
        if let Some(ImmediateExit(byte)) = self.vcpu.immediate_exit() {
            // SAFETY: the byte is in the mapping of the vCPU that `self` borrows.
            unsafe { AtomicU8::from_ptr(byte) }.store(0, Ordering::SeqCst);
        }
    }
}

impl<V: Vcpu> Drop for Seat<'_, V> {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(self.before);
    }
}

/// Where to send a vCPU's kicks: the thread that runs it, once there is one.
#[derive(Debug, Default)]
pub struct KickHandle {
    thread: AtomicI32,
}

impl KickHandle {
    /// Makes the calling thread the one to kick. Threads inherit the signals that are blocked where
    /// they are started, so the kick's is unblocked.
    pub fn attach(&self) {
        // A machine has it, or an error, since its beginning. Without it a kick would end the process.
        let _ = install_handler();
        // SAFETY: sigemptyset makes the set whole, sigaddset adds a valid signal, and the old mask is
        // not asked for.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, signal());
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, null_mut());
        }
        // SAFETY: gettid takes nothing and cannot fail.
        self.thread.store(unsafe { libc::gettid() }, Ordering::SeqCst);
    }

    /// The thread no longer runs the vCPU.
    pub fn detach(&self) {
        self.thread.store(0, Ordering::SeqCst);
    }

    /// Takes the vCPU out of the guest, now or, if it is about to enter, before its next
    /// instruction. The host may refuse to queue the signal (`RLIMIT_SIGPENDING`), so whoever waits
    /// for the vCPU kicks again.
    pub fn kick(&self) {
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: tgkill reads no memory of ours. Should the thread have ended, the call
            // fails, or another thread of this process takes a signal that it ignores.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) };
        }
    }
}
