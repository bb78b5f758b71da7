//! What no driver sends.

use proptest::prelude::*;

use super::super::packet::HOST;
use super::*;

const NOBODY: Ports = Ports { guest: 1000, host: 2000 };

#[test]
fn what_belongs_to_no_connection_is_reset() {
    let mut guest = Guest::new();
    for op in [Op::Request, Op::Response, Op::Shutdown, Op::Data, Op::CreditUpdate, Op::CreditRequest] {
        guest.send(packet(NOBODY, op));
        let answer = guest.expect(Op::Reset);
        assert_eq!((answer.src_cid.get(), answer.src_port.get()), (HOST, NOBODY.host), "{op:?}");
        assert_eq!((answer.dst_cid.get(), answer.dst_port.get()), (CID, NOBODY.guest), "{op:?}");
    }
    guest.send(packet(NOBODY, Op::Reset));
    guest.expect_silence();
}

#[test]
fn what_is_not_for_the_host_or_not_of_the_guest_is_reset() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.answer(5);
    for cid in [0, 1, 3, CID, u64::MAX, HOST | 1 << 32] {
        guest.send(Header { dst_cid: cid.into(), ..packet(ports, Op::Data) });
        assert_eq!(guest.expect(Op::Reset).src_cid.get(), cid);
        guest.send(Header { dst_cid: cid.into(), ..packet(ports, Op::Reset) });
    }
    for cid in [0, HOST, CID + 1, u64::MAX, CID | 1 << 32] {
        guest.send(Header { src_cid: cid.into(), ..packet(ports, Op::Reset) });
        guest.send(Header { src_cid: cid.into(), ..packet(ports, Op::Shutdown) });
        guest.expect(Op::Reset);
    }
    for kind in [0, 2, u16::MAX] {
        guest.send(Header { kind: kind.into(), ..packet(ports, Op::Request) });
        assert_eq!(guest.expect(Op::Reset).kind.get(), kind);
    }
    // The connection of these ports has nothing to do with any of that.
    guest.say(ports, b"unimpressed");
    assert_eq!(read_exact(&mut stream, 11), b"unimpressed");
}

#[test]
fn what_a_connection_may_not_do_ends_it() {
    let data = |len: u32| move |ports| Header { len: len.into(), ..packet(ports, Op::Data) };
    let op = |op: u16| move |ports| Header { op: op.into(), ..packet(ports, Op::Data) };
    // Each with five bytes after it.
    let cases: [Box<dyn Fn(Ports) -> Header>; 7] = [
        Box::new(data(6)),
        Box::new(data(70_000)),
        Box::new(data(u32::MAX)),
        Box::new(op(0)),
        Box::new(op(8)),
        Box::new(op(Op::Response.number())),
        Box::new(op(Op::Request.number())),
    ];
    let mut guest = Guest::new();
    for (index, case) in cases.into_iter().enumerate() {
        let (ports, mut stream) = guest.answer(5);
        guest.send_raw(&case(ports), b"short");
        guest.expect(Op::Reset);
        assert_eq!(read_to_end(&mut stream), b"", "case {index}");
        guest.send(packet(ports, Op::CreditUpdate));
        guest.expect(Op::Reset);
    }
    guest.expect_silence();
}

#[test]
fn bytes_after_the_last_end_the_connection() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.answer(5);
    guest.send(shutdown(ports, shut::SEND));
    guest.expect_silence();
    guest.say(ports, b"one more thing");
    guest.expect(Op::Reset);
    assert_eq!(read_to_end(&mut stream), b"");
}

#[test]
fn bytes_before_the_connection_is_there_end_it() {
    let mut guest = Guest::new();
    let mut stream = guest.connect("CONNECT 52\n");
    let ports = Ports { guest: 52, host: guest.expect(Op::Request).src_port.get() };
    guest.say(ports, b"hasty");
    guest.expect(Op::Reset);
    assert_eq!(read_to_end(&mut stream), b"");
}

#[test]
fn buffers_that_are_too_small_come_back_empty() {
    let mut guest = Guest::without_buffers(PATIENCE);
    for len in [1, HEADER_LEN - 1, HEADER_LEN] {
        assert_eq!(guest.driver.request(RX, &[], &[len]).0, 0);
        let whole = packet(NOBODY, Op::Data);
        assert_eq!(guest.driver.request(TX, &[&whole.as_bytes()[..len - 1]], &[]).0, 0);
    }
    assert_eq!(guest.driver.request(RX, &[b"readable"], &[]).0, 0);
    guest.give(1);
    guest.send(packet(NOBODY, Op::Data));
    guest.expect(Op::Reset);
}

#[test]
fn a_header_may_lie_in_pieces() {
    let mut guest = Guest::without_buffers(PATIENCE);
    guest.driver.offer(RX, &[], &[3, 41, 1, 100, 0, 4000]);
    let request = packet(NOBODY, Op::Request);
    let bytes = request.as_bytes();
    guest.driver.request(TX, &[&bytes[..1], &bytes[1..20], &bytes[20..]], &[]);
    let (_, len, answer) = guest.driver.wait_used(RX);
    assert_eq!(len as usize, HEADER_LEN);
    assert_eq!(Header::read_from_prefix(&answer).unwrap().0.op.get(), Op::Reset.number());
}

#[test]
fn a_guest_that_takes_no_answers_is_not_listened_to() {
    const MANY: u32 = 1000;
    let mut guest = Guest::without_buffers(PATIENCE);
    let mut sent = 0;
    // All that the sending queue holds, as often as it is taken.
    while sent < MANY {
        let before = sent;
        for _ in 0..100 {
            let ports = Ports { guest: sent, host: 9 };
            guest.driver.offer(TX, &[packet(ports, Op::Data).as_bytes()], &[]);
            sent += 1;
        }
        guest.driver.kick(TX);
        guest.driver.settle();
        guest.driver.settle();
        let taken = std::iter::from_fn(|| guest.driver.used(TX)).count();
        if taken < 100 {
            assert!(before >= 200, "only {before} were taken");
            break;
        }
    }
    assert!(sent < MANY, "all were taken");
    guest.give(BUFFERS);
    for port in 0..sent {
        assert_eq!(guest.expect(Op::Reset).dst_port.get(), port);
    }
    guest.expect_silence();
}

#[test]
fn the_same_answer_waits_once() {
    let mut guest = Guest::without_buffers(PATIENCE);
    for _ in 0..1000 {
        guest.send(packet(NOBODY, Op::Data));
        guest.send(packet(NOBODY, Op::Shutdown));
    }
    guest.give(BUFFERS);
    guest.expect(Op::Reset);
    guest.expect_silence();
    guest.send(packet(NOBODY, Op::Data));
    guest.expect(Op::Reset);
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let mut guest = Guest::without_buffers(PATIENCE);
    let listener = guest.listen(80);
    let ports = Ports { guest: 1, host: 80 };
    // There is no buffer for the device's answers, so each has its answer still to come when it ends.
    for _ in 0..2000 {
        guest.send(packet(ports, Op::Request));
        guest.send(packet(ports, Op::Reset));
        drop(listener.accept().unwrap());
    }
    guest.give(BUFFERS);
    guest.expect_silence();
    guest.dial(1, &listener);
}

/// Values of which some fit together.
fn headers() -> impl Strategy<Value = (Header, usize)> {
    let cid = prop_oneof![8 => Just(CID), 1 => any::<u64>()];
    let host = prop_oneof![8 => Just(HOST), 1 => any::<u64>()];
    let port = || prop_oneof![4 => 1_u32..4, 1 => any::<u32>()];
    let len = prop_oneof![4 => 0_u32..5000, 1 => any::<u32>()];
    let kind = prop_oneof![8 => Just(STREAM), 1 => any::<u16>()];
    let op = prop_oneof![16 => 1_u16..8, 1 => any::<u16>()];
    let flags = prop_oneof![4 => 0_u32..4, 1 => any::<u32>()];
    let count = || prop_oneof![2 => Just(0_u32), 2 => 0_u32..100_000, 1 => any::<u32>()];
    ((cid, host, port(), port(), len), (kind, op, flags, count(), count()), 0_usize..5000).prop_map(
        |((src, dst, src_port, dst_port, len), (kind, op, flags, buf_alloc, fwd_cnt), payload)| {
            let header = Header {
                src_cid: src.into(),
                dst_cid: dst.into(),
                src_port: src_port.into(),
                dst_port: dst_port.into(),
                len: len.into(),
                kind: kind.into(),
                op: op.into(),
                flags: flags.into(),
                buf_alloc: buf_alloc.into(),
                fwd_cnt: fwd_cnt.into(),
            };
            (header, payload)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Whatever the guest says, the device goes on, and every answer of its is a packet.
    #[test]
    fn anything_goes(packets in proptest::collection::vec(headers(), 1..80)) {
        let mut guest = Guest::new();
        let listeners = [guest.listen(1), guest.listen(2)];
        listeners.iter().for_each(|listener| listener.set_nonblocking(true).unwrap());
        let mut streams = Vec::new();
        for (header, len) in packets {
            guest.send_raw(&header, &pattern(len));
            streams.extend(listeners.iter().filter_map(|listener| listener.accept().ok()));
            if let Some((mut stream, _)) = streams.pop() {
                stream.set_nonblocking(true).unwrap();
                let _ = stream.write(&pattern(3000));
                streams.push((stream, listeners[0].local_addr().unwrap()));
            }
            if streams.len() > 3 {
                streams.remove(0);
            }
            while let Some((answer, _)) = guest.try_receive() {
                prop_assert!(Op::from_number(answer.op.get()).is_some());
            }
        }
        let request = packet(Ports { guest: 77, host: 78 }, Op::Request);
        guest.send(request);
        while guest.receive().0 != request.reset(CID) {}
    }
}
