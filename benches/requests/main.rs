//! How many instructions a request costs in the device's code, from the event that a queue was kicked
//! to the used ring: without a guest, without KVM, and without what the kernel does in system calls. Such
//! figures are the same on a busy host and on a quiet one.
//!
//! ```text
//! cargo bench --bench requests -- [--functions] [--save]
//! ```
//!
//! Each case runs twice under valgrind(1), with some requests and with twice as many; the difference is
//! what they cost. `--functions` tells the costliest functions; it needs symbols, as with
//! `CARGO_PROFILE_BENCH_STRIP=none`.

mod driver;
mod valgrind;

use std::fs::File;
use std::path::Path;
use std::{env, hint, io};

use anyhow::{Context, ensure};
use bantam::bench::host::{self, Host};
use bantam::virtio::block::config::{Disk, EngineKind};
use bantam::virtio::feature;
use bantam::virtio::net::config::Net;
use clap::Parser;
use serde::Serialize;
use vm_memory::{Bytes, GuestAddress};

use driver::{Buffer, Driver};

/// Turns of the first run.
const TURNS: u32 = 200;
/// Requests of a turn.
const DEPTH: u16 = 32;
const BLOCK: u32 = 4096;
const BLOCKS: u64 = 256;
/// Where buffers are, one place for each request of a turn.
const BUFFERS: u64 = 0x80_0000;
const PLACE: u64 = 0x2000;

#[derive(Debug, Parser)]
#[command(about = "Instructions that a request to a virtio device costs")]
struct Options {
    /// Tell the costliest functions of each case.
    #[arg(long)]
    functions: bool,
    /// Write the figures to benches/results/requests.json.
    #[arg(long)]
    save: bool,
    /// Run a case, by its number, for so many turns; under valgrind.
    #[arg(long, num_args = 2, value_names = ["CASE", "TURNS"], hide = true)]
    run: Option<Vec<u32>>,
    /// The disk of a case.
    #[arg(long, requires = "run", hide = true)]
    disk: Option<std::path::PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy)]
enum Request {
    /// Of 4 KiB.
    Read(EngineKind),
    /// Of a frame of 64 bytes, to a tap.
    Transmit,
}

struct Case {
    name: &'static str,
    request: Request,
    features: u64,
    depth: u16,
}

const PLAIN: u64 = 0;
const EVENT: u64 = feature::RING_EVENT_IDX;
const BOTH: u64 = feature::RING_EVENT_IDX | feature::RING_INDIRECT_DESC;

const CASES: [Case; 9] = [
    case("read, sync", EngineKind::Sync, EVENT, DEPTH),
    case("read, sync, no EVENT_IDX", EngineKind::Sync, PLAIN, DEPTH),
    case("read, sync, INDIRECT_DESC", EngineKind::Sync, BOTH, DEPTH),
    case("read, sync, one a turn", EngineKind::Sync, EVENT, 1),
    case("read, io_uring", EngineKind::IoUring, EVENT, DEPTH),
    case("read, io_uring, one a turn", EngineKind::IoUring, EVENT, 1),
    Case { name: "transmit", request: Request::Transmit, features: EVENT, depth: DEPTH },
    Case { name: "transmit, no EVENT_IDX", request: Request::Transmit, features: PLAIN, depth: DEPTH },
    Case { name: "transmit, one a turn", request: Request::Transmit, features: EVENT, depth: 1 },
];

const fn case(name: &'static str, engine: EngineKind, features: u64, depth: u16) -> Case {
    Case { name, request: Request::Read(engine), features, depth }
}

#[derive(Serialize)]
struct Results {
    commit: Option<String>,
    host: Host,
    valgrind: String,
    instructions: Vec<Cost>,
}

#[derive(Serialize)]
struct Cost {
    case: &'static str,
    requests_a_turn: u16,
    instructions_a_request: f64,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if let Some([number, turns]) = options.run.as_deref() {
        let case = CASES.get(usize::try_from(*number)?).context("no such case")?;
        return run(case, *turns, options.disk.as_deref());
    }
    let Some(valgrind) = valgrind::version() else {
        println!("skipped: valgrind is not installed");
        return Ok(());
    };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let disk = folder.path().join("disk.img");
    File::create(&disk)?.set_len(BLOCKS * u64::from(BLOCK))?;
    let mut instructions = Vec::new();
    println!("{:<30} {:>14} {:>22}", "", "requests/turn", "instructions/request");
    for (number, case) in (0..).zip(&CASES) {
        let Case { name, depth, .. } = *case;
        match measure(number, depth, &disk, folder.path()) {
            Ok((instructions_a_request, functions)) => {
                println!("{name:<30} {depth:>14} {instructions_a_request:>22.1}");
                for function in functions.iter().filter(|_| options.functions) {
                    println!("  {function}");
                }
                instructions.push(Cost { case: name, requests_a_turn: depth, instructions_a_request });
            }
            Err(reason) => println!("{name:<30} not measured: {reason:#}"),
        }
    }
    if options.save {
        let (commit, host) = (host::commit(&env::current_exe()?), Host::look());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results/requests.json");
        let results = Results { commit, host, valgrind, instructions };
        std::fs::write(&path, format!("{}\n", serde_json::to_string_pretty(&results)?))?;
        println!("\nwritten to {}", path.display());
    }
    Ok(())
}

/// The instructions of one request, and the costliest functions with their share.
fn measure(case: u32, depth: u16, disk: &Path, folder: &Path) -> anyhow::Result<(f64, Vec<String>)> {
    let once = valgrind::run(case, TURNS, disk, folder)?;
    let twice = valgrind::run(case, 2 * TURNS, disk, folder)?;
    let more = twice.instructions.checked_sub(once.instructions).context("more requests cost less")?;
    Ok((f64::from(u32::try_from(more)?) / f64::from(TURNS) / f64::from(depth), twice.functions))
}

/// Drives the device of a case; what it does in its turns counts.
fn run(case: &Case, turns: u32, disk: Option<&Path>) -> anyhow::Result<()> {
    let mut driver = match case.request {
        Request::Read(engine) => {
            let disk = Disk { engine, queues: Some(1), ..Disk::new(disk.context("no disk")?) };
            Driver::set_up(&disk, 0, 1, case.features)?
        }
        Request::Transmit => {
            own_network()?;
            Driver::set_up(&Net { offload: false, ..Net::default() }, 1, 2, case.features)?
        }
    };
    for turn in 0..turns {
        for slot in 0..case.depth {
            offer(
                &mut driver,
                case.request,
                slot,
                u64::from(turn) * u64::from(case.depth) + u64::from(slot),
            )?;
        }
        driver.publish()?;
        valgrind::toggle();
        hint::black_box(&mut driver).turn();
        valgrind::toggle();
        ensure!(driver.is_done(), "{}: the device does not finish its requests", case.name);
        driver.taken()?;
    }
    if let Request::Read(_) = case.request {
        let status: u8 = driver.memory.read_obj(GuestAddress(BUFFERS + 16))?;
        ensure!(status == 0, "{}: a request fails with status {status}", case.name);
    }
    Ok(())
}

fn offer(driver: &mut Driver, request: Request, slot: u16, number: u64) -> anyhow::Result<()> {
    let place = BUFFERS + u64::from(slot) * PLACE;
    match request {
        Request::Read(_) => {
            let sector = number % BLOCKS * u64::from(BLOCK / 512);
            driver.memory.write_obj(0_u64, GuestAddress(place))?;
            driver.memory.write_obj(sector.to_le(), GuestAddress(place + 8))?;
            driver.memory.write_obj(0xff_u8, GuestAddress(place + 16))?;
            let data = Buffer(place + PLACE / 2, BLOCK, true);
            driver.offer(slot, &[Buffer(place, 16, false), data, Buffer(place + 16, 1, true)])
        }
        Request::Transmit => {
            // Behind a header of zeroes: between two addresses of nobody, of a type that nobody knows.
            driver.memory.write_slice(&[0x02; 12], GuestAddress(place + 12))?;
            driver.memory.write_slice(&[0x88, 0xb5], GuestAddress(place + 24))?;
            driver.offer(slot, &[Buffer(place, 12 + 64, false)])
        }
    }
}

/// Moves this process into a network of its own.
#[allow(unsafe_code, reason = "a namespace is a C call")]
fn own_network() -> anyhow::Result<()> {
    // SAFETY: the call takes a number.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error()).context("no network namespace (run as root)")
}
