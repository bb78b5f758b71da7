//! What a flush has promised holds when the process is killed.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use super::*;
use crate::virtio::block::config::Overlay;

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 4096;
/// Says to the test's second process where its image is.
const IMAGE: &str = "BANTAM_TEST_CRASH_IMAGE";

fn overlay(folder: &Path) -> Disk {
    let overlay = Some(Overlay::Path(folder.join("o.qcow2")));
    Disk { overlay, ..disk(&folder.join("base.img"), Format::Raw, EngineKind::Threads) }
}

/// Scatters numbered blocks, and tells of each round when it is flushed.
fn write_for_ever(folder: &Path) -> ! {
    let image = Image::open(&overlay(folder)).unwrap();
    let mut guest = Guest::new(&image);
    for round in 0_u64.. {
        for slot in 0..16 {
            let number = round * 16 + slot;
            guest.memory.write_obj(number + 1, GuestAddress(slot * BLOCK)).unwrap();
            let buffers = guest.buffers(slot * BLOCK, usize::try_from(BLOCK).unwrap());
            guest.engine.submit(slot, Operation::Write { offset: place(number), buffers });
        }
        if round % 3 == 2 {
            let far = BLOCKS * BLOCK;
            guest.engine.submit(16, Operation::Discard { offset: far, len: 1 << 20 });
            let zeroes = Operation::WriteZeroes { offset: far, len: 1 << 20, unmap: round % 2 == 0 };
            guest.engine.submit(17, zeroes);
        }
        assert!(guest.wait().iter().all(|done| done.result.is_ok()));
        guest.run(Operation::Flush).unwrap();
        println!("flushed {round}");
    }
    panic!("rounds do not end")
}

/// Where a numbered block goes: all over the disk, each to its own place until all are taken.
fn place(number: u64) -> u64 {
    number * 2_654_435_761 % BLOCKS * BLOCK
}

#[test]
fn a_killed_process_loses_nothing_that_was_flushed() {
    if let Some(folder) = std::env::var_os(IMAGE) {
        write_for_ever(Path::new(&folder));
    }
    for pause in [3, 10, 40] {
        let folder = folder();
        raw(folder.path(), "base.img", BLOCKS * BLOCK + (1 << 20));
        let name = "virtio::block::tests::crash::a_killed_process_loses_nothing_that_was_flushed";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .env(IMAGE, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let told =
            |line: String| line.rsplit_once("flushed ").and_then(|(_, round)| round.parse::<u64>().ok());
        let mut last = lines.by_ref().find_map(told).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(pause * 10));
        child.kill().unwrap();
        child.wait().unwrap();
        last = lines.filter_map(told).last().unwrap_or(last);
        check_allowing_leaks(&folder.path().join("o.qcow2"));
        let mut guest = Guest::new(&Image::open(&overlay(folder.path())).unwrap());
        let flushed = (last + 1) * 16;
        for number in flushed.saturating_sub(BLOCKS - 64)..flushed {
            let got = guest.read(place(number), 512).unwrap();
            let got = u64::from_le_bytes(got[..8].try_into().unwrap());
            // Or what was written there later, which may have come through.
            assert!(got == number + 1 || got == number + 1 + BLOCKS, "block {number}: {got}");
        }
    }
}

/// Clusters that nobody uses are a loss of room, not of data.
fn check_allowing_leaks(path: &Path) {
    match Command::new("qemu-img").arg("check").arg(path).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(matches!(output.status.code(), Some(0 | 3)), "{text}");
        }
        Err(error) => skip(&format!("no qemu-img: {error}")),
    }
}
