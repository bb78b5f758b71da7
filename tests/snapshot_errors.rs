//! What can be wrong with saving and restoring: it is said in one line, before any guest code runs, and the
//! machine that runs is unharmed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
// mount(2) and unshare(2) are C calls.
#![allow(unsafe_code)]

mod common;

use std::error::Error;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use bantam::config::{Devices, MachineConfig, Size, parse_options};
use bantam::hypervisor::{Hypervisor, VcpuState};
use bantam::machine::{self, PausedMachine};
use bantam::snapshot::{self, Options, Restoring, Snapshot, Taken, folder, format, save_running};
use bantam::state::State;
use bantam::virtio::block::config::Disk;
use bantam::virtio::{Allow, SaveError};
use common::saving::{Machine, pause, quiet, save};
use common::{config, kvm, number, skip};

/// An error as the command line prints it.
fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |error: &&dyn Error| (*error).source());
    let line = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    assert!(!line.contains('\n'), "{line}");
    line
}

/// A machine with a disk, two CPUs, and something to verify.
fn busy(folder: &Path) -> MachineConfig {
    let image = folder.join("disk.img");
    File::create(&image).unwrap().set_len(32 << 20).unwrap();
    let disk = Disk { id: Some("data".to_owned()), ..Disk::new(image) };
    let entropy = vec![parse_options("id=random").unwrap()];
    let devices = Devices { disk: vec![disk], entropy, ..Devices::default() };
    let words = "quiet churn every=1 touch=1 span=1M";
    MachineConfig { cpus: 2, memory: Size::mib(24), devices, ..config(words) }
}

/// The machine still works: rounds go on, and nothing is found wrong.
fn assert_unharmed(machine: Machine) {
    let round = number(&machine.line("churn round="), "round");
    while number(&machine.line("churn round="), "round") < round + 3 {}
    let text = machine.quit();
    let end = text.lines().find(|line| line.starts_with("churn end=")).unwrap();
    assert_eq!(number(end, "wrong"), 0, "{text}");
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.to_string_lossy().into_owned()).collect()
}

/// Runs this where a small file system is at `place` that nobody else sees.
fn with_small_file_system(place: &Path, body: impl FnOnce() + Send) {
    let place = CString::new(place.to_str().unwrap()).unwrap();
    let mounted = || {
        let (tmpfs, root) = (c"tmpfs".as_ptr(), c"/".as_ptr());
        let private = libc::MS_REC | libc::MS_PRIVATE;
        // SAFETY: the namespace is this thread's own, and all strings end with a zero.
        let done = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(tmpfs, root, std::ptr::null(), private, std::ptr::null()) == 0
                && libc::mount(tmpfs, place.as_ptr(), tmpfs, 0, c"size=768k".as_ptr().cast()) == 0
        };
        if done { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    let name = thread::current().name().unwrap_or("test").to_owned();
    thread::scope(|scope| {
        let inside = move || match mounted() {
            Ok(()) => body(),
            Err(error) => skip::<()>(&format!("a small file system: {error}")).unwrap_or_default(),
        };
        let thread = thread::Builder::new().name(name).spawn_scoped(scope, inside).unwrap();
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Fills a file system, and gives the file that does.
fn fill(folder: &Path) -> PathBuf {
    let path = folder.join("filler");
    let mut file = File::create(&path).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    path
}

#[test]
fn a_disk_that_is_full() {
    let Some(kvm) = kvm() else { return };
    let (disk, place, elsewhere) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    with_small_file_system(place.path(), || {
        let mut machine = Machine::start(&kvm, busy(disk.path()));
        machine.line("churn round=");
        let target = place.path().join("snapshot");
        let full = |error: &snapshot::Error, file: &str| {
            assert!(matches!(error, snapshot::Error::Folder(folder::Error::Full { .. })), "{error:?}");
            let path = target.join(file);
            assert_eq!(
                chain(error),
                format!(
                    "no room to write {}: free some, or save elsewhere: No space left on device (os error 28)",
                    path.display()
                )
            );
            assert!(names(place.path()).is_empty(), "{:?}", names(place.path()));
        };
        // Memory has no room, of a machine that stands still and of one that runs.
        let options = Options { base: None, track: true };
        let mut paused = pause(machine.running);
        full(&Taken::take(&mut paused, &target, &options, &mut quiet).unwrap_err(), "memory");
        let live = save_running(
            paused.resume().unwrap(),
            &target,
            &options,
            Some(Duration::from_secs(10)),
            &mut quiet,
        )
        .unwrap();
        full(&live.taken.unwrap_err(), "memory");

        // The state has none, of a diff that has.
        let base = elsewhere.path().join("base");
        let mut paused = pause(live.machine);
        save(&mut paused, &base, &options);
        let few = Options { base: Some(base.clone()), track: false };
        let taken = Taken::take(&mut paused, &target, &few, &mut quiet).unwrap();
        let filler = fill(place.path());
        let error = taken.finish(&mut quiet).unwrap_err();
        fs::remove_file(filler).unwrap();
        full(&error, "state");

        // Nothing of what has changed is forgotten for that.
        machine.running = paused.resume().unwrap();
        machine.line("churn round=");
        let diff = elsewhere.path().join("diff");
        let (saved, _) = machine.save(&diff, &few);
        assert!(saved.memory_bytes > 0);
        assert_unharmed(Machine::restore(&kvm, &diff));
    });
}

#[test]
fn a_save_that_fails_leaves_the_machine_alone() {
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut machine = Machine::start(&kvm, busy(folder.path()));
    machine.line("churn round=");
    let mut paused = pause(machine.running);
    let path = |name: &str| folder.path().join(name);
    let shown = |name: &str| path(name).display().to_string();
    fs::write(path("file"), "").unwrap();
    save(&mut paused, &path("whole"), &Options::default());
    let before = names(folder.path());
    let fails = |paused: &mut PausedMachine, target: &str, base: Option<&str>, expected: String| {
        let options = Options { base: base.map(path), track: true };
        let error = Taken::take(paused, &path(target), &options, &mut quiet).unwrap_err();
        assert_eq!(chain(&error), expected);
    };
    fails(
        &mut paused,
        "nowhere/new",
        None,
        format!("cannot find the directory {}: No such file or directory (os error 2)", shown("nowhere")),
    );
    fails(&mut paused, "file", None, format!("{} is not a directory, and so not a snapshot", shown("file")));
    fails(&mut paused, "new", Some("nowhere"), format!("there is no snapshot {}", shown("nowhere")));
    fails(
        &mut paused,
        "new",
        Some("whole"),
        format!(
            "it is not known what has changed since {}: save all of the memory first, and have its changes \
             tracked from then on",
            shown("whole")
        ),
    );
    let tracked = save(&mut paused, &path("tracked"), &Options { base: None, track: true });
    fails(
        &mut paused,
        "new",
        Some("whole"),
        format!(
            "it is not known what has changed since {}: it is known since the snapshot {}",
            shown("whole"),
            tracked.id
        ),
    );
    fs::remove_dir_all(path("tracked")).unwrap();
    assert_eq!(names(folder.path()), before);
    machine.running = paused.resume().unwrap();
    assert_unharmed(machine);
}

/// A snapshot whose state is changed before it is opened.
fn forged(path: &Path, change: impl FnOnce(&mut State)) -> Snapshot {
    let file = path.join(folder::STATE);
    let genuine = fs::read(&file).unwrap();
    let mut state: State = format::decode(&genuine).unwrap().into_iter().collect();
    change(&mut state);
    fs::write(&file, format::encode(state.sections()).unwrap()).unwrap();
    let snapshot = Snapshot::open(path).unwrap();
    fs::write(&file, genuine).unwrap();
    snapshot
}

/// The same for the first vCPU's.
fn forged_vcpu(path: &Path, change: impl FnOnce(&mut VcpuState)) -> Snapshot {
    forged(path, |state| {
        let mut vcpu = state.take("vcpu0").unwrap();
        change(&mut vcpu);
        state.put("vcpu0", &vcpu).unwrap();
    })
}

/// Why no machine comes of it.
fn refused(kvm: &Hypervisor, snapshot: &Snapshot, config: MachineConfig) -> machine::Error {
    let builder = snapshot.builder(config, Restoring::default()).unwrap();
    match builder.hypervisor(kvm.clone()).build() {
        Ok(_) => panic!("it is restored"),
        Err(error) => error,
    }
}

/// A machine that is saved, and is not there any more.
fn saved(kvm: &Hypervisor, folder: &Path) -> PathBuf {
    let machine = Machine::start(kvm, busy(folder));
    machine.line("churn round=");
    let path = folder.join("snapshot");
    machine.save(&path, &Options::default());
    path
}

#[test]
fn a_host_that_lacks_something() {
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = saved(&kvm, folder.path());
    let refused = |snapshot: &Snapshot| refused(&kvm, snapshot, snapshot.config());

    // CPUID.1:EDX[10] and CPUID.7:EDX[0] are reserved: no processor has them.
    let error = refused(&forged_vcpu(&path, |vcpu| {
        for leaf in &mut vcpu.cpuid {
            leaf.edx |= match leaf.function {
                1 => 1 << 10,
                0x8000_0007 => 1 << 31,
                _ => 0,
            };
        }
    }));
    assert!(matches!(error, machine::Error::Processor(_)), "{error:?}");
    assert_eq!(
        chain(&error),
        "this host's processor lacks what the saved machine's guest was promised: CPUID.1:EDX[10], \
         CPUID.80000007:EDX[31]"
    );

    let error = refused(&forged_vcpu(&path, |vcpu| {
        let leaf = vcpu.cpuid.iter_mut().find(|leaf| leaf.function == 0).unwrap();
        (leaf.ebx, leaf.edx, leaf.ecx) = (0x756e_6547, 0x4965_6e69, 0x6c65_746d);
    }));
    assert!(matches!(error, machine::Error::Processor(_)), "{error:?}");
    assert!(error.to_string().contains("the vendor GenuineImtel (it is "), "{error}");

    let error = refused(&forged_vcpu(&path, |vcpu| vcpu.xsave.truncate(1000)));
    assert!(chain(&error).contains("4000"), "{}", chain(&error));
}

#[test]
fn a_host_whose_counter_has_another_frequency() {
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = saved(&kvm, folder.path());
    let mut khz = 0;
    let slower = forged_vcpu(&path, |vcpu| {
        khz = vcpu.tsc_khz;
        vcpu.tsc_khz /= 2;
    });
    let builder = slower.builder(slower.config(), Restoring::default()).unwrap();
    match builder.hypervisor(kvm.clone()).build() {
        Ok(_) => skip(&format!("this host's KVM has counters of {} kHz", khz / 2)).unwrap_or_default(),
        Err(error) => {
            assert!(matches!(error, machine::Error::TscFrequency { .. }), "{error:?}");
            let expected = format!(
                "the saved machine's time-stamp counter runs at {} kHz, this host's at {khz} kHz and cannot be scaled",
                khz / 2
            );
            assert_eq!(chain(&error), expected);
        }
    }
    // As far apart as two crystals may be.
    let near = forged_vcpu(&path, |vcpu| vcpu.tsc_khz += vcpu.tsc_khz / 10_000);
    drop(near.builder(near.config(), Restoring::default()).unwrap().hypervisor(kvm.clone()).build().unwrap());
}

#[test]
fn a_counter_that_would_go_back() {
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = saved(&kvm, folder.path());
    // A host that has run for years.
    let older = forged_vcpu(&path, |vcpu| {
        let tsc = vcpu.msrs.iter_mut().find(|entry| entry.index == 0x10).unwrap();
        tsc.data += 1 << 60;
    });
    let build = |allow| {
        let how = Restoring { allow, ..Restoring::default() };
        older.builder(older.config(), how).unwrap().hypervisor(kvm.clone()).build()
    };
    if kvm.tsc_can_be_set().unwrap() {
        // It goes on from there.
        drop(build(Allow::default()).unwrap());
        return;
    }
    let error = build(Allow::default()).unwrap_err();
    assert!(matches!(error, machine::Error::CounterBack { .. }), "{error:?}");
    let line = chain(&error);
    assert!(line.starts_with("the guest's time-stamp counter would go back by "), "{line}");
    assert!(line.contains("--allow clock"), "{line}");
    drop(build(Allow { clock: true, ..Allow::default() }).unwrap());
}

/// What is different about a machine.
type Change<'a> = &'a dyn Fn(&mut MachineConfig);

#[test]
fn a_machine_that_is_another_one() {
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let snapshot = Snapshot::open(&saved(&kvm, folder.path())).unwrap();
    let small = folder.path().join("small.img");
    File::create(&small).unwrap().set_len(1 << 20).unwrap();
    let smaller = format!(
        "data: the disk {} is not as the snapshot left it: it had 33554432 bytes, and has 1048576",
        small.display()
    );
    let cases: [(&str, Change<'_>); 10] = [
        (
            "there is a state 'virtio-mmio' of 'random', and nothing in this machine that it belongs to",
            &|config| {
                config.devices.entropy.clear();
            },
        ),
        ("there is no state 'virtio-mmio' of 'balloon0'", &|config| {
            config.devices.balloon = vec![parse_options("").unwrap()];
        }),
        (
            "random was a virtio device with the id 4, and has the id 5 here: give the devices that the machine had",
            &|config| {
                config.devices.entropy.clear();
                config.devices.balloon = vec![parse_options("id=random").unwrap()];
            },
        ),
        ("there is no state 'virtio-mmio' of 'other'", &|config| {
            config.devices.disk[0].id = Some("other".to_owned());
        }),
        (&smaller, &|config| config.devices.disk[0].path.clone_from(&small)),
        (
            "data: the guest uses VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES, which the device does not have here",
            &|config| config.devices.disk[0].readonly = true,
        ),
        ("data: the guest uses VIRTIO_BLK_F_MQ", &|config| config.devices.disk[0].queues = Some(1)),
        ("the saved machine's memory is 24M, and this one's 32M: give it the same", &|config| {
            config.memory = Size::mib(32);
        }),
        ("there is a state 'vcpu' of 'vcpu1', and nothing in this machine that it belongs to", &|config| {
            config.cpus = 1;
            config.devices.disk[0].queues = Some(2);
        }),
        ("there is no state 'vcpu' of 'vcpu2'", &|config| config.cpus = 3),
    ];
    for (expected, change) in cases {
        let mut config = snapshot.config();
        change(&mut config);
        let line = chain(&refused(&kvm, &snapshot, config));
        assert!(line.starts_with(expected), "{line}\nand not\n{expected}");
    }
}

#[test]
fn a_disk_that_was_changed() {
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = saved(&kvm, folder.path());
    let image = folder.path().join("disk.img");
    File::options().write(true).open(&image).unwrap().write_all(&[0; 512]).unwrap();
    let snapshot = Snapshot::open(&path).unwrap();
    let error = refused(&kvm, &snapshot, snapshot.config());
    assert!(matches!(error, machine::Error::Device(SaveError::DiskChanged { .. })), "{error:?}");
    assert_eq!(
        chain(&error),
        format!(
            "data: the disk {} is not as the snapshot left it: it was written at another time (a copy keeps the time with cp --preserve)",
            image.display()
        )
    );
    let allow =
        Restoring { allow: Allow { changed_disks: true, ..Allow::default() }, ..Restoring::default() };
    drop(snapshot.builder(snapshot.config(), allow).unwrap().hypervisor(kvm.clone()).build().unwrap());
    fs::remove_file(&image).unwrap();
    let line = chain(&refused(&kvm, &snapshot, snapshot.config()));
    assert!(line.starts_with(&format!("data: disk {} does not exist", image.display())), "{line}");
}

#[test]
fn a_chain_that_is_broken() {
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let shown = |name: &str| path(name).display().to_string();
    let machine =
        Machine::start(&kvm, MachineConfig { memory: Size::mib(16), ..config("quiet churn touch=1") });
    machine.line("churn round=");
    let mut paused = pause(machine.running);
    let mut ids = Vec::new();
    for (name, base) in [("other", None), ("a", None), ("b", Some("a")), ("c", Some("b"))] {
        let options = Options { base: base.map(path), track: true };
        ids.push(save(&mut paused, &path(name), &options).id);
    }
    drop(paused);
    // The diff as it is found from the last one.
    let c = shown("c");
    let b = format!("{c}/../b");
    let broken = |expected: &str| {
        let error = Snapshot::open(&path("c")).unwrap_err();
        assert_eq!(chain(&error), expected);
    };
    let moved = |name: &str, body: &dyn Fn()| {
        fs::rename(path(name), path("away")).unwrap();
        body();
        fs::rename(path("away"), path(name)).unwrap();
    };

    let missing = |above: &str, at: &str| format!("there is no snapshot {above}/../{at}");
    moved("b", &|| broken(&needs_at(&c, "b", &missing(&c, "b"))));
    moved("a", &|| broken(&needs_at(&b, "a", &missing(&b, "a"))));
    moved("a", &|| {
        fs::rename(path("other"), path("a")).unwrap();
        broken(&format!(
            "{b} holds only what changed since the snapshot {}, and {b}/../a is another one, {}",
            ids[1], ids[0]
        ));
        fs::rename(path("a"), path("other")).unwrap();
    });
    let memory = |name: &str| path(name).join(folder::MEMORY);
    fs::rename(memory("a"), path("away")).unwrap();
    broken(&needs_at(&b, "a", &format!("{b}/../a/memory is missing from the snapshot")));
    fs::create_dir(memory("a")).unwrap();
    broken(&needs_at(&b, "a", &format!("{b}/../a/memory is not a plain file")));
    fs::remove_dir(memory("a")).unwrap();
    fs::rename(path("away"), memory("a")).unwrap();
    let file = File::options().write(true).open(memory("a")).unwrap();
    file.set_len(4096).unwrap();
    broken(&needs_at(
        &b,
        "a",
        &format!(
            "{b}/../a/memory has 4096 bytes instead of 16777216: copy the snapshot again, or make a new one"
        ),
    ));
    file.set_len(16 << 20).unwrap();
    let state = path("a").join(folder::STATE);
    let genuine = fs::read(&state).unwrap();
    fs::write(&state, &genuine[..genuine.len() / 2]).unwrap();
    let line = chain(&Snapshot::open(&path("c")).unwrap_err());
    let start = needs_at(&b, "a", &format!("{b}/../a/state cannot be used: "));
    assert!(line.starts_with(&start), "{line}");
    fs::write(&state, genuine).unwrap();
    Snapshot::open(&path("c")).unwrap();
}

/// A base that cannot be opened, and why.
fn needs_at(above: &str, name: &str, why: &str) -> String {
    format!(
        "{above} holds only what changed since {above}/../{name}, which cannot be opened; put that snapshot back there: {why}"
    )
}
