//! A guest's driver of sockets, and what every connection does.

#![allow(clippy::cast_possible_truncation, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod closing;
mod credit;
mod crowd;
mod hostile;
mod saving;
mod setup;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use zerocopy::{FromBytes, IntoBytes};

use super::packet::{HEADER_LEN, Header, Op, Ports, STREAM, shut};
use super::*;
use crate::virtio::testing::{GuestDriver, PLACE, conformance, wait};

const CID: u64 = 42;
/// Room for a packet's bytes in a buffer of the driver's, as Linux has it.
const PAGE: usize = 4096;
/// Buffers that the driver keeps in the receive queue.
const BUFFERS: usize = 64;

/// A machine's end of the sockets.
struct Guest {
    driver: GuestDriver,
    folder: TempDir,
}

fn config(folder: &TempDir) -> Vsock {
    Vsock { cid: CID, uds: folder.path().join("v.sock"), id: None, iothread: None }
}

impl Guest {
    fn new() -> Self {
        Self::patient(PATIENCE)
    }

    fn patient(patience: Duration) -> Self {
        let mut guest = Self::without_buffers(patience);
        guest.give(BUFFERS);
        guest
    }

    fn without_buffers(patience: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let device = Sockets::open(&config(&folder), PLACE.name, patience).unwrap();
        let mut driver = GuestDriver::new(Box::new(device));
        driver.set_up(F_STREAM);
        Self { driver, folder }
    }

    /// Gives the device buffers for packets.
    fn give(&mut self, count: usize) {
        for _ in 0..count {
            self.driver.offer(RX, &[], &[HEADER_LEN + PAGE]);
        }
        self.driver.kick(RX);
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("v.sock")
    }

    /// A program on the host that listens for the guest.
    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.folder.path().join(format!("v.sock_{port}"))).unwrap()
    }

    /// A program on the host that asks for a port of the guest's.
    fn connect(&self, first_line: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(first_line.as_bytes()).unwrap();
        stream
    }

    fn send_raw(&mut self, header: &Header, payload: &[u8]) {
        let outputs = [header.as_bytes(), payload];
        let outputs = if payload.is_empty() { &outputs[..1] } else { &outputs };
        assert_eq!(self.driver.request(TX, outputs, &[]).0, 0);
    }

    fn send(&mut self, header: Header) {
        self.send_raw(&header, &[]);
    }

    /// The next packet from the device, if there is one.
    fn try_receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let (_, len, bytes) = self.driver.used(RX)?;
        self.give(1);
        let (header, _) = Header::read_from_prefix(&bytes).unwrap();
        assert_eq!(len as usize, HEADER_LEN + header.len.get() as usize);
        assert_eq!(header.dst_cid.get(), CID);
        Some((header, bytes[HEADER_LEN..len as usize].to_vec()))
    }

    fn receive(&mut self) -> (Header, Vec<u8>) {
        let mut found = None;
        wait("no packet comes", || {
            found = self.try_receive();
            found.is_some()
        });
        found.unwrap()
    }

    /// The next packet, which has to be this.
    fn expect(&mut self, op: Op) -> Header {
        let (header, _) = self.receive();
        assert_eq!(Op::from_number(header.op.get()), Some(op), "{header:?}");
        header
    }

    /// No packet comes, also when all that was to be done is done.
    fn expect_silence(&mut self) {
        self.driver.settle();
        assert_eq!(self.try_receive(), None);
    }

    /// What comes of a connection until there are so many bytes; other packets are told apart.
    fn receive_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < count {
            let (header, mut bytes) = self.receive();
            assert_eq!(header.op.get(), Op::Data.number(), "{header:?}");
            all.append(&mut bytes);
        }
        assert_eq!(all.len(), count);
        all
    }

    /// The guest connects to a port of the host's.
    fn dial(&mut self, guest: u32, listener: &UnixListener) -> (Ports, UnixStream) {
        let host = listener.local_addr().unwrap();
        let host = host.as_pathname().unwrap().to_str().unwrap().rsplit('_').next().unwrap().parse().unwrap();
        let ports = Ports { guest, host };
        self.send(packet(ports, Op::Request));
        let answer = self.expect(Op::Response);
        assert_eq!((answer.src_port.get(), answer.dst_port.get()), (host, guest));
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        (ports, stream)
    }

    /// A program on the host connects to a port of the guest's.
    fn answer(&mut self, guest: u32) -> (Ports, UnixStream) {
        let mut stream = self.connect(&format!("CONNECT {guest}\n"));
        let request = self.expect(Op::Request);
        let ports = Ports { guest, host: request.src_port.get() };
        assert_eq!(request.dst_port.get(), guest);
        self.send(packet(ports, Op::Response));
        assert_eq!(read_exact(&mut stream, 14), format!("OK {}\n", ports.host).as_bytes());
        (ports, stream)
    }

    /// Bytes from the guest.
    fn say(&mut self, ports: Ports, bytes: &[u8]) {
        let header = Header { len: (bytes.len() as u32).into(), ..packet(ports, Op::Data) };
        self.send_raw(&header, bytes);
    }
}

/// A packet of the guest's, who has a lot of room.
fn packet(ports: Ports, op: Op) -> Header {
    Header {
        src_cid: CID.into(),
        dst_cid: 2.into(),
        src_port: ports.guest.into(),
        dst_port: ports.host.into(),
        kind: STREAM.into(),
        op: op.number().into(),
        buf_alloc: (1 << 20).into(),
        ..Header::default()
    }
}

fn shutdown(ports: Ports, flags: u32) -> Header {
    Header { flags: flags.into(), ..packet(ports, Op::Shutdown) }
}

fn read_exact(stream: &mut UnixStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn read_to_end(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Bytes of which each place shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ at >> 8) as u8).collect()
}

#[test]
fn conforms() {
    let folder = tempfile::tempdir().unwrap();
    let mut made = 0;
    conformance(
        || {
            made += 1;
            let uds = folder.path().join(format!("{made}.sock"));
            Vsock { uds, ..config(&folder) }.open(&PLACE).unwrap()
        },
        |driver| {
            driver.offer(RX, &[], &[64]);
            driver.kick(RX);
            let request = packet(Ports { guest: 1, host: 2 }, Op::Request);
            driver.request(TX, &[request.as_bytes()], &[]);
            let (_, len, bytes) = driver.wait_used(RX);
            assert_eq!(len as usize, HEADER_LEN);
            let (answer, _) = Header::read_from_prefix(&bytes).unwrap();
            assert_eq!(answer, Header { src_port: 2.into(), ..request.reset(CID) });
        },
    );
}

#[test]
fn the_guest_finds_its_context_id() {
    let guest = Guest::new();
    assert_eq!(guest.driver.read(crate::virtio::testing::reg::DEVICE_ID), 19);
    assert_eq!(guest.driver.offered() & 0xff, F_STREAM);
    assert_eq!(u64::from_le_bytes(guest.driver.config(0)), CID);
}

#[test]
fn a_program_on_the_host_reaches_the_guest() {
    let mut guest = Guest::new();
    // What it says without waiting for the answer is for the guest.
    let mut stream = guest.connect("CONNECT 52\nearly");
    let request = guest.expect(Op::Request);
    let ports = Ports { guest: 52, host: request.src_port.get() };
    assert_eq!(request.dst_port.get(), 52);
    assert!(request.buf_alloc.get() > 0);
    guest.expect_silence();
    guest.send(packet(ports, Op::Response));
    assert_eq!(guest.receive_bytes(5), b"early");
    assert_eq!(read_exact(&mut stream, 14), format!("OK {}\n", ports.host).as_bytes());
    guest.say(ports, b"hello host");
    assert_eq!(read_exact(&mut stream, 10), b"hello host");
    stream.write_all(b"hello guest").unwrap();
    assert_eq!(guest.receive_bytes(11), b"hello guest");
}

#[test]
fn the_guest_reaches_a_program_on_the_host() {
    let mut guest = Guest::new();
    let listener = guest.listen(1024);
    let (ports, mut stream) = guest.dial(7, &listener);
    stream.write_all(b"hello guest").unwrap();
    assert_eq!(guest.receive_bytes(11), b"hello guest");
    guest.say(ports, b"hello host");
    assert_eq!(read_exact(&mut stream, 10), b"hello host");
    // A line in many pieces.
    let (ports, mut other) = guest.answer(7);
    guest.say(ports, &pattern(60_000));
    assert_eq!(read_exact(&mut other, 60_000), pattern(60_000));
}

#[test]
fn a_line_may_come_letter_by_letter() {
    let mut guest = Guest::new();
    let mut stream = guest.connect("");
    for letter in b"CONNECT 1234" {
        stream.write_all(&[*letter]).unwrap();
        guest.expect_silence();
    }
    stream.write_all(b"\n").unwrap();
    assert_eq!(guest.expect(Op::Request).dst_port.get(), 1234);
}

#[test]
fn much_goes_both_ways_at_once() {
    const TOTAL: usize = 3 << 20;
    let mut guest = Guest::new();
    let (ports, stream) = guest.answer(9);
    let echo = std::thread::spawn(move || {
        let mut bytes = vec![0; 10_000];
        let mut total = 0;
        while total < TOTAL {
            let count = (&stream).read(&mut bytes).unwrap();
            (&stream).write_all(&bytes[..count]).unwrap();
            total += count;
        }
        stream
    });
    let sent = pattern(TOTAL);
    let (mut at, mut room, mut got) = (0, super::credit::ROOM as usize, Vec::new());
    while got.len() < TOTAL {
        let count = (TOTAL - at).min(room - at).min(30_000);
        let header = Header { fwd_cnt: (got.len() as u32).into(), ..packet(ports, Op::Data) };
        if count > 0 {
            guest.send_raw(&Header { len: (count as u32).into(), ..header }, &sent[at..at + count]);
            at += count;
        }
        while let Some((header, mut bytes)) = guest.try_receive() {
            room = (header.fwd_cnt.get() + header.buf_alloc.get()) as usize;
            got.append(&mut bytes);
        }
        guest.send(Header { fwd_cnt: (got.len() as u32).into(), ..packet(ports, Op::CreditUpdate) });
    }
    assert!(got == sent);
    drop(echo.join().unwrap());
}

#[test]
fn connections_outlive_a_pause_and_end_with_a_reset() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.answer(5);
    guest.driver.pause();
    stream.write_all(b"while it is paused").unwrap();
    let mut other = guest.connect("CONNECT 6\n");
    guest.driver.resume();
    let mut news = [guest.receive(), guest.receive()];
    news.sort_by_key(|(header, _)| header.op.get());
    assert_eq!(news[0].0.dst_port.get(), 6);
    assert_eq!(news[1].1, b"while it is paused");
    guest.say(ports, b"still there");
    assert_eq!(read_exact(&mut stream, 11), b"still there");

    guest.driver.reset();
    assert_eq!(read_to_end(&mut stream), b"");
    assert_eq!(read_to_end(&mut other), b"");
    // Who comes now waits for the driver.
    let _patient = guest.connect("CONNECT 7\n");
    guest.driver.set_up(F_STREAM);
    guest.give(BUFFERS);
    assert_eq!(guest.expect(Op::Request).dst_port.get(), 7);
}
