//! Either side sends what the other has room for.

use proptest::prelude::*;

use super::super::credit::{Credit, ROOM};
use super::*;

#[test]
fn the_guest_gets_what_it_has_room_for() {
    let mut guest = Guest::new();
    let mut stream = guest.connect("CONNECT 5\n");
    let ports = Ports { guest: 5, host: guest.expect(Op::Request).src_port.get() };
    let room = |room: u32, taken: u32, op| Header {
        buf_alloc: room.into(),
        fwd_cnt: taken.into(),
        ..packet(ports, op)
    };
    guest.send(room(1000, 0, Op::Response));
    read_exact(&mut stream, 14);
    let sent = pattern(5000);
    stream.write_all(&sent).unwrap();
    assert_eq!(guest.receive_bytes(1000), sent[..1000]);
    // It is asked once for more.
    guest.expect(Op::CreditRequest);
    guest.send(room(1000, 0, Op::CreditUpdate));
    guest.expect_silence();
    guest.send(room(1000, 400, Op::CreditUpdate));
    assert_eq!(guest.receive_bytes(400), sent[1000..1400]);
    guest.expect(Op::CreditRequest);
    // Less room than there are bytes on the way, and more taken than was sent, are no room.
    guest.send(room(100, 500, Op::CreditUpdate));
    guest.send(room(1000, 5000, Op::CreditUpdate));
    guest.expect_silence();
    guest.send(room(1 << 20, 1400, Op::CreditUpdate));
    assert_eq!(guest.receive_bytes(3600), sent[1400..]);
    guest.expect_silence();
}

#[test]
fn the_guest_is_told_when_the_host_has_taken_much() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.answer(5);
    guest.say(ports, &pattern(ROOM as usize / 2 - 1));
    read_exact(&mut stream, ROOM as usize / 2 - 1);
    guest.expect_silence();
    guest.say(ports, b"!");
    let told = guest.expect(Op::CreditUpdate);
    assert_eq!((told.buf_alloc.get(), told.fwd_cnt.get()), (ROOM, ROOM / 2));
    guest.send(packet(ports, Op::CreditRequest));
    assert_eq!(guest.expect(Op::CreditUpdate).fwd_cnt.get(), ROOM / 2);
    guest.expect_silence();
}

/// Sends as much as there is room for, and gives how much that was.
fn exhaust(guest: &mut Guest, ports: Ports) -> usize {
    let mut sent = 0;
    loop {
        guest.send(packet(ports, Op::CreditRequest));
        let mut told = guest.expect(Op::CreditUpdate);
        guest.driver.settle();
        while let Some((newer, _)) = guest.try_receive() {
            told = newer;
        }
        let room = (told.fwd_cnt.get() + told.buf_alloc.get()) as usize - sent;
        if room == 0 {
            return sent;
        }
        let count = room.min(20_001);
        guest.say(ports, &pattern(sent + count)[sent..]);
        sent += count;
    }
}

#[test]
fn a_guest_that_keeps_to_its_room_loses_nothing() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.answer(5);
    let sent = exhaust(&mut guest, ports);
    assert!(sent > ROOM as usize);
    assert!(read_exact(&mut stream, sent) == pattern(sent));
    let mut told = 0;
    while told < sent - ROOM as usize / 2 {
        told = guest.expect(Op::CreditUpdate).fwd_cnt.get() as usize;
    }
    guest.say(ports, b"more");
    assert_eq!(read_exact(&mut stream, 4), b"more");
}

#[test]
fn a_guest_that_does_not_is_reset() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.answer(5);
    let sent = exhaust(&mut guest, ports);
    guest.say(ports, b"!");
    guest.expect(Op::Reset);
    // What was kept for the host is lost; what its socket has is not.
    assert!(read_to_end(&mut stream).len() == sent - ROOM as usize);
}

#[test]
fn nobody_has_to_wait_for_a_connection_that_is_slow() {
    let mut guest = Guest::new();
    let (slow, mut slow_stream) = guest.answer(5);
    exhaust(&mut guest, slow);
    guest.send(Header { buf_alloc: 0.into(), ..packet(slow, Op::CreditUpdate) });
    slow_stream.write_all(b"no room for this").unwrap();
    guest.expect(Op::CreditRequest);
    let (fast, mut stream) = guest.answer(6);
    guest.say(fast, b"quick");
    assert_eq!(read_exact(&mut stream, 5), b"quick");
    stream.write_all(b"too").unwrap();
    assert_eq!(guest.receive_bytes(3), b"too");
}

proptest! {
    /// Whatever the guest says, it is never sent more than it has room for, nor forgotten for ever.
    #[test]
    fn counts_wrap(start: u32, room in 0_u32..=1 << 20, steps in proptest::collection::vec((0_u32..70_000, 0_u32..70_000), 1..50)) {
        let mut credit = Credit::default();
        credit.send(start);
        let (mut on_the_way, mut taken) = (0_u32, start);
        credit.learn(room, taken);
        for (send, take) in steps {
            let count = send.min(credit.guest_free());
            credit.send(count);
            on_the_way += count;
            prop_assert!(on_the_way <= room);
            let take = take.min(on_the_way);
            on_the_way -= take;
            taken = taken.wrapping_add(take);
            credit.learn(room, taken);
            prop_assert_eq!(credit.guest_free(), room - on_the_way);
        }
    }

    #[test]
    fn wrong_counts_are_no_room(sent: u32, room: u32, taken: u32) {
        let mut credit = Credit::default();
        credit.send(sent);
        credit.learn(room, taken);
        prop_assert!(credit.guest_free() <= room);
    }
}
