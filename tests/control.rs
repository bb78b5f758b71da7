//! A running machine that is asked for things, by the command and by a program.

// The helpers here are a test's too: they may fail as loudly.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use common::named::Named;
use common::process::{Ended, Process, bantam, finish, start};
use common::{kvm, watched};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A machine with a control socket.
struct Machine {
    process: Process,
    socket: String,
    _folder: TempDir,
}

impl Machine {
    /// The embedded guest, up and staying so, with these options.
    fn start(words: &str, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control").to_str().unwrap().to_owned();
        let mut command = bantam(["run", "--memory", "32M", "--cmdline", words, "--control", &socket]);
        let process = start(command.args(options));
        process.stdout.wait_for("B");
        Self { process, socket, _folder: folder }
    }

    fn ask(&self, words: &[&str]) -> Ended {
        finish(bantam(["ctl", &self.socket]).args(words))
    }

    /// Asks for something that is done; what is printed.
    fn done(&self, words: &[&str]) -> String {
        let ended = self.ask(words);
        assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""), "{words:?}");
        ended.stdout
    }

    /// Asks for something that is refused in one line, with these words in it.
    fn refused(&self, words: &[&str], expected: &str) {
        let ended = self.ask(words);
        assert_eq!((ended.code(), ended.stdout.as_str()), (1, ""), "{words:?}");
        assert_eq!(ended.stderr, format!("bantam: {expected}\n"), "{words:?}");
    }

    fn stop(self) {
        self.done(&["stop"]);
        let ended = self.process.finish();
        assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""));
        assert!(!Path::new(&self.socket).exists());
    }
}

#[test]
fn devices_are_commanded_by_their_names() {
    if kvm().is_none() {
        return;
    }
    let machine = Machine::start("boot halt", &["--balloon", "target=1M", "--entropy"]);
    let metrics = machine.done(&["metrics", "balloon0"]);
    assert!(metrics.contains("target_bytes 1048576\n") && metrics.contains("actual_bytes 0\n"), "{metrics}");
    assert_eq!(machine.done(&["balloon", "16M"]), "");
    let json: serde_json::Value =
        serde_json::from_str(&machine.done(&["metrics", "balloon0", "--json"])).unwrap();
    assert_eq!(json["target_bytes"], 16 << 20);
    machine.refused(&["balloon", "33M"], "balloon0: a target of 33M is more than the guest's memory of 32M");
    machine.refused(&["hinting", "on"], "balloon0: it has no hinting: give --balloon hinting");
    machine.refused(
        &["balloon", "1M", "--id", "b"],
        "the machine has no device 'b'; its devices: entropy0, balloon0",
    );
    let unknown = machine.ask(&["balloon", "1M", "--id", "entropy0"]);
    assert_eq!(unknown.code(), 1);
    assert!(unknown.stderr.starts_with("bantam: entropy0: "), "{}", unknown.stderr);
    machine.stop();
}

#[test]
fn a_machine_is_paused_and_goes_on() {
    if kvm().is_none() {
        return;
    }
    for words in ["boot spin", "boot halt"] {
        let machine = Machine::start(words, &["--balloon"]);
        for _ in 0..2 {
            machine.done(&["pause"]);
            machine.done(&["pause"]);
            machine.refused(&["balloon", "1M"], "the machine is paused: resume it first");
            machine.done(&["resume"]);
            machine.done(&["resume"]);
            machine.done(&["balloon", "1M"]);
        }
        machine.done(&["pause"]);
        machine.stop();
    }
}

#[test]
fn a_signal_ends_a_machine_that_is_paused() {
    if kvm().is_none() {
        return;
    }
    let machine = Machine::start("boot spin", &[]);
    machine.done(&["pause"]);
    machine.process.signal(libc::SIGTERM);
    assert_eq!(machine.process.finish().code(), 143);
    assert!(!Path::new(&machine.socket).exists());
}

#[test]
fn a_program_asks_in_lines_of_json() {
    if kvm().is_none() {
        return;
    }
    let machine = Machine::start("boot halt", &["--balloon"]);
    let socket = machine.socket.clone();
    let answers = watched("the answers", move || {
        let mut stream = UnixStream::connect(socket).unwrap();
        let requests = [
            r#"{"command":"balloon","target":"8M"}"#,
            r#"{"command":"fly"}"#,
            r#"{"command":"metrics","id":"balloon0"}"#,
        ];
        stream.write_all((requests.join("\n") + "\n").as_bytes()).unwrap();
        BufReader::new(stream).lines().take(3).map(Result::unwrap).collect::<Vec<_>>()
    });
    assert_eq!(answers[0], r#"{"ok":{}}"#);
    assert!(answers[1].starts_with(r#"{"error":"not a request: unknown variant `fly`"#), "{}", answers[1]);
    assert!(answers[2].contains(r#""target_bytes":8388608"#), "{}", answers[2]);
    machine.stop();
}

#[test]
fn exits_are_counted_while_the_machine_runs() {
    if kvm().is_none() {
        return;
    }
    let count = |machine: &Machine| -> Value {
        let stats: Value = serde_json::from_str(&machine.done(&["stats", "--json"])).unwrap();
        stats
    };
    let machine = Machine::start("boot flood", &["--stats", "--entropy", "--balloon", "target=1M"]);
    let first = count(&machine);
    assert_eq!(first["devices"]["balloon0"]["target_bytes"], 1 << 20);
    assert!(first["devices"]["entropy0"].is_object(), "{first}");
    let mut next = count(&machine);
    while next["exits"].as_u64() <= first["exits"].as_u64() {
        next = count(&machine);
    }
    machine.done(&["pause"]);
    let paused = count(&machine);
    assert_eq!(count(&machine), paused);
    assert_eq!(paused.get("devices"), None);
    let places = paused["exits_by_place"].as_array().unwrap();
    let sum: u64 = places.iter().map(|place| place["count"].as_u64().unwrap()).sum();
    assert_eq!(Some(sum), paused["exits"].as_u64());
    assert!(places.iter().any(|place| place["kind"] == "port-write" && place["port"] == 0x3f8), "{paused}");
    let text = machine.done(&["stats"]);
    assert!(text.contains(&format!("exits {sum}\n")), "{text}");
    machine.done(&["stop"]);
    machine.process.finish();
}

/// A mistake of the user's is told in one line.
fn mistake(arguments: &[&str], expected: &[&str]) {
    let ended = finish(&mut bantam(arguments));
    assert_eq!((ended.code(), ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    for word in expected {
        assert!(ended.stderr.contains(word), "no '{word}' in: {}", ended.stderr);
    }
}

#[test]
fn mistakes_are_told_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let missing = missing.to_str().unwrap();
    mistake(&["ctl", missing, "pause"], &["no machine listens at", missing, "bantam run --control"]);
    mistake(
        &["ctl", "nobody-has-this-name", "pause"],
        &["'nobody-has-this-name'", "bantam ps", "a '/' in it"],
    );
    mistake(
        &["run", "--memory", "32M", "--balloon", "target=64M"],
        &["balloon0: a target of 64M is more than the guest's memory of 32M"],
    );
    mistake(&["run", "--virtio-console", "where=stdio"], &["virtio_console0: where=stdio", "--console off"]);
    if kvm().is_none() {
        return;
    }
    mistake(&["run", "--control", "/nonexistent/socket"], &["/nonexistent/socket", "No such file"]);
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    mistake(&["run", "--control", file.to_str().unwrap()], &["it is no socket"]);
}

#[test]
fn the_pseudo_terminal_of_a_virtio_console_is_told() {
    if kvm().is_none() {
        return;
    }
    let machine =
        Machine::start("boot halt", &["--virtio-console", "id=second", "--virtio-console", "where=off"]);
    machine.process.stderr.wait_for("second: /dev/pts/");
    assert!(machine.done(&["metrics", "second"]).contains("transmitted_bytes 0\n"));
    machine.done(&["window", "virtio_console1", "80", "25"]);
    machine.done(&["stop"]);
    assert_eq!(machine.process.finish().code(), 0);
}

#[test]
fn machines_with_names_are_listed_and_asked_by_them() {
    if kvm().is_none() {
        return;
    }
    let named = Named::new();
    assert_eq!(named.list(), json!([]));
    let web = named.start("web", &["--cpus", "2"]);
    let database = named.start("db", &[]);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&named.socket("web")), 0o600);
    assert_eq!(mode(&named.0.path().join("bantam")), 0o700);
    assert_eq!(named.done(&["ctl", "web", "pause"]), "");
    let listed = named.list();
    assert_eq!((&listed[0]["name"], &listed[0]["state"]), (&json!("db"), &json!("running")));
    assert_eq!((&listed[1]["name"], &listed[1]["state"]), (&json!("web"), &json!("paused")));
    assert_eq!((&listed[1]["pid"], &listed[1]["cpus"]), (&json!(web.pid()), &json!(2)));
    assert_eq!((&listed[1]["memory_bytes"], &listed[1]["kernel"]), (&json!(32 << 20), &json!(null)));
    assert_eq!(listed[1]["socket"], named.socket("web").to_str().unwrap());
    let table = named.done(&["ps"]);
    let rows: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "PID", "STATE", "CPUS", "MEMORY", "UPTIME", "KERNEL"]);
    assert_eq!(rows[2][..5], ["web", &web.pid().to_string(), "paused", "2", "32M"], "{table}");
    assert_eq!(rows[2][6..], ["(embedded)"]);
    let info = named.done(&["ctl", "web", "info"]);
    assert!(info.contains("state paused\n") && info.contains("name web\n"), "{info}");

    let taken = named.finish(&["run", "--memory", "32M", "--name", "web"]);
    assert_eq!(taken.code(), 1);
    assert_eq!(
        taken.stderr,
        "bantam: a machine named 'web' runs already: give another --name, or stop it with `bantam ctl web stop`\n"
    );
    for (name, process) in [("web", web), ("db", database)] {
        named.done(&["ctl", name, "stop"]);
        assert_eq!(process.finish().code(), 0);
        assert!(!named.socket(name).exists());
    }
    assert_eq!(named.list(), json!([]));
}

#[test]
fn a_dead_machines_name_is_free_and_a_stopped_ones_is_not() {
    if kvm().is_none() {
        return;
    }
    let named = Named::new();
    for name in ["web", "db"] {
        let killed = named.start(name, &[]);
        killed.signal(libc::SIGKILL);
        assert!(killed.finish().status.code().is_none());
        assert!(named.socket(name).exists());
    }
    let web = named.start("web", &[]);
    web.signal(libc::SIGSTOP);
    let status = format!("/proc/{}/status", web.pid());
    while !std::fs::read_to_string(&status).unwrap().contains("State:\tT") {
        std::thread::yield_now();
    }
    let listed = named.list();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert_eq!((&listed[0]["pid"], &listed[0]["state"]), (&json!(web.pid()), &json!("silent")));
    assert!(!named.socket("db").exists());
    assert_eq!(named.finish(&["run", "--memory", "32M", "--name", "web"]).code(), 1);
    web.signal(libc::SIGCONT);
    assert_eq!(named.list()[0]["state"], "running");
    named.done(&["ctl", "web", "stop"]);
    assert_eq!(web.finish().code(), 0);
}

#[test]
fn a_folder_that_others_can_enter_holds_no_sockets() {
    let named = Named::new();
    let folder = named.0.path().join("bantam");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    let requests: [&[&str]; 3] =
        [&["ps"], &["ctl", "web", "pause"], &["run", "--memory", "32M", "--name", "web"]];
    let count = if kvm().is_none() { 2 } else { 3 };
    for words in &requests[..count] {
        let ended = named.finish(words);
        assert_eq!((ended.code(), ended.stdout.as_str()), (1, ""), "{words:?}");
        assert!(ended.stderr.contains(folder.to_str().unwrap()), "{}", ended.stderr);
        assert!(ended.stderr.contains("nobody else can enter"), "{}", ended.stderr);
    }
}

/// The number in a line of the guest's output, the last that is whole.
fn last_number(text: &str) -> u64 {
    let lines: Vec<_> = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
    let mut numbers = lines.iter().rev().filter_map(|line| line.trim().strip_prefix("flood ")?.parse().ok());
    numbers.next().unwrap_or_else(|| panic!("no number in: {text}"))
}

#[test]
fn a_machine_is_saved_by_the_command_and_goes_on_in_another_process() {
    if kvm().is_none() {
        return;
    }
    let named = Named::new();
    let path = |name: &str| named.0.path().join(name).to_str().unwrap().to_owned();
    let (whole, diff, live) = (path("whole"), path("diff"), path("live"));
    let words = ["run", "--memory", "32M", "--cmdline", "boot flood", "--name", "web"];
    let web = start(&mut named.command(&words));
    web.stdout.wait_for("flood 10\r\n");
    let create = |arguments: &[&str]| -> Value {
        let words = ["snapshot", "create", "web", "--json"];
        serde_json::from_str(&named.done(&[&words, arguments].concat())).unwrap()
    };
    let saved = create(&[&whole, "--track"]);
    let json = |words: &[&str]| -> Value { serde_json::from_str(&named.done(words)).unwrap() };
    assert_eq!(json(&["snapshot", "info", "--json", &whole])["id"], saved["id"]);
    assert_eq!(named.list()[0]["state"], "running");
    let changed = create(&[&diff, "--diff-of", &whole]);
    assert!(changed["memory_bytes"].as_u64() < saved["memory_bytes"].as_u64(), "{changed} {saved}");
    assert_eq!(json(&["snapshot", "info", "--json", &diff])["base"]["id"], saved["id"]);
    let refused = named.finish(&["snapshot", "create", "web", &path("no/where")]);
    assert_eq!((refused.code(), refused.stderr.lines().count()), (1, 1), "{}", refused.stderr);
    named.done(&["ctl", "web", "pause"]);
    let seen = last_number(&web.stdout.text());
    create(&[&live, "--max-pause", "1s"]);
    assert_eq!(named.list()[0]["state"], "paused");
    named.done(&["ctl", "web", "stop"]);
    assert_eq!(web.finish().code(), 0);

    for (name, path) in [("whole", &whole), ("diff", &diff), ("live", &live)] {
        assert_eq!(named.done(&["snapshot", "verify", path]), "");
        let process = start(&mut named.command(&["restore", path, "--name", name]));
        process.stdout.wait_for("flood");
        let info = json(&["ctl", name, "info", "--json"]);
        assert_eq!((&info["state"], &info["memory_bytes"]), (&json!("running"), &json!(32 << 20)));
        named.done(&["ctl", name, "stop"]);
        let ended = process.finish();
        assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""));
        if name == "live" {
            let first = ended.stdout.lines().find(|line| line.starts_with("flood ")).unwrap();
            assert!(last_number(&format!("{first}\n")) >= seen, "{first}, after {seen}");
        }
    }
    let needed = named.finish(&["snapshot", "rm", &whole]);
    assert_eq!(needed.code(), 1);
    assert!(needed.stderr.contains("remove that one first, or give --force"), "{}", needed.stderr);
    named.done(&["snapshot", "rm", "--force", &whole]);
    let orphan = named.finish(&["restore", &diff]);
    assert_eq!((orphan.code(), orphan.stderr.lines().count()), (1, 1), "{}", orphan.stderr);
    assert!(orphan.stderr.contains(&whole) || orphan.stderr.contains("whole"), "{}", orphan.stderr);
}
