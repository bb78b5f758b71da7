//! Connections end with a restore, and not with a snapshot.

use super::*;
use crate::virtio::Allow;
use crate::virtio::testing::copy;

const OTHER_CID: u64 = 43;

/// The machine that goes on for a paused guest, under another context id.
fn heir(guest: &mut Guest) -> GuestDriver {
    let uds = guest.folder.path().join("heir.sock");
    let device = Vsock { cid: OTHER_CID, uds, ..config(&guest.folder) }.open(&PLACE).unwrap();
    let state = guest.driver.save().unwrap();
    let memory = copy(&guest.driver.memory);
    guest.driver.heir(device, memory, state, Allow::default()).unwrap()
}

fn give_event_buffers(driver: &mut GuestDriver, len: usize) {
    driver.offer(EVENT, &[], &[len]);
    driver.kick(EVENT);
}

/// The next packet, as its operation, both its context ids and the guest's port.
fn packet_of(driver: &mut GuestDriver) -> (Option<Op>, u64, u64, u32) {
    let (_, _, bytes) = driver.wait_used(RX);
    let (header, _) = Header::read_from_prefix(&bytes).unwrap();
    let op = Op::from_number(header.op.get());
    (op, header.src_cid.get(), header.dst_cid.get(), header.dst_port.get())
}

#[test]
fn connections_outlive_a_snapshot_and_not_a_restore() {
    let mut guest = Guest::new();
    give_event_buffers(&mut guest.driver, 3);
    give_event_buffers(&mut guest.driver, 4);
    let (ports, mut stream) = guest.answer(5);
    let listener = guest.listen(1024);
    let (dialled, mut other) = guest.dial(7, &listener);
    guest.driver.pause();
    let mut next = heir(&mut guest);
    // Here they go on.
    guest.driver.resume();
    guest.say(ports, b"still there");
    assert_eq!(read_exact(&mut stream, 11), b"still there");
    other.write_all(b"and here").unwrap();
    assert_eq!(guest.receive_bytes(8), b"and here");
    assert_eq!(guest.driver.used(EVENT), None);
    guest.driver.pause();

    // There the driver reads its context id anew, and all connections are reset.
    assert_eq!(u64::from_le_bytes(next.config(0)), OTHER_CID);
    next.resume();
    // The first buffer has no room for an event.
    assert_eq!(next.wait_used(EVENT).1, 0);
    assert_eq!(next.wait_used(EVENT), (1, 4, vec![0; 4]));
    let mut resets = [packet_of(&mut next), packet_of(&mut next)];
    resets.sort_by_key(|(.., port)| *port);
    assert_eq!(resets, [ports.guest, dialled.guest].map(|port| (Some(Op::Reset), 2, CID, port)));
    // It is said once.
    give_event_buffers(&mut next, 4);
    next.pause();
    next.resume();
    next.settle();
    assert_eq!((next.used(EVENT), next.used(RX)), (None, None));
    // What the driver still sends is of no connection.
    let data = Header { src_cid: OTHER_CID.into(), len: 1.into(), ..super::packet(ports, Op::Data) };
    next.request(TX, &[data.as_bytes(), b"a"], &[]);
    assert_eq!(packet_of(&mut next).0, Some(Op::Reset));
}

#[test]
fn a_connection_that_the_guest_is_making_is_reset_when_there_is_room() {
    let mut guest = Guest::without_buffers(PATIENCE);
    let _listener = guest.listen(1024);
    guest.send(packet(Ports { guest: 9, host: 1024 }, Op::Request));
    // Nobody listens there.
    guest.send(packet(Ports { guest: 10, host: 1025 }, Op::Request));
    guest.driver.pause();
    let mut next = heir(&mut guest);
    // Once more, before it has run.
    next.pause();
    let state = next.save().unwrap();
    let uds = guest.folder.path().join("third.sock");
    let device = Vsock { cid: 44, uds, ..config(&guest.folder) }.open(&PLACE).unwrap();
    let mut third = next.heir(device, copy(&next.memory), state, Allow::default()).unwrap();
    third.resume();
    for _ in 0..3 {
        third.offer(RX, &[], &[HEADER_LEN + PAGE]);
    }
    third.kick(RX);
    let mut resets = [packet_of(&mut third), packet_of(&mut third)].map(|(op, .., port)| (op, port));
    resets.sort_by_key(|(_, port)| *port);
    assert_eq!(resets, [9, 10].map(|port| (Some(Op::Reset), port)));
    third.settle();
    assert_eq!(third.used(RX), None);
    // The driver has been there all the time: it hears of it when it has a buffer for that.
    give_event_buffers(&mut third, 8);
    assert_eq!(third.wait_used(EVENT).1, 4);
}

#[test]
fn a_connection_with_an_answer_to_what_was_before_is_reset_once() {
    let mut guest = Guest::without_buffers(PATIENCE);
    let _listener = guest.listen(1024);
    let ports = Ports { guest: 9, host: 1024 };
    guest.send(packet(ports, Op::Data));
    guest.send(packet(ports, Op::Request));
    guest.driver.pause();
    let mut next = heir(&mut guest);
    next.resume();
    for _ in 0..2 {
        next.offer(RX, &[], &[HEADER_LEN + PAGE]);
    }
    next.kick(RX);
    assert_eq!(packet_of(&mut next), (Some(Op::Reset), 2, CID, 9));
    next.settle();
    assert_eq!(next.used(RX), None);
}
