//! What machines leave behind in their process: nothing. Each test counts in a process of its own.

// The helpers here are a test's too: they may fail as loudly.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
// Polling is a C call.
#![allow(unsafe_code)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use bantam::bus::{Effect, Registers};
use bantam::config::{Console, MachineConfig, Size};
use bantam::control::{Answer, Server};
use bantam::hypervisor::Hypervisor;
use bantam::machine::{Builder, ExitReason, RunningMachine};
use bantam::memory::layout;
use common::alone::{Counted, alone};
use common::{Screen, config};
use rustix::process::{Resource, Rlimit};

/// Resident memory in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn builder(kvm: &Hypervisor, words: &str) -> Builder {
    Builder::new(config(words)).hypervisor(kvm.clone())
}

/// A machine that runs, once its guest has said that it is up.
fn up(kvm: &Hypervisor, words: &str) -> RunningMachine {
    let screen = Screen::default();
    let words = format!("boot {words}");
    let machine = builder(kvm, &words).console_output(screen.clone()).build().unwrap().resume().unwrap();
    screen.wait_for("B");
    machine
}

#[test]
fn a_thousand_machines_one_after_the_other_leave_nothing() {
    alone("a_thousand_machines_one_after_the_other_leave_nothing", |kvm| {
        let cycle = || {
            let outcome = builder(kvm, "boot").build().unwrap().resume().unwrap().wait();
            assert_eq!(outcome.reason, ExitReason::PowerOff);
        };
        // Until thread stacks, allocator arenas and buffers have their size.
        (0..100).for_each(|_| cycle());
        let (before, counted) = (resident(), Counted::now());
        (0..1000).for_each(|_| cycle());
        let after = resident();
        counted.assert_same("1,000 machines");
        // Half a KiB leaked by each machine would be 500 KiB; what the allocator keeps differs by tens.
        println!("{before} KiB before, {after} KiB after");
        assert!(after < before + 400, "{before} KiB before, {after} KiB after");
    });
}

#[test]
fn a_machine_can_be_dropped_at_any_time() {
    alone("a_machine_can_be_dropped_at_any_time", |kvm| {
        // What the first machine makes once for all.
        drop(up(kvm, "spin"));
        let counted = Counted::now();
        for job in ["spin", "spin=cpl0", "halt", "flood", "echo", "exits=1000000"] {
            drop(builder(kvm, job).build().unwrap());
            counted.assert_same(&format!("{job}, never started"));
            drop(builder(kvm, job).build().unwrap().resume().unwrap());
            counted.assert_same(&format!("{job}, just started"));
            drop(up(kvm, job));
            counted.assert_same(&format!("{job}, running"));
            let Ok(paused) = up(kvm, job).pause() else { panic!("{job} has ended") };
            drop(paused);
            counted.assert_same(&format!("{job}, paused"));
            drop(up(kvm, job).stop());
            counted.assert_same(&format!("{job}, stopped"));
        }
        let many = MachineConfig { cpus: 32, ..config("quiet smp") };
        let build = || Builder::new(many.clone()).hypervisor(kvm.clone()).build().unwrap();
        drop(build());
        drop(build().resume().unwrap());
        drop(build().resume().unwrap().wait());
        counted.assert_same("32 CPUs");
        let pty = MachineConfig { console: Console::Pty, ..config("boot spin") };
        drop(Builder::new(pty).hypervisor(kvm.clone()).build().unwrap().resume().unwrap());
        counted.assert_same("a pseudo-terminal");
    });
}

#[test]
fn a_guest_that_fails_leaves_nothing() {
    alone("a_guest_that_fails_leaves_nothing", |kvm| {
        drop(up(kvm, "spin"));
        let counted = Counted::now();
        for job in ["fault=ud", "fault=triple", "fault=internal", "fault=emulation", "end=reboot"] {
            drop(builder(kvm, job).build().unwrap().resume().unwrap().wait());
            counted.assert_same(job);
        }
        let machine = builder(kvm, "exits=10").port_device(0xb80, 1, Panics).build().unwrap();
        assert_eq!(machine.resume().unwrap().wait().reason, ExitReason::Panicked);
        counted.assert_same("a device that panics");
    });
}

/// The descriptors are used up when somebody connects: who comes is sent away, and nobody is woken for it
/// again and again.
#[test]
fn a_control_socket_without_descriptors_sleeps() {
    alone("a_control_socket_without_descriptors_sleeps", |_| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let mut server = Server::listen(&path).unwrap();
        let clients: Vec<_> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let asleep = |server: &Server| {
            let mut poll = libc::pollfd { fd: server.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one whole entry, and no waiting.
            unsafe { libc::poll(&raw mut poll, 1, 0) == 0 }
        };
        assert!(!asleep(&server));
        let mut filled = Vec::new();
        let limit = rustix::process::getrlimit(Resource::Nofile);
        rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..limit }).unwrap();
        while let Ok(file) = fs::File::open("/dev/null") {
            filled.push(file);
        }
        assert!(filled.len() < 64);
        server.serve((), |(), _| panic!("nobody has asked"));
        assert!(asleep(&server));
        drop(filled);
        for mut client in clients {
            let mut said = String::new();
            client.read_to_string(&mut said).unwrap();
            assert!(said.contains("no descriptors left"), "{said}");
        }
        let mut client = UnixStream::connect(&path).unwrap();
        assert!(!asleep(&server));
        server.serve((), |(), _| panic!("nobody has asked"));
        client.write_all(b"{\"command\":\"pause\"}\n").unwrap();
        assert!(!asleep(&server));
        assert_eq!(server.serve(0, |count, _| (count + 1, Some(Answer::done()))), 1);
    });
}

struct Panics;

impl Registers for Panics {
    fn read(&mut self, _: u64, _: &mut [u8]) {}

    fn write(&mut self, _: u64, _: &[u8]) -> Effect {
        panic!("a device's panic, as the test wants it")
    }
}

struct Nothing;

impl Registers for Nothing {
    fn read(&mut self, _: u64, _: &mut [u8]) {}

    fn write(&mut self, _: u64, _: &[u8]) -> Effect {
        Effect::None
    }
}

#[test]
fn a_machine_that_cannot_be_built_leaves_nothing() {
    alone("a_machine_that_cannot_be_built_leaves_nothing", |kvm| {
        drop(up(kvm, "spin"));
        let counted = Counted::now();
        let with = |change: fn(&mut MachineConfig)| {
            let mut config = config("boot");
            change(&mut config);
            Builder::new(config).hypervisor(kvm.clone())
        };
        let long = "a".repeat(70 << 10);
        let cases: Vec<(&str, Builder)> = vec![
            ("0 vCPUs", with(|config| config.cpus = 0)),
            ("4K of memory", with(|config| config.memory = Size::new(4096))),
            ("/nowhere/vmlinux", with(|config| config.kernel = Some("/nowhere/vmlinux".into()))),
            ("/etc/passwd", with(|config| config.kernel = Some("/etc/passwd".into()))),
            ("an initrd needs a kernel", with(|config| config.initrd = Some("/etc/passwd".into()))),
            ("/nowhere/console", with(|config| config.console = Console::File("/nowhere/console".into()))),
            ("command line", builder(kvm, &long)),
            ("command line", builder(kvm, "a\nb")),
            ("0xfec00010", builder(kvm, "").mmio_device(layout::IOAPIC + 16, 4, Nothing)),
            ("0xd0000800", two_at(builder(kvm, ""), 0xd000_0000, 0xd000_0800)),
            ("0xd0000000", builder(kvm, "").mmio_device(0xd000_0000, 0, Nothing)),
            ("0x1000", builder(kvm, "").mmio_device(0x1000, 0x1000, Nothing)),
            ("the local APICs", builder(kvm, "").mmio_device(layout::LOCAL_APIC, 4, Nothing)),
            ("0xfffffffffffffff0", builder(kvm, "").mmio_device(u64::MAX - 15, 0x1000, Nothing)),
            ("0x3f9", builder(kvm, "").port_device(layout::COM1_PORT + 1, 1, Nothing)),
            ("0xffff", builder(kvm, "").port_device(0xffff, 2, Nothing)),
        ];
        for (named, builder) in cases {
            let Err(error) = builder.build() else { panic!("{named}: a machine was built") };
            assert!(error.to_string().contains(named), "{named}: {error}");
            counted.assert_same(named);
        }
    });
}

fn two_at(builder: Builder, first: u64, second: u64) -> Builder {
    builder.mmio_device(first, 0x1000, Nothing).mmio_device(second, 0x1000, Nothing)
}
