use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::bus::lock;
use crate::irq::fake::FakeLine;

#[derive(Clone, Default)]
struct Terminal {
    sent: Arc<Mutex<Vec<u8>>>,
    /// Characters until it is full.
    limit: Arc<AtomicUsize>,
    wanted: Arc<AtomicUsize>,
}

impl Transmit for Terminal {
    fn send(&mut self, byte: u8) {
        assert!(self.room(), "sent without room");
        lock(&self.sent).push(byte);
    }

    fn room(&self) -> bool {
        lock(&self.sent).len() < self.limit.load(Ordering::Relaxed)
    }

    fn input_wanted(&self) {
        self.wanted.fetch_add(1, Ordering::Relaxed);
    }
}

fn port(limit: usize) -> (Serial, Terminal, Arc<FakeLine>) {
    let terminal = Terminal::default();
    terminal.limit.store(limit, Ordering::Relaxed);
    let line = Arc::new(FakeLine::default());
    (Serial::new(Box::new(terminal.clone()), line.clone()), terminal, line)
}

fn write(serial: &mut Serial, offset: u64, value: u8) {
    assert_eq!(serial.write(offset, &[value]), Effect::None);
}

fn read(serial: &mut Serial, offset: u64) -> u8 {
    let mut data = [0];
    serial.read(offset, &mut data);
    data[0]
}

/// A driver with FIFOs on and the transmit interrupt enabled.
fn driven(limit: usize) -> (Serial, Terminal, Arc<FakeLine>) {
    let (mut serial, terminal, line) = port(limit);
    write(&mut serial, offset::FCR, fcr::ENABLE);
    write(&mut serial, offset::MCR, mcr::DTR | mcr::RTS | mcr::OUT2);
    write(&mut serial, offset::IER, ier::RECEIVED | ier::TRANSMIT);
    (serial, terminal, line)
}

#[test]
fn a_burst_of_characters_is_one_edge() {
    let (mut serial, terminal, line) = driven(1000);
    assert!(line.is_high());
    assert_eq!(read(&mut serial, offset::IIR), 0xc0 | iir::TRANSMIT);
    assert!(!line.is_high());
    let before = line.rises();
    (0..16).for_each(|byte| write(&mut serial, offset::DATA, byte));
    assert!(line.is_high());
    assert_eq!(line.rises(), before + 1);
    // A handler that looks at LSR only still gets an edge for what it writes next.
    read(&mut serial, offset::LSR);
    write(&mut serial, offset::DATA, 16);
    assert_eq!(line.rises(), before + 2);
    assert_eq!(*lock(&terminal.sent), (0..17).collect::<Vec<u8>>());
}

#[test]
fn without_fifos_each_character_is_an_edge() {
    let (mut serial, _, line) = driven(1000);
    write(&mut serial, offset::FCR, 0);
    let before = line.rises();
    (0..4).for_each(|byte| write(&mut serial, offset::DATA, byte));
    assert_eq!(line.rises(), before + 4);
}

#[test]
fn a_full_terminal_makes_the_driver_wait_and_loses_nothing() {
    let (mut serial, terminal, line) = driven(3);
    (0..16).for_each(|byte| write(&mut serial, offset::DATA, byte));
    assert_eq!(read(&mut serial, offset::LSR) & 0x60, 0);
    assert!(!line.is_high());

    terminal.limit.store(5, Ordering::Relaxed);
    serial.output_ready();
    assert_eq!(read(&mut serial, offset::LSR) & 0x60, 0, "some characters are still held");
    terminal.limit.store(100, Ordering::Relaxed);
    serial.output_ready();
    assert_eq!(read(&mut serial, offset::LSR) & 0x60, 0x60);
    assert!(line.is_high());
    assert_eq!(*lock(&terminal.sent), (0..16).collect::<Vec<u8>>());
    assert_eq!(serial.dropped(), 0);

    // A call without need raises nothing.
    read(&mut serial, offset::IIR);
    serial.output_ready();
    assert!(!line.is_high());
}

#[test]
fn a_driver_that_does_not_wait_loses_characters() {
    let (mut serial, terminal, _) = driven(1);
    (0..20).for_each(|byte| write(&mut serial, offset::DATA, byte));
    assert_eq!(serial.dropped(), 3);
    terminal.limit.store(100, Ordering::Relaxed);
    serial.output_ready();
    assert_eq!(*lock(&terminal.sent), (0..17).collect::<Vec<u8>>());
}

#[test]
fn a_terminal_that_is_full_from_the_start_is_waited_for() {
    let (mut serial, terminal, _) = port(0);
    assert_eq!(read(&mut serial, offset::LSR), 0);
    write(&mut serial, offset::DATA, b'a');
    let (mut copy, _, _) = port(0);
    copy.restore(&UartState::default());
    copy.connect();
    assert_eq!(read(&mut copy, offset::LSR), 0);
    terminal.limit.store(100, Ordering::Relaxed);
    serial.output_ready();
    assert_eq!(*lock(&terminal.sent), b"a");
}

#[test]
fn input_waits_for_rts() {
    let (mut serial, terminal, line) = port(100);
    assert_eq!((serial.input_room(), serial.receive(b"early")), (0, 0));
    assert!(!serial.receive_break());
    write(&mut serial, offset::FCR, fcr::ENABLE | fcr::CLEAR_RECEIVED);
    write(&mut serial, offset::IER, ier::RECEIVED);
    write(&mut serial, offset::MCR, mcr::RTS | mcr::OUT2);
    assert_eq!(terminal.wanted.load(Ordering::Relaxed), 1);
    assert_eq!(serial.receive(b"early"), 5);
    assert!(line.is_high());
    write(&mut serial, offset::MCR, mcr::RTS | mcr::LOOP);
    assert_eq!(serial.input_room(), 0);
    write(&mut serial, offset::MCR, mcr::RTS);
    assert_eq!(terminal.wanted.load(Ordering::Relaxed), 2);
    assert_eq!(serial.input_room(), 11);
}

#[test]
fn input_is_wanted_again_once_half_is_read() {
    let (mut serial, terminal, line) = driven(100);
    let wanted = || terminal.wanted.load(Ordering::Relaxed);
    let before = wanted();
    assert_eq!(serial.receive(&[7; 40]), 16);
    for _ in 0..7 {
        read(&mut serial, offset::DATA);
        assert_eq!((serial.input_room(), wanted()), (0, before));
    }
    read(&mut serial, offset::DATA);
    assert_eq!((serial.input_room(), wanted()), (8, before + 1));
    while read(&mut serial, offset::LSR) & lsr::DATA_READY != 0 {
        read(&mut serial, offset::DATA);
    }
    assert_eq!((serial.input_room(), wanted()), (16, before + 1));
    assert_eq!(read(&mut serial, offset::IIR), 0xc0 | iir::TRANSMIT);
    assert!(!line.is_high());
    assert!(serial.receive_break());
    assert_eq!(read(&mut serial, offset::LSR) & lsr::BREAK, lsr::BREAK);
}

#[test]
fn without_fifos_input_comes_one_by_one() {
    let (mut serial, terminal, _) = port(100);
    write(&mut serial, offset::MCR, mcr::RTS);
    for byte in 0..5 {
        assert_eq!(terminal.wanted.load(Ordering::Relaxed), usize::from(byte) + 1);
        assert_eq!(serial.receive(&[byte, 99]), 1);
        assert_eq!(read(&mut serial, offset::DATA), byte);
    }
}

#[test]
fn wide_accesses_are_bytes_in_order() {
    let (mut serial, _, _) = port(100);
    let mut data = [0; 8];
    assert_eq!(serial.write(offset::LCR, &[lcr::DLAB, 0]), Effect::None);
    assert_eq!(serial.write(offset::DATA, &[0x34, 0x12]), Effect::None);
    serial.read(offset::DATA, &mut data);
    assert_eq!(data, [0x34, 0x12, 0x01, lcr::DLAB, 0, 0x60, 0xb0, 0]);
    serial.read(offset::SCR, &mut data[..3]);
    assert_eq!(data[..3], [0, 0xff, 0xff]);
    serial.read(u64::MAX, &mut data);
    assert_eq!(data[0], 0xff);
}

#[test]
fn a_restored_port_sends_what_was_held_and_says_so() {
    let (mut serial, _, line) = driven(1);
    (0..4).for_each(|byte| write(&mut serial, offset::DATA, byte));
    assert!(!line.is_high());
    let state = serial.save();
    assert_eq!((state.held.len(), state.stalled), (3, true));

    let (mut copy, terminal, line) = port(100);
    copy.restore(&state);
    // The controller may not have its own state yet: an edge now would be lost.
    assert!(!line.is_high());
    copy.connect();
    assert!(line.is_high());
    assert_eq!(terminal.wanted.load(Ordering::Relaxed), 1);
    assert_eq!(*lock(&terminal.sent), [1, 2, 3]);
}

#[derive(Clone, Debug)]
enum Step {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    Receive(Vec<u8>),
    Break,
    Drain(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let offset = prop_oneof![8 => 0..REGISTERS, 1 => any::<u64>()];
    let bytes = |len| prop::collection::vec(any::<u8>(), len);
    prop_oneof![
        (offset.clone(), 0..9_usize).prop_map(|(at, len)| Step::Read(at, len)),
        (offset, bytes(0..9)).prop_map(|(at, data)| Step::Write(at, data)),
        bytes(0..40).prop_map(Step::Receive),
        Just(Step::Break),
        (0..30_usize).prop_map(Step::Drain),
    ]
}

fn apply(serial: &mut Serial, terminal: &Terminal, step: &Step) -> Vec<u8> {
    let mut read = Vec::new();
    match step {
        Step::Read(at, len) => {
            read.resize(*len, 0);
            serial.read(*at, &mut read);
        }
        Step::Write(at, data) => assert_eq!(serial.write(*at, data), Effect::None),
        Step::Receive(data) => {
            let room = serial.input_room();
            assert_eq!(serial.receive(data), room.min(data.len()));
        }
        Step::Break => assert_eq!(serial.input_room() > 0, serial.receive_break()),
        Step::Drain(room) => {
            let sent = lock(&terminal.sent).len();
            terminal.limit.fetch_max(sent + room, Ordering::Relaxed);
            serial.output_ready();
        }
    }
    read
}

proptest! {
    #[test]
    fn any_sequence_keeps_the_invariants(steps in prop::collection::vec(step(), 0..200)) {
        let (mut serial, terminal, line) = port(3);
        for step in &steps {
            apply(&mut serial, &terminal, step);
            let state = serial.save();
            let capacity = if state.fifos { FIFO_LEN } else { 1 };
            prop_assert!(state.received.len() <= capacity && state.held.len() <= capacity);
            prop_assert!(state.held.is_empty() || state.stalled);
            prop_assert_eq!(line.is_high(), serial.uart.irq());
            prop_assert_eq!(serial.open, serial.input_room() > 0);
        }
    }

    #[test]
    fn a_restored_port_goes_on_as_the_saved_one(
        before in prop::collection::vec(step(), 0..60),
        after in prop::collection::vec(step(), 0..60),
    ) {
        let (mut serial, terminal, line) = port(3);
        for step in &before {
            apply(&mut serial, &terminal, step);
        }
        let state = serial.save();
        let mut copy = Uart::default();
        copy.restore(&state);
        prop_assert_eq!(&copy.save(), &state);

        // The copy's terminal is as full; input then flows alike once both were emptied.
        let sent = lock(&terminal.sent).len();
        let (mut copy, copy_terminal, copy_line) = port(terminal.limit.load(Ordering::Relaxed));
        lock(&copy_terminal.sent).resize(sent, 0);
        copy.restore(&state);
        // What the interrupt controller's own state brings.
        copy_line.set_level(line.is_high());
        copy.connect();
        prop_assert_eq!(&copy.save(), &state);
        let drained = [Step::Write(offset::FCR, vec![0]), Step::Write(offset::FCR, vec![1])];
        for step in drained.iter().chain(&after) {
            let expected = apply(&mut serial, &terminal, step);
            prop_assert_eq!(apply(&mut copy, &copy_terminal, step), expected);
            prop_assert_eq!(copy.save(), serial.save());
            prop_assert_eq!(copy_line.is_high(), line.is_high());
        }
        let (a, b) = (lock(&terminal.sent), lock(&copy_terminal.sent));
        prop_assert_eq!(&a[sent..], &b[sent..]);
    }
}
