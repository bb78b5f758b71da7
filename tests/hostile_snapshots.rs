//! A state file that lies about lengths gets no more memory than its own length justifies.

#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::unwrap_used, reason = "a helper of a test has failed when it cannot go on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use bantam::config::{MachineConfig, Size};
use bantam::memory::Run;
use bantam::snapshot::format::{self, decode, encode};
use bantam::snapshot::manifest::{Base, DiskCopy, Host, Id, Image, Manifest};
use bantam::state::{Section, State};

/// What the largest request was.
struct Counting;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does everything; this one notes numbers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the promises that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above, and the pointer is from there.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        LARGEST.fetch_max(len, Ordering::Relaxed);
        // SAFETY: as above, and the pointer is from there.
        unsafe { System.realloc(pointer, layout, len) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The largest request while this runs.
fn largest(run: impl FnOnce()) -> usize {
    LARGEST.store(0, Ordering::Relaxed);
    run();
    LARGEST.load(Ordering::Relaxed)
}

/// A header with these numbers, and what follows it.
fn file(sections: u32, table_len: u32, len: u64, rest: &[u8]) -> Vec<u8> {
    let mut file = format::MAGIC.to_vec();
    file.extend([1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(sections.to_le_bytes());
    file.extend(table_len.to_le_bytes());
    let table = rest.get(..usize::try_from(table_len).unwrap()).unwrap_or(rest);
    file.extend(crc32fast::hash(table).to_le_bytes());
    file.extend(len.to_le_bytes());
    file.extend(crc32fast::hash(&file).to_le_bytes());
    file.extend(rest);
    file
}

/// The sections of a small diff.
fn whole() -> Vec<Section> {
    let config = MachineConfig { memory: Size::mib(16), ..MachineConfig::default() };
    let runs = Some(vec![Run { first: 3, count: 5, zero: false }]);
    let host = Host { vendor: "vendor".into(), family: 6, model: 1, tsc_khz: 1, kernel: "6.1".into() };
    let image = Image { size: 16 << 20, chunks: vec![0; 16], runs };
    let manifest = Manifest {
        base: Some(Base { path: "../base".into(), id: Id([1; 16]) }),
        disks: vec![DiskCopy { device: "disk0".into(), file: "disk0.qcow2".into(), len: 1, crc: 2 }],
        ..Manifest::new(config, image, host).unwrap()
    };
    let mut state = State::default();
    manifest.put(&mut state).unwrap();
    state.sections().to_vec()
}

/// All in one test: the numbers are the whole process's.
#[test]
fn nothing_is_set_aside_for_what_is_not_there() {
    // The envelope: its errors, and the sections of what is there, are all that takes memory.
    let entry = [&[1, 0, 1, 0, 1, 0][..], &u32::MAX.to_le_bytes(), &[0; 4], b"ab"].concat();
    let names = [&[1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0][..], b"ab"].concat();
    let len = 44 + 16;
    for file in [
        file(1, 16, len, &entry),
        file(1, 16, len, &names),
        file(u32::MAX, 16, len, &entry),
        file(1 << 16, 16, len, &entry),
        file(1, u32::MAX, len, &entry),
        file(1, 16, u64::MAX, &entry),
        file(1, 16, format::MAX_LEN, &entry),
    ] {
        let most = largest(|| assert!(decode(&file).is_err()));
        assert!(most < 4096, "{most} bytes");
    }

    // The structures within, with an absurd number at every place: serde sets aside 1 MiB at most on the
    // word of one.
    let absurd = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let whole = whole();
    let mut taken = 0;
    for hostile in 0..whole.len() {
        for at in 0..whole[hostile].payload.len() {
            let mut sections = whole.clone();
            sections[hostile].payload.truncate(at);
            sections[hostile].payload.extend(absurd);
            let file = encode(&sections).unwrap();
            let most = largest(|| {
                let mut state: State = decode(&file).unwrap().into_iter().collect();
                taken += u32::from(Manifest::take(&mut state).is_ok());
            });
            assert!(most <= 1 << 20, "{} at {at}: {most} bytes", whole[hostile].kind);
        }
    }
    assert_eq!(taken, 1, "only the end of the base's id may be any bytes");
}
