//! The device between a guest's driver and a pair of sockets, which give and take a frame a call as a
//! tap does.

use std::cell::RefCell;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::config::parse_options;
use crate::virtio::iovec::IoVecs;
use crate::virtio::testing::{GuestDriver, conformance, copy, wait};
use crate::virtio::{Allow, feature};

const RX: usize = 0;
const TX: usize = 1;
const CONTROL: usize = 2;

/// The header of a frame that leaves nothing undone.
const PLAIN: [u8; HEADER] = [0; HEADER];

fn nic_of(word: &str, ports: usize) -> (Nic, Vec<UnixDatagram>) {
    let config: Net = parse_options(word).unwrap();
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..ports).map(|_| UnixDatagram::pair().unwrap()).unzip();
    let ports = ours.into_iter().map(|socket| {
        socket.set_nonblocking(true).unwrap();
        Port::new(socket.into())
    });
    for socket in &theirs {
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    let tap = Tap { name: "socket".into(), ports: ports.collect(), offload: features::TAP };
    let mac = config.mac.unwrap_or(Mac::local(1));
    (Nic::new(&config, tap, mac).unwrap(), theirs)
}

fn set_up(word: &str, features: u64) -> (GuestDriver, UnixDatagram) {
    let (nic, mut sockets) = nic_of(word, 1);
    let mut driver = GuestDriver::new(Box::new(nic));
    driver.set_up(features);
    (driver, sockets.remove(0))
}

/// A frame, header and all, that can be told from others.
fn frame(len: usize, seed: u8) -> Vec<u8> {
    let body = (HEADER..len).map(|at| at.to_le_bytes()[0].wrapping_mul(31).wrapping_add(seed));
    PLAIN.into_iter().chain(body).collect()
}

/// What the guest has to find of a frame.
fn delivered(frame: &[u8], chains: u16) -> Vec<u8> {
    let mut expected = frame.to_vec();
    expected[10..12].copy_from_slice(&chains.to_le_bytes());
    expected
}

fn receive(socket: &UnixDatagram) -> Vec<u8> {
    let mut bytes = vec![0; FRAME + 1];
    let len = socket.recv(&mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

/// A received frame: its bytes and the number of chains.
fn wait_frame(driver: &mut GuestDriver) -> (Vec<u8>, u16) {
    let (_, len, mut bytes) = driver.wait_used(RX);
    bytes.truncate(len as usize);
    let chains = u16::from_le_bytes([bytes[10], bytes[11]]);
    for _ in 1..chains {
        // All of a frame is there at once.
        let (_, len, part) = driver.used(RX).unwrap();
        bytes.extend(&part[..len as usize]);
    }
    (bytes, chains)
}

fn offer(driver: &mut GuestDriver, count: usize, len: usize) {
    for _ in 0..count {
        driver.offer(RX, &[], &[len]);
    }
    driver.kick(RX);
}

#[test]
fn conforms() {
    for word in ["", "rate=100M", "offload=off"] {
        let sockets = RefCell::new(Vec::new());
        let mut seed = 0_u8;
        conformance(
            || {
                let (nic, mut theirs) = nic_of(word, 1);
                sockets.borrow_mut().append(&mut theirs);
                Box::new(nic)
            },
            |driver| {
                seed = seed.wrapping_add(1);
                let sent = frame(1000, seed);
                let (len, _) = driver.request(TX, &[&sent[..12], &sent[12..500], &sent[500..]], &[]);
                assert_eq!(len, 0);
                let socket = &sockets.borrow()[driver.which];
                // An attack may have sent something before.
                while receive(socket) != sent {}
                offer(driver, 1, 1526);
                let sent = frame(700, seed);
                socket.send(&sent).unwrap();
                assert_eq!(wait_frame(driver), (delivered(&sent, 1), 1));
            },
        );
    }
}

#[test]
fn the_configuration_space_says_what_the_interface_is() {
    let (nic, _sockets) = nic_of("mac=52:54:00:12:34:56,mtu=9000", 3);
    let driver = GuestDriver::new(Box::new(nic));
    assert_eq!(driver.config(0), [0x52, 0x54, 0, 0x12, 0x34, 0x56, 1, 0, 3, 0, 0x28, 0x23, 0]);
    let basic = features::MAC | features::STATUS | features::MRG_RXBUF | features::CTRL_VQ;
    let all = basic | features::MTU | features::MQ | features::offloads(features::TAP);
    assert_eq!(driver.offered(), all | feature::OF_TRANSPORT);
    assert_eq!((driver.queue_max(6), driver.queue_max(7)), (QUEUE_SIZE, 0));
    let (nic, _sockets) = nic_of("offload=off", 1);
    assert_eq!(GuestDriver::new(Box::new(nic)).offered(), basic | feature::OF_TRANSPORT);
}

#[test]
fn a_frame_takes_as_many_chains_as_it_needs() {
    for features in [0, feature::OF_TRANSPORT] {
        let (mut driver, socket) = set_up("", features | features::MRG_RXBUF);
        offer(&mut driver, 100, 1536);
        for (len, chains) in [(60, 1_u16), (1536, 1), (1537, 2), (FRAME, 43), (61, 1), (30_000, 20)] {
            let sent = frame(len, chains.to_le_bytes()[0]);
            socket.send(&sent).unwrap();
            assert_eq!(wait_frame(&mut driver), (delivered(&sent, chains), chains), "{len}");
        }
    }
}

#[test]
fn without_merging_a_frame_is_in_one_chain_or_dropped() {
    let (mut driver, socket) = set_up("", 0);
    driver.offer(RX, &[], &[12, 700, 812]);
    offer(&mut driver, 1, 1524);
    for (len, seed) in [(1525, 1), (11, 2), (1524, 3), (5000, 4), (100, 5)] {
        socket.send(&frame(len, seed)[..len]).unwrap();
    }
    for (len, seed) in [(1524, 3), (100, 5)] {
        assert_eq!(wait_frame(&mut driver), (delivered(&frame(len, seed), 1), 1));
    }
}

#[test]
fn frames_wait_for_a_driver_that_has_no_buffers() {
    let (mut driver, socket) = set_up("", features::MRG_RXBUF | feature::RING_EVENT_IDX);
    let sent: Vec<_> = (0..5).map(|seed| frame(2000, seed)).collect();
    sent.iter().for_each(|frame| assert_eq!(socket.send(frame).unwrap(), 2000));
    driver.settle();
    assert_eq!(driver.used(RX), None);
    for frame in &sent[..4] {
        offer(&mut driver, 2, 1000);
        assert_eq!(wait_frame(&mut driver), (delivered(frame, 2), 2));
    }
    // Half of a frame's room: now the driver is known to have had more, and the frame waits.
    offer(&mut driver, 1, 1000);
    driver.settle();
    assert_eq!(driver.used(RX), None);
    offer(&mut driver, 1, 1000);
    assert_eq!(wait_frame(&mut driver), (delivered(&sent[4], 2), 2));
}

#[test]
fn a_frame_that_the_driver_never_had_room_for_does_not_stop_others() {
    let (mut driver, socket) = set_up("", features::MRG_RXBUF);
    offer(&mut driver, 2, 1000);
    socket.send(&frame(2001, 1)).unwrap();
    socket.send(&frame(100, 2)).unwrap();
    assert_eq!(wait_frame(&mut driver), (delivered(&frame(100, 2), 1), 1));
}

#[test]
fn a_pause_loses_no_chains() {
    let (mut driver, socket) = set_up("", features::MRG_RXBUF);
    offer(&mut driver, 3, 1000);
    driver.settle();
    for seed in 0..3 {
        driver.pause();
        assert_eq!(driver.used(RX), None);
        socket.send(&frame(500, seed)).unwrap();
        driver.resume();
        assert_eq!(wait_frame(&mut driver).0, delivered(&frame(500, seed), 1));
    }
}

#[test]
fn sending_waits_for_the_host() {
    let (mut driver, socket) = set_up("", 0);
    let sent: Vec<_> = (0..200).map(|seed| frame(20_000, seed)).collect();
    for frame in &sent[..100] {
        driver.offer(TX, &[frame], &[]);
    }
    driver.kick(TX);
    driver.settle();
    let done = std::iter::from_fn(|| driver.used(TX)).count();
    assert!(done < 100, "a socket takes everything");
    for frame in &sent[..100] {
        assert_eq!(&receive(&socket), frame);
    }
    for _ in done..100 {
        driver.wait_used(TX);
    }
}

#[test]
fn frames_that_are_none_go_nowhere() {
    let (mut driver, socket) = set_up("", 0);
    let (short, long) = (frame(25, 1), frame(FRAME + 1, 1));
    let bad: [&[&[u8]]; 5] = [&[], &[&PLAIN[..1]], &[&PLAIN], &[&short], &[&long]];
    for outputs in bad {
        let inputs: &[usize] = if outputs.is_empty() { &[1] } else { &[] };
        assert_eq!(driver.request(TX, outputs, inputs).0, 0);
    }
    // Chains that are not for receiving.
    driver.offer(RX, &[&PLAIN], &[]);
    driver.offer(RX, &[], &[HEADER - 1]);
    driver.kick(RX);
    assert_eq!([driver.wait_used(RX).1, driver.wait_used(RX).1], [0, 0]);
    let good = frame(26, 3);
    driver.request(TX, &[&good], &[]);
    assert_eq!(receive(&socket), good);
}

#[test]
fn the_header_may_be_cut_anywhere() {
    let (mut driver, socket) = set_up("", 0);
    for cut in 1..12 {
        let sent = frame(64, cut);
        let (head, body) = sent.split_at(cut.into());
        driver.request(TX, &[head, body], &[]);
        assert_eq!(receive(&socket), sent);
        driver.offer(RX, &[], &[cut.into(), 100]);
        driver.kick(RX);
        socket.send(&sent).unwrap();
        assert_eq!(wait_frame(&mut driver).0, delivered(&sent, 1));
    }
}

#[test]
fn rates_hold_each_way() {
    let (mut driver, socket) = set_up("rate=/20:/1", 0);
    let start = Instant::now();
    offer(&mut driver, 8, 1526);
    for seed in 0..5 {
        socket.send(&frame(100, seed)).unwrap();
        driver.offer(TX, &[&frame(100, seed)], &[]);
    }
    driver.kick(TX);
    for seed in 0..5 {
        assert_eq!(wait_frame(&mut driver).0, delivered(&frame(100, seed), 1));
        assert_eq!(receive(&socket), frame(100, seed));
    }
    let taken = start.elapsed();
    assert!((Duration::from_millis(200)..Duration::from_secs(10)).contains(&taken), "{taken:?}");
    // A pause ends a wait, and the frame that waited is there.
    socket.send(&frame(100, 6)).unwrap();
    driver.settle();
    driver.pause();
    driver.resume();
    assert_eq!(wait_frame(&mut driver).0, delivered(&frame(100, 6), 1));
}

fn command(driver: &mut GuestDriver, queue: usize, outputs: &[&[u8]]) -> Option<u8> {
    let (len, answer) = driver.request(queue, outputs, &[1]);
    (len == 1).then_some(answer[0])
}

#[test]
fn the_control_queue_refuses_what_it_does_not_know() {
    let offloads = features::GUEST_CSUM | features::GUEST_TSO4;
    let all = features::CTRL_VQ | features::CTRL_GUEST_OFFLOADS | offloads;
    let (mut driver, _socket) = set_up("", all);
    let not_taken = features::GUEST_TSO6.to_le_bytes();
    let bad: [&[&[u8]]; 8] = [
        &[],
        &[&[4]],
        &[&[4, 0], &[1, 0]],
        &[&[5, 0]],
        &[&[5, 0], &[0; 7]],
        &[&[5, 0], &not_taken],
        &[&[5, 1], &[0; 8]],
        &[&[0xff; 64]],
    ];
    for outputs in bad {
        assert_eq!(command(&mut driver, CONTROL, outputs), Some(1), "{outputs:?}");
    }
    // No room for an answer.
    assert_eq!(driver.request(CONTROL, &[&[4, 0]], &[]).0, 0);
}

#[test]
fn pairs_are_used_as_the_driver_says() {
    // Sockets cannot be attached as queues of a tap can: the number that is used stays.
    let (nic, sockets) = nic_of("", 2);
    let mut driver = GuestDriver::new(Box::new(nic));
    driver.set_up(features::MQ | features::CTRL_VQ);
    for (pairs, answer) in [([0, 0], 1), ([3, 0], 1), ([0, 1], 1), ([2, 0], 1), ([1, 0], 0)] {
        assert_eq!(command(&mut driver, 4, &[&[4, 0], &pairs]), Some(answer), "{pairs:?}");
    }
    // The second pair does nothing.
    sockets[1].send(&frame(100, 1)).unwrap();
    driver.offer(2, &[], &[1526]);
    driver.offer(3, &[&frame(100, 1)], &[]);
    driver.kick(2);
    driver.kick(3);
    driver.settle();
    assert_eq!((driver.used(2), driver.used(3)), (None, None));
    driver.reset();
    // Without MQ the third queue is for control.
    driver.set_up(features::CTRL_VQ);
    assert_eq!(command(&mut driver, CONTROL, &[&[4, 0], &[1, 0]]), Some(1));
}

#[test]
fn a_new_driver_gets_no_frames_of_the_one_before() {
    let (mut driver, socket) = set_up("", 0);
    for seed in 0..5 {
        socket.send(&frame(100, seed)).unwrap();
    }
    driver.reset();
    driver.set_up(0);
    offer(&mut driver, 2, 1526);
    socket.send(&frame(100, 9)).unwrap();
    assert_eq!(wait_frame(&mut driver).0, delivered(&frame(100, 9), 1));
}

#[test]
fn tiny_buffers_are_no_more_than_the_driver_s_own_trouble() {
    let (mut driver, socket) = set_up("", features::MRG_RXBUF | feature::RING_INDIRECT_DESC);
    // As many buffers as a chain can have, a byte each.
    for _ in 0..4 {
        driver.offer(RX, &[], &[1; 256]);
    }
    driver.kick(RX);
    socket.send(&frame(60_000, 1)).unwrap();
    let sent = frame(300, 2);
    socket.send(&sent).unwrap();
    assert_eq!(wait_frame(&mut driver), (delivered(&sent, 2), 2));
    // A chain that says it is empty is no chain for a frame.
    let address = driver.buffer(64);
    driver.memory.write_slice(&[7; 64], GuestAddress(address)).unwrap();
    wait("the device lives", || driver.status() != 0);
}

#[test]
fn a_frame_notes_the_pages_that_it_comes_to() {
    use crate::memory::{GuestMemory, dirty};
    let memory = std::sync::Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap());
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let port = Port::new(ours.into());
    let room = |at, len| IoVecs::from_guest(&memory, [(GuestAddress(at), len)]).unwrap();
    let rooms = [room(0x1000, 0x2000), room(0x8800, 0x1000), room(0xc000, 0x1000)];
    dirty::track(&memory, true);
    for (len, pages) in
        [(100, vec![(1, 1)]), (0x2001, vec![(1, 2), (8, 1)]), (0x5000, vec![(1, 2), (8, 2), (12, 1)])]
    {
        theirs.send(&vec![1; len]).unwrap();
        assert_eq!(port.receive(rooms.iter(), &mut [0; 0x1000]).unwrap(), len);
        assert_eq!(dirty::take(&memory).runs().collect::<Vec<_>>(), pages, "{len}");
    }
    port.send(&rooms[0]).unwrap();
    assert!(dirty::take(&memory).is_empty());
}

/// A device of this configuration whose address is its own where it was not asked for.
fn nic_with(word: &str, pairs: usize, own: u64) -> (Nic, Vec<UnixDatagram>) {
    let (mut nic, sockets) = nic_of(word, pairs);
    if !nic.mac_given {
        nic.mac = Mac::local(own);
    }
    (nic, sockets)
}

#[test]
fn an_address_is_kept_unless_it_was_asked_for() {
    let given = "mac=52:54:00:12:34:56";
    for (word, expected) in [("", Mac::local(7).octets()), (given, [0x52, 0x54, 0, 0x12, 0x34, 0x56])] {
        let mut driver = GuestDriver::new(Box::new(nic_with("", 1, 7).0));
        driver.set_up(0);
        driver.pause();
        let state = driver.save().unwrap();
        let (nic, _sockets) = nic_with(word, 1, 8);
        let heir = driver.heir(Box::new(nic), copy(&driver.memory), state.clone(), Allow::default());
        let mut heir = heir.unwrap();
        assert_eq!(heir.config(0), expected);
        assert_eq!(heir.save().unwrap() == state, word.is_empty());
    }
}

#[test]
fn buffers_of_the_driver_s_wait_in_the_next_device_too() {
    let (mut driver, _socket) = set_up("", features::MRG_RXBUF);
    offer(&mut driver, 3, 1000);
    driver.settle();
    driver.pause();
    let (nic, sockets) = nic_of("", 1);
    driver.hand_over(Box::new(nic));
    let sent = frame(2500, 1);
    sockets[0].send(&sent).unwrap();
    driver.resume();
    assert_eq!(wait_frame(&mut driver), (delivered(&sent, 3), 3));
    let mut first = driver.predecessor.take().unwrap();
    first.settle();
    assert_eq!(first.used(RX), None);
}
