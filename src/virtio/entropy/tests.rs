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
