//! The device, through its rings.

mod saving;
mod served;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::virtio::block::config::{Disk, EngineKind};
use crate::virtio::testing::{GuestDriver, PLACE, conformance};
use crate::virtio::{Attach, Command, CommandError, Place};

const ENGINES: [EngineKind; 3] = [EngineKind::Sync, EngineKind::Threads, EngineKind::IoUring];
const SECTORS: u64 = 64;
const FLUSH: u64 = 1 << 9;

/// Request types.
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH_DISK: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// A folder with a raw image whose sectors each are full of their own number.
fn image() -> (TempDir, Disk) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    let bytes: Vec<_> = (0..SECTORS).flat_map(|sector| [u8::try_from(sector).unwrap(); 512]).collect();
    fs::write(&path, bytes).unwrap();
    (folder, Disk::new(path))
}

/// A copy of an image that was changed when that was.
fn copy(from: &Path, to: &Path) -> PathBuf {
    fs::copy(from, to).unwrap();
    let modified = fs::metadata(from).unwrap().modified().unwrap();
    fs::File::options().write(true).open(to).unwrap().set_modified(modified).unwrap();
    to.to_owned()
}

fn driver(disk: &Disk) -> GuestDriver {
    GuestDriver::new(disk.open(&PLACE).unwrap())
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

/// The data of a read of so many bytes, in two buffers, and its status.
fn read(driver: &mut GuestDriver, sector: u64, len: usize) -> (Vec<u8>, u8) {
    let first = len / 3;
    let (used, mut bytes) = driver.request(0, &[&header(IN, sector)], &[first, len - first, 1]);
    let status = bytes.pop().unwrap();
    if status == 0 {
        assert_eq!(used as usize, len + 1);
    }
    (bytes, status)
}

fn write(driver: &mut GuestDriver, sector: u64, data: &[u8]) -> u8 {
    let (front, back) = data.split_at(data.len() / 5);
    // The header may share its buffer with data, and be in pieces itself.
    let head = header(OUT, sector);
    let (_, status) = driver.request(0, &[&head[..5], &[&head[5..], front].concat(), back], &[1]);
    status[0]
}

#[test]
fn conforms_with_every_engine() {
    for engine in ENGINES {
        let (folder, disk) = image();
        let disk = Disk { engine, queues: Some(2), ..disk };
        let (mut round, mut made) = (0_u8, 0);
        conformance(
            || {
                made += 1;
                if made == 1 {
                    return disk.open(&PLACE).unwrap();
                }
                // The first one is in use, and as it is.
                let path = copy(&disk.path, &folder.path().join(format!("{made}.img")));
                Disk { path, ..disk.clone() }.open(&PLACE).unwrap()
            },
            |driver| {
                round = round.wrapping_add(1);
                assert_eq!(write(driver, 7, &[round; 1024]), 0);
                assert_eq!(read(driver, 6, 2048).0, [vec![6; 512], vec![round; 1024], vec![9; 512]].concat());
            },
        );
    }
}

#[test]
fn the_configuration_space_tells_the_disk() {
    let (_folder, disk) = image();
    let driver = driver(&Disk { queues: Some(3), ..disk });
    assert_eq!(u64::from_le_bytes(driver.config(0)), SECTORS);
    assert_eq!(u32::from_le_bytes(driver.config(12)), 254);
    assert_eq!(u32::from_le_bytes(driver.config(20)), 512);
    assert_eq!(u16::from_le_bytes(driver.config(34)), 3);
    assert_eq!(u32::from_le_bytes(driver.config(40)), 1);
    assert_eq!(u32::from_le_bytes(driver.config(52)), 1);
    assert_eq!(driver.config(56), [1, 0, 0, 0, 0, 0]);
    assert_eq!(driver.queue_max(2), 256);
    assert_eq!(driver.queue_max(3), 0);
}

#[test]
fn requests_that_cannot_be_are_answered_with_what_they_are() {
    for engine in ENGINES {
        let (_folder, disk) = image();
        let mut driver = driver(&Disk { engine, ..disk });
        driver.set_up(FLUSH);
        let outside =
            [(SECTORS, 512), (SECTORS - 1, 1024), (u64::MAX, 512), (u64::MAX >> 8, 512), (1 << 55, 512)];
        for (sector, len) in outside {
            assert_eq!(read(&mut driver, sector, len).1, 1, "read {sector}");
            assert_eq!(write(&mut driver, sector, &vec![1; len]), 1, "write {sector}");
        }
        // No whole sectors.
        assert_eq!(read(&mut driver, 0, 511).1, 1);
        assert_eq!(write(&mut driver, 0, &[1; 513]), 1);
        // Nothing at all is done at once.
        assert_eq!(write(&mut driver, 0, &[]), 0);
        let cases: [(u32, Vec<u8>, u8); 11] = [
            (77, vec![], 2),
            (FLUSH_DISK, vec![], 0),
            (DISCARD, range(0, 8, 0), 0),
            (DISCARD, range(0, 8, 1), 2),
            (DISCARD, range(SECTORS - 1, 2, 0), 1),
            (DISCARD, range(0, u32::MAX, 0), 1),
            (DISCARD, vec![0; 15], 1),
            (DISCARD, vec![0; 32], 1),
            (WRITE_ZEROES, range(8, 4, 1), 0),
            (WRITE_ZEROES, range(u64::MAX, 4, 1), 1),
            (WRITE_ZEROES, range(8, 4, 2), 2),
        ];
        for (kind, data, expected) in cases {
            let (_, status) = driver.request(0, &[&header(kind, 0), &data], &[1]);
            assert_eq!(status, [expected], "kind {kind} data {data:?}");
        }
        assert_eq!(read(&mut driver, 7, 6 * 512).0[512..2560], [0; 2048]);
        // Nobody to tell.
        for (outputs, inputs) in [(vec![0; 15], vec![1]), (header(IN, 0), vec![])] {
            assert_eq!(driver.request(0, &[&outputs], &inputs).0, 0);
        }
    }
}

#[test]
fn the_driver_learns_the_serial_number() {
    let (_folder, disk) = image();
    let mut named = driver(&Disk { serial: Some("0123456789abcdefghij".into()), ..disk.clone() });
    named.set_up(0);
    let (len, bytes) = named.request(0, &[&header(GET_ID, 0)], &[20, 1]);
    assert_eq!((len, bytes.as_slice()), (21, b"0123456789abcdefghij\0".as_slice()));
    let (len, bytes) = named.request(0, &[&header(GET_ID, 0)], &[4, 1]);
    assert_eq!((len, bytes.as_slice()), (5, b"0123\0".as_slice()));
    drop(named);
    let mut unnamed = driver(&disk);
    unnamed.set_up(0);
    assert_eq!(unnamed.request(0, &[&header(GET_ID, 0)], &[20, 1]).1[..5], *b"test\0");
}

#[test]
fn a_readonly_disk_takes_no_writes_whatever_the_driver_thinks() {
    let (_folder, disk) = image();
    let disk = Disk { readonly: true, ..disk };
    let mut driver = driver(&disk);
    assert_eq!(driver.offered() & (1 << 5 | 1 << 13 | 1 << 14), 1 << 5);
    driver.set_up(0);
    assert_eq!(write(&mut driver, 0, &[1; 512]), 1);
    for kind in [DISCARD, WRITE_ZEROES] {
        assert_eq!(driver.request(0, &[&header(kind, 0), &range(0, 1, 0)], &[1]).1, [1]);
    }
    assert_eq!(read(&mut driver, 1, 512), (vec![1; 512], 0));
}

#[test]
fn many_requests_are_in_flight_and_a_reset_ends_them() {
    for engine in ENGINES {
        let (_folder, disk) = image();
        let mut driver = driver(&Disk { engine, ..disk });
        for round in 0..20 {
            driver.set_up(if round % 2 == 0 { FLUSH } else { 0 });
            for sector in 0..32 {
                driver.offer(0, &[&header(OUT, sector), &[round; 512]], &[1]);
                driver.offer(0, &[&header(IN, sector + 32)], &[512, 1]);
            }
            driver.kick(0);
            if round % 3 == 0 {
                driver.reset();
                continue;
            }
            if round % 5 == 0 {
                driver.pause();
                assert_eq!((0..64).filter_map(|_| driver.used(0)).count(), 64, "all is done in a pause");
                driver.resume();
            } else {
                for _ in 0..64 {
                    let (_, _, answer) = driver.wait_used(0);
                    assert_eq!(answer.last(), Some(&0));
                }
            }
            assert_eq!(read(&mut driver, 0, 32 * 512).0, [round; 32 * 512]);
            driver.reset();
        }
    }
}

#[test]
fn a_limit_holds_requests_back_and_loses_none() {
    let (_folder, disk) = image();
    let disk = Disk { rate: Some("64K".parse().unwrap()), ..disk };
    let mut driver = driver(&disk);
    driver.set_up(0);
    let start = Instant::now();
    let mut bytes = 0;
    // The burst is one second's worth; what is more has to wait.
    for _ in 0..3 {
        for sector in 0..16 {
            driver.offer(0, &[&header(IN, sector)], &[4096, 1]);
        }
        driver.kick(0);
        for _ in 0..16 {
            assert_eq!(driver.wait_used(0).2.last(), Some(&0));
            bytes += 4096;
        }
    }
    let allowed = Duration::from_secs_f64(f64::from(bytes - 64 * 1024) / f64::from(64 * 1024));
    assert!(start.elapsed() >= allowed, "{bytes} bytes after {:?}", start.elapsed());
    // A reset does not wait for the limit.
    driver.offer(0, &[&header(IN, 0)], &[4096, 1]);
    driver.kick(0);
    driver.reset();
}

#[test]
fn the_end_of_a_wait_that_begins_anew_does_not_hold_the_loop_up() {
    let (_folder, disk) = image();
    let mut driver = driver(&Disk { rate: Some("8K".parse().unwrap()), ..disk });
    driver.set_up(0);
    // The burst, half a second's worth, and four seconds'.
    for len in [8 << 10, 4 << 10, 32 << 10] {
        driver.offer(0, &[&header(IN, 0)], &[len, 1]);
    }
    driver.kick(0);
    driver.wait_used(0);
    // The loop finds a kick and, behind it, the end of the first wait.
    driver.stall(Duration::from_millis(800), |driver| driver.kick(0));
    let start = Instant::now();
    driver.wait_used(0);
    driver.settle();
    assert!(start.elapsed() < Duration::from_secs(2), "the loop was held up for {:?}", start.elapsed());
    driver.reset();
}

#[test]
fn small_requests_do_not_keep_a_large_one_out() {
    let (_folder, disk) = image();
    let mut driver = driver(&Disk { rate: Some("8K".parse().unwrap()), queues: Some(2), ..disk });
    driver.set_up(0);
    driver.offer(0, &[&header(IN, 0)], &[12 << 10, 1]);
    driver.kick(0);
    driver.settle();
    let start = Instant::now();
    while driver.used(0).is_none() {
        assert!(start.elapsed() < Duration::from_secs(5), "the large request waits for ever");
        if driver.used(1).is_none() {
            driver.offer(1, &[&header(IN, 0)], &[512, 1]);
            driver.kick(1);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_file_that_grows_is_announced() {
    let (folder, disk) = image();
    let mut driver = driver(&disk);
    driver.set_up(0);
    assert_eq!(read(&mut driver, SECTORS, 512).1, 1);
    let file = fs::File::options().write(true).open(folder.path().join("disk.img")).unwrap();
    file.set_len((SECTORS + 8) * 512).unwrap();
    driver.handle.command(Command::DiskResized).unwrap();
    assert_eq!(u64::from_le_bytes(driver.config(0)), SECTORS + 8);
    assert_eq!(driver.line.rises(), 2, "one for the read, one for the change");
    assert_eq!(read(&mut driver, SECTORS, 512), (vec![0; 512], 0));
    let unknown = driver.handle.command(Command::ConsoleResize { columns: 1, rows: 1 });
    assert!(matches!(unknown, Err(CommandError::Unknown(_))));
}

#[test]
fn a_file_that_shrinks_is_an_error_to_the_guest_and_not_to_the_machine() {
    for engine in ENGINES {
        let (folder, disk) = image();
        let mut driver = driver(&Disk { engine, ..disk });
        driver.set_up(0);
        fs::File::options().write(true).open(folder.path().join("disk.img")).unwrap().set_len(512).unwrap();
        assert_eq!(read(&mut driver, 4, 512).1, 1);
        assert_eq!(read(&mut driver, 0, 512), (vec![0; 512], 0));
    }
}

#[test]
fn a_root_disk_tells_the_kernel() {
    let disk = Disk { root: true, ..Disk::new("x") };
    let words = |index| disk.kernel_words(&Place { index, ..PLACE }).unwrap();
    assert_eq!(words(0), "root=/dev/vda rw");
    assert_eq!(words(25), "root=/dev/vdz rw");
    assert_eq!(words(26), "root=/dev/vdaa rw");
    let disk = Disk { readonly: true, ..disk };
    assert_eq!(disk.kernel_words(&PLACE).unwrap(), "root=/dev/vda ro");
    assert_eq!(Disk::new("x").kernel_words(&PLACE), None);
}

/// An engine that carries nothing out and cannot be waited for; it tells of each operation one operation
/// later.
#[derive(Default)]
struct Failed(Vec<u64>, Arc<AtomicUsize>);

impl Engine for Failed {
    fn submit(&mut self, token: u64, _: Operation) {
        self.0.push(token);
        self.1.fetch_max(self.0.len(), Ordering::SeqCst);
    }

    fn kick(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn completions(&mut self, sink: &mut Vec<Completion>) -> io::Result<()> {
        if self.0.len() > 1 {
            sink.push(Completion { token: self.0.remove(0), result: Ok(0) });
        }
        Ok(())
    }

    fn wait_all(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::OutOfMemory.into())
    }

    fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }

    fn pending(&self) -> usize {
        self.0.len()
    }

    fn name(&self) -> &'static str {
        "failed"
    }
}

#[test]
fn what_an_engine_failed_to_do_for_one_driver_is_not_told_the_next() {
    let (_folder, disk) = image();
    let image = Image::open(&disk).unwrap();
    let mut block = Block::new("test".to_owned(), image, "", 1, Pace::default()).unwrap();
    block.engine = Box::new(Failed::default());
    let mut driver = GuestDriver::new(Box::new(block));
    for _ in 0..2 {
        driver.set_up(0);
        driver.offer(0, &[&header(IN, 0)], &[512, 1]);
        driver.kick(0);
        driver.settle();
        assert!(driver.used(0).is_none(), "the engine has done nothing");
        driver.reset();
    }
}

#[test]
fn what_a_pause_has_to_wait_for_is_bounded() {
    let (folder, disk) = image();
    let file = fs::File::options().write(true).open(folder.path().join("disk.img")).unwrap();
    file.set_len(16 << 20).unwrap();
    let image = Image::open(&disk).unwrap();
    let mut block = Block::new("test".to_owned(), image, "", 1, Pace::default()).unwrap();
    let engine = Failed::default();
    let most = Arc::clone(&engine.1);
    block.engine = Box::new(engine);
    let mut driver = GuestDriver::new(Box::new(block));
    driver.set_up(0);
    for _ in 0..16 {
        driver.offer(0, &[&header(IN, 0)], &[16 << 20, 1]);
    }
    driver.kick(0);
    for _ in 0..15 {
        driver.wait_used(0);
    }
    assert_eq!(most.load(Ordering::SeqCst), 4);
}
