use super::frame::{UDP_HEADERS, VNET_HEADER};
use super::*;

const TABLE: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0
bench01:      7       8    0    0    0     0          0         0        0       0    0    0    0     0
bench0:123456    1234    0    0    0     0          0         0      990      11    0    0    0     0
";

#[test]
fn the_taps_own_counter_is_read() {
    assert_eq!(tap::received(TABLE, "bench0").unwrap(), 1234.0);
    assert!(tap::received(TABLE, "bench").is_err());
}

#[test]
fn frames_are_as_long_as_they_shall_be() {
    assert_eq!(frame::of(Way::Send(64)).len(), VNET_HEADER + 64);
    assert_eq!(frame::of(Way::Send(1514)).len(), VNET_HEADER + 1514);
    assert_eq!(frame::of(Way::Send(0)).len(), VNET_HEADER + UDP_HEADERS);
    let large = frame::of(Way::SendLarge);
    assert_eq!(large.len(), VNET_HEADER + 14 + 65535);
    let ip = &large[VNET_HEADER + 14..];
    assert_eq!((ip[0], ip[9], u16::from_be_bytes([ip[2], ip[3]])), (0x45, 6, u16::MAX));
}

#[test]
fn what_has_passed_is_frames_or_bytes_a_second() {
    let said = Said::parse("net op=send n=500 bytes=757000 ns=250000000 errors=0", "net").unwrap();
    let time = Duration::from_millis(500);
    let passed = Passed::of(&said, Way::SendLarge, time).unwrap();
    assert_eq!(passed.a_second(Unit::PerSecond), 2000.0);
    assert_eq!(passed.a_second(Unit::BytesPerSecond), 3_028_000.0);
    // Between bursts a receiver waits, and that counts.
    let passed = Passed::of(&said, Way::Receive(1514), time).unwrap();
    assert_eq!(passed.a_second(Unit::PerSecond), 1000.0);
}
