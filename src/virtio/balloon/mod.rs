//! The balloon (VIRTIO 1.2, section 5.5): memory that the guest does without goes back to the host.
//!
//! What the driver puts into the balloon, reports as free or hints at is discarded from guest memory; it
//! comes back, cleared, when the guest touches it. Taking pages out of the balloon therefore asks
//! nothing of the host.

pub mod config;

mod pages;
mod stats;

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use thiserror::Error;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::timerfd::TimerFd;

use self::pages::{BYTES_AT_ONCE, Given, NUMBERS_AT_ONCE, PAGE};
use self::stats::Stats;
use super::{
    Attach, Command, CommandError, ConfigSpace, Description, Device, Io, Metric, OpenError, Place, Restore,
    SaveError, Served, VirtQueue,
};
use crate::config::Size;
use crate::state::{State, saved};

const ID: u32 = 5;
const QUEUE_SIZE: u16 = 128;

/// Feature bits (VIRTIO 1.2, section 5.5.3).
mod feature {
    pub(super) const STATS_VQ: u64 = 1 << 1;
    pub(super) const DEFLATE_ON_OOM: u64 = 1 << 2;
    pub(super) const FREE_PAGE_HINT: u64 = 1 << 3;
    pub(super) const PAGE_REPORTING: u64 = 1 << 5;
}

/// Offsets in the configuration space (VIRTIO 1.2, section 5.5.4), of little-endian words.
mod field {
    /// Pages that the balloon is to have.
    pub(super) const NUM_PAGES: usize = 0;
    /// Pages that it has; the driver's.
    pub(super) const ACTUAL: usize = 4;
    pub(super) const FREE_PAGE_HINT_CMD_ID: usize = 8;
    /// All of it, `poison_val` too.
    pub(super) const LEN: usize = 16;
}

/// Values of `free_page_hint_cmd_id` that are no command (VIRTIO 1.2, section 5.5.6.6).
const CMD_ID_STOP: u32 = 0;
const CMD_ID_DONE: u32 = 1;

/// Token of the statistics' timer.
const TIMER: u32 = 0;

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Stats,
    Hinting,
    Reporting,
}

/// The queues' places in the specification (section 5.5.2).
const ROLES: [Role; 5] = [Role::Inflate, Role::Deflate, Role::Stats, Role::Hinting, Role::Reporting];

impl Role {
    /// The feature without which there is no such queue.
    fn feature(self) -> u64 {
        match self {
            Self::Inflate | Self::Deflate => 0,
            Self::Stats => feature::STATS_VQ,
            Self::Hinting => feature::FREE_PAGE_HINT,
            Self::Reporting => feature::PAGE_REPORTING,
        }
    }

    /// What each queue is for, with these features. The specification has fixed places, and the queues
    /// that are not used stay free; Linux before 6.11 has them close ranks. Which of it the driver means
    /// shows in the queues that it has enabled.
    fn places(features: u64, is_open: impl Fn(usize) -> bool) -> Places {
        let fixed = Self::fixed_places(features);
        let all_open = fixed.iter().enumerate().all(|(place, role)| role.is_none() || is_open(place));
        if all_open { fixed } else { Self::closed_ranks(features) }
    }

    fn is_used(self, features: u64) -> bool {
        features & self.feature() == self.feature()
    }

    fn fixed_places(features: u64) -> Places {
        ROLES.map(|role| Some(role).filter(|role| role.is_used(features)))
    }

    fn closed_ranks(features: u64) -> Places {
        let mut roles = ROLES.into_iter().filter(|role| role.is_used(features));
        ROLES.map(|_| roles.next())
    }
}

/// What each queue is for.
type Places = [Option<Role>; ROLES.len()];

saved! {
    "virtio-balloon", version 1, fingerprint 521371250;
    /// Where the balloon and its driver are. Statistics are not kept: they come anew.
    struct BalloonState {
        /// Pages that the balloon is to have.
        target: u32,
        /// What the driver is told of hints: `free_page_hint_cmd_id`.
        command: u32,
        /// The command of the last round of hints.
        round: u32,
        /// The driver is in this round.
        accepting: bool,
        /// Whether the driver has the queues that it uses close ranks; not known before it is set up.
        closed_ranks: Option<bool>,
        /// Of the first chain in each queue, the bytes that are done with.
        done: [u32; 5],
    }
}

/// Why a balloon cannot be.
#[derive(Debug, Error)]
enum Error {
    #[error("cannot make the timer of the statistics")]
    Timer(#[source] io::Error),
}

impl Attach for config::Balloon {
    fn open(&self, place: &Place<'_>) -> Result<Box<dyn Device>, OpenError> {
        let timer = match self.stats {
            Some(seconds) => {
                let timer = TimerFd::new().map_err(|error| Error::Timer(error.into()))?;
                Some((timer, Duration::from_secs(seconds.into())))
            }
            None => None,
        };
        Ok(Box::new(Balloon::new(self, place, timer)))
    }
}

/// A round of hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hinting {
    /// The command of the last round.
    id: u32,
    /// The driver has taken up this command and not ended it: what comes are hints.
    accepting: bool,
}

impl Default for Hinting {
    fn default() -> Self {
        Self { id: CMD_ID_DONE, accepting: false }
    }
}

/// The device.
struct Balloon {
    /// For what it has to say.
    name: String,
    /// Features that are offered.
    offered: u64,
    /// Features that the driver has taken; none before there is one.
    negotiated: u64,
    config: ConfigSpace,
    /// What each queue is for; known once the driver is set up.
    places: Option<Places>,
    /// Of the first chain in each queue, the bytes that are done with.
    done: [usize; ROLES.len()],
    given: Given,
    hinting: Hinting,
    stats: Stats,
    /// The chain that the driver gets back when its statistics are to be new.
    stats_chain: Option<u16>,
    /// The statistics' timer and interval.
    timer: Option<(TimerFd, Duration)>,
}

impl Balloon {
    fn new(config: &config::Balloon, place: &Place<'_>, timer: Option<(TimerFd, Duration)>) -> Self {
        let options = [
            (timer.is_some(), feature::STATS_VQ),
            (config.deflate_on_oom, feature::DEFLATE_ON_OOM),
            (config.hinting, feature::FREE_PAGE_HINT),
            (config.reporting, feature::PAGE_REPORTING),
        ];
        let space = ConfigSpace::new(vec![0; field::LEN], field::ACTUAL..field::FREE_PAGE_HINT_CMD_ID);
        let target = config.target.and_then(pages).unwrap_or_default();
        space.update(field::NUM_PAGES, &target.to_le_bytes());
        Self {
            name: place.name.to_owned(),
            offered: options.into_iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum(),
            negotiated: 0,
            config: space,
            places: None,
            done: [0; ROLES.len()],
            given: Given::default(),
            hinting: Hinting::default(),
            stats: Stats::default(),
            stats_chain: None,
            timer,
        }
    }

    fn word(&self, field: usize) -> u32 {
        u32::from_le_bytes(self.config.get(field))
    }

    fn role(&self, queue: usize) -> Option<Role> {
        self.places.and_then(|places| *places.get(queue)?)
    }

    /// The pages whose numbers the driver has put into a chain are the balloon's.
    fn inflate(&mut self, index: usize, io: &mut Io<'_>) {
        let memory = io.memory;
        let Some((queue, done)) = io.queue(index).zip(self.done.get_mut(index)) else { return };
        let mut left = NUMBERS_AT_ONCE;
        queue.drain(|chain| {
            let mut numbers = chain.readable();
            numbers.skip(*done);
            let read = self.given.numbered(memory, &mut numbers, left);
            left -= read;
            *done += read * size_of::<u32>();
            finish(done, numbers.remaining() < size_of::<u32>())
        });
        if left == 0 {
            queue.look_again();
        }
    }

    /// Free ranges are the buffers themselves. A chain of hints either holds such or says which round
    /// the next ones belong to.
    fn discard_free(&mut self, index: usize, role: Role, io: &mut Io<'_>) {
        let memory = io.memory;
        let Some((queue, done)) = io.queue(index).zip(self.done.get_mut(index)) else { return };
        let mut left = BYTES_AT_ONCE;
        let mut round_ended = false;
        queue.drain(|chain| {
            if role == Role::Hinting {
                if let Some(id) = chain.readable().read_obj::<u32>() {
                    round_ended |= self.hinting.take_up(u32::from_le(id), round_ended);
                }
                if !self.hinting.accepting {
                    return finish(done, true);
                }
            }
            let mut ranges = chain.writable();
            ranges.skip(*done);
            let given = self.given.ranges(memory, &mut ranges, left);
            left -= given;
            *done += given;
            finish(done, ranges.remaining() == 0)
        });
        if left == 0 {
            queue.look_again();
        }
        if round_ended {
            self.command_hints(CMD_ID_DONE, io);
        }
    }

    /// Keeps the driver's statistics and the chain they came in.
    fn take_stats(&mut self, index: usize, io: &mut Io<'_>) {
        let Some(queue) = io.queue(index) else { return };
        queue.drain(|chain| {
            self.stats.read(&mut chain.readable());
            // A driver has one such chain; others it gets back.
            if self.stats_chain.is_some() {
                return Served::Done(0);
            }
            self.stats_chain = Some(chain.head());
            Served::Deferred
        });
    }

    /// Gives the chain back, for which the driver sends new statistics.
    fn return_stats_chain(&mut self, io: &mut Io<'_>) {
        let Some(index) = (0..ROLES.len()).find(|index| self.role(*index) == Some(Role::Stats)) else {
            return;
        };
        if let Some((queue, head)) = io.queue(index).zip(self.stats_chain.take()) {
            queue.complete(head, 0);
            queue.signal();
        }
    }

    /// Waits for the next time that statistics are wanted.
    fn arm_timer(&mut self) {
        if let Some((timer, interval)) =
            self.timer.as_mut().filter(|_| self.negotiated & feature::STATS_VQ != 0)
            && let Err(error) = timer.reset(*interval, None)
        {
            log::warn!("{}: the statistics end: {error}", self.name);
        }
    }

    fn set_target(&mut self, target: Size, io: &Io<'_>) -> Result<(), CommandError> {
        let memory = Size::new(io.memory.iter().map(GuestMemoryRegion::len).sum());
        let refused = || {
            CommandError::Refused(format!("a target of {target} is more than the guest's memory of {memory}"))
        };
        let pages = Some(target).filter(|target| *target <= memory).and_then(pages).ok_or_else(refused)?;
        self.config.update(field::NUM_PAGES, &pages.to_le_bytes());
        io.config_changed();
        Ok(())
    }

    fn set_hinting(&mut self, on: bool, io: &Io<'_>) -> Result<(), CommandError> {
        let bit = feature::FREE_PAGE_HINT;
        if self.offered & bit == 0 {
            return Err(CommandError::Refused("it has no hinting: give --balloon hinting".to_owned()));
        }
        if self.negotiated & bit == 0 {
            return Err(CommandError::Refused("the guest has no driver that gives hints".to_owned()));
        }
        self.hinting.accepting = false;
        if on {
            self.hinting.id = self.hinting.id.checked_add(1).unwrap_or(CMD_ID_DONE + 1);
            self.command_hints(self.hinting.id, io);
        } else {
            self.command_hints(CMD_ID_DONE, io);
        }
        Ok(())
    }

    fn command_hints(&self, id: u32, io: &Io<'_>) {
        self.config.update(field::FREE_PAGE_HINT_CMD_ID, &id.to_le_bytes());
        io.config_changed();
    }
}

impl Hinting {
    /// The driver says which round it is at, or that it is at its end; whether this round has ended.
    fn take_up(&mut self, id: u32, ended: bool) -> bool {
        let was_accepting = self.accepting;
        self.accepting = id == self.id && !ended;
        was_accepting && id == CMD_ID_STOP
    }
}

/// So much memory in pages; none if a balloon cannot have as many.
fn pages(size: Size) -> Option<u32> {
    u32::try_from(size.bytes() / PAGE).ok()
}

/// A chain is done with, or stays for the next event.
fn finish(done: &mut usize, all: bool) -> Served {
    if all {
        *done = 0;
        Served::Done(0)
    } else {
        Served::Stop
    }
}

impl Device for Balloon {
    fn describe(&self) -> Description {
        Description {
            features: self.offered,
            config: self.config.clone(),
            ..Description::new(ID, vec![QUEUE_SIZE; ROLES.len()])
        }
    }

    fn activate(&mut self, features: u64) {
        self.negotiated = features & self.offered;
    }

    fn start(&mut self, io: &mut Io<'_>) {
        let is_open = |queue: usize| io.queues.get(queue).is_some_and(VirtQueue::is_open);
        if self.places.is_none() {
            self.places = Some(Role::places(self.negotiated, is_open));
        }
        self.arm_timer();
        if let Some((timer, _)) = &self.timer {
            io.watch(timer.as_raw_fd(), TIMER, EventSet::IN);
        }
    }

    fn queue_event(&mut self, queue: usize, io: &mut Io<'_>) {
        match self.role(queue) {
            Some(Role::Inflate) => self.inflate(queue, io),
            Some(Role::Stats) => self.take_stats(queue, io),
            Some(role @ (Role::Hinting | Role::Reporting)) => self.discard_free(queue, role, io),
            // Pages come back by themselves; a queue that the features leave out has nothing for us.
            Some(Role::Deflate) | None => {
                if let Some(queue) = io.queue(queue) {
                    queue.drain(|_| Served::Done(0));
                }
            }
        }
    }

    fn fd_event(&mut self, _: u32, _: EventSet, io: &mut Io<'_>) {
        // Setting the timer anew takes back that it was due.
        self.arm_timer();
        self.return_stats_chain(io);
    }

    fn command(&mut self, command: &Command, io: &mut Io<'_>) -> Result<(), CommandError> {
        match command {
            Command::BalloonTarget(target) => self.set_target(*target, io),
            Command::BalloonHinting(on) => self.set_hinting(*on, io),
            _ => Err(CommandError::Unknown(*command)),
        }
    }

    fn metrics(&self) -> Vec<Metric> {
        let bytes = |field| u64::from(self.word(field)) * PAGE;
        let mut metrics = vec![
            ("target_bytes", bytes(field::NUM_PAGES)),
            ("actual_bytes", bytes(field::ACTUAL)),
            ("discarded_bytes", self.given.bytes),
            ("foreign_pages", self.given.foreign_pages),
            ("refusals_total", self.given.refusals),
        ];
        if self.offered & feature::FREE_PAGE_HINT != 0 {
            metrics.push(("hinting", u64::from(self.word(field::FREE_PAGE_HINT_CMD_ID) > CMD_ID_DONE)));
        }
        metrics.extend(self.stats.metrics());
        metrics
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        self.return_stats_chain(io);
        if let Some((timer, _)) = &mut self.timer
            && let Err(error) = timer.clear()
        {
            log::debug!("{}: the timer runs on: {error}", self.name);
        }
    }

    /// The next driver starts with an empty balloon, and is to fill it as far.
    fn reset(&mut self) {
        self.negotiated = 0;
        self.places = None;
        self.done = [0; ROLES.len()];
        self.hinting.accepting = false;
        self.stats = Stats::default();
        self.stats_chain = None;
        self.config.update(field::ACTUAL, &0_u32.to_le_bytes());
        self.config.update(field::FREE_PAGE_HINT_CMD_ID, &CMD_ID_STOP.to_le_bytes());
    }

    fn save(&mut self, id: &str, state: &mut State) -> Result<(), SaveError> {
        let Self {
            config: _,
            negotiated,
            places,
            done,
            hinting: Hinting { id: round, accepting },
            // Of the configuration.
            name: _,
            offered: _,
            timer: _,
            // Counted anew.
            given: _,
            // The driver has its chain back, and sends new ones.
            stats: _,
            stats_chain: _,
        } = self;
        let closed_ranks = places.map(|places| places != Role::fixed_places(*negotiated));
        // A chain has less than 4 GiB.
        let done = done.map(|done| u32::try_from(done).unwrap_or(u32::MAX));
        let (round, accepting) = (*round, *accepting);
        let [target, command] = [field::NUM_PAGES, field::FREE_PAGE_HINT_CMD_ID].map(|at| self.word(at));
        Ok(state.put(id, &BalloonState { target, command, round, accepting, closed_ranks, done })?)
    }

    fn restore(&mut self, from: &mut Restore<'_>) -> Result<(), SaveError> {
        let BalloonState { target, command, round, accepting, closed_ranks, done } = from.take()?;
        self.config.update(field::NUM_PAGES, &target.to_le_bytes());
        self.config.update(field::FREE_PAGE_HINT_CMD_ID, &command.to_le_bytes());
        self.hinting = Hinting { id: round, accepting };
        self.done = done.map(|done| usize::try_from(done).unwrap_or_default());
        self.places = closed_ranks.map(|closed| match closed {
            true => Role::closed_ranks(self.negotiated),
            false => Role::fixed_places(self.negotiated),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
