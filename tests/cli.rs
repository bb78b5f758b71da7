//! The command as a user gives it: what it prints where, and how it ends.

// The helpers here are a test's too: they may fail as loudly.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::process::{Ended, Process, bantam, finish, guest, start, start_with, wait};
use common::{PATIENCE, Screen, kvm, skip};
use serde_json::Value;
use tempfile::TempDir;

/// The binary's path, for a command that runs it.
const BINARY: &str = env!("CARGO_BIN_EXE_bantam");

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }
}

fn succeed(command: &mut Command) -> Ended {
    let ended = finish(command);
    assert_eq!(ended.code(), 0, "{command:?}: {}", ended.stderr);
    ended
}

#[test]
fn help_and_version_go_to_standard_output() {
    for arguments in [["--help"].as_slice(), &["-h"], &["run", "--help"], &["help", "config"]] {
        let ended = succeed(&mut bantam(arguments));
        assert!(ended.stdout.contains("Usage: bantam"), "{}", ended.stdout);
        assert_eq!(ended.stderr, "");
    }
    let help = succeed(&mut bantam(["--help"])).stdout;
    for word in ["run", "config", "completions", "man", "Examples:"] {
        assert!(help.contains(word), "no '{word}' in:\n{help}");
    }
    let run = succeed(&mut bantam(["run", "--help"])).stdout;
    for word in ["--kernel", "--memory", "Exit codes: 0 power-off", "Ctrl-A x quits", "Examples:"] {
        assert!(run.contains(word), "no '{word}' in:\n{run}");
    }
    let version = succeed(&mut bantam(["--version"])).stdout;
    assert_eq!(version, concat!("bantam ", env!("CARGO_PKG_VERSION"), "\n"));
}

/// Wrong usage: exit code 2, nothing on standard output, and the words that help.
fn usage(arguments: &[&str], expected: &[&str]) {
    let ended = finish(bantam(arguments).env("RUST_BACKTRACE", "1"));
    assert_eq!((ended.code(), ended.stdout.as_str()), (2, ""), "{arguments:?}");
    for word in expected {
        assert!(ended.stderr.contains(word), "{arguments:?}: no '{word}' in:\n{}", ended.stderr);
    }
    assert!(!ended.stderr.contains("backtrace"), "{}", ended.stderr);
}

#[test]
fn wrong_usage_says_what_is_wrong_and_what_to_give() {
    usage(&[], &["Usage: bantam", "run"]);
    usage(&["fly"], &["'fly'", "--help"]);
    usage(&["run", "--wings"], &["'--wings'", "Usage: bantam run"]);
    usage(&["run", "vmlinux"], &["'vmlinux'"]);
    usage(&["run", "--memory"], &["--memory <SIZE>"]);
    usage(&["run", "--memory", "12X"], &["'12X'", "--memory", "512M"]);
    usage(&["run", "--memory", "99999999T"], &["'99999999T'", "--memory"]);
    for cpus in ["0", "256", "two", "-1", "99999999999", ""] {
        usage(&["run", "--cpus", cpus], &[&format!("'{cpus}'"), "--cpus", "give 1 to 255"]);
    }
    usage(&["run", "--memory", "-1"], &["'-1'", "--memory", "512M"]);
    usage(&["run", "--boot", "bios"], &["'bios'", "auto, pvh or linux64"]);
    usage(&["run", "--console", "screen"], &["'screen'", "stdio, pty, off or file:PATH"]);
    for name in ["", "-x", ".hidden", "a/b", "a b"] {
        usage(&["run", &format!("--name={name}")], &[&format!("'{name}'"), "--name", "letters, digits"]);
    }
    usage(&["run", "--name", "web", "--control", "socket"], &["--name", "--control"]);
    usage(&["ctl", "a b", "pause"], &["'a b'", "letters, digits"]);
    usage(&["completions", "cmd"], &["'cmd'", "bash"]);
}

/// A mistake of the user's: exit code 1, and one line that names the thing and the remedy.
fn mistake(command: &mut Command, expected: &[&str]) {
    let ended = finish(command.env("RUST_BACKTRACE", "1"));
    assert_eq!((ended.code(), ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
    let lines: Vec<_> = ended.stderr.lines().collect();
    let [line] = lines[..] else { panic!("not one line:\n{}", ended.stderr) };
    assert!(line.starts_with("bantam: "), "{line}");
    for word in expected {
        assert!(line.contains(word), "no '{word}' in: {line}");
    }
}

#[test]
fn a_mistake_in_an_option_is_told_in_one_line() {
    if kvm().is_none() {
        return;
    }
    let run = |arguments: &[&str], expected: &[&str]| {
        mistake(bantam(["run"]).args(arguments), expected);
    };
    run(&["--memory", "1"], &["1 bytes of memory", "give 16M to 32T", "512M"]);
    run(&["--memory", "33T"], &["33T", "give 16M to 32T"]);
    run(&["--memory", "20000001"], &["20000001 bytes", "multiple of 4K"]);
    // A name of a file's may hold anything; it stays in its line and does nothing to the terminal.
    run(&["--kernel", "/nonexistent/a\nb\x1b[2Jc"], &["/nonexistent/a\\nb\\u{1b}[2Jc"]);
    run(&["--cmdline", "a\nb"], &["command line", "control character"]);
    run(&["--cmdline", &"x".repeat(70 << 10)], &["command line", "71680", "shorten it"]);
    run(&["--console", "file:/nonexistent/x"], &["/nonexistent/x", "No such file or directory"]);
    run(&["--initrd", "/etc/passwd"], &["initrd", "needs a kernel"]);
}

/// An ELF kernel with one segment of this size at 1 MiB.
fn elf(size: u64) -> Vec<u8> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    file.resize(16, 0);
    let mut put = |bytes: &[u8]| file.extend(bytes);
    let start = 1_u64 << 20;
    // Type, machine, version; entry, program headers, section headers; flags and sizes.
    put(&2_u16.to_le_bytes());
    put(&62_u16.to_le_bytes());
    put(&1_u32.to_le_bytes());
    [start, 64, 0].iter().for_each(|word| put(&word.to_le_bytes()));
    put(&0_u32.to_le_bytes());
    [64_u16, 56, 1, 0, 0, 0].iter().for_each(|half| put(&half.to_le_bytes()));
    // PT_LOAD, readable and executable: offset, both addresses, size in file and memory, alignment.
    [1_u32, 5].iter().for_each(|word| put(&word.to_le_bytes()));
    [120, start, start, 16, size, 4096].iter().for_each(|word| put(&word.to_le_bytes()));
    put(&[0xf4; 16]);
    file
}

#[test]
fn a_kernel_that_is_none_is_told_in_one_line() {
    if kvm().is_none() {
        return;
    }
    let folder = Folder::new();
    let run = |kernel: &str, expected: &[&str]| {
        mistake(&mut bantam(["run", "--kernel", kernel]), &[expected, &[kernel]].concat());
    };
    run(&folder.path("missing"), &["cannot open", "No such file or directory"]);
    run(&folder.path("."), &["is a directory, not a file"]);
    run("/dev/null", &["is a device, not a file"]);
    run(&folder.file("empty", ""), &["empty"]);
    run(&folder.file("text", "kernel?\n".repeat(1000)), &["not a kernel", "vmlinux"]);
    run(&folder.file("script", "#!/bin/sh\nexit\n"), &["not a kernel"]);
    let gzip = [&[0x1f, 0x8b, 8, 0], [0x55; 5000].as_slice()].concat();
    run(&folder.file("vmlinux.gz", gzip), &["gzip", "not a kernel"]);
    run(&folder.file("cut", &elf(4096)[..100]), &["cut off"]);
    run(&folder.file("large", elf(1 << 30)), &["256 MiB of memory", "raise --memory to at least 1025 MiB"]);

    let unreadable = folder.file("unreadable", elf(4096));
    fs::set_permissions(&unreadable, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    if File::open(&unreadable).is_ok() {
        let _ = skip::<()>("the unreadable kernel: this user may read everything");
    } else {
        run(&unreadable, &["cannot open", "Permission denied"]);
    }
}

#[test]
fn an_initrd_that_is_none_is_told_in_one_line() {
    if kvm().is_none() {
        return;
    }
    let folder = Folder::new();
    let kernel = folder.file("kernel", elf(1 << 20));
    let run = |initrd: &str, expected: &[&str]| {
        let mut command = bantam(["run", "--memory", "16M", "--kernel", &kernel, "--initrd", initrd]);
        mistake(&mut command, &[expected, &[initrd]].concat());
    };
    run(&folder.path("missing"), &["cannot open", "No such file or directory"]);
    run(&folder.path("."), &["is a directory, not a file"]);
    let large = folder.path("large");
    File::create(&large).unwrap().set_len(20 << 20).unwrap();
    run(&large, &["20 MiB", "raise --memory or make it smaller"]);
}

#[test]
fn a_mistake_in_a_configuration_is_told_in_one_line() {
    let folder = Folder::new();
    let run = |file: &str, expected: &[&str]| {
        for subcommand in ["run", "config"] {
            mistake(&mut bantam([subcommand, "--config", file]), &[expected, &[file]].concat());
        }
    };
    run(&folder.path("missing.toml"), &["cannot read", "No such file or directory"]);
    run(&folder.path("."), &["Is a directory"]);
    run(&folder.file("key.toml", "cpus = 1\nwings = 2\n"), &["wings", "line 2"]);
    run(&folder.file("bad.toml", "cpus = \n"), &["line 1"]);
    run(&folder.file("type.toml", "cpus = \"many\"\n"), &["line 1", "many"]);
    run(&folder.file("size.toml", "memory = \"12X\"\n"), &["12X", "512M"]);
    run(&folder.file("boot.toml", "boot = \"bios\"\n"), &["bios"]);
    run(&folder.file("text.toml", [0xff, 0xfe]), &["UTF-8"]);
    run(&folder.file("bad.json", "{\"cpus\": 1,\n}"), &["JSON", "line 2"]);
    run(&folder.file("key.json", "{\"wings\": 1}"), &["wings", "line 1"]);
    run(&folder.file("json.toml", "{\"cpus\": 1}"), &["TOML"]);
    mistake(
        &mut bantam(["run", "--config", &folder.file("cpus.toml", "cpus = 0")]),
        &["0 vCPUs", "1 to 255"],
    );
}

/// Runs a shell's line with the binary as `$0`, as somebody for whom KVM is not there.
fn without_kvm(line: &str, expected: &[&str]) {
    let may = Command::new("unshare").args(["-m", "true"]).stderr(Stdio::null()).status();
    if !may.is_ok_and(|status| status.success()) {
        return skip::<()>("unshare -m is not permitted").unwrap_or_default();
    }
    let line = format!("{line} && exec \"$0\" run");
    mistake(Command::new("unshare").args(["-m", "sh", "-c", &line, BINARY]), expected);
}

#[test]
fn a_host_without_kvm_is_told_in_one_line() {
    without_kvm("mount -t tmpfs none /dev", &["/dev/kvm does not exist", "load kvm_intel or kvm_amd"]);
}

#[test]
fn a_host_with_something_else_for_kvm_is_told_in_one_line() {
    if Path::new("/dev/kvm").exists() {
        without_kvm("mount --bind /dev/null /dev/kvm", &["/dev/kvm"]);
    } else {
        let _ = skip::<()>("there is no /dev/kvm");
    }
}

#[test]
fn a_user_without_permission_is_told_in_one_line() {
    if kvm().is_none() {
        return;
    }
    let nobody = |program: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--", program]);
        command
    };
    let may =
        |command: &mut Command| command.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    // The binary may lie where only its owner may look.
    if !may(nobody(BINARY).arg("--version").stdout(Stdio::null())) {
        let _ = skip::<()>("not root, no setpriv, or a binary that others may not run");
    } else if may(nobody("test").args(["-w", "/dev/kvm"])) {
        let _ = skip::<()>("everybody may use /dev/kvm here");
    } else {
        mistake(nobody(BINARY).arg("run"), &["/dev/kvm: permission denied", "usermod -aG kvm"]);
    }
}

#[test]
fn run_boots_the_embedded_guest() {
    if kvm().is_none() {
        return;
    }
    let ended = succeed(&mut bantam(["run"]));
    assert!(ended.stdout.starts_with("Bantam guest "), "{}", ended.stdout);
    assert!(ended.stdout.contains("memory      261759 KiB usable"), "{}", ended.stdout);
    assert_eq!(ended.stderr, "");
}

#[test]
fn the_exit_code_tells_how_the_guest_ended() {
    if kvm().is_none() {
        return;
    }
    for (words, code, note) in [
        ("boot", 0, ""),
        ("boot end=reboot", 4, "asked for a reset"),
        ("boot end=triple", 6, "triple fault"),
        ("boot fault=internal", 8, "cannot go on"),
        ("boot end=exit:0", 1, ""),
        ("boot end=exit:1", 3, ""),
        ("boot end=exit:5", 11, ""),
        ("boot end=exit:127", 255, ""),
        ("boot end=exit:200", 145, ""),
    ] {
        let ended = finish(&mut guest(words));
        assert_eq!((ended.code(), &ended.stdout[..1]), (code, "B"), "{words}: {}", ended.stderr);
        assert!(ended.stderr.contains(note), "{words}: {}", ended.stderr);
        assert_eq!(ended.stderr.is_empty(), note.is_empty(), "{words}: {}", ended.stderr);
    }
}

/// A guest that is up and stays so, of a command before which the shell has done this.
fn up_after(before: &str, words: &str) -> Process {
    let line = format!("{before}; exec \"$@\"");
    let guest = guest(&format!("boot {words}"));
    start_up(Command::new("bash").args(["-c", &line, "bash"]).arg(guest.get_program()).args(guest.get_args()))
}

/// A guest that is up and stays so.
fn up(words: &str) -> Process {
    start_up(&mut guest(&format!("boot {words}")))
}

fn start_up(command: &mut Command) -> Process {
    let process = start(command);
    process.stdout.wait_for("B");
    process
}

#[test]
fn a_signal_that_was_ignored_from_the_start_stays_ignored() {
    if kvm().is_none() {
        return;
    }
    let process = up_after("trap '' HUP INT", "halt");
    process.signal(libc::SIGHUP);
    process.signal(libc::SIGINT);
    // Signals are fetched lowest number first, but these two not at all.
    process.signal(libc::SIGTERM);
    let ended = process.finish();
    assert_eq!((ended.code(), ended.stderr.as_str()), (143, ""));
}

#[test]
fn signals_end_the_machine_and_show_in_the_exit_code() {
    if kvm().is_none() {
        return;
    }
    for words in ["spin", "halt", "flood", "echo"] {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
            let process = up(words);
            process.signal(signal);
            let ended = process.finish();
            assert_eq!(ended.code(), 128 + signal, "{words}: {}", ended.stderr);
            assert_eq!(ended.stderr, "", "{words}");
        }
    }
}

#[test]
fn a_signal_ends_a_machine_whose_output_nobody_reads() {
    if kvm().is_none() {
        return;
    }
    let mut child = guest("flood").stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // The guest is at it; from now on nobody reads.
    stdout.read_exact(&mut [0; 100]).unwrap();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let status = wait(&mut child, "flood", PATIENCE, String::new);
    assert_eq!(status.code(), Some(143));
}

#[test]
fn a_reader_that_goes_away_ends_the_machine() {
    if kvm().is_none() {
        return;
    }
    let mut child =
        guest("flood").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 100]).unwrap();
    drop(stdout);
    let stderr = Screen::follow(child.stderr.take().unwrap());
    let status = wait(&mut child, "flood", PATIENCE, || stderr.text());
    assert_eq!((status.code(), stderr.wait_for_end(PATIENCE)), (Some(141), Vec::new()));
}

/// A device that takes nothing.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn standard_output_that_fails_ends_the_machine_and_is_an_error() {
    if kvm().is_none() {
        return;
    }
    let mut child =
        guest("flood").stdin(Stdio::null()).stdout(full()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = Screen::follow(child.stderr.take().unwrap());
    let status = wait(&mut child, "flood", PATIENCE, || stderr.text());
    let said = String::from_utf8(stderr.wait_for_end(PATIENCE)).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(said, "bantam: the console's output is lost: No space left on device (os error 28)\n");
}

#[test]
fn a_machine_runs_on_without_its_console_file() {
    if kvm().is_none() {
        return;
    }
    let ended = finish(guest("hello end=exit:5").args(["--console", "file:/dev/full"]));
    assert_eq!(ended.code(), 11, "{}", ended.stderr);
    assert_eq!(ended.stderr, "bantam: the console's output is lost: No space left on device (os error 28)\n");
}

#[test]
fn a_report_that_cannot_be_written_leaves_the_guests_exit_code() {
    if kvm().is_none() {
        return;
    }
    for option in ["--stats", "--timings", "--json"] {
        let mut command = guest("quiet end=exit:5");
        command.args(["--console", "off", option]);
        let output = command.stdin(Stdio::null()).stdout(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(11), "{option}");
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            "bantam: cannot write the report to standard output: No space left on device (os error 28)\n"
        );
        let line = "\"$@\" | :; exit ${PIPESTATUS[0]}";
        let ended =
            finish(Command::new("bash").args(["-c", line, "bash"]).arg(BINARY).args(command.get_args()));
        assert_eq!((ended.code(), ended.stderr.as_str()), (11, ""), "{option}");
    }
}

#[test]
fn a_document_that_cannot_be_written_is_an_error() {
    for arguments in [["man"].as_slice(), &["completions", "bash"], &["config"]] {
        let output = bantam(arguments).stdin(Stdio::null()).stdout(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            "bantam: cannot write to standard output: No space left on device (os error 28)\n"
        );
    }
}

#[test]
fn a_document_whose_reader_goes_away_is_no_error() {
    for arguments in [["man"].as_slice(), &["completions", "bash"], &["config"]] {
        let line = format!("exec {BINARY} {} | :; exit ${{PIPESTATUS[0]}}", arguments.join(" "));
        let ended = finish(Command::new("bash").args(["-c", &line]));
        assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""), "{arguments:?}");
    }
}

/// All bytes but those that end the guest's echo, or that it changes.
fn keys(length: usize) -> Vec<u8> {
    (0..=255_u8).filter(|byte| ![4, b'\r', b'\n'].contains(byte)).cycle().take(length).collect()
}

#[test]
fn bytes_from_a_pipe_go_there_and_back() {
    if kvm().is_none() {
        return;
    }
    let mut process = start(&mut guest("quiet echo"));
    let sent = keys(100 << 10);
    process.send(&sent);
    process.send("\x04");
    let ended = process.finish();
    assert_eq!(ended.code(), 0);
    let differs = ended.stdout_bytes.iter().zip(&sent).position(|(back, sent)| back != sent);
    assert_eq!((ended.stdout_bytes.len(), differs), (sent.len(), None));
}

#[test]
fn bytes_from_a_file_go_there_and_back() {
    if kvm().is_none() {
        return;
    }
    let folder = Folder::new();
    let sent = keys(2000);
    let input = File::open(folder.file("input", [&sent, &b"\x04"[..]].concat())).unwrap();
    let ended = start_with(&mut guest("quiet echo"), input.into()).finish();
    assert_eq!((ended.code(), ended.stdout_bytes), (0, sent));
}

#[test]
fn an_end_of_input_is_not_the_end_of_the_machine() {
    if kvm().is_none() {
        return;
    }
    for input in ["/dev/null", "an empty pipe"] {
        let mut command = guest("boot echo");
        let mut process = match input {
            "/dev/null" => start_with(&mut command, Stdio::null()),
            _ => start(&mut command),
        };
        process.stdin = None;
        process.stdout.wait_for("echo: end with Ctrl-D");
        process.signal(libc::SIGTERM);
        assert_eq!(process.finish().code(), 143, "{input}");
    }
}

#[test]
fn the_console_can_be_a_file() {
    if kvm().is_none() {
        return;
    }
    let folder = Folder::new();
    let path = folder.file("console", "what was there before, and is longer than one byte");
    let ended = succeed(guest("boot").args(["--console", &format!("file:{path}")]));
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", ""));
    assert_eq!(fs::read_to_string(&path).unwrap(), "B");
}

#[test]
fn the_console_can_be_off() {
    if kvm().is_none() {
        return;
    }
    let ended = succeed(guest("hello exits=10").args(["--console", "off"]));
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", ""));
}

#[test]
fn the_console_can_be_a_pseudo_terminal() {
    if kvm().is_none() {
        return;
    }
    let process = start(guest("echo").args(["--console", "pty"]));
    process.stderr.wait_for("console: ");
    process.stderr.wait_for("\n");
    let said = process.stderr.text();
    let path = said.trim_end().rsplit(' ').next().unwrap();
    let mut terminal =
        File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path).unwrap();
    let screen = Screen::follow(terminal.try_clone().unwrap());
    screen.wait_for("echo: end with Ctrl-D or a line `quit`\r\n");
    // A terminal that edits lines would keep this to itself, and one that echoes would double it.
    terminal.write_all(b"typed\x03").unwrap();
    screen.wait_for("typed\x03");
    terminal.write_all(b"!\rquit\r").unwrap();
    let ended = process.finish();
    assert_eq!((ended.code(), ended.stdout.as_str()), (0, ""));
    let text = screen.text();
    assert_eq!(text.matches("typed").count(), 1, "{text}");
    assert_eq!(text.matches("echo: end").count(), 1, "{text}");
}

#[test]
fn timings_list_the_phases_in_order() {
    if kvm().is_none() {
        return;
    }
    let ended = succeed(guest("boot exits=10").arg("--timings"));
    let mut lines = ended.stderr.lines();
    assert!(lines.next().unwrap().starts_with("phase "), "{}", ended.stderr);
    let rows: Vec<(String, f64, f64)> = lines
        .map(|line| {
            let (name, numbers) = line.split_at(20);
            let numbers: Vec<f64> =
                numbers.split_whitespace().map(|number| number.parse().unwrap()).collect();
            (name.trim().to_owned(), numbers[0], numbers[1])
        })
        .collect();
    let mut names: Vec<_> = rows.iter().map(|(name, ..)| name.as_str()).collect();
    // The guest says both within a few instructions; the port comes first.
    assert_eq!(
        names,
        [
            "process start",
            "KVM opened",
            "memory mapped",
            "kernel loaded",
            "vCPUs created",
            "first KVM_RUN",
            "boot-time port",
            "first console byte",
            "exit"
        ]
    );
    names.dedup();
    assert!(rows.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{}", ended.stderr);
    assert_eq!((rows[0].1, rows[0].2), (0.0, 0.0));
    let sum: f64 = rows.iter().map(|row| row.2).sum();
    assert!((sum - rows[8].1).abs() < 0.01, "the phases do not add up:\n{}", ended.stderr);
}

#[test]
fn stats_add_up() {
    if kvm().is_none() {
        return;
    }
    let ended = succeed(guest("quiet exits=500").args(["--stats", "--console", "off"]));
    let rows: Vec<Vec<&str>> = ended.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let port = rows.iter().find(|row| row.contains(&"0x0b80")).unwrap();
    assert_eq!(port[..4], ["port", "write", "0x0b80", "500"], "{}", ended.stdout);
    let shares: Vec<f64> =
        ended.stdout.split_whitespace().filter_map(|word| word.strip_suffix('%')?.parse().ok()).collect();
    let rounding = 0.05 * shares.len() as f64;
    assert!((shares.iter().sum::<f64>() - 100.0).abs() <= rounding, "{}", ended.stdout);
    let all = rows.last().unwrap();
    let counts = rows[1..rows.len() - 1].iter().map(|row| {
        let share = row.iter().position(|word| word.ends_with('%')).unwrap();
        row[share - 1].parse::<u64>().unwrap()
    });
    assert_eq!((all[0], all[1].parse::<u64>().unwrap()), ("all", counts.sum()), "{}", ended.stdout);
}

#[test]
fn json_has_everything_for_a_program() {
    if kvm().is_none() {
        return;
    }
    let json =
        |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let ended = finish(guest("boot exits=20 end=exit:5").args(["--json", "--stats", "--console", "off"]));
    let report = json(&ended.stdout);
    assert_eq!((ended.code(), ended.stderr.as_str()), (11, ""));
    assert_eq!(
        (&report["reason"], &report["code"], &report["debug_exit"]),
        (&"debug-exit".into(), &11.into(), &5.into())
    );
    for phase in ["process_start", "kvm_opened", "first_kvm_run", "boot_time_port", "exit"] {
        let time = &report["timings_ms"][phase];
        assert!(time.is_number(), "no {phase} in {report}");
        // Nanoseconds at most.
        assert!(time.to_string().split('.').nth(1).unwrap().len() <= 6, "{phase}: {time}");
    }
    let places = report["exits_by_place"].as_array().unwrap();
    let written = places.iter().find(|row| row["kind"] == "port-write" && row["port"] == 0xb80).unwrap();
    assert_eq!(written["count"], 20);
    let sum: u64 = places.iter().map(|row| row["count"].as_u64().unwrap()).sum();
    assert_eq!(report["exits"], sum);

    // While the console is on standard output, the report is on standard error.
    let ended = succeed(guest("boot").arg("--json"));
    assert_eq!((ended.stdout.as_str(), &json(&ended.stderr)["reason"]), ("B", &"power-off".into()));
}

/// What `config` prints with these arguments.
fn config(arguments: &[&str]) -> String {
    let ended = succeed(bantam(["config"]).args(arguments));
    assert_eq!(ended.stderr, "");
    ended.stdout
}

#[test]
fn a_configuration_that_was_printed_reads_back_the_same() {
    let folder = Folder::new();
    let all = [
        "--kernel",
        "/boot/vmlinux",
        "--initrd",
        "/boot/a b \"c\".cpio",
        "--cmdline",
        "quiet a=\"b c\" \\ ü",
        "--bare-cmdline",
        "--cpus",
        "7",
        "--memory",
        "777M",
        "--boot",
        "pvh",
        "--console",
        "file:/tmp/c",
        "--stats",
    ];
    for arguments in
        [[].as_slice(), &["--memory", "4G"], &["--memory", "20000768"], &["--console", "pty"], &all]
    {
        let toml = config(arguments);
        let file = folder.file("machine.toml", &toml);
        assert_eq!(config(&["--config", &file]), toml, "{arguments:?}");
        let json = config(&["--config", &file, "--json"]);
        let file = folder.file("machine.json", &json);
        assert_eq!(config(&["--config", &file, "--json"]), json, "{arguments:?}");
        assert_eq!(config(&["--config", &file]), toml, "{arguments:?}");
    }
}

#[test]
fn options_go_over_the_file() {
    let folder = Folder::new();
    let file = folder.file("machine.toml", "cpus = 3\nmemory = \"64M\"\ncmdline = \"quiet smp\"\n");
    let printed = config(&["--config", &file, "--cpus", "2", "--boot", "linux64"]);
    assert!(config(&["--cmdline", "-x --y"]).contains("cmdline = \"-x --y\"\n"));
    for line in ["cpus = 2", "memory = \"64M\"", "cmdline = \"quiet smp\"", "boot = \"linux64\""] {
        assert!(printed.lines().any(|printed| printed == line), "no '{line}' in:\n{printed}");
    }
    if kvm().is_some() {
        let run = |arguments: &[&str]| succeed(bantam(["run", "--config", &file]).args(arguments)).stdout;
        assert_eq!(run(&[]), "smp cpus=3 online=3 ids=0,1,2\r\n");
        assert_eq!(run(&["--cpus", "2"]), "smp cpus=2 online=2 ids=0,1\r\n");
        assert_eq!(run(&["--cmdline", "boot"]), "B");
    }
}

#[test]
fn completions_and_manual_are_there() {
    let folder = Folder::new();
    for (shell, word) in [("bash", "complete -F"), ("zsh", "#compdef bantam"), ("fish", "complete -c bantam")]
    {
        let script = succeed(&mut bantam(["completions", shell])).stdout;
        assert!(script.contains(word) && script.contains("memory"), "{shell}: {script}");
        let file = folder.file(shell, script);
        // A shell that is there reads it.
        if let Ok(status) = Command::new(shell).args(["-n", &file]).status() {
            assert!(status.success(), "{shell}");
        }
    }
    let manual = succeed(&mut bantam(["man"])).stdout;
    for word in [".TH bantam 1", ".SS bantam run\n", "\\-\\-memory", "Exit codes", ".SH EXAMPLES\n"] {
        assert!(manual.contains(word), "no '{word}' in the manual");
    }
    // There is one page.
    assert!(!manual.contains("(1)") && !manual.contains("SUBCOMMANDS"), "{manual}");
    assert_eq!(manual.matches("\\-\\-verbose").count(), 2, "{manual}");
}

#[test]
fn verbose_says_what_is_loaded() {
    if kvm().is_none() {
        return;
    }
    let ended = succeed(guest("boot").arg("-v"));
    assert_eq!(ended.stdout, "B");
    assert!(ended.stderr.contains("info: ") && ended.stderr.contains("PVH"), "{}", ended.stderr);
}
