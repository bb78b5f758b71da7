//! Frames as the embedded guest sends them, for the floor.

use super::Way;

/// The host's end of the tap.
pub(super) const HOST: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The guest's, as the host believes: a tap and the guest take whatever comes.
pub(super) const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Nobody's: the host counts a frame for it and drops it at the first look.
pub(super) const SINK: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// Bytes of a UDP frame before its data: Ethernet, IPv4, UDP.
pub(super) const UDP_HEADERS: usize = 42;
/// Bytes of `struct virtio_net_hdr` with its last field (VIRTIO 1.2, 5.1.6), in front of each frame.
pub(super) const VNET_HEADER: usize = 12;

/// As long as an IPv4 packet may be, and its Ethernet header.
const LARGE: usize = u16::MAX as usize + ETHERNET;
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const TCP: usize = 20;
/// A segment's data in a packet of 1500 bytes.
const SEGMENT: u16 = 1460;
/// VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4; where TCP's checksum is.
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const TCP_CHECKSUM: u16 = 16;

/// A MAC address in words.
pub(super) fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A frame to send, with its header for the tap.
pub(super) fn of(way: Way) -> Vec<u8> {
    let (length, protocol) = match way {
        Way::Send(bytes) | Way::Receive(bytes) => (bytes.max(UDP_HEADERS), 17),
        Way::SendLarge => (LARGE, 6),
    };
    let ip_length = u16::try_from(length - ETHERNET).unwrap_or(u16::MAX);
    let mut frame = match way {
        Way::SendLarge => large_header().to_vec(),
        Way::Send(_) | Way::Receive(_) => vec![0; VNET_HEADER],
    };
    frame.extend(SINK.iter().chain(&GUEST).chain(&[0x08, 0x00]));
    let [high, low] = ip_length.to_be_bytes();
    frame.extend([0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
    frame.extend([0, 9, 0, 9]);
    if let Way::SendLarge = way {
        // Numbers; five words of header, PSH and ACK.
        frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x18, 0xff, 0xff]);
    }
    frame.resize(VNET_HEADER + length, 0);
    frame
}

/// Of a TCP frame that the host may cut.
fn large_header() -> [u8; VNET_HEADER] {
    let headers = u16::try_from(ETHERNET + IPV4 + TCP).unwrap_or_default();
    let start = u16::try_from(ETHERNET + IPV4).unwrap_or_default();
    let [[h0, h1], [g0, g1], [s0, s1], [o0, o1]] =
        [headers, SEGMENT, start, TCP_CHECKSUM].map(u16::to_le_bytes);
    [NEEDS_CSUM, GSO_TCPV4, h0, h1, g0, g1, s0, s1, o0, o1, 0, 0]
}
