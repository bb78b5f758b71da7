//! Every engine over every format does what a vector of bytes does.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::virtio::block::config::{Cache, Overlay};

const SECTORS: u64 = 700;
const SIZE: usize = 700 * 512;

#[derive(Clone, Debug)]
enum Step {
    Read {
        at: u64,
        len: u64,
    },
    Write {
        at: u64,
        len: u64,
        fill: u8,
    },
    Zero {
        at: u64,
        len: u64,
        unmap: bool,
    },
    Discard {
        at: u64,
        len: u64,
    },
    Flush,
    /// The machine ends and starts again.
    Reopen,
}

/// Offsets and lengths in sectors.
fn step() -> impl Strategy<Value = Step> {
    let extent = || (0..SECTORS, 1_u64..200).prop_map(|(at, len)| (at, len.min(SECTORS - at)));
    prop_oneof![
        4 => extent().prop_map(|(at, len)| Step::Read { at, len }),
        5 => (extent(), any::<u8>()).prop_map(|((at, len), fill)| Step::Write { at, len, fill }),
        2 => (extent(), any::<bool>()).prop_map(|((at, len), unmap)| Step::Zero { at, len, unmap }),
        1 => extent().prop_map(|(at, len)| Step::Discard { at, len }),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ]
}

/// What a write writes: every sector another.
fn pattern(fill: u8, len: usize) -> Vec<u8> {
    (0..=255_u8).cycle().skip(fill.into()).flat_map(|byte| [byte; 512]).take(len).collect()
}

fn bytes(sectors: u64) -> usize {
    usize::try_from(sectors * 512).unwrap()
}

fn follow(disk: &Disk, steps: &[Step]) {
    let image = Image::open(disk).unwrap();
    assert_eq!((image.capacity(), image.readonly()), (SECTORS, false));
    let mut guest = Guest::new(&image);
    let mut held = Some(image);
    let mut model = vec![0_u8; SIZE];
    // Discarded sectors read as anything until they are written.
    let mut known = vec![true; SIZE];
    for step in steps {
        match *step {
            Step::Read { at, len } => {
                let got = guest.read(at * 512, bytes(len)).unwrap();
                for (index, byte) in (bytes(at)..).zip(got) {
                    assert!(byte == model[index] || !known[index], "{step:?} at {index}");
                }
            }
            Step::Write { at, len, fill } => {
                let data = pattern(fill, bytes(len));
                guest.write(at * 512, &data).unwrap();
                model[bytes(at)..bytes(at + len)].copy_from_slice(&data);
                known[bytes(at)..bytes(at + len)].fill(true);
            }
            Step::Zero { at, len, unmap } => {
                guest.run(Operation::WriteZeroes { offset: at * 512, len: len * 512, unmap }).unwrap();
                model[bytes(at)..bytes(at + len)].fill(0);
                known[bytes(at)..bytes(at + len)].fill(true);
            }
            Step::Discard { at, len } => {
                guest.run(Operation::Discard { offset: at * 512, len: len * 512 }).unwrap();
                known[bytes(at)..bytes(at + len)].fill(false);
            }
            Step::Flush => {
                guest.run(Operation::Flush).unwrap();
            }
            Step::Reopen => {
                drop((guest, held.take()));
                let image = Image::open(disk).unwrap();
                guest = Guest::new(&image);
                held = Some(image);
            }
        }
    }
    let end = guest.read(0, SIZE).unwrap();
    assert!(end.iter().zip(&model).zip(&known).all(|((got, byte), known)| got == byte || !known));
}

fn runs(cases: u32, disk: impl Fn(&Path) -> Disk) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let steps = proptest::collection::vec(step(), 1..60);
    TestRunner::new(config)
        .run(&steps, |steps| {
            let folder = folder();
            let disk = disk(folder.path());
            follow(&disk, &steps);
            if disk.path.extension().is_some_and(|name| name == "qcow2") {
                check(&disk.path);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn raw_is_a_vector() {
    for engine in ENGINES {
        runs(15, |folder| disk(&raw(folder, "d.img", SIZE as u64), Format::Raw, engine));
        let cache = Cache::Writethrough;
        runs(4, |folder| Disk { cache, ..disk(&raw(folder, "d.img", SIZE as u64), Format::Raw, engine) });
    }
}

#[test]
fn raw_is_a_vector_past_the_page_cache() {
    let folder = folder();
    let first = raw(folder.path(), "d.img", SIZE as u64);
    let block = match Image::open(&Disk { direct: true, ..Disk::new(&first) }) {
        Ok(image) => image.block_size(),
        Err(error) => return skip(&error.to_string()),
    };
    if block != 512 {
        return skip("direct transfers take blocks larger than the model's sectors");
    }
    for engine in ENGINES {
        runs(8, |folder| Disk {
            direct: true,
            ..disk(&raw(folder, "d.img", SIZE as u64), Format::Raw, engine)
        });
    }
    runs(8, |folder| Disk {
        direct: true,
        overlay: Some(Overlay::Path(folder.join("o.qcow2"))),
        ..disk(&raw(folder, "d.img", SIZE as u64), Format::Raw, EngineKind::Threads)
    });
}

/// A loop device over a file, as long as it lives.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn over(file: &Path) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        let name = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| Self(name.trim_end().into()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn a_block_device_is_a_vector() {
    let folder = folder();
    let file = raw(folder.path(), "d.img", SIZE as u64);
    let Some(device) = LoopDevice::over(&file) else { return skip("a loop device cannot be made here") };
    for engine in ENGINES {
        for direct in [false, true] {
            runs(4, |_| {
                // The device keeps what the run before has left.
                let disk = Disk { direct, ..disk(&device.0, Format::Raw, engine) };
                let zeroes = Operation::WriteZeroes { offset: 0, len: SIZE as u64, unmap: false };
                Guest::new(&Image::open(&disk).unwrap()).run(zeroes).unwrap();
                disk
            });
        }
    }
}

#[test]
fn qcow2_is_a_vector() {
    let make = |folder: &Path, options: &str| {
        let path = folder.join("d.qcow2");
        let size = SIZE.to_string();
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, path.to_str().unwrap(), &size]).map(|_| path)
    };
    if make(folder().path(), "compat=1.1").is_none() {
        return;
    }
    for engine in ENGINES {
        for options in ["compat=1.1", "compat=1.1,cluster_size=4096", "compat=0.10"] {
            runs(8, |folder| disk(&make(folder, options).unwrap(), Format::Auto, engine));
        }
    }
    for cache in [Cache::Writethrough, Cache::Unsafe] {
        let engine = EngineKind::Threads;
        runs(4, |folder| Disk { cache, ..disk(&make(folder, "compat=1.1").unwrap(), Format::Auto, engine) });
    }
}

#[test]
fn a_qcow2_overlay_is_a_vector() {
    for engine in ENGINES {
        runs(6, |folder| Disk {
            overlay: Some(Overlay::Path(folder.join("o.qcow2"))),
            ..disk(&raw(folder, "d.img", SIZE as u64), Format::Raw, engine)
        });
    }
}

#[test]
fn many_operations_are_in_flight_together() {
    let folder = folder();
    let raw = raw(folder.path(), "d.img", 1 << 20);
    let over = Some(Overlay::Temp);
    for engine in ENGINES {
        for overlay in [None, over.clone()] {
            let image = Image::open(&Disk { overlay, ..disk(&raw, Format::Raw, engine) }).unwrap();
            let mut guest = Guest::new(&image);
            // More than a ring takes at a time.
            let count = 200_u64;
            for round in 1..4_u8 {
                let memory = Arc::clone(&guest.memory);
                for number in 0..count {
                    let fill = u8::try_from(number).unwrap().wrapping_mul(round);
                    memory.write_slice(&[fill; 4096], GuestAddress(number * 4096)).unwrap();
                    let buffers = guest.buffers(number * 4096, 4096);
                    guest.engine.submit(number, Operation::Write { offset: number * 4096, buffers });
                }
                assert!(guest.wait().iter().all(|done| done.result.as_ref().unwrap() == &4096));
                memory.write_slice(&vec![0xee; 4096 * 200], GuestAddress(0)).unwrap();
                for number in 0..count {
                    let buffers = guest.buffers(number * 4096, 4096);
                    guest.engine.submit(number, Operation::Read { offset: number * 4096, buffers });
                }
                guest.engine.wait_all().unwrap();
                let mut done = Vec::new();
                guest.engine.completions(&mut done).unwrap();
                let mut tokens: Vec<_> = done.iter().map(|done| done.token).collect();
                tokens.sort_unstable();
                assert_eq!(tokens, (0..count).collect::<Vec<_>>());
                for number in 0..count {
                    let mut got = [0; 4096];
                    memory.read_slice(&mut got, GuestAddress(number * 4096)).unwrap();
                    let fill = u8::try_from(number).unwrap().wrapping_mul(round);
                    assert!(got.iter().all(|byte| *byte == fill), "{number}");
                }
            }
            // What is in flight when an engine is dropped does no harm.
            for number in 0..count {
                let buffers = guest.buffers(number * 4096, 4096);
                guest.engine.submit(number, Operation::Read { offset: 0, buffers });
            }
            guest.engine.kick().unwrap();
        }
    }
}
