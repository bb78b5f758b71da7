use std::time::{Duration, Instant};

use super::*;
use crate::virtio::testing::{GuestDriver, PLACE, conformance};

fn device() -> Box<dyn Device> {
    Entropy::default().open(&PLACE).unwrap()
}

#[test]
fn conforms() {
    conformance(device, |driver| {
        let (len, bytes) = driver.request(0, &[], &[32, 8]);
        assert_eq!(len, 40);
        assert!(bytes.iter().any(|byte| *byte != 0));
    });
}

#[test]
fn a_request_gets_what_it_has_room_for_and_no_two_the_same() {
    let mut driver = GuestDriver::new(device());
    driver.set_up(0);
    let (len, first) = driver.request(0, &[], &[64]);
    assert_eq!(len, 64);
    let (_, second) = driver.request(0, &[], &[64]);
    assert_ne!(first, second);
    let (len, bytes) = driver.request(0, &[], &[MOST + 8]);
    assert_eq!(len as usize, MOST);
    assert_eq!(bytes[MOST..], [0; 8]);
    // What the driver says is not looked at.
    let (len, _) = driver.request(0, &[b"hello"], &[]);
    assert_eq!(len, 0);
}

/// 1,000 bytes at once and 2,000 in a second, as a device.
fn limited() -> Box<dyn Device> {
    let config: Entropy = crate::config::parse_options("rate=2000:1000,id=slow").unwrap();
    config.open(&PLACE).unwrap()
}

#[test]
fn a_rate_holds_back_what_is_too_much() {
    let mut driver = GuestDriver::new(limited());
    driver.set_up(0);
    let start = Instant::now();
    for _ in 0..3 {
        driver.request(0, &[], &[256]);
    }
    assert!(start.elapsed() < Duration::from_millis(500));
    for _ in 0..8 {
        driver.offer(0, &[], &[256]);
        driver.kick(0);
    }
    // A pause in between loses none of them.
    driver.pause();
    driver.resume();
    for _ in 0..8 {
        assert_eq!(driver.wait_used(0).1, 256);
    }
    // Of 11 * 256 bytes, 1,000 were there; the rest takes nine tenths of a second.
    assert!(start.elapsed() >= Duration::from_millis(900));
    let metrics = driver.handle.metrics().unwrap();
    assert_eq!(metrics, [("given_bytes", 11 * 256), ("failures_total", 0)]);
}

#[test]
fn a_device_with_a_rate_conforms() {
    conformance(limited, |driver| assert_eq!(driver.request(0, &[], &[4]).0, 4));
}
