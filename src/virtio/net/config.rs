//! The network device's configuration.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::{DeviceConfig, Rate};

/// Most queue pairs of a device.
pub const MAX_QUEUES: u16 = 8;
/// Smallest MTU (VIRTIO 1.2, section 5.1.4.1).
pub const MIN_MTU: u16 = 68;
/// Longest name of an interface, in bytes: `IFNAMSIZ` of `linux/if.h`, less the zero at its end.
const MAX_NAME: usize = 15;

/// A network interface of the guest's, on a tap of the host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Net {
    /// The device's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The tap. One of this name that is not there is made, and goes with the machine. None, or an
    /// empty name, makes one of a name that is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// An open descriptor of a tap, with `IFF_VNET_HDR`, in place of its name. It is duplicated when the
    /// machine is built, and can be closed afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fd: Option<u32>,
    /// The address and the network of the host's end of the tap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<HostAddress>,
    /// The guest's address. None makes a random one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Largest packet that the guest should send, in bytes. A tap that is made gets it too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Number of queue pairs, 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// What may pass each way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Whether checksums and segmentation are left to the other side (VIRTIO 1.2, section 5.1.6).
    pub offload: bool,
    /// The event loop that is to run the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iothread: Option<String>,
}

impl Default for Net {
    fn default() -> Self {
        Self {
            id: None,
            tap: None,
            fd: None,
            ip: None,
            mac: None,
            mtu: None,
            queues: 1,
            rate: None,
            offload: true,
            iothread: None,
        }
    }
}

impl Net {
    /// The tap's name, if it has to have a certain one.
    #[must_use]
    pub fn tap_name(&self) -> Option<&str> {
        self.tap.as_deref().filter(|name| !name.is_empty())
    }
}

impl DeviceConfig for Net {
    const HELP: &'static str = "  tap[=NAME]           the tap; one that is not there is made, and goes with the machine [bantam0, ..]
  fd=N                 an open tap (IFF_TAP, IFF_NO_PI, IFF_VNET_HDR) in place of a name
  ip=ADDRESS/PREFIX    address and network of the host's end
  mac=ADDRESS          the guest's address [random]
  mtu=BYTES            68 to 65535
  queues=N             queue pairs, 1 to 8 [1]
  rate=RATE            limit each way: BYTES[/FRAMES][:BURST[/FRAMES]] a second
  offload=off          no checksum or segmentation offload [on]
  id=NAME, iothread=NAME
  Examples: --net tap,ip=10.0.0.1/24   --net tap=lan,queues=4,mtu=9000,rate=100M/50000";

    fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    fn iothread(&self) -> Option<&str> {
        self.iothread.as_deref()
    }

    fn check(&self) -> Result<(), String> {
        if let Some(name) = self.tap_name() {
            check_name(name)?;
        }
        if !(1..=MAX_QUEUES).contains(&self.queues) {
            return Err(format!("queues={}: give 1 to {MAX_QUEUES}", self.queues));
        }
        if let Some(mtu) = self.mtu.filter(|mtu| *mtu < MIN_MTU) {
            return Err(format!("mtu={mtu}: give {MIN_MTU} to {}", u16::MAX));
        }
        if self.fd.is_none() {
            return Ok(());
        }
        if self.tap.is_some() {
            return Err("give tap or fd, not both".into());
        }
        if self.ip.is_some() {
            return Err("ip needs tap: who opened fd gives the host its address".into());
        }
        if self.queues != 1 {
            return Err("queues needs tap: one fd is one queue".into());
        }
        Ok(())
    }
}

/// What Linux takes as an interface's name.
fn check_name(name: &str) -> Result<(), String> {
    if name.len() > MAX_NAME {
        return Err(format!("the tap's name '{name}' is longer than {MAX_NAME} bytes"));
    }
    let odd = |letter: char| "/:%".contains(letter) || letter.is_whitespace() || letter.is_control();
    if name == "." || name == ".." || name.contains(odd) {
        return Err(format!("'{name}' is no name of an interface: give letters, digits, '-', '_' and '.'"));
    }
    Ok(())
}

/// An Ethernet address of one station, written `52:54:00:12:34:56`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac([u8; 6]);

/// A word that is no station's Ethernet address.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseMacError {
    /// Not six bytes.
    #[error("'{0}' is no Ethernet address: give six bytes, for example 52:54:00:12:34:56")]
    Form(String),
    /// The address of a group.
    #[error("'{0}' is a multicast address: the first byte must be even, for example 52:54:00:12:34:56")]
    Multicast(String),
    /// No address at all.
    #[error("'{0}' is nobody's address: give one that is not zero, for example 52:54:00:12:34:56")]
    Zero(String),
}

impl Mac {
    /// A locally administered address from 40 bits or more.
    #[must_use]
    pub fn local(bits: u64) -> Self {
        let [a, b, c, d, e, ..] = bits.to_le_bytes();
        Self([0x02, a, b, c, d, e])
    }

    /// An address of these bytes; none if it is not that of one interface.
    #[must_use]
    pub fn from_octets(octets: [u8; 6]) -> Option<Self> {
        let [first, ..] = octets;
        (first & 1 == 0 && octets != [0; 6]).then_some(Self(octets))
    }

    /// A locally administered address that is most likely nobody's.
    #[must_use]
    pub fn random() -> Self {
        Self::local(RandomState::new().hash_one(()))
    }

    /// The bytes, in the order of a frame.
    #[must_use]
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let byte = |part: &str| match part.as_bytes() {
            [high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                u8::from_str_radix(part, 16).ok()
            }
            _ => None,
        };
        let bytes: Option<Vec<u8>> = word.split([':', '-']).map(byte).collect();
        let octets = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        match octets {
            None => Err(ParseMacError::Form(word.to_owned())),
            Some([0, 0, 0, 0, 0, 0]) => Err(ParseMacError::Zero(word.to_owned())),
            Some([first, ..]) if first & 1 != 0 => Err(ParseMacError::Multicast(word.to_owned())),
            Some(octets) => Ok(Self(octets)),
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl TryFrom<String> for Mac {
    type Error = ParseMacError;

    fn try_from(word: String) -> Result<Self, Self::Error> {
        word.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// An IPv4 address with the length of its network's prefix, written `10.0.0.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct HostAddress {
    /// The address.
    pub address: Ipv4Addr,
    /// Bits of the network, 1 to 32.
    pub prefix: u8,
}

/// A word that is no address with a prefix.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{0}' is no address in a network: give an IPv4 address and its prefix, for example 10.0.0.1/24")]
pub struct ParseHostAddressError(String);

impl HostAddress {
    /// The network's mask.
    #[must_use]
    pub fn mask(&self) -> Ipv4Addr {
        let host = 32_u32.saturating_sub(self.prefix.into());
        Ipv4Addr::from_bits(u32::MAX.checked_shl(host).unwrap_or(0))
    }
}

impl FromStr for HostAddress {
    type Err = ParseHostAddressError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let parsed = word.split_once('/').and_then(|(address, prefix)| {
            let address: Ipv4Addr = address.parse().ok()?;
            let prefix = prefix.parse().ok().filter(|prefix| (1..=32).contains(prefix))?;
            (!address.is_unspecified() && !address.is_multicast() && !address.is_broadcast())
                .then_some(Self { address, prefix })
        });
        parsed.ok_or_else(|| ParseHostAddressError(word.to_owned()))
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl TryFrom<String> for HostAddress {
    type Error = ParseHostAddressError;

    fn try_from(word: String) -> Result<Self, Self::Error> {
        word.parse()
    }
}

impl From<HostAddress> for String {
    fn from(address: HostAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests;
