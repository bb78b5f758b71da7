//! Many machines out of one, and what a snapshot is merged and recorded for, by the command.

// The helpers here are a test's too: they may fail as loudly.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::io::{Read, pipe};
use std::process::Stdio;

use common::named::Named;
use common::process::{Process, start, wait};
use common::{PATIENCE, Screen, kvm};
use serde_json::{Value, json};

impl Named {
    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// A machine named web whose guest is at work on these words, and has said this.
    fn web(&self, words: &str, said: &str) -> Process {
        let words = ["run", "--memory", "32M", "--cmdline", words, "--name", "web"];
        let web = start(&mut self.command(&words));
        web.stdout.wait_for(said);
        web
    }

    /// The same as a snapshot at this path.
    fn snapshot(&self, words: &str, said: &str, path: &str) {
        let web = self.web(words, said);
        self.done(&["snapshot", "create", "web", path]);
        self.done(&["ctl", "web", "stop"]);
        assert_eq!(web.finish().code(), 0);
    }

    /// What is refused with this code and in one line of ours that has this in it.
    fn refused(&self, words: &[&str], code: i32, expected: &str) {
        let ended = self.finish(words);
        assert_eq!((ended.code(), ended.stdout.as_str()), (code, ""), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(expected), "{words:?}: {}", ended.stderr);
        assert!(code == 2 || ended.stderr.lines().count() == 1, "{words:?}: {}", ended.stderr);
    }

    /// The names of what is in a directory.
    fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn a_running_machine_is_forked_and_its_copies_have_names() {
    if kvm().is_none() {
        return;
    }
    let named = Named::new();
    fs::create_dir(named.path("tmp")).unwrap();
    let web = named.web("boot flood", "flood 10\r\n");
    let words = ["fork", "web", "--count", "3", "--name", "copy-{}", "--max-pause", "1m"];
    let mut command = named.command(&words);
    let forks = start(command.env("TMPDIR", named.path("tmp")));
    for number in 0..3 {
        forks.stdout.wait_for(&format!("\ncopy-{number} | flood "));
    }
    assert_eq!(named.names("tmp"), [""; 0]);
    let listed = named.list();
    let listed: Vec<_> = listed.as_array().unwrap().iter().map(|machine| &machine["name"]).collect();
    assert_eq!(listed, ["copy-0", "copy-1", "copy-2", "web"]);
    named.refused(&["fork", "web", "--count", "2", "--name", "copy-{}"], 1, "'copy-0' runs already");
    assert_eq!(named.list().as_array().unwrap().len(), 4);

    named.done(&["ctl", "copy-1", "pause"]);
    assert_eq!(named.list()[1]["state"], "paused");
    named.done(&["ctl", "copy-1", "resume"]);
    named.done(&["ctl", "copy-1", "stop"]);
    while named.list().as_array().unwrap().len() == 4 {}
    forks.signal(libc::SIGINT);
    let ended = forks.finish();
    assert_eq!((ended.code(), ended.stderr.as_str()), (128 + libc::SIGINT, ""));
    let lines: Vec<_> = ended.stdout.lines().collect();
    for line in &lines {
        let (name, _) = line.split_once(" | ").unwrap_or_else(|| panic!("no name in '{line}'"));
        assert!(["copy-0", "copy-1", "copy-2"].contains(&name), "{line}");
    }
    assert_eq!(named.list().as_array().unwrap().len(), 1);
    named.done(&["ctl", "web", "stop"]);
    assert_eq!(web.finish().code(), 0);
}

#[test]
fn forks_end_as_their_guests_do() {
    if kvm().is_none() {
        return;
    }
    let named = Named::new();
    let path = named.path("snap");
    named.snapshot("churn touch=1 every=1 count=60 end=exit:3", "churn round=", &path);
    let ended = named.finish(&["fork", &path, "--count", "2", "--json"]);
    assert_eq!(ended.code(), 7, "{}", ended.stderr);
    assert!(ended.stdout.contains("0 | churn ") && ended.stdout.contains("1 | churn "), "{}", ended.stdout);
    let ends: Value = serde_json::from_str(&ended.stderr).unwrap();
    for number in 0..2 {
        let end = &ends["machines"][number];
        assert_eq!(
            (&end["number"], &end["name"], &end["debug_exit"]),
            (&json!(number), &json!(null), &json!(3))
        );
    }
    let log = named.path("{}.log");
    let ended = named.finish(&["fork", &path, "--count", "2", "--console", &format!("file:{log}"), "--json"]);
    assert_eq!((ended.code(), ended.stderr.as_str()), (7, ""));
    assert_eq!(
        serde_json::from_str::<Value>(&ended.stdout).unwrap()["machines"].as_array().unwrap().len(),
        2
    );
    for number in ["0", "1"] {
        assert!(fs::read_to_string(log.replace("{}", number)).unwrap().contains("churn end="));
    }
    let of_none = format!("cid=5,uds={}", named.path("v{}"));
    named.refused(&["fork", &path, "--count", "2", "--vsock", &of_none], 1, "the saved machine had 0 of it");
    named.refused(&["restore", &path, "--vsock", &of_none], 1, "the saved machine had 0 of it");
    let nowhere = format!("file:{}", named.path("no/where{}"));
    named.refused(&["fork", &path, "--count", "2", "--console", &nowhere], 1, "copy 0 of 2");
}

#[test]
fn a_fork_that_cannot_be_is_refused_in_a_line() {
    let named = Named::new();
    let file = named.path("file");
    fs::write(&file, "").unwrap();
    let (nothing, nowhere) = (named.path("nothing"), named.path("no/where"));
    for (words, code, expected) in [
        (vec!["fork", &nothing, "--count", "1"], 1, "there is no snapshot"),
        (
            vec!["fork", "nobody", "--count", "1"],
            1,
            "neither a snapshot's directory nor the name of a running machine",
        ),
        (vec!["fork", &file, "--count", "1"], 1, "is not a directory, and so not a snapshot"),
        (vec!["fork", &nothing, "--count", "0"], 2, "give 1 to 10000"),
        (vec!["fork", &nothing, "--count", "-1"], 2, "give 1 to 10000"),
        (vec!["fork", &nothing, "--count", "100000"], 2, "give 1 to 10000"),
        (vec!["fork", &nothing], 2, "--count <N>"),
        (vec!["fork", &nothing, "--count", "2", "--name", "web"], 1, "put a {} where the number is to be"),
        (vec!["fork", &nothing, "--count", "2", "--name", "w/{}"], 1, "'w/0' is no name"),
        (
            vec!["fork", &nothing, "--count", "2", "--console", "file:log"],
            1,
            "put a {} where the number is to be",
        ),
        (
            vec!["fork", &nothing, "--count", "2", "--console", "stdio"],
            1,
            "--console stdio is for one machine",
        ),
        (vec!["restore", &nothing], 1, "there is no snapshot"),
        (vec!["restore", &file], 1, "is not a directory, and so not a snapshot"),
        (vec!["restore", &file, "--record", "200"], 2, "is no length of time"),
        (vec!["restore", &file, "--record", "1s", "--memory-from", "huge"], 1, "give map or fault"),
        (vec!["restore", &file, "--record", "1s", "--memory-from", "stream:-"], 1, "give map or fault"),
        (vec!["restore", &file, "--memory-from", "disk"], 2, "give map, fault, huge or stream:PATH"),
        (vec!["restore", &file, "--memory-from", "stream:"], 2, "give map, fault, huge or stream:PATH"),
        (vec!["fork", &file, "--count", "1", "--memory-from", "stream:-"], 1, "is for one machine"),
        (vec!["snapshot", "merge", &nothing, "--to", &nowhere], 1, "there is no snapshot"),
        (vec!["snapshot", "merge", &file, "--to", &nowhere], 1, "is not a directory, and so not a snapshot"),
        (vec!["snapshot", "merge", &file], 2, "--to <NEW>"),
    ] {
        named.refused(&words, code, expected);
    }
}

#[test]
fn a_merged_snapshot_goes_on_without_its_bases() {
    if kvm().is_none() {
        return;
    }
    let named = Named::new();
    let [whole, diff, merged, file] = ["whole", "diff", "merged", "file"].map(|name| named.path(name));
    let web = named.web("churn touch=1 every=1", "churn round=");
    named.done(&["snapshot", "create", "web", &whole, "--track"]);
    named.done(&["snapshot", "create", "web", &diff, "--diff-of", &whole]);
    named.done(&["ctl", "web", "stop"]);
    assert_eq!(web.finish().code(), 0);
    fs::write(&file, "").unwrap();
    named.refused(
        &["snapshot", "merge", &diff, "--to", &whole],
        1,
        "is one of the snapshots that are merged",
    );
    named.refused(
        &["snapshot", "merge", &diff, "--to", &file],
        1,
        "is not a directory, and so not a snapshot",
    );
    named.refused(&["snapshot", "merge", &diff, "--to", &named.path("no/where")], 1, "no");
    fs::create_dir(named.path("full")).unwrap();
    fs::write(named.path("full/x"), "").unwrap();
    named.refused(&["snapshot", "merge", &diff, "--to", &named.path("full")], 1, "is not a snapshot");

    let answer = named.done(&["snapshot", "merge", &diff, "--to", &merged, "--json"]);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    named.done(&["snapshot", "rm", &diff]);
    named.done(&["snapshot", "rm", &whole]);
    named.done(&["snapshot", "verify", &merged]);
    let info: Value = serde_json::from_str(&named.done(&["snapshot", "info", "--json", &merged])).unwrap();
    assert_eq!((&info["id"], &info["base"]), (&answer["id"], &Value::Null));
    let process = start(&mut named.command(&["restore", &merged, "--name", "web"]));
    // What the guest verifies is its own memory.
    process.stdout.wait_for("\nchurn round=");
    process.stdout.wait_for(" wrong=0 ");
    named.done(&["ctl", "web", "stop"]);
    let ended = process.finish();
    assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""));
    assert!(ended.stdout.contains(" wrong=0 ") && !ended.stdout.contains("churn wrong"), "{}", ended.stdout);
}

#[test]
fn what_a_guest_needs_first_is_recorded() {
    if kvm().is_none() {
        return;
    }
    let named = Named::new();
    let path = named.path("snap");
    named.snapshot("boot flood", "flood 10\r\n", &path);
    let restore = |options: &[&str], said: &str| {
        let words = [&["restore", &path, "--name", "web"], options].concat();
        let process = start(&mut named.command(&words));
        process.stdout.wait_for("\nflood ");
        if !said.is_empty() {
            process.stderr.wait_for(said);
        }
        named.done(&["ctl", "web", "stop"]);
        let ended = process.finish();
        assert_eq!(ended.code(), 0, "{}", ended.stderr);
        ended.stderr
    };
    assert_eq!(named.names("snap"), ["memory", "state"]);
    let said = restore(&["--record", "50ms"], "recorded ");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(named.names("snap"), ["memory", "state", "working-set"]);
    assert_eq!(restore(&[], ""), "");
    assert_eq!(restore(&["--memory-from", "fault"], ""), "");
    // Of memory that comes page by page, just what the guest has touched is recorded.
    let length = |name: &str| fs::metadata(named.path(name)).unwrap().len();
    let mapped = length("snap/working-set");
    fs::remove_file(named.path("snap/working-set")).unwrap();
    restore(&["--memory-from", "fault", "--record", "50ms"], "recorded ");
    assert!((20..=2 * mapped).contains(&length("snap/working-set")), "{mapped}");
    assert_eq!(restore(&[], ""), "");
    fs::write(named.path("snap/working-set"), "no record").unwrap();
    assert_eq!(restore(&["--no-prefetch"], ""), "");
    let said = restore(&[], "");
    assert!(said.contains("goes on without the record"), "{said}");
    named.done(&["snapshot", "verify", &path]);
}

#[test]
fn forks_whose_reader_goes_away_end_quietly() {
    if kvm().is_none() {
        return;
    }
    let named = Named::new();
    let path = named.path("snap");
    named.snapshot("boot flood", "flood 10\r\n", &path);
    let (mut reader, writer) = pipe().unwrap();
    let mut command = named.command(&["fork", &path, "--count", "3"]);
    let mut child = command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    reader.read_exact(&mut [0; 100]).unwrap();
    drop(reader);
    let stderr = Screen::follow(child.stderr.take().unwrap());
    let status = wait(&mut child, "forks", PATIENCE, || stderr.text());
    assert_eq!((status.code(), stderr.text()), (Some(141), String::new()));
}
