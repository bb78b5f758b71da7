//! Bantam's embedded guest: a small kernel that shows, proves and measures the
//! machine it runs in. See README.md beside this file.
//!
//! Nearly all of it runs at CPL 3 with every port and all memory open to it;
//! CPL 0 is a handful of assembly routines (entry.s, trap.s, ring0.s).

#![no_std]
#![no_main]
#![deny(unsafe_op_in_unsafe_fn)]

mod acpi;
mod apic;
mod arena;
mod asm;
mod boot_info;
mod clock;
mod console;
mod cpu;
mod end;
mod events;
mod jobs;
mod memory;
mod mp_table;
mod paging;
mod phys;
mod random;
mod topology;
mod trap;
mod virtio;
mod words;

use arena::Arena;
use boot_info::{BootInfo, Protocol};
use console::println;
use end::End;
use jobs::Job;
use words::Words;

/// What every job may use.
struct Machine {
    boot: BootInfo,
    words: Words,
    arena: Arena,
}

/// Where entry.s leads, at CPL 3: `protocol` is 0 for PVH, else 1, and `info`
/// the physical address of the loader's structure.
#[unsafe(no_mangle)]
extern "sysv64" fn guest_main(protocol: u32, info: u64) -> ! {
    let protocol = if protocol == 0 { Protocol::Pvh } else { Protocol::Linux64 };
    let boot = BootInfo::new(protocol, info);
    let words = Words::read(&boot);

    let jobs = || words.iter().filter_map(Job::parse);
    // A start-up benchmark waits for nothing that it does not need.
    if jobs().any(|job| job != Job::Boot) || jobs().next().is_none() {
        console::initialise(words.has("echo"));
        console::set_quiet(words.has("quiet"));
        trap::install();
    }
    end::prepare(&boot);

    let arena = Arena::new(&boot);
    let mut machine = Machine { boot, words, arena };
    if jobs().next().is_none() {
        Job::Hello.run(&mut machine);
    }
    for job in jobs() {
        job.run(&mut machine);
    }
    end::finish(End::chosen(words))
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    println!("guest panic: {}", info.message());
    end::finish(End::Exit(end::PANIC))
}

/// The prebuilt `core` names this; nothing ever unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
