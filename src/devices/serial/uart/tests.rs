use super::*;
use crate::devices::serial::REGISTERS;

/// Writes a register that sends nothing.
fn set(uart: &mut Uart, offset: u64, value: u8) {
    assert_eq!(uart.write(offset, value), None);
}

/// Sends a character to a far end with room.
fn send(uart: &mut Uart, byte: u8) {
    assert_eq!(uart.write(offset::DATA, byte), Some(byte));
    uart.transmitted(true);
}

/// IIR without its FIFO bits.
fn source(uart: &mut Uart) -> u8 {
    uart.read(offset::IIR) & 0x0f
}

fn with_fifos(trigger: u8) -> Uart {
    let mut uart = Uart::default();
    set(&mut uart, offset::FCR, fcr::ENABLE | trigger << 6);
    set(&mut uart, offset::IER, ier::RECEIVED);
    uart
}

#[test]
fn registers_after_master_reset() {
    // Table I, with a terminal on the modem lines.
    let mut uart = Uart::default();
    let expected = [0, 0, 0x01, 0, 0, 0x60, 0xb0, 0];
    for (offset, value) in (0..).zip(expected) {
        assert_eq!(uart.read(offset), value, "offset {offset}");
    }
    assert!(!uart.interrupt());
}

#[test]
fn unused_bits_read_zero_and_read_only_registers_stay() {
    let mut uart = Uart::default();
    for offset in 1..REGISTERS {
        if offset != offset::FCR && offset != offset::LCR {
            set(&mut uart, offset, 0xef);
        }
    }
    assert_eq!(uart.read(offset::IER), 0x0f);
    assert_eq!(uart.read(offset::MCR), 0x0f);
    assert_eq!(uart.read(offset::LSR), 0x60);
    assert_eq!(uart.read(offset::MSR), 0xb0);
    assert_eq!(uart.read(offset::SCR), 0xef);
    assert_eq!(uart.read(REGISTERS), 0xff);
    set(&mut uart, u64::MAX, 0);
    assert_eq!(uart.read(u64::MAX), 0xff);
}

#[test]
fn divisor_latch_hides_data_and_interrupt_enable() {
    let mut uart = Uart::default();
    uart.receive(b'x');
    set(&mut uart, offset::IER, ier::RECEIVED);
    set(&mut uart, offset::LCR, lcr::DLAB | 3);
    set(&mut uart, offset::DATA, 0x34);
    set(&mut uart, offset::IER, 0x12);
    assert_eq!((uart.read(offset::DATA), uart.read(offset::IER)), (0x34, 0x12));
    set(&mut uart, offset::LCR, 3);
    assert_eq!((uart.read(offset::DATA), uart.read(offset::IER)), (b'x', ier::RECEIVED));
}

#[test]
fn fifo_bits_show_in_iir() {
    let mut uart = Uart::default();
    assert_eq!(uart.read(offset::IIR), 0x01);
    set(&mut uart, offset::FCR, fcr::ENABLE);
    assert_eq!(uart.read(offset::IIR), 0xc1);
    set(&mut uart, offset::FCR, 0xfe);
    assert_eq!(uart.read(offset::IIR), 0x01);
}

#[test]
fn each_interrupt_has_its_priority_and_its_clearing() {
    // Section 8.6, table IV: all four at once, cleared from the top.
    let mut uart = Uart::default();
    uart.receive(b'a');
    uart.receive(b'b'); // an overrun
    set(&mut uart, offset::MCR, mcr::LOOP);
    set(&mut uart, offset::MCR, 0); // modem lines changed
    assert!(!uart.interrupt());
    set(&mut uart, offset::IER, ier::ALL);
    assert!(uart.interrupt());

    assert_eq!(source(&mut uart), iir::LINE);
    assert_eq!(source(&mut uart), iir::LINE, "reading IIR does not clear it");
    assert_eq!(uart.read(offset::LSR) & 0x1f, lsr::OVERRUN | lsr::DATA_READY);

    assert_eq!(source(&mut uart), iir::RECEIVED);
    assert_eq!(source(&mut uart), iir::RECEIVED, "reading IIR does not clear it");
    assert_eq!(uart.read(offset::DATA), b'b', "an overrun destroys the older character");

    assert_eq!(source(&mut uart), iir::TRANSMIT);
    assert_eq!(source(&mut uart), iir::MODEM, "reading IIR cleared the THR-empty interrupt");
    assert_eq!(source(&mut uart), iir::MODEM, "reading IIR does not clear it");
    assert_eq!(uart.read(offset::MSR), 0xb0 | 0x0b);

    assert_eq!(source(&mut uart), iir::NONE);
    assert!(!uart.interrupt());
}

#[test]
fn an_interrupt_of_higher_priority_hides_but_keeps_thr_empty() {
    let mut uart = Uart::default();
    set(&mut uart, offset::IER, ier::RECEIVED | ier::TRANSMIT);
    uart.receive(b'a');
    assert_eq!(source(&mut uart), iir::RECEIVED);
    uart.read(offset::DATA);
    assert_eq!(source(&mut uart), iir::TRANSMIT);
}

#[test]
fn each_interrupt_needs_its_enable_bit() {
    for (bit, expected) in [
        (ier::LINE, iir::LINE),
        (ier::RECEIVED, iir::RECEIVED),
        (ier::TRANSMIT, iir::TRANSMIT),
        (ier::MODEM, iir::MODEM),
    ] {
        let mut uart = Uart::default();
        uart.receive(b'a');
        uart.receive(b'b');
        set(&mut uart, offset::MCR, mcr::LOOP);
        set(&mut uart, offset::IER, bit);
        assert_eq!(source(&mut uart), expected);
    }
}

#[test]
fn thr_empty_is_cleared_by_a_write_and_comes_back() {
    let mut uart = Uart::default();
    set(&mut uart, offset::IER, ier::TRANSMIT);
    assert!(uart.interrupt(), "enabling it while empty raises it");
    assert_eq!(uart.write(offset::DATA, b'a'), Some(b'a'));
    assert!(!uart.interrupt(), "the write clears it");
    uart.transmitted(true);
    assert_eq!(source(&mut uart), iir::TRANSMIT);
    assert_eq!(source(&mut uart), iir::NONE, "noted");
    set(&mut uart, offset::IER, ier::TRANSMIT);
    assert_eq!(source(&mut uart), iir::NONE, "the bit was on already");
    set(&mut uart, offset::IER, 0);
    set(&mut uart, offset::IER, ier::TRANSMIT);
    assert_eq!(source(&mut uart), iir::TRANSMIT, "the bit was turned on again");
}

#[test]
fn trigger_levels_and_character_timeout() {
    // Sections 8.5 and 8.11.
    for (trigger, level) in [(0, 1), (1, 4), (2, 8), (3, 14)] {
        let mut uart = with_fifos(trigger);
        for n in 1..=FIFO_LEN {
            uart.receive(0);
            assert!(uart.interrupt());
            let expected = if n >= level { iir::RECEIVED } else { iir::TIMEOUT };
            assert_eq!(source(&mut uart), expected, "trigger {level}, {n} received");
        }
        for left in (0..FIFO_LEN).rev() {
            uart.read(offset::DATA);
            let expected = match left {
                0 => iir::NONE,
                n if n >= level => iir::RECEIVED,
                _ => iir::TIMEOUT,
            };
            assert_eq!(source(&mut uart), expected, "trigger {level}, {left} left");
        }
    }
}

#[test]
fn a_full_fifo_keeps_what_it_has() {
    let mut uart = with_fifos(0);
    assert_eq!(uart.room(), 16);
    (0..20).for_each(|byte| uart.receive(byte));
    assert_eq!(uart.room(), 0);
    assert_eq!(uart.read(offset::LSR) & lsr::OVERRUN, lsr::OVERRUN);
    assert_eq!(uart.read(offset::LSR) & lsr::OVERRUN, 0, "reading LSR cleared it");
    let read: Vec<u8> = (0..16).map(|_| uart.read(offset::DATA)).collect();
    assert_eq!(read, (0..16).collect::<Vec<u8>>());
    assert_eq!(uart.read(offset::LSR), 0x60);
}

#[test]
fn errors_travel_with_their_character() {
    // Section 8.4: bits 2 to 4 show at the top of the FIFO, bit 7 wherever they are.
    let mut uart = with_fifos(0);
    set(&mut uart, offset::IER, ier::LINE);
    uart.receive(b'a');
    uart.receive_break();
    assert_eq!(uart.read(offset::LSR), 0x60 | lsr::DATA_READY | lsr::FIFO_ERROR);
    assert_eq!(source(&mut uart), iir::NONE);
    assert_eq!(uart.read(offset::DATA), b'a');
    assert_eq!(source(&mut uart), iir::LINE);
    let status = uart.read(offset::LSR);
    assert_eq!(status, 0x60 | lsr::DATA_READY | lsr::BREAK | lsr::FRAMING | lsr::FIFO_ERROR);
    assert_eq!(uart.read(offset::LSR), 0x60 | lsr::DATA_READY);
    assert_eq!(uart.read(offset::DATA), 0);
    assert_eq!(uart.read(offset::LSR), 0x60);
}

#[test]
fn fifo_control_clears() {
    let filled = || {
        let mut uart = with_fifos(0);
        uart.receive(b'a');
        assert_eq!(uart.write(offset::DATA, b'1'), Some(b'1'));
        uart.transmitted(false);
        set(&mut uart, offset::DATA, b'2');
        uart
    };
    for (value, room, held) in [
        (fcr::ENABLE, 15, Some(b'2')),
        (fcr::ENABLE | fcr::CLEAR_RECEIVED, 16, Some(b'2')),
        (fcr::ENABLE | fcr::CLEAR_TRANSMIT, 15, None),
        (0, 1, None),
    ] {
        let mut uart = filled();
        set(&mut uart, offset::FCR, value);
        assert_eq!((uart.room(), uart.take_held()), (room, held), "FCR {value:#x}");
    }
}

#[test]
fn a_stalled_transmitter_holds_a_fifo_and_drops_the_rest() {
    for (mode, capacity) in [(0, 1), (fcr::ENABLE, FIFO_LEN)] {
        let mut uart = Uart::default();
        set(&mut uart, offset::FCR, mode);
        set(&mut uart, offset::IER, ier::TRANSMIT);
        assert_eq!(uart.write(offset::DATA, b'a'), Some(b'a'));
        uart.transmitted(false);
        assert_eq!(uart.read(offset::LSR), 0);
        assert!(!uart.interrupt());
        for n in 0..20 {
            set(&mut uart, offset::DATA, n);
        }
        assert_eq!(uart.dropped(), 20 - capacity as u64);
        for n in 0..capacity {
            assert!(uart.is_stalled());
            assert_eq!(uart.take_held(), u8::try_from(n).ok());
        }
        uart.transmitted(true);
        assert_eq!(uart.read(offset::LSR), 0x60);
        assert_eq!(source(&mut uart), iir::TRANSMIT);
    }
}

#[test]
fn loopback_connects_outputs_to_inputs() {
    // Section 8.8, bit 4.
    for (output, input) in
        [(mcr::RTS, msr::CTS), (mcr::DTR, msr::DSR), (mcr::OUT1, msr::RI), (mcr::OUT2, msr::DCD)]
    {
        let mut uart = Uart::default();
        set(&mut uart, offset::MCR, mcr::LOOP | output);
        assert_eq!(uart.read(offset::MSR) & 0xf0, input);
    }
    let mut uart = with_fifos(0);
    set(&mut uart, offset::MCR, mcr::LOOP);
    for byte in 0..16 {
        set(&mut uart, offset::DATA, byte);
        assert_eq!(uart.read(offset::LSR) & 0x61, 0x61);
    }
    for byte in 0..16 {
        assert_eq!(uart.read(offset::DATA), byte);
    }
}

#[test]
fn modem_deltas_follow_each_line() {
    // Section 8.9: RI counts at its trailing edge only.
    let mut uart = Uart::default();
    set(&mut uart, offset::MCR, mcr::LOOP);
    uart.read(offset::MSR);
    for (output, on, off) in [
        (mcr::RTS, msr::DELTA_CTS, msr::DELTA_CTS),
        (mcr::DTR, msr::DELTA_DSR, msr::DELTA_DSR),
        (mcr::OUT1, 0, msr::TRAILING_RI),
        (mcr::OUT2, msr::DELTA_DCD, msr::DELTA_DCD),
    ] {
        set(&mut uart, offset::MCR, mcr::LOOP | output);
        assert_eq!(uart.read(offset::MSR) & 0x0f, on);
        assert_eq!(uart.read(offset::MSR) & 0x0f, 0, "reading MSR clears the deltas");
        set(&mut uart, offset::MCR, mcr::LOOP);
        assert_eq!(uart.read(offset::MSR), off);
    }
}

#[test]
fn out2_gates_the_line_and_loopback_closes_the_gate() {
    let mut uart = Uart::default();
    set(&mut uart, offset::IER, ier::TRANSMIT);
    for (value, gate) in [(0, false), (mcr::OUT2, true), (mcr::OUT2 | mcr::LOOP, false)] {
        set(&mut uart, offset::MCR, value);
        assert!(uart.interrupt());
        assert_eq!(uart.irq(), gate);
    }
}

/// What Linux does to name a port (drivers/tty/serial/8250/8250_port.c, `autoconfig`): the
/// checks in their order, with what a 16550A must answer.
#[test]
fn linux_finds_a_16550a() {
    const EFR: u64 = 2;
    let mut uart = Uart::default();
    // Is there anything: four bits of IER and no more.
    set(&mut uart, offset::IER, 0);
    assert_eq!(uart.read(offset::IER) & 0x0f, 0);
    set(&mut uart, offset::IER, 0x0f);
    assert_eq!(uart.read(offset::IER) & 0x0f, 0x0f);
    set(&mut uart, offset::IER, 0);
    // Is it a UART: loopback.
    set(&mut uart, offset::MCR, 0x1a);
    assert_eq!(uart.read(offset::MSR) & 0xf0, 0x90);
    set(&mut uart, offset::MCR, 0);
    // Has it FIFOs that work.
    set(&mut uart, offset::LCR, 0xbf);
    set(&mut uart, EFR, 0);
    set(&mut uart, offset::LCR, 0);
    set(&mut uart, offset::FCR, fcr::ENABLE);
    assert_eq!(uart.read(offset::IIR) >> 6, 3);
    // No extended feature register in either place: not a 16650.
    set(&mut uart, offset::LCR, 0x80);
    assert_ne!(uart.read(EFR), 0);
    set(&mut uart, offset::LCR, 0xbf);
    assert_ne!(uart.read(EFR), 0);
    // No second bank that shows MCR's loopback bit: not a National Super I/O.
    set(&mut uart, offset::LCR, 0xe0);
    let before = uart.read(2);
    set(&mut uart, offset::LCR, 0);
    set(&mut uart, offset::MCR, mcr::LOOP);
    set(&mut uart, offset::LCR, 0xe0);
    assert_eq!((uart.read(2) ^ before) & mcr::LOOP, 0);
    set(&mut uart, offset::LCR, 0);
    set(&mut uart, offset::MCR, 0);
    // No 64-byte FIFO under DLAB: not a 16750.
    set(&mut uart, offset::FCR, fcr::ENABLE | 0x20);
    assert_eq!(uart.read(offset::IIR) & 0xe0, 0xc0);
    set(&mut uart, offset::LCR, 0x80);
    set(&mut uart, offset::FCR, fcr::ENABLE | 0x20);
    assert_eq!(uart.read(offset::IIR) & 0xe0, 0xc0);
    set(&mut uart, offset::LCR, 0);
    // No unit enable bit in IER: not an XScale.
    set(&mut uart, offset::IER, 0x40);
    assert_eq!(uart.read(offset::IER), 0);
    // A scratch register: not an 8250.
    for value in [0xa5, 0x5a] {
        set(&mut uart, offset::SCR, value);
        assert_eq!(uart.read(offset::SCR), value);
    }
    // The THR-empty interrupt comes back when it is enabled again (`UART_BUG_THRE`).
    for _ in 0..2 {
        set(&mut uart, offset::IER, ier::TRANSMIT);
        assert_eq!(source(&mut uart), iir::TRANSMIT);
        set(&mut uart, offset::IER, 0);
    }
    send(&mut uart, b'!');
}

#[test]
fn restore_of_nonsense_is_bounded() {
    let mut uart = Uart::default();
    uart.restore(&UartState {
        interrupt_enable: 0xff,
        modem_control: 0xff,
        modem_status: 0xff,
        line_errors: 0xff,
        trigger: 0xff,
        received: vec![(1, 0xff); 1000],
        held: vec![2; 1000],
        ..UartState::default()
    });
    let state = uart.save();
    assert_eq!((state.received.len(), state.held.len(), state.trigger), (1, 1, 3));
    assert_eq!((state.interrupt_enable, state.modem_control), (0x0f, 0x1f));
    assert_eq!(state.line_errors, 0x1e);
    assert!(state.stalled);
}
