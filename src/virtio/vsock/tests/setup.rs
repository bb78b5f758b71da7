//! What users give, and what is left when a machine has ended.

use std::fs;

use super::*;
use crate::config::{DeviceConfig, parse_options};

fn refusal(config: &Vsock) -> String {
    let Err(error) = config.open(&PLACE) else { panic!("it opened") };
    error.to_string()
}

#[test]
fn options_are_a_configuration() {
    let parsed: Vsock = parse_options("cid=3,uds=/run/vm.vsock,id=guest,iothread=io0").unwrap();
    let expected =
        Vsock { cid: 3, uds: "/run/vm.vsock".into(), id: Some("guest".into()), iothread: Some("io0".into()) };
    assert_eq!(parsed, expected);
    assert_eq!(parsed.check(), Ok(()));
    for (text, expected) in [("uds=/tmp/v", "missing field `cid`"), ("cid=3", "missing field `uds`")] {
        let error = parse_options::<Vsock>(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_cannot_be_is_said_with_what_to_give() {
    let check = |cid, uds: &str| Vsock { cid, uds: uds.into(), id: None, iothread: None }.check();
    for cid in [0, 1, 2, 0xffff_ffff, 1 << 32, u64::MAX] {
        let error = check(cid, "/tmp/v").unwrap_err();
        assert_eq!(error, format!("cid={cid} cannot be a guest's: give 3 to 4294967294"));
    }
    for cid in [3, 0xffff_fffe] {
        assert_eq!(check(cid, "/tmp/v"), Ok(()));
    }
    for uds in ["", "/tmp/", "/tmp/a\0b"] {
        assert!(check(3, uds).unwrap_err().contains("for example uds="), "{uds:?}");
    }
    let most = format!("/{}", "a".repeat(95));
    assert_eq!(check(3, &most), Ok(()));
    let error = check(3, &(most + "a")).unwrap_err();
    assert!(error.contains("has 97 bytes") && error.contains("up to 96"), "{error}");
}

#[test]
fn the_longest_path_has_room_for_the_highest_port() {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let stem = folder.path().join("v").to_str().unwrap().len();
    let uds = folder.path().join(format!("v{}", "v".repeat(96 - stem)));
    let config = Vsock { uds, ..config(&folder) };
    assert_eq!(config.check(), Ok(()));
    let door = Door::open(&config.uds).unwrap();
    let listener = UnixListener::bind(format!("{}_4294967295", config.uds.display())).unwrap();
    door.dial(u32::MAX).unwrap();
    listener.accept().unwrap();
}

#[test]
fn nobody_elses_file_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    fs::write(&config.uds, "precious").unwrap();
    let error = refusal(&config);
    assert!(error.contains("v.sock exists already") && error.contains("remove it"), "{error}");
    assert_eq!(fs::read_to_string(&config.uds).unwrap(), "precious");
    fs::remove_file(&config.uds).unwrap();

    let device = config.open(&PLACE).unwrap();
    assert!(refusal(&config).contains("exists already"));
    drop(device);
    assert!(!config.uds.exists());

    // Somebody has put something else there.
    let device = config.open(&PLACE).unwrap();
    fs::remove_file(&config.uds).unwrap();
    fs::write(&config.uds, "precious").unwrap();
    drop(device);
    assert_eq!(fs::read_to_string(&config.uds).unwrap(), "precious");
}

#[test]
fn a_missing_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let uds = folder.path().join("no/such/v.sock");
    let error = refusal(&Vsock { uds, ..config(&folder) });
    assert!(error.contains("no folder for") && error.contains("no/such/v.sock: make it"), "{error}");
    let uds = "/dev/null/v.sock".into();
    assert_eq!(refusal(&Vsock { uds, ..config(&folder) }), "cannot make the socket /dev/null/v.sock");
}
