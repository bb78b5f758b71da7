use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use tempfile::TempDir;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::*;

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    (folder, path)
}

/// Serves on a thread as long as somebody asks for it: the answers tell how many requests there were.
fn serve_until_stop(path: &Path) -> thread::JoinHandle<Vec<Request>> {
    let mut server = Server::listen(path).unwrap();
    thread::spawn(move || {
        let poll = Epoll::new().unwrap();
        poll.ctl(ControlOperation::Add, server.as_raw_fd(), EpollEvent::new(EventSet::IN, 0)).unwrap();
        let mut asked = Vec::new();
        while asked.last() != Some(&Request::Stop) {
            poll.wait(-1, &mut [EpollEvent::default()]).unwrap();
            asked = server.serve(asked, |mut asked: Vec<_>, request| {
                let answer = match &request {
                    Request::Resized { id } => Answer::Error(format!("no {id}")),
                    _ => Answer::Ok([("asked".to_owned(), asked.len() as u64)].into()),
                };
                asked.push(request);
                (asked, answer)
            });
        }
        asked
    })
}

#[test]
fn requests_are_written_as_they_are_read() {
    let cases = [
        (
            r#"{"command":"balloon","target":"128M"}"#,
            Request::Balloon { target: Size::mib(128), id: balloon() },
        ),
        (r#"{"command":"hinting","on":true,"id":"b"}"#, Request::Hinting { on: true, id: "b".to_owned() }),
        (r#"{"command":"resized","id":"disk0"}"#, Request::Resized { id: "disk0".to_owned() }),
        (r#"{"command":"metrics","id":"disk0"}"#, Request::Metrics { id: "disk0".to_owned() }),
        (
            r#"{"command":"window","id":"c","columns":80,"rows":25}"#,
            Request::Window { id: "c".to_owned(), columns: 80, rows: 25 },
        ),
        (r#"{"command":"pause"}"#, Request::Pause),
        (r#"{"command":"stop"}"#, Request::Stop),
    ];
    for (text, request) in cases {
        assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
        let written = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&written).unwrap(), request);
    }
    for text in [
        r#"{"command":"fly"}"#,
        r#"{"command":"balloon"}"#,
        r#"{"command":"resized","id":"a","b":1}"#,
        r#"{"command":"balloon","target":"much"}"#,
        "pause",
    ] {
        assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
    }
    assert_eq!(serde_json::to_string(&Answer::done()).unwrap(), r#"{"ok":{}}"#);
    assert_eq!(serde_json::to_string(&Answer::refused(&"no")).unwrap(), r#"{"error":"no"}"#);
}

#[test]
fn requests_reach_the_machine_and_answers_come_back() {
    let (_folder, path) = folder();
    let server = serve_until_stop(&path);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(ask(&path, &Request::Pause).unwrap()["asked"], 0);
    let error = ask(&path, &Request::Resized { id: "disk9".to_owned() }).unwrap_err();
    assert_eq!(error.to_string(), "no disk9");
    // Somebody who asks slowly holds nobody up, and may ask several times.
    let mut slow = UnixStream::connect(&path).unwrap();
    slow.write_all(b"{\"command\":\"pa").unwrap();
    assert_eq!(ask(&path, &Request::Resume).unwrap()["asked"], 2);
    slow.write_all(b"use\"}\nnonsense\n{\"command\":\"stop\"}\n").unwrap();
    let answers: Vec<_> = BufReader::new(slow).lines().take(3).map(Result::unwrap).collect();
    assert_eq!([&*answers[0], &*answers[2]], [r#"{"ok":{"asked":3}}"#, r#"{"ok":{"asked":4}}"#]);
    assert!(answers[1].contains("not a request"), "{}", answers[1]);
    assert_eq!(server.join().unwrap().len(), 5);
    assert!(!path.exists());
    assert!(matches!(ask(&path, &Request::Stop), Err(Error::Connect { .. })));
}

#[test]
fn clients_that_misbehave_are_let_go() {
    let (_folder, path) = folder();
    let server = serve_until_stop(&path);
    let mut endless = UnixStream::connect(&path).unwrap();
    // The server goes before all of it is written.
    let _ = endless.write_all(&[b'x'; 1 << 20]);
    let mut said = String::new();
    // What was not read may turn the end into a reset.
    let _ = endless.read_to_string(&mut said);
    assert!(said.is_empty() || said.contains("16 KiB"), "{said}");
    // Somebody who asks and never listens.
    let mut deaf = UnixStream::connect(&path).unwrap();
    let request = "{\"command\":\"pause\"}\n".repeat(1000);
    while deaf.write_all(request.as_bytes()).is_ok() {}
    // More than there is room for; they go again.
    let crowd: Vec<_> = (0..40).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let mut last = String::new();
    BufReader::new(&crowd[39]).read_line(&mut last).unwrap();
    assert_eq!(last, "{\"error\":\"too many clients\"}\n");
    drop(crowd);
    while ask(&path, &Request::Stop).is_err() {}
    assert_eq!(server.join().unwrap().last(), Some(&Request::Stop));
}

#[test]
fn a_path_that_is_taken_is_told_and_a_dead_socket_is_replaced() {
    let (folder, path) = folder();
    let failure = |path: &Path| Server::listen(path).err().unwrap().to_string();
    let server = Server::listen(&path).unwrap();
    assert!(failure(&path).starts_with("another machine listens at "));
    drop(server);
    assert!(!path.exists());
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(Server::listen(&path).unwrap());
    fs::write(&path, "precious").unwrap();
    assert!(failure(&path).contains("it is no socket"));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert!(failure(&folder.path().join("no/where")).starts_with("cannot make the control socket "));
}
