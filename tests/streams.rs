//! Machines whose memory comes as a stream, by the command.

// The helpers here are a test's too: they may fail as loudly.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::thread::{self, sleep};
use std::time::Duration;

use bantam::config::Size;
use bantam::memory::fault::{Stream, serve_stream};
use common::named::Named;
use common::process::{Process, start, start_with};
use common::{kvm, skip};
use rustix::fs::{CWD, FileType, Mode, mknodat};

const MIB: usize = 1 << 20;

/// A snapshot that is not whole: its memory is elsewhere.
struct Apart {
    named: Named,
    snapshot: String,
    memory: Vec<u8>,
}

impl Apart {
    /// None where the host has no KVM or no userfaultfd for us.
    fn new() -> Option<Self> {
        kvm()?;
        let nothing = Stream::new(File::open("/dev/null").unwrap(), Size::mib(16), Vec::new(), || true);
        if let Err(error) = serve_stream(Size::mib(16), nothing, Box::new(|_, _| ())) {
            return skip(&error.to_string());
        }
        let named = Named::new();
        let path = |name: &str| named.0.path().join(name).to_str().unwrap().to_owned();
        let snapshot = path("snap");
        let words =
            ["run", "--memory", "16M", "--cmdline", "churn touch=1 every=1 kvmclock=0", "--name", "web"];
        let web = start(&mut named.command(&words));
        web.stdout.wait_for("churn round=");
        named.done(&["snapshot", "create", "web", &snapshot, "--track"]);
        named.done(&["snapshot", "create", "web", &path("diff"), "--diff-of", &snapshot]);
        named.done(&["ctl", "web", "stop"]);
        assert_eq!(web.finish().code(), 0);
        let memory = fs::read(path("snap/memory")).unwrap();
        fs::remove_file(path("snap/memory")).unwrap();
        Some(Self { named, snapshot, memory })
    }

    fn path(&self, name: &str) -> String {
        self.named.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn command(&self, from: &str) -> Command {
        let from = format!("stream:{from}");
        self.named.command(&["restore", &self.snapshot, "--name", "web", "--memory-from", &from])
    }

    /// The guest, which looks at its own memory, goes on for a few rounds and finds nothing wrong.
    fn goes_on(&self, process: Process) {
        for _ in 0..3 {
            process.stdout.wait_for("\nchurn round=");
        }
        self.named.done(&["ctl", "web", "stop"]);
        let ended = process.finish();
        assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""));
        assert!(ended.stdout.contains(" wrong=0 "), "{}", ended.stdout);
        assert!(!ended.stdout.contains("churn wrong"), "{}", ended.stdout);
    }
}

#[test]
fn memory_comes_through_pipes_sockets_and_files() {
    let Some(apart) = Apart::new() else { return };
    let memory = &apart.memory;
    // Standard input.
    let mut process = start(&mut apart.command("-"));
    process.send(memory);
    apart.goes_on(process);

    // A FIFO, which nobody has opened to write yet.
    let fifo = apart.path("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let process = start(&mut apart.command(&fifo));
    File::options().write(true).open(&fifo).unwrap().write_all(memory).unwrap();
    apart.goes_on(process);

    let socket = apart.path("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::scope(|scope| {
        // The machine is stopped when it has seen enough, perhaps before all has come.
        scope.spawn(|| listener.accept().unwrap().0.write_all(memory).is_ok());
        apart.goes_on(start(&mut apart.command(&socket)));
    });

    let file = apart.path("file");
    fs::write(&file, memory).unwrap();
    apart.goes_on(start(&mut apart.command(&file)));
}

#[test]
fn a_stream_that_ends_early_or_is_another_ones_is_the_end() {
    let Some(apart) = Apart::new() else { return };
    let mut wrong = apart.memory.clone();
    wrong[3 * MIB + 5] ^= 1;
    for (sent, expected) in [
        (&apart.memory[..3 * MIB + 5], "cannot be had: the stream has ended after 3145733 of 16777216 bytes"),
        (&[], "cannot be had: the stream has ended after 0 of 16777216 bytes"),
        (
            &wrong,
            "its memory at 0x300000 cannot be had: it is not the snapshot's: the checksum of the 1048576",
        ),
    ] {
        let file = apart.path("file");
        fs::write(&file, sent).unwrap();
        let ended = start_with(&mut apart.command(&file), Stdio::null()).finish();
        assert_eq!(ended.code(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(expected), "{}", ended.stderr);
        assert!(!ended.stdout.contains("churn wrong"), "{}", ended.stdout);
    }
}

/// A guest that waits for what nobody sends is stopped as any other.
#[test]
fn a_stream_that_stands_still_does_not_keep_a_machine_alive() {
    let Some(apart) = Apart::new() else { return };
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut process = start(&mut apart.command("-"));
        // Enough for a machine, and none of its guest's code.
        process.send(&apart.memory[..MIB]);
        while apart.named.list().as_array().unwrap().is_empty() {}
        sleep(Duration::from_millis(50));
        process.signal(signal);
        let stdin = process.stdin.take();
        let ended = process.finish();
        assert_eq!((ended.code(), ended.stderr.as_str()), (128 + signal, ""));
        drop(stdin);
    }
}

#[test]
fn what_cannot_be_is_refused_in_a_line() {
    let Some(apart) = Apart::new() else { return };
    let (diff, nothing) = (apart.path("diff"), apart.path("nothing"));
    for (words, expected) in [
        (["restore", &diff, "--memory-from", "stream:-"], "holds only a part of its memory"),
        (["restore", &apart.snapshot, "--memory-from", "fault"], "memory is missing from the snapshot"),
        (
            ["restore", &apart.snapshot, "--memory-from", &format!("stream:{nothing}")],
            "No such file or directory",
        ),
    ] {
        let ended = apart.named.finish(&words);
        assert_eq!((ended.code(), ended.stdout.as_str()), (1, ""), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(expected), "{words:?}: {}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{words:?}: {}", ended.stderr);
    }
}
