//! Ends and half ends of connections, on either side.

use super::*;

#[test]
fn the_hosts_half_end_is_the_guests_too() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.answer(5);
    stream.write_all(b"last words").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(guest.receive_bytes(10), b"last words");
    assert_eq!(guest.expect(Op::Shutdown).flags.get(), shut::SEND);
    guest.say(ports, b"but I have more");
    assert_eq!(read_exact(&mut stream, 15), b"but I have more");
    guest.send(shutdown(ports, shut::BOTH));
    assert_eq!(guest.expect(Op::Reset).dst_port.get(), 5);
    assert_eq!(read_to_end(&mut stream), b"");
}

#[test]
fn the_guests_half_end_is_the_hosts_too() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.answer(5);
    guest.say(ports, b"last words");
    guest.send(shutdown(ports, shut::SEND));
    assert_eq!(read_to_end(&mut stream), b"last words");
    stream.write_all(b"but I have more").unwrap();
    assert_eq!(guest.receive_bytes(15), b"but I have more");
    drop(stream);
    assert_eq!(guest.expect(Op::Shutdown).flags.get(), shut::BOTH);
    guest.send(shutdown(ports, shut::RECEIVE));
    guest.expect(Op::Reset);
}

#[test]
fn a_guest_that_receives_no_more_is_sent_no_more() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.answer(5);
    guest.send(shutdown(ports, shut::RECEIVE));
    assert_eq!(stream.write(b"too late").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    guest.expect_silence();
    guest.say(ports, b"hear me");
    assert_eq!(read_exact(&mut stream, 7), b"hear me");
    drop(stream);
    assert_eq!(guest.expect(Op::Shutdown).flags.get(), shut::BOTH);
    guest.send(packet(ports, Op::Reset));
    guest.expect_silence();
}

#[test]
fn a_host_that_receives_no_more_lets_the_guest_know() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.answer(5);
    stream.shutdown(std::net::Shutdown::Read).unwrap();
    for _ in 0..8 {
        // It goes nowhere, and takes no room.
        guest.say(ports, &pattern(30_000));
    }
    assert_eq!(guest.expect(Op::Shutdown).flags.get(), shut::RECEIVE);
    stream.write_all(b"hear me").unwrap();
    while {
        let (header, bytes) = guest.receive();
        assert!(header.op.get() == Op::CreditUpdate.number() || bytes == b"hear me", "{header:?}");
        bytes.is_empty()
    } {}
}

#[test]
fn a_program_that_ends_ends_the_connection() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let (ports, mut stream) = guest.dial(5, &listener);
    stream.write_all(b"last words").unwrap();
    drop(stream);
    assert_eq!(guest.receive_bytes(10), b"last words");
    assert_eq!(guest.expect(Op::Shutdown).flags.get(), shut::BOTH);
    // The guest has not heard of it yet.
    guest.say(ports, b"anybody there?");
    guest.send(shutdown(ports, shut::BOTH));
    guest.expect(Op::Reset);
    // The ports are free again.
    guest.dial(5, &listener);
}

#[test]
fn what_the_guest_sent_before_its_end_reaches_the_host_however_slow_that_is() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.answer(5);
    let sent = fill_up(&mut guest, ports);
    guest.send(shutdown(ports, shut::BOTH));
    guest.expect(Op::Reset);
    // The guest may use the ports again at once.
    let listener = guest.listen(ports.host);
    let (_, mut second) = guest.dial(5, &listener);
    second.write_all(b"second").unwrap();
    assert_eq!(guest.receive_bytes(6), b"second");
    assert!(read_to_end(&mut stream) == sent);
}

#[test]
fn the_hosts_end_of_file_waits_for_what_the_guest_sent() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.answer(5);
    let sent = fill_up(&mut guest, ports);
    guest.send(shutdown(ports, shut::SEND));
    assert!(read_to_end(&mut stream) == sent);
    stream.write_all(b"thanks").unwrap();
    let (header, bytes) = guest.receive();
    if bytes.is_empty() {
        assert_eq!(header.op.get(), Op::CreditUpdate.number());
        assert_eq!(guest.receive_bytes(6), b"thanks");
    }
}

/// Sends until the device keeps bytes that the host's socket does not take; all that was sent.
fn fill_up(guest: &mut Guest, ports: Ports) -> Vec<u8> {
    let mut sent = Vec::new();
    loop {
        guest.send(packet(ports, Op::CreditRequest));
        let mut told = guest.expect(Op::CreditUpdate);
        if guest.driver.used(RX).is_some() {
            // It was told without having asked.
            guest.give(1);
            told.fwd_cnt = (sent.len() as u32).into();
        }
        if (told.fwd_cnt.get() as usize) < sent.len() {
            return sent;
        }
        let bytes = pattern(20_000);
        guest.say(ports, &bytes);
        sent.extend(bytes);
    }
}

#[test]
fn a_guest_that_does_not_take_the_connection_closes_it() {
    let mut guest = Guest::new();
    let mut stream = guest.connect("CONNECT 52\n");
    let request = guest.expect(Op::Request);
    guest.send(packet(Ports { guest: 52, host: request.src_port.get() }, Op::Reset));
    assert_eq!(read_to_end(&mut stream), b"");
    guest.expect_silence();
}

#[test]
fn a_program_that_does_not_wait_for_the_guest_is_forgotten() {
    let mut guest = Guest::new();
    let stream = guest.connect("CONNECT 52\n");
    let request = guest.expect(Op::Request);
    drop(stream);
    guest.expect(Op::Reset);
    guest.send(packet(Ports { guest: 52, host: request.src_port.get() }, Op::Response));
    guest.expect(Op::Reset);
}

#[test]
fn a_reset_ends_everything_at_once() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.answer(5);
    guest.send(packet(ports, Op::Reset));
    assert_eq!(read_to_end(&mut stream), b"");
    guest.say(ports, b"hello?");
    guest.expect(Op::Reset);
    guest.expect_silence();
}
