//! Many connections, and many that would be.

use super::super::muxer::{CONNECTIONS_MAX, GREETINGS_MAX};
use super::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets the test have as many descriptors as the host allows; whether that is enough.
fn descriptors(wanted: usize) -> bool {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    let enough = most.is_none_or(|most| most >= wanted as u64);
    if !enough {
        eprintln!("skipped: the host allows fewer than {wanted} descriptors");
    }
    enough
}

#[test]
fn two_thousand_connections_at_once() {
    const EACH: u32 = 1000;
    if !descriptors(5000) {
        return;
    }
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let mut open: Vec<_> = (0..EACH).map(|port| guest.dial(10_000 + port, &listener)).collect();
    // All the others come at once.
    let mut streams: Vec<_> = (0..EACH).map(|port| guest.connect(&format!("CONNECT {port}\n"))).collect();
    let mut ports: Vec<_> = (0..EACH)
        .map(|_| {
            let request = guest.expect(Op::Request);
            Ports { guest: request.dst_port.get(), host: request.src_port.get() }
        })
        .collect();
    ports.sort_by_key(|ports| ports.guest);
    for (port, stream) in ports.into_iter().zip(&mut streams) {
        guest.send(packet(port, Op::Response));
        assert_eq!(read_exact(stream, 14), format!("OK {}\n", port.host).as_bytes());
        open.push((port, stream.try_clone().unwrap()));
    }
    drop(streams);

    for (index, (ports, stream)) in open.iter_mut().enumerate() {
        guest.say(*ports, &index.to_le_bytes());
        stream.write_all(&index.to_le_bytes()).unwrap();
    }
    for (index, (_, stream)) in open.iter_mut().enumerate() {
        assert_eq!(read_exact(stream, 8), index.to_le_bytes());
    }
    let mut heard = vec![false; open.len()];
    for _ in 0..open.len() {
        let (header, bytes) = guest.receive();
        let index = usize::from_le_bytes(bytes.try_into().unwrap());
        assert_eq!(open[index].0.guest, header.dst_port.get());
        assert!(!std::mem::replace(&mut heard[index], true));
    }
    for (ports, stream) in &mut open {
        guest.send(shutdown(*ports, shut::BOTH));
        guest.expect(Op::Reset);
        assert_eq!(read_to_end(stream), b"");
    }
}

#[test]
fn connections_beyond_the_limit_are_refused_until_others_end() {
    if !descriptors(CONNECTIONS_MAX * 2 + 500) {
        return;
    }
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let mut open: Vec<_> =
        (0..CONNECTIONS_MAX as u32).map(|port| guest.dial(10_000 + port, &listener)).collect();
    guest.send(packet(Ports { guest: 1, host: 80 }, Op::Request));
    guest.expect(Op::Reset);
    assert_eq!(read_to_end(&mut UnixStream::connect(guest.path()).unwrap()), b"");
    let (ports, _stream) = open.pop().unwrap();
    guest.send(packet(ports, Op::Reset));
    guest.dial(1, &listener);
}

#[test]
fn programs_take_turns() {
    const TOTAL: usize = 32 * PAGE;
    let mut guest = Guest::without_buffers(PATIENCE);
    guest.give(8);
    let mut both = [guest.answer(1).1, guest.answer(2).1];
    guest.driver.pause();
    for stream in &mut both {
        stream.write_all(&pattern(TOTAL)).unwrap();
    }
    guest.driver.resume();
    let packets: Vec<_> = (0..64).map(|_| guest.receive()).collect();
    for pair in packets.chunks(2) {
        assert_ne!(pair[0].0.dst_port, pair[1].0.dst_port);
        assert_eq!(pair[0].1.len(), PAGE);
    }
}

#[test]
fn idle_programs_are_shown_the_door() {
    let mut guest = Guest::patient(Duration::from_millis(300));
    let mut idle = guest.connect("");
    let (_, _busy) = guest.answer(5);
    assert_eq!(read_to_end(&mut idle), b"");
    guest.expect_silence();
    let (ports, mut stream) = guest.answer(6);
    guest.say(ports, b"still here");
    assert_eq!(read_exact(&mut stream, 10), b"still here");
}

#[test]
fn programs_wait_outside_while_too_many_have_said_nothing() {
    let mut guest = Guest::new();
    let mut idle: Vec<_> = (0..GREETINGS_MAX).map(|_| guest.connect("")).collect();
    guest.driver.settle();
    let _late = guest.connect("CONNECT 7\n");
    guest.expect_silence();
    // One of them finds its tongue, and there is room.
    idle[3].write_all(b"CONNECT 8\n").unwrap();
    assert_eq!(guest.expect(Op::Request).dst_port.get(), 8);
    assert_eq!(guest.expect(Op::Request).dst_port.get(), 7);
}

#[test]
fn nonsense_is_shown_the_door() {
    let mut guest = Guest::new();
    for line in ["HELLO\n", "CONNECT\n", "CONNECT 99999999999\n", &"C".repeat(100), "\n", "CONNECT -5\nabc"] {
        let mut bytes = Vec::new();
        // Some of what it said may be unread when it is closed, which is an error of the socket's.
        let _ = guest.connect(line).read_to_end(&mut bytes);
        assert_eq!(bytes, b"", "{line}");
    }
    let half = guest.connect("CONNECT 5");
    half.shutdown(std::net::Shutdown::Write).unwrap();
    guest.expect_silence();
    guest.answer(5);
}

#[test]
fn connections_and_their_bytes_are_counted() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let (ports, mut stream) = guest.dial(1, &listener);
    guest.say(ports, b"seven..");
    stream.write_all(b"five.").unwrap();
    guest.receive_bytes(5);
    guest.send(packet(Ports { guest: 2, host: 81 }, Op::Request));
    guest.expect(Op::Reset);
    guest.send(Header { kind: 9.into(), ..packet(ports, Op::Data) });
    guest.expect(Op::Reset);
    let expected = [
        ("connections", 1),
        ("connections_total", 1),
        ("refused_total", 1),
        ("received_bytes", 5),
        ("transmitted_bytes", 7),
        ("bad_packets_total", 1),
    ];
    assert_eq!(guest.driver.handle.metrics().unwrap(), expected);
}

/// In a process of its own: the limit is for all of it.
#[test]
fn a_host_without_descriptors_refuses_and_goes_on() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "virtio::vsock::tests::crowd::without_descriptors"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "takes its process all descriptors"]
fn without_descriptors() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    guest.driver.pause();
    let _stream = guest.connect("CONNECT 5\n");
    let usual = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..usual }).unwrap();
    guest.driver.resume();
    guest.send(packet(Ports { guest: 1, host: 80 }, Op::Request));
    guest.expect(Op::Reset);
    guest.expect_silence();
    setrlimit(Resource::Nofile, usual).unwrap();
    // It tries again by itself.
    assert_eq!(guest.expect(Op::Request).dst_port.get(), 5);
    guest.dial(1, &listener);
}
