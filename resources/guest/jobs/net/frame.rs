//! Ethernet frames: IPv4 with UDP or TCP to send, and answers to ARP, ICMP echo
//! and UDP (RFC 791, 768, 9293, 826, 792).

use crate::virtio::dma::Dma;
use crate::virtio::net::Offload;

pub const ETHERNET: u64 = 14;
const IPV4: u64 = 20;
/// Where UDP and TCP start in frames that we make.
pub const TRANSPORT: u64 = ETHERNET + IPV4;
pub const UDP: u64 = 8;
pub const TCP: u64 = 20;

const TYPE_IPV4: u16 = 0x0800;
const TYPE_ARP: u16 = 0x0806;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const TTL: u8 = 64;

/// Offsets in a frame, from its start.
mod at {
    pub const DESTINATION: u64 = 0;
    pub const SOURCE: u64 = 6;
    pub const TYPE: u64 = 12;
    pub const IP: u64 = 14;
    pub const ARP_OPERATION: u64 = 20;
    pub const ARP_SENDER: u64 = 22;
    pub const ARP_TARGET: u64 = 32;
    pub const IP_PROTOCOL: u64 = 23;
    pub const IP_SOURCE: u64 = 26;
    pub const IP_DESTINATION: u64 = 30;
}

/// Who talks to whom.
#[derive(Clone, Copy)]
pub struct Addresses {
    pub mac: [u8; 6],
    pub peer_mac: [u8; 6],
    pub ip: [u8; 4],
    pub peer_ip: [u8; 4],
    pub port: u16,
}

fn put(frame: Dma, offset: u64, bytes: &[u8]) {
    for (at, &byte) in (offset..).zip(bytes) {
        frame.write8(at, byte);
    }
}

fn get<const N: usize>(frame: Dma, offset: u64) -> [u8; N] {
    let mut bytes = [0; N];
    for (at, byte) in (offset..).zip(&mut bytes) {
        *byte = frame.read8(at);
    }
    bytes
}

fn put16(frame: Dma, offset: u64, value: u16) {
    put(frame, offset, &value.to_be_bytes());
}

fn get16(frame: Dma, offset: u64) -> u16 {
    u16::from_be_bytes(get(frame, offset))
}

/// The sum of a checksum (RFC 1071), not yet complemented.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + sum) as u16
}

impl Addresses {
    fn headers(&self, frame: Dma, length: u64, protocol: u8) {
        put(frame, at::DESTINATION, &self.peer_mac);
        put(frame, at::SOURCE, &self.mac);
        put16(frame, at::TYPE, TYPE_IPV4);
        let [high, low] = ((length - ETHERNET) as u16).to_be_bytes();
        let mut ip = [0x45, 0, high, low, 0, 0, 0x40, 0, TTL, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        ip[12..16].copy_from_slice(&self.ip);
        ip[16..].copy_from_slice(&self.peer_ip);
        let checksum = !sum(&ip);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        put(frame, at::IP, &ip);
        put16(frame, TRANSPORT, self.port);
        put16(frame, TRANSPORT + 2, self.port);
    }

    /// The sum over the pseudo header, from which a device goes on.
    fn pseudo_sum(&self, protocol: u8, length: u64) -> u16 {
        let [high, low] = (length as u16).to_be_bytes();
        let mut pseudo = [0, 0, 0, 0, 0, 0, 0, 0, 0, protocol, high, low];
        pseudo[..4].copy_from_slice(&self.ip);
        pseudo[4..8].copy_from_slice(&self.peer_ip);
        sum(&pseudo)
    }

    /// A UDP frame of so many bytes: without a checksum, or with one that the
    /// device completes.
    pub fn udp(&self, frame: Dma, length: u64, checksum: bool) -> Offload {
        self.headers(frame, length, PROTOCOL_UDP);
        let bytes = length - TRANSPORT;
        put16(frame, TRANSPORT + 4, bytes as u16);
        if !checksum {
            put16(frame, TRANSPORT + 6, 0);
            return Offload::default();
        }
        put16(frame, TRANSPORT + 6, self.pseudo_sum(PROTOCOL_UDP, bytes));
        Offload { checksum_start: TRANSPORT as u16, checksum_offset: 6, ..Offload::default() }
    }

    /// A TCP frame that the device cuts into segments.
    pub fn tcp(&self, frame: Dma, length: u64, segment_size: u16) -> Offload {
        const HEADER_WORDS_AND_FLAGS: u16 = 5 << 12 | 0x018; // PSH, ACK
        self.headers(frame, length, PROTOCOL_TCP);
        put(frame, TRANSPORT + 4, &[0; 8]);
        put16(frame, TRANSPORT + 12, HEADER_WORDS_AND_FLAGS);
        put16(frame, TRANSPORT + 14, u16::MAX);
        put16(frame, TRANSPORT + 16, self.pseudo_sum(PROTOCOL_TCP, length - TRANSPORT));
        put16(frame, TRANSPORT + 18, 0);
        Offload {
            checksum_start: TRANSPORT as u16,
            checksum_offset: 16,
            header_length: (TRANSPORT + TCP) as u16,
            segment_size,
        }
    }

    /// Whether this is UDP or TCP over IPv4 to our port.
    pub fn is_for_port(&self, frame: Dma) -> bool {
        let Some(transport) = transport(frame) else { return false };
        matches!(frame.read8(at::IP_PROTOCOL), PROTOCOL_UDP | PROTOCOL_TCP)
            && get16(frame, transport + 2) == self.port
    }

    /// Turns a frame into its answer, if it wants one of us: ARP and ICMP echo
    /// requests do, and UDP if it is to be echoed.
    pub fn answer(&self, frame: Dma, echo: bool) -> bool {
        if frame.length() < TRANSPORT + UDP {
            return false;
        }
        let answered = match get16(frame, at::TYPE) {
            TYPE_ARP => self.answer_arp(frame),
            TYPE_IPV4 => self.answer_ip(frame, echo),
            _ => false,
        };
        if answered {
            put(frame, at::DESTINATION, &get::<6>(frame, at::SOURCE));
            put(frame, at::SOURCE, &self.mac);
        }
        answered
    }

    fn answer_arp(&self, frame: Dma) -> bool {
        let asks = get16(frame, at::ARP_OPERATION) == 1 && get(frame, at::ARP_TARGET + 6) == self.ip;
        if asks {
            put16(frame, at::ARP_OPERATION, 2);
            put(frame, at::ARP_TARGET, &get::<10>(frame, at::ARP_SENDER));
            put(frame, at::ARP_SENDER, &self.mac);
            put(frame, at::ARP_SENDER + 6, &self.ip);
        }
        asks
    }

    fn answer_ip(&self, frame: Dma, echo: bool) -> bool {
        let Some(transport) = transport(frame) else { return false };
        if get(frame, at::IP_DESTINATION) != self.ip {
            return false;
        }
        match frame.read8(at::IP_PROTOCOL) {
            PROTOCOL_ICMP if frame.read8(transport) == 8 => {
                // From type 8 to type 0: the checksum grows by as much (RFC 1624).
                let (checksum, carry) = get16(frame, transport + 2).overflowing_add(0x0800);
                frame.write8(transport, 0);
                put16(frame, transport + 2, checksum + u16::from(carry));
            }
            PROTOCOL_UDP if echo => {
                let [source, destination] = [get::<2>(frame, transport), get::<2>(frame, transport + 2)];
                put(frame, transport, &destination);
                put(frame, transport + 2, &source);
            }
            _ => return false,
        }
        // Swapping changes no checksum.
        put(frame, at::IP_DESTINATION, &get::<4>(frame, at::IP_SOURCE));
        put(frame, at::IP_SOURCE, &self.ip);
        true
    }
}

/// Where the transport's header is in an IPv4 frame that has one.
fn transport(frame: Dma) -> Option<u64> {
    if frame.length() < TRANSPORT + UDP || get16(frame, at::TYPE) != TYPE_IPV4 {
        return None;
    }
    let transport = ETHERNET + 4 * u64::from(frame.read8(at::IP) & 0xf);
    (transport >= TRANSPORT && transport + UDP <= frame.length()).then_some(transport)
}
