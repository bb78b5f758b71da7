//! The connections, and whose turn it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use super::connection::{Connection, Stage};
use super::packet::Ports;

/// A connection's number, never used again.
pub(super) type Id = u64;

/// Numbers below are not of connections.
pub(super) const FIRST_ID: Id = 16;

struct Entry {
    connection: Connection,
    /// Its place among those with news for the guest.
    turn: Option<u64>,
    /// Until when it has to say what it wants.
    deadline: Option<Instant>,
}

/// The connections. Nothing here takes longer the more there are, but for a logarithm.
pub(super) struct Table {
    entries: HashMap<Id, Entry>,
    by_ports: HashMap<Ports, Id>,
    /// Those with news for the guest, who waits longest first.
    turns: BTreeMap<u64, Id>,
    /// Those that have not yet said what they want.
    deadlines: BTreeSet<(Instant, Id)>,
    next_id: Id,
    next_turn: u64,
}

impl Table {
    /// No connections; the first gets this number or a later one.
    pub(super) fn starting_at(next_id: Id) -> Self {
        Self {
            entries: HashMap::new(),
            by_ports: HashMap::new(),
            turns: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            next_id,
            next_turn: 0,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many have not yet said what they want.
    pub(super) fn greeting(&self) -> usize {
        self.deadlines.len()
    }

    /// The number that the next connection gets.
    pub(super) fn next_id(&self) -> Id {
        self.next_id
    }

    /// One more; it must say until the deadline what it wants.
    pub(super) fn insert(&mut self, connection: Connection, deadline: Option<Instant>) {
        let id = self.next_id;
        self.next_id += 1;
        self.deadlines.extend(deadline.map(|deadline| (deadline, id)));
        self.entries.insert(id, Entry { connection, turn: None, deadline });
        self.update(id, |_| ());
    }

    /// All of them.
    pub(super) fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.entries.values().map(|entry| &entry.connection)
    }

    /// The connection of these ports.
    pub(super) fn find(&self, ports: Ports) -> Option<Id> {
        self.by_ports.get(&ports).copied()
    }

    /// Changes a connection, and sees to what follows from that: where it is found, when it has its
    /// turn, whether it is still there.
    pub(super) fn update<T>(&mut self, id: Id, change: impl FnOnce(&mut Connection) -> T) -> Option<T> {
        let entry = self.entries.get_mut(&id)?;
        let result = change(&mut entry.connection);
        let (stage, ports, news) =
            (entry.connection.stage, entry.connection.ports, entry.connection.has_news());
        if stage != Stage::Greeting
            && let Some(deadline) = entry.deadline.take()
        {
            self.deadlines.remove(&(deadline, id));
        }
        match (news, entry.turn) {
            (true, None) => {
                entry.turn = Some(self.next_turn);
                self.turns.insert(self.next_turn, id);
                self.next_turn += 1;
            }
            (false, Some(turn)) => {
                entry.turn = None;
                self.turns.remove(&turn);
            }
            _ => {}
        }
        let ended = matches!(stage, Stage::Lingering | Stage::Over);
        match ports {
            Some(ports) if !ended => {
                self.by_ports.insert(ports, id);
            }
            // Another connection may have these ports by now.
            Some(ports) if self.by_ports.get(&ports) == Some(&id) => {
                self.by_ports.remove(&ports);
            }
            _ => {}
        }
        if stage == Stage::Over {
            self.entries.remove(&id);
        }
        Some(result)
    }

    /// The connection whose turn it is; it goes to the end of the row.
    pub(super) fn next_turn(&mut self) -> Option<Id> {
        let (_, id) = self.turns.pop_first()?;
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.turn = None;
        }
        Some(id)
    }

    /// Whether any connection has news for the guest.
    pub(super) fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// When the first deadline is.
    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// A connection whose deadline has passed.
    pub(super) fn late(&self, now: Instant) -> Option<Id> {
        self.deadlines.first().filter(|(deadline, _)| *deadline <= now).map(|(_, id)| *id)
    }
}
