use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Barrier, mpsc};
use std::thread;

use tempfile::TempDir;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::*;
use crate::config::MachineConfig;
use crate::machine::{ExitReason, Outcome};

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
                    _ => asked_before(asked.len()),
                };
                asked.push(request);
                (asked, Some(answer))
            });
        }
        asked
    })
}

/// The answer that tells how many requests there were before it.
fn asked_before(count: usize) -> Answer {
    Answer::fields(&serde_json::json!({"asked": count}))
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
        (
            r#"{"command":"snapshot","path":"/a","diff_of":"/b","track":true,"live":true,"max_pause":"50ms"}"#,
            Request::Snapshot(SnapshotRequest {
                path: "/a".into(),
                diff_of: Some("/b".into()),
                track: true,
                live: true,
                max_pause: Some("50ms".parse().unwrap()),
            }),
        ),
        (
            r#"{"command":"snapshot","path":"/a"}"#,
            Request::Snapshot(SnapshotRequest { path: "/a".into(), ..SnapshotRequest::default() }),
        ),
        (r#"{"command":"stats"}"#, Request::Stats),
        (r#"{"command":"info"}"#, Request::Info),
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
        r#"{"command":"snapshot"}"#,
        r#"{"command":"snapshot","path":"/a","b":1}"#,
        r#"{"command":"snapshot","path":"/a","max_pause":50}"#,
        r#"{"command":"balloon","target":"much"}"#,
        "pause",
    ] {
        assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
    }
    assert_eq!(serde_json::to_string(&Answer::done()).unwrap(), r#"{"ok":{}}"#);
    assert_eq!(serde_json::to_string(&Answer::refused(&"no")).unwrap(), r#"{"error":"no"}"#);
    assert_eq!(serde_json::to_string(&asked_before(7)).unwrap(), r#"{"ok":{"asked":7}}"#);
    let progress = Answer::Progress { done: 1, total: 2 };
    assert_eq!(serde_json::to_string(&progress).unwrap(), r#"{"progress":{"done":1,"total":2}}"#);
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
    fs::remove_file(&path).unwrap();
    // A server leaves alone what has come in the place of its socket.
    let server = Server::listen(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    drop(server);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert!(failure(&folder.path().join("no/where")).starts_with("cannot make the control socket "));
}

#[test]
fn of_many_that_find_a_dead_socket_one_replaces_it() {
    let (_folder, path) = folder();
    for _ in 0..20 {
        drop(UnixListener::bind(&path).unwrap());
        let start = Barrier::new(4);
        let listen = || {
            start.wait();
            Server::listen(&path)
        };
        let results: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(listen)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let taken = |result: &&Result<Server, Error>| matches!(result, Err(Error::InUse(_)));
        assert_eq!(results.iter().filter(taken).count(), 3);
        UnixStream::connect(&path).unwrap();
    }
}

/// What a client has been sent, until it has to wait.
fn received(mut client: &UnixStream) -> String {
    client.set_nonblocking(true).unwrap();
    let mut text = Vec::new();
    // It ends in an error where there is no end.
    let _ = client.read_to_end(&mut text);
    String::from_utf8(text).unwrap()
}

/// A client that has sent these lines.
fn client(path: &Path, lines: &[&str]) -> UnixStream {
    let mut client = UnixStream::connect(path).unwrap();
    lines.iter().for_each(|line| writeln!(client, "{line}").unwrap());
    client
}

/// Serves what is there; a pause gets no answer, everything else the number of what was asked before.
fn serve_once(server: &mut Server, asked: usize) -> usize {
    // Once lets a client in, once reads what it has sent.
    (0..2).fold(asked, |asked, _| {
        server.serve(asked, |asked, request| {
            (asked + 1, (request != Request::Pause).then(|| asked_before(asked)))
        })
    })
}

const PAUSE: &str = r#"{"command":"pause"}"#;
const INFO: &str = r#"{"command":"info"}"#;

#[test]
fn one_whose_answer_comes_later_is_told_how_far_it_is_and_asks_on_after_it() {
    let (_folder, path) = folder();
    let mut server = Server::listen(&path).unwrap();
    let patient = client(&path, &[PAUSE, INFO]);
    let asked = serve_once(&mut server, 0);
    assert_eq!((asked, server.is_awaited()), (1, true));
    let other = client(&path, &[INFO]);
    let asked = serve_once(&mut server, asked);
    assert_eq!(received(&other), "{\"ok\":{\"asked\":1}}\n");
    server.tell(&Answer::Progress { done: 1, total: 2 });
    assert_eq!(received(&patient), "{\"progress\":{\"done\":1,\"total\":2}}\n");
    server.tell(&Answer::done());
    assert!(!server.is_awaited());
    assert_eq!(serve_once(&mut server, asked), 3);
    assert_eq!(received(&patient), "{\"ok\":{}}\n{\"ok\":{\"asked\":2}}\n");
    // Nobody waits any more.
    server.tell(&Answer::done());
    assert_eq!(received(&patient) + &received(&other), "");
}

#[test]
fn one_who_waits_may_have_said_all_but_not_have_gone() {
    let (_folder, path) = folder();
    let mut server = Server::listen(&path).unwrap();
    let poll = |server: &Server| {
        let epoll = Epoll::new().unwrap();
        epoll.ctl(ControlOperation::Add, server.as_raw_fd(), EpollEvent::new(EventSet::IN, 0)).unwrap();
        epoll.wait(0, &mut [EpollEvent::default()]).unwrap()
    };
    let quiet = client(&path, &[PAUSE]);
    quiet.shutdown(Shutdown::Write).unwrap();
    serve_once(&mut server, 0);
    serve_once(&mut server, 0);
    assert_eq!((server.is_awaited(), poll(&server)), (true, 0));
    server.tell(&asked_before(7));
    serve_once(&mut server, 0);
    assert_eq!(received(&quiet), "{\"ok\":{\"asked\":7}}\n");
    let gone = client(&path, &[PAUSE]);
    serve_once(&mut server, 0);
    assert!(server.is_awaited());
    drop(gone);
    assert_eq!(poll(&server), 1);
    serve_once(&mut server, 0);
    assert_eq!((server.is_awaited(), poll(&server)), (false, 0));
}

/// A machine that has ended already.
fn ended() -> Machine {
    let outcome = Outcome {
        reason: ExitReason::PowerOff,
        stats: crate::vcpu::ExitStats::default(),
        timeline: std::sync::Arc::default(),
    };
    Machine::Ended(Box::new(outcome))
}

fn controlled() -> Controlled {
    let config = MachineConfig { kernel: Some("/vmlinux".into()), cpus: 3, ..MachineConfig::default() };
    Controlled::new(About::new(Some("web".parse().unwrap()), &config), ended())
}

fn wait_for(fd: &impl AsRawFd) {
    let poll = Epoll::new().unwrap();
    poll.ctl(ControlOperation::Add, fd.as_raw_fd(), EpollEvent::new(EventSet::IN, 0)).unwrap();
    poll.wait(-1, &mut [EpollEvent::default()]).unwrap();
}

#[test]
fn a_machine_that_is_away_says_so_and_comes_back() {
    let (go, gone) = mpsc::channel::<()>();
    let (machine, answer) = controlled().lend("saving", move |machine, progress| {
        assert!(progress.report(1, 2).is_continue());
        gone.recv().unwrap();
        (machine, asked_before(5))
    });
    assert_eq!((answer, machine.is_busy()), (None, true));
    let (machine, answer) = machine.answer(Request::Info);
    let Some(Answer::Ok(info)) = answer else { panic!("{answer:?}") };
    let info: Info = serde_json::from_value(info.into()).unwrap();
    assert_eq!((info.state.as_str(), info.cpus, info.pid), ("saving", 3, std::process::id()));
    assert_eq!((info.kernel.as_deref(), info.memory_bytes), (Some("/vmlinux"), 256 << 20));
    let busy = Some(Answer::refused(&"the machine is saving: ask again when that is done"));
    let (machine, answer) = machine.answer(Request::Pause);
    assert_eq!(answer, busy);
    let (mut machine, answer) = machine.lend("forking", |machine, _| (machine, Answer::done()));
    assert_eq!(answer, busy);
    go.send(()).unwrap();
    while machine.is_busy() {
        wait_for(&machine.event().unwrap());
        machine = machine.attend(None);
    }
    assert!(machine.event().is_none());
    assert_eq!(machine.wait().unwrap().reason, ExitReason::PowerOff);
}

/// Something that takes until nobody wants it.
fn endless(machine: Machine, progress: &Progress) -> (Machine, Answer) {
    while progress.report(1, 0).is_continue() {
        thread::yield_now();
    }
    (machine, Answer::refused(&"given up"))
}

#[test]
fn what_takes_long_is_given_up_when_nobody_waits_for_it() {
    let (_folder, path) = folder();
    let mut server = Server::listen(&path).unwrap();
    let impatient = client(&path, &[PAUSE]);
    let mut machine = Some(controlled());
    while !server.is_awaited() {
        machine = server.serve(machine, |machine, _| {
            let (machine, answer) = machine.unwrap().lend("saving", endless);
            (Some(machine), answer)
        });
    }
    let mut machine = machine.unwrap();
    let mut told = String::new();
    while !told.contains("progress") {
        wait_for(&machine.event().unwrap());
        machine = machine.attend(Some(&mut server));
        assert!(machine.is_busy());
        told += &received(&impatient);
    }
    drop(impatient);
    wait_for(&server);
    machine = machine.serve(&mut server);
    while machine.is_busy() {
        wait_for(&machine.event().unwrap());
        machine = machine.attend(Some(&mut server));
    }
}

#[test]
fn what_takes_long_ends_with_its_machine() {
    let (machine, _) = controlled().lend("saving", endless);
    let (machine, answer) = machine.answer(Request::Stop);
    assert_eq!(answer, Some(Answer::done()));
    assert_eq!(machine.wait().unwrap().reason, ExitReason::PowerOff);
    let (machine, _) = controlled().lend("saving", endless);
    assert_eq!(machine.wait().unwrap().reason, ExitReason::PowerOff);
    let (machine, _) = controlled().lend("saving", endless);
    drop(machine);
}
