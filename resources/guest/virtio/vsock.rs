//! Sockets to the host (VIRTIO 1.2, 5.10): one stream, which this side begins.

use super::dma::Dma;
use super::mmio::Window;
use super::queue::{Queue, Segment};
use super::{Result, device_id};
use crate::Machine;
use crate::arena::{Arena, PAGE};
use crate::clock::Stopwatch;
use crate::cpu;

/// Bytes that the host may send ahead of those that were consumed.
pub const ROOM: u32 = 256 << 10;
/// How long the host may take for an answer, in seconds.
pub const LIMIT: u64 = 30;

/// The queues (5.10.2).
const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
const EVENT: u32 = 2;
/// Buffers of each of the first two.
const SLOTS: u16 = 64;

/// The guest's context id in the configuration space (5.10.4).
pub const GUEST_CID: u32 = 0;
const HOST_CID: u64 = 2;
/// Our end's port: any will do.
const PORT: u32 = 1024;

/// `struct virtio_vsock_hdr` (5.10.6): its size and its fields.
const HEADER: u64 = 44;
mod at {
    pub const SOURCE_CID: u64 = 0;
    pub const DESTINATION_CID: u64 = 8;
    pub const SOURCE_PORT: u64 = 16;
    pub const DESTINATION_PORT: u64 = 20;
    pub const LENGTH: u64 = 24;
    pub const TYPE: u64 = 28;
    pub const OPERATION: u64 = 30;
    pub const FLAGS: u64 = 32;
    pub const ROOM: u64 = 36;
    pub const CONSUMED: u64 = 40;
}

/// The type of a stream's packets.
const STREAM: u16 = 1;

mod operation {
    pub const REQUEST: u16 = 1;
    pub const RESPONSE: u16 = 2;
    pub const RESET: u16 = 3;
    pub const SHUTDOWN: u16 = 4;
    pub const DATA: u16 = 5;
    pub const CREDIT_UPDATE: u16 = 6;
    pub const CREDIT_REQUEST: u16 = 7;
}

/// Flags of a shutdown (5.10.6.6.1): what its sender does no more.
const RECEIVES_NO_MORE: u32 = 1;
const SENDS_NO_MORE: u32 = 2;

/// Room for a header in front of a buffer's data.
const CONTROL: u64 = 64;

/// A header and data for each slot of a queue.
#[derive(Clone, Copy)]
struct Buffers {
    memory: Dma,
    bytes: u64,
}

impl Buffers {
    fn new(arena: &mut Arena, slots: u16, bytes: u64) -> Result<Self> {
        Ok(Buffers { memory: Dma::zeroed(arena, u64::from(slots) * (CONTROL + bytes))?, bytes })
    }

    fn header(self, slot: u16) -> Dma {
        self.memory.part(u64::from(slot) * (CONTROL + self.bytes), HEADER)
    }

    fn data(self, slot: u16) -> Dma {
        self.memory.part(u64::from(slot) * (CONTROL + self.bytes) + CONTROL, self.bytes)
    }
}

/// Data that came in.
pub struct Received {
    slot: u16,
    length: u32,
}

/// What one look at the queue finds.
enum Came {
    Nothing,
    /// A packet without data.
    News,
    Data(Received),
}

/// A stream to a port of the host's.
pub struct Stream {
    window: Window,
    cid: u64,
    port: u32,
    receive: Queue,
    transmit: Queue,
    events: Queue,
    incoming: Buffers,
    outgoing: Buffers,
    free: [u16; SLOTS as usize],
    free_count: u16,
    /// What was consumed of that which came in, and what the host knows of it. These counts wrap.
    consumed: u32,
    told: u32,
    /// The host wants to know.
    asked: bool,
    /// What was sent, what of it the host has consumed, and the room that it has in all.
    sent: u32,
    host_consumed: u32,
    host_room: u32,
    /// The host has taken the connection; what it does no more; it has ended the connection.
    open: bool,
    host_shut: u32,
    over: bool,
}

impl Stream {
    /// Sets the device up for packets of up to so many bytes, and connects to a port of the host's.
    pub fn connect(machine: &mut Machine, index: usize, port: u32, bytes: u64) -> Result<Self> {
        let window = Window::find(machine, device_id::VSOCK, index)?;
        let features = window.negotiate(super::ring_features(machine.words))?;
        let arena = &mut machine.arena;
        let receive = Queue::new(window, RECEIVE, features, 2, SLOTS, arena)?;
        let transmit = Queue::new(window, TRANSMIT, features, 2, SLOTS, arena)?;
        let mut events = Queue::new(window, EVENT, features, 1, 1, arena)?;
        let event = Dma::zeroed(arena, PAGE)?.part(0, 4);
        events.offer(0, [Segment::writable(event.address(), 4)].into_iter());
        let bytes = bytes.next_multiple_of(CONTROL);
        let mut stream = Stream {
            window,
            cid: window.config64(GUEST_CID),
            port,
            incoming: Buffers::new(arena, receive.slots(), bytes)?,
            outgoing: Buffers::new(arena, transmit.slots(), bytes)?,
            receive,
            transmit,
            events,
            free: [0; _],
            free_count: 0,
            consumed: 0,
            told: 0,
            asked: false,
            sent: 0,
            host_consumed: 0,
            host_room: 0,
            open: false,
            host_shut: 0,
            over: false,
        };
        (0..stream.transmit.slots()).for_each(|slot| stream.release(slot));
        (0..stream.receive.slots()).for_each(|slot| stream.recycle(slot));
        window.go()?;
        stream.events.publish();
        stream.say(operation::REQUEST, 0)?;
        stream.wait(|stream| stream.open)?;
        Ok(stream)
    }

    /// How often the device was notified.
    pub fn kicks(&self) -> u64 {
        self.receive.kicks + self.transmit.kicks
    }

    /// Takes the next data that have come, if there are any, and whatever came before them.
    pub fn poll(&mut self) -> Result<Option<Received>> {
        loop {
            match self.take()? {
                Came::Nothing => return Ok(None),
                Came::News => {}
                Came::Data(received) => return Ok(Some(received)),
            }
        }
    }

    /// Takes one packet.
    fn take(&mut self) -> Result<Came> {
        if self.events.take()?.is_some() {
            return Err("the device has ended all connections");
        }
        let Some(used) = self.receive.take()? else { return Ok(Came::Nothing) };
        let length = u64::from(used.length).checked_sub(HEADER).ok_or("a packet has no header")?;
        if length > self.incoming.bytes {
            return Err("a packet is longer than its buffer");
        }
        Ok(match self.hear(used.slot, length)? {
            Some(length) => Came::Data(Received { slot: used.slot, length }),
            None => {
                self.recycle(used.slot);
                Came::News
            }
        })
    }

    /// What a packet says; the length of its data, if it has any.
    fn hear(&mut self, slot: u16, written: u64) -> Result<Option<u32>> {
        let header = self.incoming.header(slot);
        let ours = header.read64(at::SOURCE_CID) == HOST_CID
            && header.read16(at::TYPE) == STREAM
            && header.read32(at::SOURCE_PORT) == self.port
            && header.read32(at::DESTINATION_PORT) == PORT;
        let operation = header.read16(at::OPERATION);
        if !ours {
            self.refuse(header, operation);
            return Ok(None);
        }
        (self.host_room, self.host_consumed) = (header.read32(at::ROOM), header.read32(at::CONSUMED));
        match operation {
            operation::RESPONSE => self.open = true,
            operation::RESET if !self.open => return Err("nobody listens at the host's port"),
            operation::RESET => self.over = true,
            operation::SHUTDOWN => self.host_shut |= header.read32(at::FLAGS),
            operation::CREDIT_UPDATE => {}
            operation::CREDIT_REQUEST => self.asked = true,
            operation::DATA => {
                let length = header.read32(at::LENGTH);
                if u64::from(length) != written {
                    return Err("a packet does not have the data that it says");
                }
                return Ok(Some(length).filter(|&length| length > 0));
            }
            _ => return Err("a packet is of no known kind"),
        }
        Ok(None)
    }

    /// Nobody here is meant by a packet: says so, if there is a buffer for it.
    fn refuse(&mut self, packet: Dma, operation: u16) {
        if operation == operation::RESET {
            return;
        }
        if let Some(slot) = self.slot() {
            let ports = [packet.read32(at::DESTINATION_PORT), packet.read32(at::SOURCE_PORT)];
            self.offer(slot, ports, packet.read16(at::TYPE), (operation::RESET, 0), 0);
        }
    }

    /// The memory of data that came in. They stay the caller's until `recycle`.
    pub fn incoming(&self, received: &Received) -> Dma {
        self.incoming.data(received.slot).part(0, received.length.into())
    }

    /// Gives a buffer back; its data count until they are consumed.
    pub fn give_back(&mut self, received: &Received) {
        self.recycle(received.slot);
    }

    fn recycle(&mut self, slot: u16) {
        let (header, data) = (self.incoming.header(slot), self.incoming.data(slot));
        let segments = [header, data].map(|part| Segment::writable(part.address(), part.length() as u32));
        self.receive.offer(slot, segments.into_iter());
    }

    /// So many bytes that came in need no room any more.
    pub fn consume(&mut self, bytes: u32) {
        self.consumed = self.consumed.wrapping_add(bytes);
    }

    /// A buffer to send data in; `None` if all are on their way.
    pub fn slot(&mut self) -> Option<u16> {
        self.free_count = self.free_count.checked_sub(1)?;
        Some(self.free[usize::from(self.free_count)])
    }

    fn release(&mut self, slot: u16) {
        self.free[usize::from(self.free_count)] = slot;
        self.free_count += 1;
    }

    /// The memory of data to send.
    pub fn outgoing(&self, slot: u16) -> Dma {
        self.outgoing.data(slot)
    }

    /// How many bytes may be sent now (5.10.6.3).
    pub fn room(&self) -> u32 {
        self.host_room.saturating_sub(self.sent.wrapping_sub(self.host_consumed))
    }

    /// Offers so many bytes of a buffer, for which there is room; `publish` shows them to the device.
    pub fn send(&mut self, slot: u16, length: u32) {
        self.sent = self.sent.wrapping_add(length);
        self.offer(slot, [PORT, self.port], STREAM, (operation::DATA, 0), length);
    }

    /// Offers a packet.
    fn offer(&mut self, slot: u16, ports: [u32; 2], kind: u16, (operation, flags): (u16, u32), length: u32) {
        let header = self.outgoing.header(slot);
        let [source, destination] = ports;
        header.write64(at::SOURCE_CID, self.cid);
        header.write64(at::DESTINATION_CID, HOST_CID);
        header.write32(at::SOURCE_PORT, source);
        header.write32(at::DESTINATION_PORT, destination);
        header.write32(at::LENGTH, length);
        header.write16(at::TYPE, kind);
        header.write16(at::OPERATION, operation);
        header.write32(at::FLAGS, flags);
        header.write32(at::ROOM, ROOM);
        header.write32(at::CONSUMED, self.consumed);
        if destination == self.port {
            (self.told, self.asked) = (self.consumed, false);
        }
        let data = self.outgoing.data(slot).part(0, length.into());
        let segments = [header, data].map(|part| Segment::readable(part.address(), part.length() as u32));
        let count = if length == 0 { 1 } else { 2 };
        self.transmit.offer(slot, segments.into_iter().take(count));
    }

    /// Shows the device all that is to be sent and all buffers that are free again, and takes back what was
    /// sent. The host is told of its room when it has much less in mind than there is.
    pub fn publish(&mut self) -> Result<()> {
        while let Some(used) = self.transmit.take()? {
            self.release(used.slot);
        }
        let news = self.asked || self.consumed.wrapping_sub(self.told) >= ROOM / 2;
        if news && let Some(slot) = self.slot() {
            self.offer(slot, [PORT, self.port], STREAM, (operation::CREDIT_UPDATE, 0), 0);
        }
        self.transmit.publish();
        self.receive.publish();
        Ok(())
    }

    /// Sends a packet without data.
    fn say(&mut self, operation: u16, flags: u32) -> Result<()> {
        let mut slot = None;
        self.wait(|stream| {
            slot = stream.slot();
            slot.is_some()
        })?;
        if let Some(slot) = slot {
            self.offer(slot, [PORT, self.port], STREAM, (operation, flags), 0);
        }
        self.publish()
    }

    /// Whether the host sends no more: what has come is all.
    pub fn has_ended(&self) -> bool {
        self.over || self.host_shut & SENDS_NO_MORE != 0
    }

    /// Whether the host takes no more.
    pub fn is_deaf(&self) -> bool {
        self.over || self.host_shut & RECEIVES_NO_MORE != 0
    }

    /// Says that no more data will come, and waits until the host takes no more either: it then has all it wants.
    pub fn finish(&mut self) -> Result<()> {
        if self.is_deaf() {
            return Ok(());
        }
        self.say(operation::SHUTDOWN, SENDS_NO_MORE)?;
        self.wait(|stream| stream.is_deaf())
    }

    /// Waits for something that a packet without data brings. Data that come before it are lost.
    fn wait(&mut self, mut done: impl FnMut(&mut Self) -> bool) -> Result<()> {
        let watch = Stopwatch::start();
        while !done(self) {
            match self.take()? {
                Came::Data(received) => {
                    self.consume(received.length);
                    self.recycle(received.slot);
                }
                Came::News => {}
                Came::Nothing if watch.seconds() >= LIMIT => return Err("the host does not answer"),
                Came::Nothing => cpu::pause(),
            }
            self.publish()?;
        }
        Ok(())
    }

    /// Ends the connection, which the host confirms, and resets the device: from now on it has none of our memory.
    pub fn close(mut self) -> Result<()> {
        if !self.over {
            self.say(operation::SHUTDOWN, RECEIVES_NO_MORE | SENDS_NO_MORE)?;
            self.wait(|stream| stream.over)?;
        }
        self.window.reset()
    }
}
