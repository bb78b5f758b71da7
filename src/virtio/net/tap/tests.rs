//! The device on a tap of the kernel's, in a network namespace of the test's own, with a packet socket at
//! the host's end. They need root and `/dev/net/tun`.

#![allow(clippy::cast_possible_truncation, reason = "lengths of the frames of these tests")]

use std::fs;
use std::mem::size_of;
use std::process::Command;

use super::super::Mac;
use super::*;
use crate::config::parse_options;
use crate::testing::skip;
use crate::virtio::net::nic;
use crate::virtio::testing::{GuestDriver, copy, wait};
use crate::virtio::{Allow, feature};

const RX: usize = 0;
const TX: usize = 1;

/// Runs a test on a thread with a network of its own.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let body = move || {
        if !fs::exists(TUN).unwrap_or(false) {
            return skip(&format!("there is no {TUN}"));
        }
        // SAFETY: the call changes nothing but this thread's network.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return skip(&format!("no network namespace: {}", io::Error::last_os_error()));
        }
        // Otherwise the kernel has to say something on every new interface.
        let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        test();
    };
    let thread = std::thread::Builder::new().name(name).spawn(body).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn config(word: &str) -> Net {
    let config: Net = parse_options(word).unwrap();
    assert_eq!(crate::config::DeviceConfig::check(&config), Ok(()));
    config
}

fn driver(word: &str) -> (GuestDriver, Host) {
    let config = config(word);
    let tap = Tap::open(&config).unwrap();
    let host = Host::new(&tap.name);
    (GuestDriver::new(Box::new(nic(&config, tap).unwrap())), host)
}

/// A packet socket (packet(7)): frames with a header of 10 bytes in front, as they pass the tap.
struct Host(OwnedFd);

const HOST_HEADER: usize = 10;

impl Host {
    fn new(tap: &str) -> Self {
        let protocol = u16::to_be(libc::ETH_P_ALL as u16);
        // SAFETY: plain calls with live arguments; the descriptor is new.
        unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, protocol.into());
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            let fd = OwnedFd::from_raw_fd(fd);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            let name = std::ffi::CString::new(tap).unwrap();
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
            let len = size_of::<libc::sockaddr_ll>() as u32;
            check(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len)).unwrap();
            let one: libc::c_int = 1;
            let (value, len) = ((&raw const one).cast(), size_of::<libc::c_int>() as u32);
            check(libc::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, value, len))
                .unwrap();
            let time = libc::timeval { tv_sec: 20, tv_usec: 0 };
            let (value, len) = ((&raw const time).cast(), size_of::<libc::timeval>() as u32);
            check(libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, value, len)).unwrap();
            Self(fd)
        }
    }

    fn send(&self, header: Header, frame: &[u8]) {
        let bytes = [&header.bytes()[..HOST_HEADER], frame].concat();
        // SAFETY: the buffer is live.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        assert_eq!(sent, bytes.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next frame that the guest has sent, and its header.
    fn receive(&self) -> (Vec<u8>, Vec<u8>) {
        let mut bytes = vec![0; 1 << 17];
        loop {
            // SAFETY: an address is plain data, for which zeroes are valid.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut len = size_of::<libc::sockaddr_ll>() as u32;
            // SAFETY: both buffers are live.
            let got = unsafe {
                let (to, from) = (bytes.as_mut_ptr().cast(), (&raw mut address).cast());
                libc::recvfrom(self.0.as_raw_fd(), to, bytes.len(), 0, from, &raw mut len)
            };
            assert!(got > 0, "{}", io::Error::last_os_error());
            if u32::from(address.sll_pkttype) != libc::PACKET_OUTGOING as u32 {
                let got = got as usize;
                return (bytes[..HOST_HEADER].to_vec(), bytes[HOST_HEADER..got].to_vec());
            }
        }
    }
}

/// A frame's header (VIRTIO 1.2, section 5.1.6).
#[derive(Clone, Copy, Debug, Default)]
struct Header {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;

/// What a sender leaves to be done: checksum and segmentation of a frame of [`tcp`]'s.
const SEGMENTS: Header = Header {
    flags: NEEDS_CSUM,
    gso_type: GSO_TCPV4,
    hdr_len: 54,
    gso_size: 1400,
    csum_start: 34,
    csum_offset: 16,
};

impl Header {
    fn bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..2].copy_from_slice(&[self.flags, self.gso_type]);
        let words = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset];
        for (at, word) in words.into_iter().enumerate() {
            bytes[2 + 2 * at..4 + 2 * at].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// A TCP segment, however large, in a frame.
fn tcp(payload: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(Mac::local(1).octets());
    frame.extend([8, 0]);
    let total = (40 + payload) as u16;
    let mut ip = vec![0x45, 0];
    ip.extend(total.to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
    let sum = !fold(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    // What the checksum of a whole segment starts from: the pseudo-header's sum.
    let mut pseudo = ip[12..20].to_vec();
    pseudo.extend([0, 6]);
    pseudo.extend((20 + payload as u16).to_be_bytes());
    frame.extend(ip);
    frame.extend([0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff]);
    frame.extend(fold(&pseudo).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend((0..payload).map(|at| (at * 7 / 3) as u8));
    frame
}

/// The ones' complement sum (RFC 1071).
fn fold(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Whether a TCP segment's checksum is right.
fn is_sound(frame: &[u8]) -> bool {
    let segment = &frame[34..];
    let pseudo = [&frame[26..34], &[0, 6], &(segment.len() as u16).to_be_bytes()].concat();
    fold(&[&pseudo, segment].concat()) == 0xffff
}

/// Sets the device up, and waits until the tap is.
fn set_up(driver: &mut GuestDriver, features: u64) {
    driver.set_up(features);
    driver.settle();
}

fn offer(driver: &mut GuestDriver, queue: usize, count: usize) {
    for _ in 0..count {
        driver.offer(queue, &[], &[1536]);
    }
    driver.kick(queue);
}

/// The next frame that the guest receives: its header, its bytes, and its number of chains.
fn wait_frame(driver: &mut GuestDriver) -> (Vec<u8>, Vec<u8>, u16) {
    let (_, len, mut bytes) = driver.wait_used(RX);
    bytes.truncate(len as usize);
    let chains = u16::from_le_bytes([bytes[10], bytes[11]]);
    for _ in 1..chains {
        let (_, len, part) = driver.used(RX).unwrap();
        bytes.extend(&part[..len as usize]);
    }
    let frame = bytes.split_off(HEADER);
    (bytes, frame, chains)
}

fn send(driver: &mut GuestDriver, header: Header, frame: &[u8]) {
    driver.request(TX, &[&header.bytes(), frame], &[]);
}

#[test]
fn a_tap_is_made_ready_and_goes_with_its_device() {
    in_namespace(|| {
        for (word, name) in [("tap", "bantam0"), ("tap=lan,queues=4", "lan")] {
            let config = config(&format!("{word},ip=10.9.0.1/24,mtu=1400"));
            let tap = Tap::open(&config).unwrap();
            assert_eq!((tap.name.as_str(), tap.ports.len()), (name, usize::from(config.queues)));
            assert!(Interface::new(name).unwrap().is_up().unwrap());
            std::net::UdpSocket::bind("10.9.0.1:0").unwrap();
            drop(tap);
            assert!(!interface::exists(name));
        }
    });
}

#[test]
fn frames_pass_a_tap_both_ways() {
    in_namespace(|| {
        for word in ["tap", "tap,offload=off", "tap,rate=100M"] {
            let (mut driver, host) = driver(word);
            let all = driver.offered();
            for features in [0, all & !features::MQ] {
                set_up(&mut driver, features);
                offer(&mut driver, RX, 50);
                for payload in [0, 6, 1446] {
                    host.send(Header::default(), &tcp(payload));
                    let (_, frame, chains) = wait_frame(&mut driver);
                    assert_eq!((frame, chains), (tcp(payload), 1));
                    send(&mut driver, Header::default(), &tcp(payload));
                    assert_eq!(host.receive().1, tcp(payload));
                }
                driver.reset();
            }
        }
    });
}

#[test]
fn large_segments_pass_in_one_piece() {
    in_namespace(|| {
        let (mut driver, host) = driver("tap");
        let all = driver.offered();
        for ring in [0, feature::RING_EVENT_IDX | feature::RING_INDIRECT_DESC] {
            set_up(&mut driver, all & !feature::OF_TRANSPORT | ring);
            offer(&mut driver, RX, 100);
            for payload in [1401, 20_000, 65_000] {
                host.send(SEGMENTS, &tcp(payload));
                let (header, frame, chains) = wait_frame(&mut driver);
                assert_eq!((header[1], &header[4..6]), (GSO_TCPV4, &1400_u16.to_le_bytes()[..]));
                assert_eq!(usize::from(chains), (HEADER + frame.len()).div_ceil(1536));
                assert_eq!(frame, tcp(payload));
                send(&mut driver, SEGMENTS, &tcp(payload));
                let (header, frame) = host.receive();
                assert_eq!((header[1], &header[4..6]), (GSO_TCPV4, &1400_u16.to_le_bytes()[..]));
                assert_eq!(frame, tcp(payload));
            }
            driver.reset();
        }
    });
}

#[test]
fn the_host_cuts_segments_for_a_driver_that_takes_none() {
    in_namespace(|| {
        let (mut driver, host) = driver("tap");
        let offloads = features::GUEST_CSUM | features::GUEST_TSO4;
        let control = features::CTRL_VQ | features::CTRL_GUEST_OFFLOADS;
        set_up(&mut driver, offloads | control);
        // One without offloads, one that switches them off as it goes, and one that may not.
        assert_eq!(driver.request(2, &[&[5, 0], &0_u64.to_le_bytes()], &[1]).1, [0]);
        for features in [None, Some(0), Some(features::GUEST_TSO4)] {
            if let Some(features) = features {
                driver.reset();
                set_up(&mut driver, features);
            }
            offer(&mut driver, RX, 10);
            host.send(SEGMENTS, &tcp(2900));
            for expected in [1400, 1400, 100] {
                let (header, frame, _) = wait_frame(&mut driver);
                assert_eq!((header[0] & NEEDS_CSUM, header[1], frame.len()), (0, 0, 54 + expected));
                assert!(is_sound(&frame));
            }
        }
    });
}

#[test]
fn headers_that_lie_are_dropped() {
    in_namespace(|| {
        let (mut driver, host) = driver("tap");
        set_up(&mut driver, features::CSUM | features::HOST_TSO4);
        let lies = [
            Header { hdr_len: u16::MAX, ..SEGMENTS },
            Header { csum_start: u16::MAX, ..SEGMENTS },
            Header { csum_start: 2000, csum_offset: u16::MAX, ..SEGMENTS },
            Header { gso_type: 0x7f, ..SEGMENTS },
            Header { gso_size: 0, ..SEGMENTS },
        ];
        for lie in lies {
            send(&mut driver, lie, &tcp(1000));
        }
        send(&mut driver, Header::default(), &tcp(1));
        assert_eq!(host.receive().1, tcp(1));
    });
}

#[test]
fn a_flood_waits_or_is_lost_but_stays_in_order() {
    in_namespace(|| {
        let (mut driver, host) = driver("tap");
        set_up(&mut driver, features::MRG_RXBUF);
        for payload in 0..1400 {
            host.send(Header::default(), &tcp(payload));
        }
        for payload in 0..500 {
            offer(&mut driver, RX, 1);
            assert_eq!(wait_frame(&mut driver).1.len(), 54 + payload);
        }
    });
}

#[test]
fn queues_of_a_tap_come_and_go() {
    in_namespace(|| {
        let (mut driver, host) = driver("tap,queues=4");
        let control = 8;
        for _ in 0..2 {
            set_up(&mut driver, features::MQ | features::CTRL_VQ);
            for pairs in [4_u16, 4, 2, 1, 3] {
                let answer = driver.request(control, &[&[4, 0], &pairs.to_le_bytes()], &[1]).1;
                assert_eq!(answer, [0], "{pairs}");
            }
            for pair in 0..3 {
                driver.request(2 * pair + 1, &[&Header::default().bytes(), &tcp(pair)], &[]);
                assert_eq!(host.receive().1, tcp(pair));
                offer(&mut driver, 2 * pair, 20);
            }
            host.send(Header::default(), &tcp(10));
            wait("no queue gets the frame", || (0..3).any(|pair| driver.used(2 * pair).is_some()));
            driver.reset();
        }
    });
}

#[test]
fn a_tap_that_goes_away_is_a_link_that_is_down() {
    in_namespace(|| {
        let (mut driver, _host) = driver("tap=gone");
        set_up(&mut driver, features::STATUS);
        offer(&mut driver, RX, 4);
        match Command::new("ip").args(["link", "del", "gone"]).status() {
            Ok(status) => assert!(status.success()),
            Err(error) => return skip(&format!("no ip(8): {error}")),
        }
        wait("the link is up", || driver.config::<2>(6) == [0, 0]);
        // The guest may go on sending.
        send(&mut driver, Header::default(), &tcp(1));
        driver.pause();
        driver.resume();
        driver.reset();
    });
}

fn error(word: &str) -> String {
    match Tap::open(&config(word)) {
        Ok(tap) => panic!("{word} is {}", tap.name),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_is_no_tap_of_ours_is_said() {
    in_namespace(|| {
        let tap = Tap::open(&config("tap=tap7")).unwrap();
        assert_eq!(error("tap=tap7"), "the tap 'tap7' is in use by another program");
        assert!(error("tap=tap7,queues=2").contains("'tap7' is no tap, or was not made with multi_queue"));
        assert_eq!(error("tap=lo"), "the interface 'lo' is no tap");
        assert!(error("tap=big,mtu=65535").contains("cannot set the MTU of the tap 'big'"));
        assert!(!interface::exists("big"));

        let null = fs::File::open("/dev/null").unwrap();
        let fd = |fd: RawFd| error(&format!("fd={fd}"));
        assert!(fd(null.as_raw_fd()).contains("no tap's that was opened with IFF_TAP"));
        assert!(fd(1_000_000).contains("descriptor 1000000 is not open"));
        assert!(error(&format!("fd={}", u32::MAX)).contains("is not open"));
        let again = Tap::open(&config(&format!("fd={}", tap.ports[0].fd()))).unwrap();
        assert_eq!((again.name, again.offload), ("tap7".into(), tap.offload));
    });
}

#[test]
fn a_user_without_permission_is_told_what_to_do() {
    in_namespace(|| {
        // The header of capset(2), version 3, and no capabilities.
        let header = [0x2008_0522_u32, 0];
        let none = [0_u32; 6];
        // SAFETY: both structures are live; this thread alone loses its capabilities.
        check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) } as libc::c_int)
            .unwrap();
        assert!(error("tap=mine").starts_with(
            "no permission to make the tap 'mine': use sudo (CAP_NET_ADMIN), or have root run `ip tuntap add mine mode tap user 0` and `ip link set mine up` once"
        ));
        assert!(error("tap,queues=2").contains("`ip tuntap add tap0 mode tap user 0 multi_queue`"));
    });
}

/// The library's way: descriptors that are open.
#[test]
fn descriptors_of_a_tap_become_a_device() {
    in_namespace(|| {
        let tap = Tap::open(&config("tap=handed,queues=2")).unwrap();
        let host = Host::new("handed");
        let fds = tap.ports.iter().map(|port| duplicate(port.fd().try_into().unwrap()).unwrap()).collect();
        drop(tap);
        let device = super::super::device(&Net { queues: 2, ..Net::default() }, fds).unwrap();
        let mut driver = GuestDriver::new(Box::new(device));
        set_up(&mut driver, 0);
        send(&mut driver, Header::default(), &tcp(5));
        assert_eq!(host.receive().1, tcp(5));
    });
}

#[test]
fn the_next_tap_is_set_as_the_one_before() {
    in_namespace(|| {
        let control = features::CTRL_VQ | features::CTRL_GUEST_OFFLOADS;
        let offloads = features::GUEST_CSUM | features::GUEST_TSO4;
        for switched_off in [false, true] {
            let (mut driver, _host) = driver("tap,queues=2");
            driver.set_up(offloads | control | features::MRG_RXBUF | features::MQ);
            let control = |driver: &mut GuestDriver, outputs: &[&[u8]]| {
                assert_eq!(driver.request(4, outputs, &[1]).1, [0]);
            };
            control(&mut driver, &[&[4, 0], &[2, 0]]);
            if switched_off {
                control(&mut driver, &[&[5, 0], &0_u64.to_le_bytes()]);
            }
            offer(&mut driver, RX, 64);
            offer(&mut driver, 2, 64);
            driver.pause();
            let state = driver.save().unwrap();
            let other = |word: &str| {
                let config = config(word);
                let tap = Tap::open(&config).unwrap();
                (Host::new(&tap.name), nic(&config, tap).unwrap())
            };
            let heir = |nic| {
                let memory = copy(&driver.memory);
                driver.heir(Box::new(nic), memory, state.clone(), Allow::default())
            };
            let error = heir(other("tap=off,queues=2,offload=off").1).err().unwrap().to_string();
            let names = "VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_GUEST_TSO4";
            assert!(error.contains(names), "{error}");
            let (host, nic) = other("tap=next,queues=2");
            let mut heir = heir(nic).unwrap();
            assert_eq!(heir.save().unwrap(), state);
            heir.resume();
            heir.settle();
            host.send(SEGMENTS, &tcp(2801));
            // In either queue: the kernel chooses.
            let mut sizes = Vec::new();
            while sizes.iter().sum::<usize>() < 2801 {
                wait("no frame", || {
                    let used = [RX, 2].into_iter().find_map(|queue| heir.used(queue));
                    // A frame of one piece takes two buffers, of which the second has no header.
                    used.map(|(_, len, _)| {
                        sizes.push(
                            len as usize - if sizes.len() == 1 && !switched_off { 0 } else { HEADER + 54 },
                        )
                    })
                    .is_some()
                });
            }
            assert_eq!(sizes.iter().sum::<usize>(), 2801);
            assert_eq!(sizes.len(), if switched_off { 3 } else { 2 });
        }
    });
}
