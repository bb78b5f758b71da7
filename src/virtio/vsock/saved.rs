//! What is kept of connections: that they are no more.
//!
//! The host's end of a connection is a program that a restored machine does not have. Its driver hears that
//! all of them are gone, and of each that it is reset: one that it was just making is no connection yet,
//! and would wait for its answer.

use super::packet::{HOST, Header, Op, Ports, STREAM};
use crate::state::saved;

saved! {
    "virtio-vsock", version 1, fingerprint 3952422794;
    /// What the guest has to hear.
    pub(super) struct MuxerState {
        /// The context id that the guest had.
        pub(super) cid: u64,
        /// The port that the host's end of the next connection gets.
        pub(super) next_port: u32,
        /// The guest's connections, and what else it has been refused and not heard of yet.
        pub(super) resets: Vec<Reset>,
    }
}

saved! {
    "virtio-vsock-reset", version 1, fingerprint 140733811;
    /// A reset that the guest has to hear of.
    pub(super) struct Reset {
        /// Whom the guest meant: the host's context id, or one of nobody.
        source: u64,
        /// The socket's type.
        kind: u16,
        /// The guest's port.
        guest: u32,
        /// The other's port.
        other: u32,
    }
}

impl Reset {
    /// That a packet is, for the guest.
    pub(super) fn of(header: &Header) -> Self {
        Self {
            source: header.src_cid.get(),
            kind: header.kind.get(),
            guest: header.dst_port.get(),
            other: header.src_port.get(),
        }
    }

    /// Of a connection.
    pub(super) fn of_stream(ports: Ports) -> Self {
        Self { source: HOST, kind: STREAM, guest: ports.guest, other: ports.host }
    }

    /// The packet, for the guest that had this context id.
    pub(super) fn header(&self, cid: u64) -> Header {
        let ports = Ports { guest: self.guest, host: self.other };
        let (src_cid, kind) = (self.source.into(), self.kind.into());
        Header { src_cid, kind, ..Header::to_guest(cid, ports, Op::Reset) }
    }
}
