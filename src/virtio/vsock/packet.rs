//! A packet's header (VIRTIO 1.2, section 5.10.6).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The host's context id (section 5.10.4).
pub(super) const HOST: u64 = 2;
/// The type of a stream's packets.
pub(super) const STREAM: u16 = 1;
/// Size of a header in bytes.
pub(super) const HEADER_LEN: usize = size_of::<Header>();

/// Bits of a shutdown packet's flags (section 5.10.6.6.1); both together end a connection.
pub(super) mod shut {
    /// The sender receives no more.
    pub(in super::super) const RECEIVE: u32 = 1;
    /// The sender sends no more.
    pub(in super::super) const SEND: u32 = 2;
    /// The sender does neither.
    pub(in super::super) const BOTH: u32 = RECEIVE | SEND;
}

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// Someone wants a connection.
    Request,
    /// Someone takes it.
    Response,
    /// There is no such connection, or no longer.
    Reset,
    /// The sender will do less from now on.
    Shutdown,
    /// Bytes.
    Data,
    /// How much room the sender has.
    CreditUpdate,
    /// The sender wants to know how much room there is.
    CreditRequest,
}

impl Op {
    const ALL: [Self; 7] = [
        Self::Request,
        Self::Response,
        Self::Reset,
        Self::Shutdown,
        Self::Data,
        Self::CreditUpdate,
        Self::CreditRequest,
    ];

    /// Its number on the wire.
    pub(super) const fn number(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::Data => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
        }
    }

    /// What this number means.
    pub(super) fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.number() == number)
    }
}

/// What names a connection: of its four halves two are always the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    /// The guest's port.
    pub(super) guest: u32,
    /// The host's port.
    pub(super) host: u32,
}

/// `struct virtio_vsock_hdr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Header {
    /// Context id of the sender.
    pub(super) src_cid: U64,
    /// Context id of the receiver.
    pub(super) dst_cid: U64,
    /// Port of the sender.
    pub(super) src_port: U32,
    /// Port of the receiver.
    pub(super) dst_port: U32,
    /// Bytes after the header.
    pub(super) len: U32,
    /// Stream or something else.
    pub(super) kind: U16,
    /// See [`Op`].
    pub(super) op: U16,
    /// See [`shut`].
    pub(super) flags: U32,
    /// How much the sender has room for in all.
    pub(super) buf_alloc: U32,
    /// Bytes that have left the sender's room, since the beginning.
    pub(super) fwd_cnt: U32,
}

impl Header {
    /// A packet from the host to the guest.
    pub(super) fn to_guest(cid: u64, ports: Ports, op: Op) -> Self {
        Self {
            src_cid: HOST.into(),
            dst_cid: cid.into(),
            src_port: ports.host.into(),
            dst_port: ports.guest.into(),
            kind: STREAM.into(),
            op: op.number().into(),
            ..Self::default()
        }
    }

    /// The answer to a packet that cannot be: there is no such connection.
    pub(super) fn reset(&self, cid: u64) -> Self {
        Self { src_cid: self.dst_cid, kind: self.kind, ..Self::to_guest(cid, self.ports(), Op::Reset) }
    }

    /// The ports of a packet from the guest.
    pub(super) fn ports(&self) -> Ports {
        Ports { guest: self.src_port.get(), host: self.dst_port.get() }
    }
}
