use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Seek, Write, pipe};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc::channel;

use super::config::Console as Config;
use super::*;
use crate::config::{Console as Stream, MachineConfig, parse_options};
use crate::virtio::testing::{GuestDriver, PLACE, conformance, wait};

/// A console on pipes: what the guest sends, and what it is sent.
fn on_pipes() -> (Console, PipeReader, PipeWriter) {
    let (from_guest, output) = pipe().unwrap();
    let (input, to_guest) = pipe().unwrap();
    let streams =
        Streams { output: Some(Output::of_fd(output.into())), input: Some(Box::new(input)), pty: None };
    (Console::new("test", streams).unwrap(), from_guest, to_guest)
}

fn set_up(device: impl Device) -> GuestDriver {
    let mut driver = GuestDriver::new(Box::new(device));
    driver.set_up(F_SIZE);
    driver
}

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|at| b'a' + u8::try_from(at % 23).unwrap()).collect()
}

fn metric(driver: &GuestDriver, name: &str) -> u64 {
    driver.handle.metrics().unwrap().into_iter().find(|(own, _)| *own == name).unwrap().1
}

#[test]
fn conforms() {
    let on = |stream: Stream| move || Config { stream: stream.clone(), id: None }.open(&PLACE).unwrap();
    let send = |driver: &mut GuestDriver| {
        assert_eq!(driver.request(TRANSMIT, &[b"hello ", b"world\n"], &[]).0, 0);
    };
    conformance(on(Stream::Off), send);
    conformance(on(Stream::Pty), send);
    let (from_guest, output) = pipe().unwrap();
    let (input, to_guest) = pipe().unwrap();
    let streams = move || Streams {
        output: Some(Output::of_fd(output.try_clone().unwrap().into())),
        input: Some(Box::new(input.try_clone().unwrap())),
        pty: None,
    };
    let (mut from_guest, mut to_guest) = (from_guest, to_guest);
    conformance(
        || Box::new(Console::new("test", streams()).unwrap()),
        |driver| {
            assert_eq!(driver.request(TRANSMIT, &[b"hello ", b"world\n"], &[]).0, 0);
            // What a hostile driver sends is there too.
            let mut said = Vec::new();
            while !said.ends_with(b"hello world\n") {
                let mut byte = [0];
                from_guest.read_exact(&mut byte).unwrap();
                said.extend(byte);
            }
            let head = driver.offer(RECEIVE, &[], &[2, 14]);
            driver.kick(RECEIVE);
            to_guest.write_all(b"good bye").unwrap();
            let (used, len, bytes) = driver.wait_used(RECEIVE);
            assert_eq!((used, len, &bytes[..8]), (head, 8, b"good bye".as_slice()));
        },
    );
}

#[test]
fn output_that_nobody_takes_waits_with_the_guest() {
    let (device, mut from_guest, _to_guest) = on_pipes();
    let mut driver = set_up(device);
    let text = text(300_000);
    let (first, rest) = text.split_at(100_000);
    let heads = [driver.offer(TRANSMIT, &[first], &[]), driver.offer(TRANSMIT, &[rest], &[])];
    driver.kick(TRANSMIT);
    // A pipe holds 64 KiB.
    driver.settle();
    assert_eq!(driver.used(TRANSMIT), None);
    driver.pause();
    driver.resume();
    let mut said = vec![0; text.len()];
    from_guest.read_exact(&mut said).unwrap();
    assert_eq!(said, text);
    assert_eq!([driver.wait_used(TRANSMIT).0, driver.wait_used(TRANSMIT).0], heads);
    assert_eq!(metric(&driver, "transmitted_bytes"), 300_000);
}

#[test]
fn output_that_is_half_sent_goes_on_in_another_machine() {
    let (device, mut from_guest, _to_guest) = on_pipes();
    let mut driver = set_up(device);
    driver.handle.command(Command::ConsoleResize { columns: 80, rows: 25 }).unwrap();
    let text = text(300_000);
    let head = driver.offer(TRANSMIT, &[&text], &[]);
    driver.kick(TRANSMIT);
    driver.settle();
    let sent = usize::try_from(metric(&driver, "transmitted_bytes")).unwrap();
    assert!((1..text.len()).contains(&sent));
    driver.pause();
    let (device, mut rest, _to_other) = on_pipes();
    driver.hand_over(Box::new(device));
    assert_eq!(driver.config::<4>(0), [80, 0, 25, 0]);
    // What the first machine's stream has is said there, and all else by the second's.
    driver.resume();
    let mut first = driver.predecessor.take().unwrap();
    let mut said = vec![0; text.len()];
    rest.read_exact(&mut said[sent..]).unwrap();
    assert_eq!(driver.wait_used(TRANSMIT).0, head);
    // The first one goes on as well.
    first.resume();
    from_guest.read_exact(&mut said[..sent]).unwrap();
    assert_eq!(said, text);
    let mut own = vec![0; text.len() - sent];
    from_guest.read_exact(&mut own).unwrap();
    assert_eq!(own, text[sent..]);
    assert_eq!(first.wait_used(TRANSMIT).0, head);
}

#[test]
fn input_waits_for_buffers() {
    let (device, _from_guest, mut to_guest) = on_pipes();
    let mut driver = set_up(device);
    let typed = text(20_000);
    to_guest.write_all(&typed).unwrap();
    driver.settle();
    let mut got = Vec::new();
    // Buffers of all sizes, several at a time, also empty ones.
    for round in 0.. {
        for len in [1, 0, 300, 5000, round % 7] {
            driver.offer(RECEIVE, &[], &[len]);
        }
        driver.kick(RECEIVE);
        for _ in 0..5 {
            if got.len() == typed.len() {
                break;
            }
            let (_, len, bytes) = driver.wait_used(RECEIVE);
            got.extend_from_slice(&bytes[..len as usize]);
        }
        if got.len() == typed.len() {
            break;
        }
    }
    assert_eq!(got, typed);
    assert_eq!(metric(&driver, "received_bytes"), 20_000);
}

#[test]
fn input_that_ends_leaves_the_output() {
    let (device, mut from_guest, to_guest) = on_pipes();
    let mut driver = set_up(device);
    driver.offer(RECEIVE, &[], &[64]);
    driver.kick(RECEIVE);
    drop(to_guest);
    driver.settle();
    assert_eq!(driver.used(RECEIVE), None);
    driver.request(TRANSMIT, &[b"still here"], &[]);
    let mut said = [0; 10];
    from_guest.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"still here");
}

#[test]
fn input_comes_from_a_regular_file_too() {
    let mut file = tempfile::tempfile().unwrap();
    let typed = text(10_000);
    file.write_all(&typed).unwrap();
    file.rewind().unwrap();
    let streams = Streams { input: Some(Box::new(file)), ..Streams::default() };
    let mut driver = set_up(Console::new("test", streams).unwrap());
    let mut got = Vec::new();
    while got.len() < typed.len() {
        let (len, bytes) = driver.request(RECEIVE, &[], &[3000]);
        got.extend_from_slice(&bytes[..len as usize]);
    }
    assert_eq!(got, typed);
    driver.offer(RECEIVE, &[], &[64]);
    driver.kick(RECEIVE);
    driver.settle();
    assert_eq!(driver.used(RECEIVE), None);
}

#[test]
fn output_that_breaks_is_told_once_and_holds_nothing_up() {
    let (device, from_guest, _to_guest) = on_pipes();
    let (tell, told) = channel();
    let device = device.on_output_lost(move |error| tell.send(error.kind()).unwrap());
    let mut driver = set_up(device);
    drop(from_guest);
    for _ in 0..3 {
        driver.request(TRANSMIT, &[&text(10_000)], &[]);
    }
    assert_eq!(told.recv(), Ok(io::ErrorKind::BrokenPipe));
    assert!(told.recv().is_err());
    assert_eq!(metric(&driver, "lost_bytes"), 30_000);
}

#[test]
fn a_pseudo_terminal_waits_for_its_reader_and_not_for_ever() {
    let device = Config::default().open(&PLACE).unwrap();
    let path = device.pty().unwrap().to_owned();
    let mut driver = GuestDriver::new(device);
    driver.set_up(0);
    // Nobody reads: it is full, for a while the guest waits, then all is lost.
    let text = text(1 << 20);
    driver.request(TRANSMIT, &[&text], &[]);
    assert!(metric(&driver, "lost_bytes") > 500_000);
    // Somebody reads, slower than the guest writes: nothing is lost any more.
    let mut terminal =
        File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(&path).unwrap();
    let mut old = vec![0; usize::try_from(metric(&driver, "transmitted_bytes")).unwrap()];
    terminal.read_exact(&mut old).unwrap();
    // The loop sees that there is room.
    driver.settle();
    let lost = metric(&driver, "lost_bytes");
    driver.offer(TRANSMIT, &[&text], &[]);
    driver.kick(TRANSMIT);
    let mut said = vec![0; text.len()];
    terminal.read_exact(&mut said).unwrap();
    assert_eq!(said, text);
    driver.wait_used(TRANSMIT);
    assert_eq!(metric(&driver, "lost_bytes"), lost);
    terminal.write_all(b"typed").unwrap();
    let (len, bytes) = driver.request(RECEIVE, &[], &[64]);
    assert_eq!(&bytes[..len as usize], b"typed");
}

#[test]
fn the_window_has_a_size() {
    let (device, _from_guest, _to_guest) = on_pipes();
    let driver = set_up(device);
    assert_eq!(driver.config::<8>(0), [0, 0, 0, 0, 1, 0, 0, 0]);
    let rises = driver.line.rises();
    driver.handle.command(Command::ConsoleResize { columns: 300, rows: 50 }).unwrap();
    assert_eq!(driver.config::<4>(0), [44, 1, 50, 0]);
    wait("no interrupt", || driver.line.rises() == rises + 1);
    assert!(matches!(driver.handle.command(Command::DiskResized), Err(CommandError::Unknown(_))));
}

#[test]
fn options_are_read_and_checked() {
    let parse = parse_options::<Config>;
    assert_eq!(parse("").unwrap(), Config::default());
    let file = Config { id: Some("log".into()), stream: Stream::File("/tmp/log".into()) };
    assert_eq!(parse("where=file:/tmp/log,id=log").unwrap(), file);
    let error = parse("where=moon").unwrap_err().to_string();
    assert!(error.contains("'moon' is no console: give stdio, pty, off or file:PATH"), "{error}");

    let check = |serial: Stream, consoles: &[&str]| {
        let mut config = MachineConfig { console: serial, ..MachineConfig::default() };
        config.devices.virtio_console = consoles.iter().map(|words| parse(words).unwrap()).collect();
        config.validate().map_err(|error| error.to_string())
    };
    assert_eq!(check(Stream::Stdio, &["where=pty", "where=off"]), Ok(()));
    assert_eq!(check(Stream::Off, &["where=stdio", ""]), Ok(()));
    let error = check(Stream::Stdio, &["where=stdio"]).unwrap_err();
    assert_eq!(
        error,
        "virtio_console0: where=stdio, but there is the serial console: give --console off, or another where"
    );
    let error = check(Stream::Off, &["where=stdio", "where=stdio,id=b"]).unwrap_err();
    assert_eq!(error, "virtio_console0: where=stdio for two consoles: give one of them another where");
}
