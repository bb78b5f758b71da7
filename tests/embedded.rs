//! Every job of the embedded guest, by both of its entries.

// The helpers here are a test's too: they may fail as loudly.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::{Write, pipe};
use std::time::SystemTime;

use bantam::config::{BootMode, Devices, MachineConfig, Size};
use bantam::hypervisor::{FailureKind, Hypervisor};
use bantam::machine::{Builder, ExitReason};
use bantam::timeline::Phase;
use bantam::vcpu::ExitKind;
use bantam::virtio::entropy::config::Entropy;
use common::{Ran, Screen, config, kvm, run, run_to_power_off, watched};

const MODES: [BootMode; 2] = [BootMode::Pvh, BootMode::Linux64];

fn with(words: &str, boot: BootMode) -> MachineConfig {
    MachineConfig { boot, ..config(words) }
}

/// The same words by each entry, each ending in a power-off.
fn by_each_entry(hypervisor: &Hypervisor, words: &str, check: impl Fn(&Ran)) {
    for boot in MODES {
        check(&run_to_power_off(hypervisor, with(words, boot)));
    }
}

#[test]
fn hello_describes_the_machine_it_is_given() {
    let Some(kvm) = kvm() else { return };
    for (boot, protocol) in [(BootMode::Pvh, "PVH"), (BootMode::Linux64, "Linux 64-bit")] {
        let machine = MachineConfig { cpus: 3, memory: Size::mib(256), ..with("hello a=b", boot) };
        let text = run_to_power_off(&kvm, machine).text;
        // RAM without the last KiB of the first 640 and what follows up to 1 MiB.
        let usable = (256 << 10) - 385;
        for expected in [
            "Bantam guest ",
            &format!("  boot        {protocol} protocol"),
            "  hypervisor  KVMKVMKVM",
            "  cpus        3 (MADT), Bantam virtual CPU",
            &format!("  memory      {usable} KiB usable"),
            "0x100000 ..   0x10000000  usable",
            "  acpi        RSDP at 0xe0000: FACP APIC",
            "  serial      16550 at 0x3f8",
            "  local apic  id 0",
            "  io apic     version 0x20, 24 pins at 0xfec00000",
            "  words       hello a=b\r\n",
        ] {
            assert!(text.contains(expected), "{boot}: no '{expected}' in:\n{text}");
        }
        assert!(!text.contains("clock       none"), "{boot}: no CMOS clock:\n{text}");
    }
}

#[test]
fn hello_is_the_job_without_one() {
    let Some(kvm) = kvm() else { return };
    by_each_entry(&kvm, "", |ran| assert!(ran.text.starts_with("Bantam guest "), "{}", ran.text));
}

#[test]
fn boot_says_when_it_is_up() {
    let Some(kvm) = kvm() else { return };
    by_each_entry(&kvm, "boot", |ran| {
        assert_eq!(ran.text, "B");
        let phases: Vec<_> = ran.outcome.timeline.phases().map(|(phase, _)| phase).collect();
        assert!(phases.contains(&Phase::BootTimePort), "{phases:?}");
        assert!(phases.contains(&Phase::FirstConsoleByte), "{phases:?}");
    });
}

#[test]
fn each_exit_is_counted_once() {
    let Some(kvm) = kvm() else { return };
    const N: u64 = 300;
    let cases = [
        ("pio", Some(ExitKind::PortWrite { port: 0xb80 })),
        ("pio-in", Some(ExitKind::PortRead { port: 0xb80 })),
        ("mmio", Some(ExitKind::MmioRead { address: 0xd000_0000 })),
        ("mmio-write", Some(ExitKind::MmioWrite { address: 0xd000_0000 })),
        // KVM answers these itself, or there is nothing to answer.
        ("none", None),
        ("touch", None),
        ("cpuid", None),
        ("hlt", None),
    ];
    for (name, kind) in cases {
        by_each_entry(&kvm, &format!("quiet exits={N} kind={name}"), |ran| {
            assert_eq!(ran.number("exits ", "n"), N);
            assert!(ran.line("exits ").contains(&format!("kind={name} ")), "{}", ran.text);
            if let Some(kind) = kind {
                assert_eq!(ran.count(kind), N, "{:?}", ran.outcome.stats.by_place());
            }
            let sum: u64 = ran.outcome.stats.by_place().iter().map(|(_, count)| count.count).sum();
            assert_eq!(ran.outcome.stats.total(), sum);
        });
    }
    for (name, kind) in cases.into_iter().take(4) {
        let ran = run_to_power_off(&kvm, config(&format!("quiet exits={N} kind={name} cpl=0")));
        assert!(ran.line("exits ").ends_with(" cpl=0"), "{}", ran.text);
        assert_eq!(kind.map(|kind| ran.count(kind)), Some(N), "{name}");
    }
}

#[test]
fn exits_go_where_the_words_say() {
    let Some(kvm) = kvm() else { return };
    let ran = run_to_power_off(&kvm, config("quiet exits=7 port=0x1234"));
    assert_eq!(ran.count(ExitKind::PortWrite { port: 0x1234 }), 7);
    let ran = run_to_power_off(&kvm, config("quiet exits=7 kind=mmio addr=0xcffffffc"));
    assert_eq!(ran.count(ExitKind::MmioRead { address: 0xcfff_fffc }), 7);
}

#[test]
fn exits_of_several_kinds_are_told_apart_by_marks() {
    let Some(kvm) = kvm() else { return };
    let words = "quiet exits=20 kind=none,pio,pio-in,mmio,serial,nothing,cpuid cpl=0 marks=0xb90";
    let ran = run_to_power_off(&kvm, config(words));
    for kind in ["none", "pio", "pio-in", "mmio", "serial", "cpuid"] {
        assert!(ran.text.contains(&format!("exits kind={kind} n=20 ")), "{kind}: {}", ran.text);
    }
    assert!(ran.text.contains("guest: no such kind of exit: `nothing`"), "{}", ran.text);
    // What the serial port was sent.
    assert_eq!(ran.text.matches('\0').count(), 20);
    assert_eq!(ran.count(ExitKind::PortWrite { port: 0xb90 }), 12);
    assert_eq!(ran.count(ExitKind::PortRead { port: 0xb80 }), 20);
}

#[test]
fn a_device_is_notified_past_the_exit_loop_and_interrupts() {
    let Some(kvm) = kvm() else { return };
    const N: u64 = 100;
    let words = format!("quiet exits={N} kind=kick,interrupt");
    let ran = run_to_power_off(&kvm, config(&words));
    for kind in ["kick", "interrupt"] {
        assert_eq!(
            ran.line(&format!("exits: kind={kind}")),
            format!("exits: kind={kind} error: no such device")
        );
    }
    let devices = Devices { entropy: vec![Entropy::default()], ..Devices::default() };
    let ran = run_to_power_off(&kvm, MachineConfig { devices, ..config(&words) });
    for kind in ["kick", "interrupt"] {
        assert_eq!(ran.number(&format!("exits kind={kind} "), "n"), N);
    }
}

#[test]
fn a_timer_wakes_a_halted_cpu() {
    let Some(kvm) = kvm() else { return };
    by_each_entry(&kvm, "quiet exits=20 kind=hlt", |ran| {
        assert_eq!(ran.number("exits kind=hlt", "n"), 20);
    });
}

#[test]
fn memory_holds_what_is_written_to_it() {
    let Some(kvm) = kvm() else { return };
    // The first MiB and the guest's own pages are left out.
    for (memory, least) in [(16, 13), (256, 253)] {
        for boot in MODES {
            let machine = MachineConfig { memory: Size::mib(memory), ..with("quiet memory=touch", boot) };
            let ran = run_to_power_off(&kvm, machine);
            assert_eq!(ran.number("memory ", "wrong"), 0);
            let touched = ran.number("memory ", "touched_mib");
            assert!((least..u64::from(memory)).contains(&touched), "{}", ran.text);
        }
    }
    let ran = run_to_power_off(&kvm, config("quiet memory=touch:5"));
    assert_eq!(ran.number("memory ", "touched_mib"), 5);
}

#[test]
fn memory_goes_on_above_the_hole() {
    let Some(kvm) = kvm() else { return };
    for boot in MODES {
        let machine = MachineConfig { memory: Size::gib(5), ..with("hello", boot) };
        let text = run_to_power_off(&kvm, machine).text;
        for expected in [
            "0x100000 ..   0xc0000000  usable",
            "0x100000000 ..  0x180000000  usable",
            &format!("memory      {} KiB usable", (5 << 20) - 385),
        ] {
            assert!(text.contains(expected), "{boot}: no '{expected}' in:\n{text}");
        }
    }
    // All of the memory below the hole has to be touched to come to that above it.
    let machine = MachineConfig { memory: Size::mib(3072 + 64), ..config("quiet memory=touch") };
    let ran = run_to_power_off(&kvm, machine);
    assert_eq!(ran.number("memory ", "wrong"), 0);
    assert!(ran.number("memory ", "touched_mib") >= 3072 + 61, "{}", ran.text);
}

#[test]
fn every_cpu_starts() {
    let Some(kvm) = kvm() else { return };
    for cpus in [1, 2, 8] {
        for boot in MODES {
            let ran = run_to_power_off(&kvm, MachineConfig { cpus, ..with("quiet smp", boot) });
            let ids: Vec<_> = (0..cpus).map(|id| id.to_string()).collect();
            assert_eq!(ran.text.trim_end(), format!("smp cpus={cpus} online={cpus} ids={}", ids.join(",")));
        }
    }
}

#[test]
fn as_many_cpus_as_there_can_be_start() {
    let Some(kvm) = kvm() else { return };
    for cpus in [64, 255] {
        let ran = run_to_power_off(&kvm, MachineConfig { cpus, ..config("quiet smp") });
        assert_eq!(ran.number("smp ", "cpus"), u64::from(cpus));
        assert_eq!(ran.number("smp ", "online"), u64::from(cpus), "{}", ran.text);
        assert_eq!(ran.text.lines().count(), 1, "the CPUs counted wrong:\n{}", ran.text);
    }
}

#[test]
fn interrupts_arrive() {
    let Some(kvm) = kvm() else { return };
    by_each_entry(&kvm, "quiet interrupts", |ran| {
        assert!(ran.number("interrupts ", "serial") >= 1, "{}", ran.text);
        assert!(ran.number("interrupts ", "timer") >= 1, "{}", ran.text);
    });
}

#[test]
fn both_clocks_tell_the_hosts_time() {
    let Some(kvm) = kvm() else { return };
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let before = now();
    by_each_entry(&kvm, "quiet time", |ran| {
        let near = before - 5..=now() + 5;
        for clock in ["rtc", "kvmclock"] {
            assert!(near.contains(&ran.number("time ", clock)), "{clock}: {} is not in {near:?}", ran.text);
        }
    });
}

#[test]
fn mips_are_measured_at_both_levels() {
    let Some(kvm) = kvm() else { return };
    let ran = run_to_power_off(&kvm, config("quiet mips"));
    assert!(ran.line("mips cpl0=").contains(" cpl3="), "{}", ran.text);
}

#[test]
fn echo_sends_back_what_is_typed() {
    let Some(kvm) = kvm() else { return };
    for (boot, end) in [(BootMode::Pvh, &b"\x04"[..]), (BootMode::Linux64, b"\nquit\n")] {
        let (keyboard, mut keys) = pipe().unwrap();
        let screen = Screen::default();
        let machine = Builder::new(with("quiet echo", boot))
            .hypervisor(kvm.clone())
            .console_input(keyboard)
            .console_output(screen.clone())
            .build()
            .unwrap()
            .resume()
            .unwrap();
        keys.write_all(b"Hello,").unwrap();
        screen.wait_for("Hello,");
        keys.write_all(b" guest \x03\x01\xff").unwrap();
        screen.wait_for_bytes(b" guest \x03\x01\xff", common::PATIENCE);
        keys.write_all(end).unwrap();
        let outcome = watched("echo", move || machine.wait());
        assert_eq!(outcome.reason, ExitReason::PowerOff);
    }
}

#[test]
fn an_exception_ends_the_guest_with_its_vector() {
    let Some(kvm) = kvm() else { return };
    for boot in MODES {
        for (words, vector, line) in
            [("fault=ud", 6, "fault vector=6 error=0x0 "), ("fault=pf", 14, "fault vector=14 error=0x4 ")]
        {
            let ran = run(&kvm, with(words, boot));
            assert_eq!(ran.outcome.reason, ExitReason::DebugExit(vector), "{}", ran.text);
            ran.line(line);
        }
    }
}

#[test]
fn a_triple_fault_is_told_from_a_reset() {
    let Some(kvm) = kvm() else { return };
    for boot in MODES {
        for words in ["fault=triple", "boot end=triple"] {
            let ran = run(&kvm, with(words, boot));
            assert_eq!(ran.outcome.reason, ExitReason::TripleFault, "{words}");
            assert_eq!(ran.outcome.reason.code(), 6);
        }
    }
}

#[test]
fn code_from_no_memory_ends_with_a_report() {
    let Some(kvm) = kvm() else { return };
    let ran = run(&kvm, config("quiet fault=internal"));
    let ExitReason::Failed(failure) = &ran.outcome.reason else { panic!("{}", ran.outcome.reason) };
    assert!(matches!(failure.kind, FailureKind::Internal { .. }), "{:?}", failure.kind);
    assert_eq!((failure.vcpu, failure.regs.rip), (0, 0xd000_0000));
    assert_eq!(ran.outcome.reason.code(), 8);
    let report = ran.outcome.reason.to_string();
    for expected in ["vCPU 0 cannot go on", "RIP 0x00000000d0000000, CPL 0, 64-bit mode", "hint"] {
        assert!(report.contains(expected), "no '{expected}' in:\n{report}");
    }
}

/// A processor executes it; a KVM that interprets CPL 0 does not know it and has to say so.
#[test]
fn an_instruction_beyond_an_interpreter_passes_or_is_reported() {
    let Some(kvm) = kvm() else { return };
    for boot in MODES {
        let ran = run(&kvm, with("quiet fault=emulation", boot));
        match &ran.outcome.reason {
            ExitReason::PowerOff => assert_eq!(ran.text, "fault: emulation passed\r\n"),
            ExitReason::Failed(failure) => {
                assert_eq!(failure.kind, FailureKind::Internal { suberror: 1 });
                let report = ran.outcome.reason.to_string();
                for expected in ["could not emulate", "lock cmpxchg16b", "CPL 0", "interprets"] {
                    assert!(report.contains(expected), "no '{expected}' in:\n{report}");
                }
            }
            reason => panic!("{reason}"),
        }
    }
}

#[test]
fn every_end_has_its_reason_and_code() {
    let Some(kvm) = kvm() else { return };
    let debug_exit = |value: u32, code| (format!("end=exit:{value}"), ExitReason::DebugExit(value), code);
    let cases = [
        (String::new(), ExitReason::PowerOff, 0),
        ("end=poweroff".to_owned(), ExitReason::PowerOff, 0),
        ("end=reboot".to_owned(), ExitReason::Reset, 4),
        ("end=triple".to_owned(), ExitReason::TripleFault, 6),
        debug_exit(0, 1),
        debug_exit(1, 3),
        debug_exit(5, 11),
        debug_exit(127, 255),
        // A process has eight bits for its exit code.
        debug_exit(200, 145),
    ];
    for boot in MODES {
        for (words, reason, code) in &cases {
            let ran = run(&kvm, with(&format!("boot {words}"), boot));
            assert_eq!(ran.outcome.reason, *reason, "{boot} {words}");
            assert_eq!(ran.outcome.reason.code(), *code, "{boot} {words}");
            assert_eq!(ran.text, "B", "{boot} {words}");
        }
    }
}

#[test]
fn a_hostile_tour_is_shrugged_off() {
    let Some(kvm) = kvm() else { return };
    by_each_entry(&kvm, "quiet poke", |ran| assert!(ran.text.ends_with("poke ok\r\n"), "{}", ran.text));
    // A device that is named and not there; and the machine still works afterwards.
    let ran = run_to_power_off(&kvm, config("quiet virtio_mmio.device=4K@0xd0000000:5 poke time interrupts"));
    ran.line("poke ok");
    assert!(ran.number("interrupts ", "timer") >= 1);
}

#[test]
fn words_that_make_no_sense_are_complained_about_and_no_more() {
    let Some(kvm) = kvm() else { return };
    let ran = run_to_power_off(&kvm, config("exits=many memory=eat fault=none exits=3"));
    assert_eq!(ran.text.lines().filter(|line| line.starts_with("guest: ")).count(), 3, "{}", ran.text);
    assert_eq!(ran.number("exits kind=pio", "n"), 3);
}
