use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory::{GuestMemory, dirty};
use crate::virtio::block::host::Alignment;

const CAPACITY: u64 = 1 << 20;

fn rules(cache: Cache, memory: usize, offset: u32) -> Rules {
    Rules::new(false, cache, Alignment { memory, offset }, CAPACITY)
}

fn memory() -> Arc<GuestMemory> {
    Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap())
}

fn buffers(memory: &Arc<GuestMemory>, ranges: &[(u64, usize)]) -> IoVecs {
    IoVecs::from_guest(memory, ranges.iter().map(|(at, len)| (GuestAddress(*at), *len))).unwrap()
}

/// A call without its addresses: which, from where, how many bytes.
fn told(task: &Task) -> (&'static str, u64, u64) {
    let bytes = |buffers: &[libc::iovec]| buffers.iter().map(|buffer| buffer.iov_len as u64).sum();
    match task.call() {
        Call::Read { buffers, offset } => ("read", offset, bytes(buffers)),
        Call::Write { buffers, offset } => ("write", offset, bytes(buffers)),
        Call::Allocate { mode: PUNCH, offset, len } => ("punch", offset, len),
        Call::Allocate { mode: ZERO, offset, len } => ("zero", offset, len),
        Call::Allocate { .. } => panic!("a mode that nobody asked for"),
        Call::Sync => ("sync", 0, 0),
    }
}

#[test]
fn short_transfers_go_on_and_interruptions_repeat() {
    let memory = memory();
    let buffers = buffers(&memory, &[(0, 1000), (5000, 1048)]);
    let rules = rules(Cache::Writeback, 1, 1);
    let mut task = Task::new(Operation::Read { offset: 512, buffers }, &rules).unwrap();
    assert_eq!(told(&task), ("read", 512, 2048));
    assert!(task.returned(Err(libc::EINTR)).is_none());
    assert!(task.returned(Err(libc::EAGAIN)).is_none());
    assert_eq!(told(&task), ("read", 512, 2048));
    assert!(task.returned(Ok(1001)).is_none());
    assert_eq!(told(&task), ("read", 1513, 1047));
    assert_eq!(task.returned(Ok(1047)).unwrap().unwrap(), 2048);
}

#[test]
fn the_end_of_the_file_is_an_error_and_never_a_short_result() {
    let memory = memory();
    let rules = rules(Cache::Writeback, 1, 1);
    let read = Operation::Read { offset: 0, buffers: buffers(&memory, &[(0, 1024)]) };
    let mut task = Task::new(read, &rules).unwrap();
    assert!(task.returned(Ok(512)).is_none());
    assert_eq!(task.returned(Ok(0)).unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    let write = Operation::Write { offset: 0, buffers: buffers(&memory, &[(0, 1024)]) };
    let mut task = Task::new(write, &rules).unwrap();
    assert_eq!(task.returned(Ok(0)).unwrap().unwrap_err().kind(), io::ErrorKind::WriteZero);
    let write = Operation::Write { offset: 0, buffers: buffers(&memory, &[(0, 1024)]) };
    let mut task = Task::new(write, &rules).unwrap();
    let full = task.returned(Err(libc::ENOSPC)).unwrap().unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
}

#[test]
fn misaligned_memory_is_copied() {
    let memory = memory();
    let rules = rules(Cache::Writeback, 512, 512);
    let read = Operation::Read { offset: 512, buffers: buffers(&memory, &[(1, 700), (4000, 324)]) };
    let mut task = Task::new(read, &rules).unwrap();
    let Call::Read { buffers: [frame], .. } = task.call() else { panic!("one buffer of our own") };
    assert!(frame.iov_base.addr().is_multiple_of(512) && frame.iov_len == 1024);
    task.bounce.as_mut().unwrap().bytes_mut().fill(9);
    assert_eq!(task.returned(Ok(1024)).unwrap().unwrap(), 1024);
    let mut bytes = [0; 702];
    memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    assert!(bytes[0] == 0 && bytes[1..701].iter().all(|byte| *byte == 9) && bytes[701] == 0);
    // What is aligned is not copied, and large copies are made in pieces.
    let read = Operation::Read { offset: 0, buffers: buffers(&memory, &[(512, 512)]) };
    assert!(Task::new(read, &rules).unwrap().bounce.is_none());
    let write = Operation::Write { offset: 0, buffers: buffers(&memory, &[(1, 512 << 10)]) };
    let mut task = Task::new(write, &rules).unwrap();
    assert_eq!(told(&task), ("write", 0, BOUNCE));
    assert!(task.returned(Ok(BOUNCE - 512)).is_none());
    assert_eq!(told(&task), ("write", BOUNCE - 512, BOUNCE));
    // A direct read that ends within a block has met the end of the file.
    let read = Operation::Read { offset: 0, buffers: buffers(&memory, &[(0, 1024)]) };
    let short = Task::new(read, &rules).unwrap().returned(Ok(100)).unwrap();
    assert_eq!(short.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn zeroes_are_written_where_the_host_knows_nothing_better() {
    let rules = rules(Cache::Writeback, 1, 1);
    let zeroes = |unmap| Operation::WriteZeroes { offset: 512, len: CAPACITY - 512, unmap };
    let mut task = Task::new(zeroes(true), &rules).unwrap();
    assert_eq!(told(&task), ("punch", 512, CAPACITY - 512));
    assert!(task.returned(Err(libc::EOPNOTSUPP)).is_none());
    assert_eq!(told(&task), ("zero", 512, CAPACITY - 512));
    assert!(task.returned(Err(libc::EOPNOTSUPP)).is_none());
    assert_eq!(told(&task), ("write", 512, CAPACITY - 512));
    assert!(task.returned(Ok(CAPACITY - 1024)).is_none());
    assert_eq!(told(&task), ("write", CAPACITY - 512, 512));
    assert_eq!(task.returned(Ok(512)).unwrap().unwrap(), 0);
    let mut task = Task::new(zeroes(false), &rules).unwrap();
    assert_eq!(told(&task).0, "zero");
    assert!(task.returned(Err(libc::EIO)).unwrap().is_err());
}

#[test]
fn a_discard_that_the_host_does_not_know_is_none() {
    let discard = || Operation::Discard { offset: 0, len: 4096 };
    let rules = rules(Cache::Writeback, 1, 1);
    let mut task = Task::new(discard(), &rules).unwrap();
    assert_eq!(task.returned(Err(libc::EOPNOTSUPP)).unwrap().unwrap(), 0);
    let mut task = Task::new(discard(), &rules).unwrap();
    assert!(task.returned(Err(libc::EIO)).unwrap().is_err());
}

#[test]
fn a_cache_says_what_is_made_safe() {
    let flush = |cache| Task::new(Operation::Flush, &rules(cache, 1, 1));
    assert_eq!(told(&flush(Cache::Writeback).unwrap()).0, "sync");
    assert_eq!(flush(Cache::Unsafe).unwrap_err().unwrap(), 0);
    let mut task =
        Task::new(Operation::Discard { offset: 0, len: 512 }, &rules(Cache::Writethrough, 1, 1)).unwrap();
    assert!(task.returned(Ok(0)).is_none());
    assert_eq!(told(&task).0, "sync");
    assert_eq!(task.returned(Ok(0)).unwrap().unwrap(), 0);
}

#[test]
fn what_is_not_on_the_disk_is_refused() {
    let memory = memory();
    let rules = rules(Cache::Writeback, 1, 1);
    let refused = |operation| Task::new(operation, &rules).unwrap_err().unwrap_err().kind();
    for (offset, len) in
        [(CAPACITY, 512), (CAPACITY - 512, 1024), (u64::MAX, 512), (u64::MAX - 511, 512), (1, 512), (0, 5)]
    {
        assert_eq!(refused(Operation::Discard { offset, len }), io::ErrorKind::InvalidInput);
        let len = usize::try_from(len).unwrap();
        let read = Operation::Read { offset, buffers: buffers(&memory, &[(0, len)]) };
        assert_eq!(refused(read), io::ErrorKind::InvalidInput);
    }
    let whole = Operation::WriteZeroes { offset: 0, len: u64::MAX, unmap: true };
    assert_eq!(refused(whole), io::ErrorKind::InvalidInput);
    let none = Operation::Read { offset: 0, buffers: IoVecs::default() };
    assert_eq!(Task::new(none, &rules).unwrap_err().unwrap(), 0);
    let readonly = Rules::new(true, Cache::Writeback, Alignment { memory: 1, offset: 1 }, CAPACITY);
    let write = Operation::Discard { offset: 0, len: 512 };
    let error = Task::new(write, &readonly).unwrap_err().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn a_read_notes_the_pages_it_may_have_filled_when_the_call_is_done() {
    let memory = memory();
    dirty::track(&memory, true);
    let pages = || dirty::take(&memory).runs().collect::<Vec<_>>();
    let rules = rules(Cache::Writeback, 1, 1);
    let buffers = || buffers(&memory, &[(0x1000, 0x2000), (0x8000, 0x2000)]);
    let mut task = Task::new(Operation::Read { offset: 0, buffers: buffers() }, &rules).unwrap();
    assert_eq!((told(&task), pages()), (("read", 0, 0x4000), vec![]));
    assert!(task.returned(Ok(0x1800)).is_none());
    assert_eq!(pages(), [(1, 2)]);
    assert!(task.returned(Ok(0x1000)).is_none());
    assert_eq!(pages(), [(2, 1), (8, 1)]);
    // Nobody knows what it has filled before it failed.
    assert!(task.returned(Err(libc::EIO)).unwrap().is_err());
    assert_eq!(pages(), [(8, 2)]);
    let mut task = Task::new(Operation::Write { offset: 0, buffers: buffers() }, &rules).unwrap();
    assert_eq!(task.returned(Ok(0x4000)).unwrap().unwrap(), 0x4000);
    assert_eq!(pages(), []);
}
