//! `smp`: starts the other CPUs (Intel SDM vol. 3, "MP Initialization Example") and counts with them.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::clock::Frequency;
use crate::console::{print, println, say};
use crate::topology::{MAX_CPUS, Topology};
use crate::{Machine, apic, cpu};

/// Pages below 1 MiB that loaders leave free, best first.
const TRAMPOLINE_PLACES: [u64; 3] = [0x8000, 0x10000, 0x90000];
const PAGE: u64 = 4096;
/// Additions by each CPU.
const ADDITIONS: u32 = 1000;
/// How long to wait for the next CPU to show up, in microseconds.
const PATIENCE: u64 = 1_000_000;
const MAX_LISTED: usize = 64;

const GDT_FIXED: u64 = 5 * 8;
const RING0_STACK_TOP: u64 = 1024;
const RFLAGS: u64 = 0x3002;
const USER_DATA: u64 = 0x1b;
const USER_CODE: u64 = 0x23;

/// What a CPU needs to get to CPL 3 and back, in a page with its stacks: its
/// record, the CPL 0 stack up to 1 KiB, the CPL 3 stack up to the end.
/// trampoline.s knows the last two fields' places.
#[repr(C)]
struct ApRecord {
    tss: [u32; 26],
    selector: u64,
    frame: [u64; 5],
}

const _: () = assert!(core::mem::offset_of!(ApRecord, selector) == 104);
const _: () = assert!(core::mem::offset_of!(ApRecord, frame) == 112);

unsafe extern "C" {
    static trampoline: u8;
    static trampoline_gdt_pointer: u8;
    static trampoline_end: u8;
    static gdt: [u64; 5];
    static ap_records: [AtomicU64; 256];
    fn ap_user();
}

static ONLINE: [AtomicBool; 256] = [const { AtomicBool::new(false) }; 256];
static TICKETS: AtomicU32 = AtomicU32::new(0);
static FINISHED: AtomicU32 = AtomicU32::new(0);
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// What the other CPUs do when they have counted, with their local APICs' IDs; they stop without any.
static WORK: AtomicUsize = AtomicUsize::new(0);

pub fn run(machine: &mut Machine) {
    let topology = Topology::find(&machine.boot);
    let own = apic::id();
    start_others(machine, &topology, own);
    arrive(own);
    count();

    let mut ids = [0_u64; MAX_CPUS];
    let mut online = 0;
    for id in (0..=254_u8).filter(|&id| ONLINE[usize::from(id)].load(Ordering::Acquire)) {
        ids[online] = id.into();
        online += 1;
    }
    print!("smp cpus={} online={online} ids=", topology.cpus().len());
    for (index, id) in ids[..online].iter().take(MAX_LISTED).enumerate() {
        print!("{}{id}", if index == 0 { "" } else { "," });
    }
    println!("{}", if online > MAX_LISTED { ",.." } else { "" });

    let (expected, counted) = (online as u32 * ADDITIONS, COUNTER.load(Ordering::Acquire));
    if counted != expected {
        println!("smp: the CPUs counted wrong");
    }
}

/// Starts the other CPUs for such work, which they do at CPL 3 on stacks of 3 KiB.
pub fn employ(machine: &mut Machine, topology: &Topology, work: extern "sysv64" fn(u8)) {
    WORK.store(work as usize, Ordering::Release);
    start_others(machine, topology, apic::id());
}

pub fn is_online(id: u8) -> bool {
    ONLINE[usize::from(id)].load(Ordering::Acquire)
}

fn start_others(machine: &mut Machine, topology: &Topology, own: u8) {
    let others = || topology.cpus().iter().copied().filter(|&id| id != own);
    let started = others().count() as u32;
    if started > 0
        && let Some(page) = prepare(machine, others())
    {
        apic::enable();
        FINISHED.store(0, Ordering::Release);
        others().for_each(|id| ONLINE[usize::from(id)].store(false, Ordering::Release));
        start(others(), page);
    } else if started > 0 {
        say!("smp: no memory to start CPUs from");
    }
}

/// Lays out the trampoline, a GDT with a TSS for each CPU, and the records.
/// Gives the trampoline's page.
fn prepare(machine: &mut Machine, others: impl Iterator<Item = u8> + Clone) -> Option<u32> {
    let free =
        |&page: &u64| machine.boot.usable().any(|range| range.start <= page && page + PAGE <= range.end);
    let page = TRAMPOLINE_PLACES.into_iter().find(free)?;
    let count = others.clone().count() as u64;
    let table_size = GDT_FIXED + 16 * count;
    let table = machine.arena.zeroed(table_size.div_ceil(PAGE))?;
    let records = machine.arena.zeroed(count)?;

    // SAFETY: the arena gave us the table; entry.s made the original.
    unsafe { (table as *mut [u64; 5]).write(gdt) };
    for (index, id) in (0..).zip(others) {
        let record = records + index * PAGE;
        let offset = GDT_FIXED + 16 * index;
        let descriptor = 0x0000_8900_0000_0067 | (record & 0xff_ffff) << 16 | (record & 0xff00_0000) << 32;
        // SAFETY: within the table and the record's page; both are ours.
        unsafe {
            ((table + offset) as *mut u64).write(descriptor);
            (record as *mut ApRecord).write(ApRecord::new(record, offset));
            ap_records[usize::from(id)].store(record, Ordering::Release);
        }
    }

    let source = &raw const trampoline;
    let length = (&raw const trampoline_end).addr() - source.addr();
    let pointer = (&raw const trampoline_gdt_pointer).addr() - source.addr();
    // SAFETY: a page of usable RAM below 1 MiB that no loader puts anything into,
    // and the trampoline is smaller than a page.
    unsafe {
        (page as *mut u8).copy_from_nonoverlapping(source, length);
        let pointer = (page as *mut u8).add(pointer);
        pointer.cast::<u16>().write_unaligned(table_size as u16 - 1);
        pointer.add(2).cast::<u32>().write_unaligned(table as u32);
    }
    u32::try_from(page).ok()
}

impl ApRecord {
    fn new(address: u64, selector: u64) -> Self {
        let mut tss = [0; 26];
        // RSP0 (the arena lies below 4 GiB), and no I/O permission bitmap.
        tss[1] = (address + RING0_STACK_TOP) as u32;
        tss[25] = 104 << 16;
        let entry = ap_user as *const () as u64;
        ApRecord { tss, selector, frame: [entry, USER_CODE, RFLAGS, address + PAGE, USER_DATA] }
    }
}

/// INIT and start-up to all, and a second start-up to those that sleep on.
fn start(others: impl Iterator<Item = u8> + Clone, page: u32) {
    let expected = others.clone().count() as u32;
    others.clone().for_each(apic::send_init);
    crate::clock::spin(200);
    others.clone().for_each(|id| apic::send_startup(id, page));
    if !wait_for(expected, PATIENCE / 10) {
        others
            .filter(|&id| !ONLINE[usize::from(id)].load(Ordering::Acquire))
            .for_each(|id| apic::send_startup(id, page));
        wait_for(expected, PATIENCE);
    }
}

/// Waits until so many CPUs have finished, as long as there is progress.
fn wait_for(expected: u32, patience: u64) -> bool {
    let ticks = Frequency::known().map_or(patience * 3000, |frequency| frequency.ticks(patience));
    let (mut seen, mut since) = (0, cpu::tsc());
    loop {
        let finished = FINISHED.load(Ordering::Acquire);
        if finished == expected {
            return true;
        }
        if finished != seen {
            (seen, since) = (finished, cpu::tsc());
        } else if cpu::tsc().wrapping_sub(since) > ticks {
            return false;
        }
        cpu::pause();
    }
}

fn arrive(id: u8) {
    TICKETS.fetch_add(1, Ordering::AcqRel);
    ONLINE[usize::from(id)].store(true, Ordering::Release);
}

fn count() {
    for _ in 0..ADDITIONS {
        COUNTER.fetch_add(1, Ordering::AcqRel);
    }
}

/// Where trampoline.s leads, at CPL 3, with the local APIC's ID.
#[unsafe(no_mangle)]
extern "sysv64" fn ap_main(id: u32) -> ! {
    arrive(id as u8);
    count();
    FINISHED.fetch_add(1, Ordering::AcqRel);
    let work = WORK.load(Ordering::Acquire);
    if work != 0 {
        // SAFETY: `employ` stored a function of this type.
        let work: extern "sysv64" fn(u8) = unsafe { core::mem::transmute(work) };
        work(id as u8);
    }
    cpu::stop()
}
