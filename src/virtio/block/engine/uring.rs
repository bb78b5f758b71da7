//! Operations through the kernel's `io_uring`.

// Entries of the ring carry addresses, and the eventfd is lent by its number.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use io_uring::{IoUring, Probe, opcode, squeue, types};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{Completion, Engine, Operation};
use crate::virtio::block::host::Call;
use crate::virtio::block::raw::{Raw, Task};

/// Operations in the kernel at a time; more wait here.
const DEPTH: u16 = 128;
/// The image among the ring's registered files.
const IMAGE: types::Fixed = types::Fixed(0);
/// How often a call is repeated that the kernel has no memory for.
const ATTEMPTS: u32 = 1000;

/// An operation on its way.
struct Pending {
    token: u64,
    task: Task,
}

/// A ring.
pub(in crate::virtio::block) struct Uring {
    ring: IoUring,
    raw: Arc<Raw>,
    event: EventFd,
    /// What the kernel has, by the number in the entry. The kernel reads a task's list of buffers and
    /// touches its buffers until the entry is complete: a task stays here so long.
    slots: Vec<Option<Pending>>,
    free: Vec<usize>,
    backlog: VecDeque<Pending>,
    done: Vec<Completion>,
}

/// The ring's entry for a call.
fn entry(call: &Call<'_>) -> squeue::Entry {
    let number = |buffers: &[libc::iovec]| u32::try_from(buffers.len()).unwrap_or_default();
    match *call {
        // One buffer spares the kernel the list. Longer ones are cut short, and then continued.
        Call::Read { buffers: [one], offset } => {
            let len = u32::try_from(one.iov_len).unwrap_or(1 << 30);
            opcode::Read::new(IMAGE, one.iov_base.cast(), len).offset(offset).build()
        }
        Call::Write { buffers: [one], offset } => {
            let len = u32::try_from(one.iov_len).unwrap_or(1 << 30);
            opcode::Write::new(IMAGE, one.iov_base.cast(), len).offset(offset).build()
        }
        Call::Read { buffers, offset } => {
            opcode::Readv::new(IMAGE, buffers.as_ptr(), number(buffers)).offset(offset).build()
        }
        Call::Write { buffers, offset } => {
            opcode::Writev::new(IMAGE, buffers.as_ptr(), number(buffers)).offset(offset).build()
        }
        Call::Allocate { mode, offset, len } => {
            opcode::Fallocate::new(IMAGE, len).offset(offset).mode(mode).build()
        }
        Call::Sync => opcode::Fsync::new(IMAGE).flags(types::FsyncFlags::DATASYNC).build(),
    }
}

impl Uring {
    /// Makes a ring for the image.
    ///
    /// # Errors
    /// The host has no `io_uring`, does not allow it, or has one that lacks an operation.
    pub(in crate::virtio::block) fn start(raw: Arc<Raw>) -> io::Result<Self> {
        let ring = IoUring::new(u32::from(DEPTH))?;
        let submitter = ring.submitter();
        let mut probe = Probe::new();
        submitter.register_probe(&mut probe)?;
        let needed = [
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::Readv::CODE,
            opcode::Writev::CODE,
            opcode::Fallocate::CODE,
            opcode::Fsync::CODE,
        ];
        if !needed.into_iter().all(|code| probe.is_supported(code)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        submitter.register_files(&[raw.host().as_raw_fd()])?;
        submitter.register_eventfd(event.as_raw_fd())?;
        Ok(Self {
            ring,
            raw,
            event,
            slots: (0..DEPTH).map(|_| None).collect(),
            free: (0..usize::from(DEPTH)).collect(),
            backlog: VecDeque::new(),
            done: Vec::new(),
        })
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Puts an operation into the ring when there is room.
    fn start_or_wait(&mut self, pending: Pending) {
        match self.free.pop() {
            Some(number) => self.push(number, pending),
            None => self.backlog.push_back(pending),
        }
    }

    /// Puts an operation's next call into the ring, under its number.
    fn push(&mut self, number: usize, pending: Pending) {
        let Some(slot) = self.slots.get_mut(number) else { return };
        let pending = slot.insert(pending);
        let entry = entry(&pending.task.call()).user_data(number as u64);
        // SAFETY: the call's buffers, and the list of them, are the task's or guest memory that it keeps
        // mapped. The task stays in its slot, which nobody else uses, until the entry is complete: the list
        // is on the heap, where it stays though the slots may move, and `drop` waits for the kernel.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        // There is an entry for each number, so there is always room.
        if pushed.is_err() {
            let token = pending.token;
            *slot = None;
            self.free.push(number);
            self.done.push(Completion { token, result: Err(io::Error::from_raw_os_error(libc::EAGAIN)) });
        }
    }

    /// Hands the ring's entries to the kernel and waits for so many completions.
    fn enter(&mut self, wait: usize) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            match self.ring.submit_and_wait(wait) {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {
                    std::thread::yield_now();
                }
                // The kernel stops at an entry that it refuses, which is then complete.
                Ok(_) if !self.ring.submission().is_empty() => {}
                result => return result.map(drop),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }

    /// Takes what the kernel has done: tasks that are not complete go on, others make room.
    fn reap(&mut self) {
        loop {
            let Some(completed) = self.ring.completion().next() else { return };
            let Ok(number) = usize::try_from(completed.user_data()) else { continue };
            let Some(mut pending) = self.slots.get_mut(number).and_then(Option::take) else { continue };
            let returned = completed.result();
            match pending.task.returned(u64::try_from(returned).map_err(|_| returned.saturating_neg())) {
                None => self.push(number, pending),
                Some(result) => {
                    self.free.push(number);
                    self.done.push(Completion { token: pending.token, result });
                    if let Some(waiting) = self.backlog.pop_front() {
                        self.start_or_wait(waiting);
                    }
                }
            }
        }
    }

    fn submit_pushed(&mut self) -> io::Result<()> {
        if self.ring.submission().is_empty() { Ok(()) } else { self.enter(0) }
    }
}

impl Engine for Uring {
    fn submit(&mut self, token: u64, operation: Operation) {
        match Task::new(operation, self.raw.rules()) {
            Ok(task) => self.start_or_wait(Pending { token, task }),
            Err(result) => self.done.push(Completion { token, result }),
        }
    }

    fn kick(&mut self) -> io::Result<()> {
        if !self.done.is_empty() {
            // It fails when the counter is full: then it is readable already.
            let _ = self.event.write(1);
        }
        self.submit_pushed()
    }

    fn completions(&mut self, sink: &mut Vec<Completion>) -> io::Result<()> {
        // Empty is what it may be. Read first: what completes from now on makes it readable again.
        let _ = self.event.read();
        self.reap();
        sink.append(&mut self.done);
        self.submit_pushed()
    }

    fn wait_all(&mut self) -> io::Result<()> {
        while self.in_flight() > 0 {
            self.enter(1)?;
            self.reap();
        }
        Ok(())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the eventfd is open as long as `self` is, which the result borrows.
        Some(unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) })
    }

    fn pending(&self) -> usize {
        self.in_flight() + self.backlog.len() + self.done.len()
    }

    fn name(&self) -> &'static str {
        "io_uring"
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if let Err(error) = self.wait_all() {
            log::error!("a disk's ring does not end: {error}");
            // The kernel may still touch these buffers and the file: they are never freed.
            std::mem::forget((std::mem::take(&mut self.slots), Arc::clone(&self.raw)));
        }
    }
}
