//! `net=`: network devices at work.

mod frame;
mod receive;
mod send;

use super::{Mibs, rate};
use crate::Machine;
use crate::console::{print, println};
use crate::virtio::Result;
use crate::virtio::net::{Net, bit};
use crate::words::{Words, split_at_byte};
use frame::Addresses;

const DEFAULT_DEPTH: u64 = 256;
const DEFAULT_PORT: u64 = 9;
const DEFAULT_SOURCE: [u8; 4] = [10, 0, 0, 2];
const DEFAULT_DESTINATION: [u8; 4] = [10, 0, 0, 1];

// Its stack frame is no other job's.
#[inline(never)]
pub fn run(machine: &mut Machine, what: &'static str) {
    let mark = machine.arena.mark();
    let result = match what {
        "info" => info(machine),
        "send" => send::run(machine),
        "recv" => receive::run(machine, what, false),
        "echo" => receive::run(machine, what, true),
        _ => return super::complain("no such job for a network device", what),
    };
    match result {
        // The device was reset: its memory is free.
        Ok(()) => machine.arena.rewind(mark),
        Err(error) => println!("net op={what} error: {error}"),
    }
}

fn start(machine: &mut Machine, bytes: u32, wanted: u64) -> Result<Net> {
    let words = machine.words;
    let depth = words.number("depth").unwrap_or(DEFAULT_DEPTH).min(DEFAULT_DEPTH) as u16;
    Net::start(machine, super::device_index(words), depth, bytes, wanted)
}

fn info(machine: &mut Machine) -> Result<()> {
    let net = start(machine, 64, 0)?;
    print!("net op=info mac=");
    print_mac(net.mac);
    print!(" features={:#x} offered={:#x}", net.features, net.offered());
    println!(" mtu={} link={} pairs={}", net.mtu(), u8::from(net.link()), net.queue_pairs());
    net.stop()
}

pub fn print_mac(mac: [u8; 6]) {
    for (index, byte) in mac.iter().enumerate() {
        print!("{}{byte:02x}", if index > 0 { ":" } else { "" });
    }
}

fn addresses(words: Words, net: &Net) -> Result<Addresses> {
    let ip = |key, default| match words.value(key) {
        Some(text) => parse_parts(text, b'.', 10).ok_or("not an IPv4 address"),
        None => Ok(default),
    };
    let peer_mac = match words.value("dmac") {
        Some(text) => parse_parts(text, b':', 16).ok_or("not a MAC address")?,
        None => [u8::MAX; 6],
    };
    Ok(Addresses {
        mac: net.mac,
        peer_mac,
        ip: ip("src", DEFAULT_SOURCE)?,
        peer_ip: ip("dst", DEFAULT_DESTINATION)?,
        port: words.number("port").unwrap_or(DEFAULT_PORT) as u16,
    })
}

/// N bytes with separators between.
fn parse_parts<const N: usize>(text: &str, separator: u8, radix: u32) -> Option<[u8; N]> {
    let (mut parts, mut rest) = ([0; N], Some(text));
    for place in &mut parts {
        let text = rest?;
        let (part, behind) = match split_at_byte(text, separator) {
            Some((part, behind)) => (part, Some(behind)),
            None => (text, None),
        };
        *place = u8::from_str_radix(part, radix).ok()?;
        rest = behind;
    }
    rest.is_none().then_some(parts)
}

/// Frames and microseconds until the end.
fn limits(words: Words) -> (u64, u64) {
    (words.number("count").unwrap_or(u64::MAX), words.microseconds().unwrap_or(u64::MAX))
}
