//! How much either side of a connection may send (VIRTIO 1.2, section 5.10.6.3).

/// Room for what the guest sends and the host's socket does not take at once, in bytes.
pub(super) const ROOM: u32 = 64 << 10;

/// The two counts of a connection; all of them wrap.
#[derive(Clone, Debug, Default)]
pub(super) struct Credit {
    /// Room that the guest has in all.
    guest_room: u32,
    /// Bytes that the guest has taken out of its room.
    guest_taken: u32,
    /// Bytes sent to the guest.
    sent: u32,
    /// Bytes of the guest's that are where they belong.
    forwarded: u32,
    /// What the guest knows of these.
    told: u32,
}

impl Credit {
    /// The guest says how much room it has.
    pub(super) fn learn(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.guest_room = buf_alloc;
        self.guest_taken = fwd_cnt;
    }

    /// Bytes that the guest has room for. A guest that counts wrongly has none.
    pub(super) fn guest_free(&self) -> u32 {
        self.guest_room.saturating_sub(self.sent.wrapping_sub(self.guest_taken))
    }

    /// So many bytes go to the guest.
    pub(super) fn send(&mut self, count: u32) {
        self.sent = self.sent.wrapping_add(count);
    }

    /// So many bytes of the guest's are where they belong.
    pub(super) fn forward(&mut self, count: usize) {
        // Never more than the room.
        self.forwarded = self.forwarded.wrapping_add(u32::try_from(count).unwrap_or(ROOM));
    }

    /// Whether the guest believes in much less room than there is.
    pub(super) fn is_news(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= ROOM / 2
    }

    /// What a packet tells the guest: all room, and what has left it.
    pub(super) fn tell(&mut self) -> (u32, u32) {
        self.told = self.forwarded;
        (ROOM, self.forwarded)
    }
}
