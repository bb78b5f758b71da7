//! Images and engines together, over files of the host's.

mod crash;
mod dirty;
mod model;
mod opening;
mod overlays;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::config::{Disk, EngineKind, Format};
use super::engine::{Completion, Engine, Operation};
use super::image::Image;
use crate::memory::GuestMemory;
use crate::testing::skip;
use crate::virtio::iovec::IoVecs;

const ENGINES: [EngineKind; 3] = [EngineKind::IoUring, EngineKind::Threads, EngineKind::Sync];

/// A folder on a disk rather than in memory, where the two differ.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").or_else(|_| tempfile::tempdir()).unwrap()
}

fn raw(folder: &Path, name: &str, size: u64) -> PathBuf {
    let path = folder.join(name);
    std::fs::File::create(&path).unwrap().set_len(size).unwrap();
    path
}

/// Runs `qemu-img`; none where the host has none.
fn qemu_img(words: &[&str]) -> Option<String> {
    match Command::new("qemu-img").args(words).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "qemu-img {words:?}: {text}");
            Some(text.into_owned())
        }
        Err(error) => {
            skip(&format!("no qemu-img: {error}"));
            None
        }
    }
}

fn check(path: &Path) {
    qemu_img(&["check", path.to_str().unwrap()]);
}

/// A machine's side of a disk.
struct Guest {
    memory: Arc<GuestMemory>,
    engine: Box<dyn Engine>,
}

impl Guest {
    fn new(image: &Image) -> Self {
        let memory = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap());
        Self { memory, engine: image.start_engine().unwrap() }
    }

    fn buffers(&self, at: u64, len: usize) -> IoVecs {
        // In two pieces.
        let half = len / 2;
        let ranges = [(GuestAddress(at), half), (GuestAddress(at + half as u64), len - half)];
        IoVecs::from_guest(&self.memory, ranges).unwrap()
    }

    /// Waits for all that is in flight, by the descriptor where there is one.
    fn wait(&mut self) -> Vec<Completion> {
        let mut done = Vec::new();
        self.engine.kick().unwrap();
        while self.engine.pending() > 0 {
            if let Some(fd) = self.engine.fd() {
                readable(&fd);
            }
            self.engine.completions(&mut done).unwrap();
        }
        done
    }

    fn run(&mut self, operation: Operation) -> std::io::Result<u64> {
        self.engine.submit(7, operation);
        let mut done = self.wait();
        assert_eq!((done.len(), done[0].token), (1, 7));
        done.pop().unwrap().result
    }

    fn read(&mut self, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
        let buffers = self.buffers(0, len);
        let count = self.run(Operation::Read { offset, buffers })?;
        assert_eq!(count, len as u64);
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        Ok(bytes)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.memory.write_slice(bytes, GuestAddress(0)).unwrap();
        let buffers = self.buffers(0, bytes.len());
        assert_eq!(self.run(Operation::Write { offset, buffers })?, bytes.len() as u64);
        Ok(())
    }
}

/// Waits until a descriptor is readable, for 10 s at most.
fn readable(fd: &std::os::fd::BorrowedFd<'_>) {
    use std::os::fd::AsRawFd;
    let epoll = vmm_sys_util::epoll::Epoll::new().unwrap();
    let event = vmm_sys_util::epoll::EpollEvent::new(vmm_sys_util::epoll::EventSet::IN, 1);
    epoll.ctl(vmm_sys_util::epoll::ControlOperation::Add, fd.as_raw_fd(), event).unwrap();
    let mut events = [event];
    loop {
        match epoll.wait(10_000, &mut events) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            ready => break assert_eq!(ready.unwrap(), 1, "nothing is complete"),
        }
    }
}

fn disk(path: &Path, format: Format, engine: EngineKind) -> Disk {
    Disk { format, engine, ..Disk::new(path) }
}
