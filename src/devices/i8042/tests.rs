use proptest::prelude::*;

use super::*;

fn read(device: &mut I8042, offset: u64) -> u8 {
    let mut data = [0xaa];
    device.read(offset, &mut data);
    data[0]
}

fn write(device: &mut I8042, offset: u64, value: u8) -> Effect {
    device.write(offset, &[value])
}

#[test]
fn linux_finds_no_controller_at_once() {
    // `i8042_flush` reads data while there is some, and gives up after 16 bytes.
    let mut device = I8042::default();
    for _ in 0..16 {
        assert_eq!(read(&mut device, COMMAND) & 1, 1);
        assert_eq!(read(&mut device, DATA), 0);
    }
    // `kb_wait` of a reboot waits while bit 1 is set.
    assert_eq!(read(&mut device, COMMAND) & 2, 0);
}

#[test]
fn only_a_pulse_of_the_reset_line_resets() {
    let mut device = I8042::default();
    for value in 0..=u8::MAX {
        let expected = if value >= 0xf0 && value % 2 == 0 { Effect::Reset } else { Effect::None };
        assert_eq!(write(&mut device, COMMAND, value), expected, "{value:#x}");
        assert_eq!(write(&mut device, DATA, value), Effect::None);
    }
    assert_eq!(write(&mut device, COMMAND, 0xfe), Effect::Reset);
}

#[test]
fn port_b_lets_loops_end() {
    let mut device = I8042::default();
    // Linux' `pit_calibrate_tsc`: gate on, speaker off, wait for the timer's output.
    let value = read(&mut device, PORT_B) & !2 | 1;
    assert_eq!(write(&mut device, PORT_B, value), Effect::None);
    assert!((0..2).any(|_| read(&mut device, PORT_B) & 0x20 != 0));
    // Refresh delays wait for bit 4 to change.
    assert_ne!(read(&mut device, PORT_B) & 0x10, read(&mut device, PORT_B) & 0x10);
    assert_eq!(read(&mut device, PORT_B) & 0x0f, 1);
    assert_eq!(write(&mut device, PORT_B, 0xff), Effect::None);
    assert_eq!(read(&mut device, PORT_B) & 0xcf, 0x0f);
}

proptest! {
    #[test]
    fn any_sequence_keeps_the_invariants(
        steps in prop::collection::vec((any::<bool>(), 0..8_u64, prop::collection::vec(any::<u8>(), 0..9)), 0..100),
    ) {
        let mut device = I8042::default();
        for (reads, offset, mut data) in steps {
            let mut copy = I8042::default();
            copy.restore(&device.save());
            let mut same = data.clone();
            if reads {
                device.read(offset, &mut data);
                copy.read(offset, &mut same);
            } else {
                prop_assert_eq!(device.write(offset, &data), copy.write(offset, &same));
            }
            prop_assert_eq!(data, same);
            prop_assert_eq!(device.save(), copy.save());
            prop_assert_eq!(device.port_b & 0xc0, 0);
        }
        device.restore(&I8042State { port_b: 0xff });
        prop_assert_eq!(device.port_b, 0x3f);
    }
}
