// A terminal is set by C calls.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write, pipe};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use super::*;
use crate::bus::{Effect, Registers, lock};
use crate::config;
use crate::devices::serial::{Serial, mcr, offset};
use crate::event::EventLoop;
use crate::irq::fake::FakeLine;
use crate::timeline::{Phase, Timeline};

/// A serial port with its pump on a running event loop: the guest's side of a console.
struct Rig {
    serial: Arc<Mutex<Serial>>,
    outbox: Arc<Outbox>,
    timeline: Arc<Timeline>,
    events: Option<EventLoop<Pump>>,
}

impl Rig {
    fn new(streams: Streams) -> Self {
        Self::telling(streams, None)
    }

    fn telling(streams: Streams, tell: Option<OnLost>) -> Self {
        let timeline = Arc::new(Timeline::default());
        let outbox = Outbox::new(Arc::clone(&timeline)).unwrap();
        let line = Arc::new(FakeLine::default());
        let serial = Arc::new(Mutex::new(Serial::new(Box::new(Arc::clone(&outbox)), line)));
        let pump = Pump::new(Arc::clone(&serial), Arc::clone(&outbox), streams, tell);
        let events = Some(EventLoop::start("events", vec![pump]).unwrap());
        Self { serial, outbox, timeline, events }
    }

    /// As a driver that waits for room before each byte.
    fn send(&self, bytes: &[u8]) {
        for byte in bytes {
            while !self.has_room() {
                std::thread::yield_now();
            }
            assert_eq!(lock(&self.serial).write(offset::DATA, &[*byte]), Effect::None);
        }
    }

    fn has_room(&self) -> bool {
        let mut status = [0];
        lock(&self.serial).read(offset::LSR, &mut status);
        status[0] & 0x20 != 0
    }

    /// Tells the terminal that the driver is up.
    fn open(&self) {
        let _ = lock(&self.serial).write(offset::MCR, &[mcr::DTR | mcr::RTS | mcr::OUT2]);
    }

    /// As a driver that polls for `count` bytes.
    fn receive(&self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let (mut status, mut byte) = ([0], [0]);
            let mut serial = lock(&self.serial);
            serial.read(offset::LSR, &mut status);
            if status[0] & 1 == 0 {
                drop(serial);
                std::thread::yield_now();
                continue;
            }
            serial.read(offset::DATA, &mut byte);
            bytes.push(byte[0]);
        }
        bytes
    }
}

struct Sink(Sender<Vec<u8>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A short write now and then, as streams may.
        let len = bytes.len().min(1000);
        self.0.send(bytes[..len].to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn sink() -> (Option<Output>, Receiver<Vec<u8>>) {
    let (sender, receiver) = channel();
    (Some(Output::Writer(Box::new(Sink(sender)))), receiver)
}

fn text(len: usize) -> Vec<u8> {
    (b' '..=b'~').cycle().take(len).collect()
}

#[test]
fn output_reaches_a_writer_whole_and_marks_the_first_byte() {
    let (output, receiver) = sink();
    let mut rig = Rig::new(Streams { output, ..Streams::default() });
    assert_eq!(rig.timeline.get(Phase::FirstConsoleByte), None);
    let sent = text(100_000);
    rig.send(&sent);
    rig.outbox.wait_until_drained();
    rig.events = None;
    assert!(rig.timeline.get(Phase::FirstConsoleByte).is_some());
    assert_eq!(receiver.iter().flatten().collect::<Vec<_>>(), sent);
}

#[test]
fn a_reader_that_stalls_stalls_the_guest_and_nothing_is_lost() {
    let (mut reader, writer) = pipe().unwrap();
    let rig =
        Rig::new(Streams { output: Some(Output::Fd(OwnedFd::from(writer).into())), ..Streams::default() });
    // A pipe holds 64 KiB, the outbox as much again.
    let sent = text(300_000);
    let mut received = vec![0; sent.len()];
    std::thread::scope(|scope| {
        let (rig, sent) = (&rig, &sent);
        scope.spawn(move || rig.send(sent));
        while rig.has_room() {
            std::thread::yield_now();
        }
        reader.read_exact(&mut received).unwrap();
    });
    assert_eq!(received, sent);
}

/// Writes on once it is told to.
struct Slow(Receiver<()>, Sink);

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_outbox_that_fills_up_during_a_write_goes_on_after_it() {
    let (go, wait) = channel();
    let (sender, receiver) = channel();
    let output = Some(Output::Writer(Box::new(Slow(wait, Sink(sender)))));
    let mut rig = Rig::new(Streams { output, ..Streams::default() });
    rig.send(b"first");
    while rig.has_room() {
        let _ = lock(&rig.serial).write(offset::DATA, b"x");
    }
    // The writer takes what it has and all that follows; the port has to have room again.
    drop(go);
    rig.send(b"last");
    rig.outbox.wait_until_drained();
    rig.events = None;
    assert!(receiver.iter().flatten().collect::<Vec<_>>().ends_with(b"last"));
}

#[test]
fn a_reader_that_never_reads_does_not_hold_up_the_end() {
    let (_reader, writer) = pipe().unwrap();
    let rig =
        Rig::new(Streams { output: Some(Output::Fd(OwnedFd::from(writer).into())), ..Streams::default() });
    while rig.has_room() {
        let _ = lock(&rig.serial).write(offset::DATA, b"x");
    }
    drop(rig);
}

#[test]
fn nobody_waits_for_a_pump_that_is_gone() {
    let (_reader, writer) = pipe().unwrap();
    let mut rig =
        Rig::new(Streams { output: Some(Output::Fd(OwnedFd::from(writer).into())), ..Streams::default() });
    while rig.has_room() {
        let _ = lock(&rig.serial).write(offset::DATA, b"x");
    }
    rig.events = None;
    rig.outbox.wait_until_drained();
    assert!(rig.has_room(), "the guest would wait for it");
}

#[test]
fn a_broken_output_is_told_once_and_then_thrown_away() {
    let (output, receiver) = sink();
    drop(receiver);
    let (tell, told) = channel();
    let tell = Box::new(move |error: &io::Error| tell.send(error.kind()).unwrap());
    let rig = Rig::telling(Streams { output, ..Streams::default() }, Some(tell));
    rig.send(&text(200_000));
    rig.outbox.wait_until_drained();
    assert_eq!(told.iter().collect::<Vec<_>>(), [io::ErrorKind::BrokenPipe]);
}

#[test]
fn input_waits_for_the_driver_and_arrives_whole() {
    let (keyboard, mut keys) = pipe().unwrap();
    let rig = Rig::new(Streams { input: Some(Box::new(keyboard)), ..Streams::default() });
    let typed = text(5000);
    keys.write_all(&typed).unwrap();
    drop(keys);
    // What a driver does before it is up: it empties the FIFO.
    let _ = lock(&rig.serial).write(offset::FCR, &[0x07]);
    rig.open();
    assert_eq!(rig.receive(typed.len()), typed);
}

#[test]
fn input_is_not_lost_on_a_guest_that_opens_and_closes_its_port() {
    let (keyboard, mut keys) = pipe().unwrap();
    let rig = Rig::new(Streams { input: Some(Box::new(keyboard)), ..Streams::default() });
    let typed = text(20_000);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| keys.write_all(&typed).unwrap());
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                let _ = lock(&rig.serial).write(offset::MCR, &[0]);
                rig.open();
                std::thread::yield_now();
            }
        });
        assert_eq!(rig.receive(typed.len()), typed);
        done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn input_comes_from_a_regular_file_too() {
    let mut file = tempfile::tempfile().unwrap();
    let typed = text(1000);
    file.write_all(&typed).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let rig = Rig::new(Streams { input: Some(Box::new(file)), ..Streams::default() });
    rig.open();
    assert_eq!(rig.receive(typed.len()), typed);
}

#[test]
fn a_pseudo_terminal_carries_both_ways_and_outlives_its_user() {
    let streams = Streams::open(&config::Console::Pty, false).unwrap();
    let path = streams.pty.as_ref().unwrap().path.clone();
    let rig = Rig::new(streams);
    rig.open();
    for round in 0..3_u8 {
        let mut terminal =
            File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(&path).unwrap();
        // No echo and no lines, as a terminal program sets it.
        // SAFETY: termios calls on a descriptor that lives, with a structure that they fill.
        unsafe {
            let mut settings = std::mem::zeroed();
            libc::tcgetattr(terminal.as_raw_fd(), &raw mut settings);
            libc::cfmakeraw(&raw mut settings);
            libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, &raw const settings);
        }
        terminal.write_all(&[b'a' + round]).unwrap();
        assert_eq!(rig.receive(1), [b'a' + round]);
        rig.send(&[b'A' + round]);
        let mut byte = [0];
        terminal.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [b'A' + round]);
    }
}

#[test]
fn a_pseudo_terminal_that_nobody_reads_loses_output_but_holds_nothing_up() {
    let streams = Streams::open(&config::Console::Pty, false).unwrap();
    let rig = Rig::new(streams);
    rig.send(&text(400_000));
}

#[test]
fn streams_that_cannot_be_opened_are_errors() {
    let missing = config::Console::File("/nowhere/at/all".into());
    let error = Streams::open(&missing, false).err().unwrap().to_string();
    assert_eq!(error, "cannot write the console to /nowhere/at/all");
}
