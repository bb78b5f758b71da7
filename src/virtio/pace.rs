//! A rate limit that several queues share.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use thiserror::Error;
use vmm_sys_util::timerfd::TimerFd;

use super::rate::Limiter;
use crate::config::Rate;

/// Why a device cannot be limited.
#[derive(Debug, Error)]
pub(super) enum Error {
    #[error("cannot make the timer of the rate")]
    Timer(#[source] io::Error),
}

/// The limit, if there is one, and the clock that says when to go on.
#[derive(Default)]
pub(super) struct Pace {
    limit: Option<(Limiter, TimerFd)>,
    /// The queue, or pair of queues, that was told to wait.
    waiting: Option<usize>,
}

impl Pace {
    pub(super) fn new(rate: Option<&Rate>) -> Result<Self, Error> {
        let limit = match rate {
            Some(rate) => {
                let timer = TimerFd::new().map_err(|error| Error::Timer(error.into()))?;
                Some((Limiter::new(rate, Instant::now()), timer))
            }
            None => None,
        };
        Ok(Self { limit, waiting: None })
    }

    /// Lets one operation pass.
    ///
    /// # Errors
    /// It may pass after so long.
    pub(super) fn take(&mut self, bytes: u64) -> Result<(), Duration> {
        match &mut self.limit {
            Some((limiter, _)) => limiter.take(bytes, 1, Instant::now()),
            None => Ok(()),
        }
    }

    /// What becomes readable when a wait is over.
    pub(super) fn timer(&self) -> Option<RawFd> {
        self.limit.as_ref().map(|(_, timer)| timer.as_raw_fd())
    }

    /// Nothing passes before the timer fires. Without a timer, there is no limit any more.
    pub(super) fn wait(&mut self, queue: usize, time: Duration) -> io::Result<()> {
        let Some((_, timer)) = &mut self.limit else { return Ok(()) };
        let set = timer.reset(time, None).map_err(io::Error::from);
        match &set {
            Ok(()) => self.waiting = Some(queue),
            Err(_) => self.limit = None,
        }
        set
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Ends a wait; who was told to wait goes first.
    pub(super) fn end_wait(&mut self) -> Option<usize> {
        // This also takes back what a timer that has fired made readable; reading it could block.
        if let Some((_, timer)) = &mut self.limit
            && let Err(error) = timer.clear()
        {
            log::debug!("a timer cannot be cleared: {error}");
        }
        self.waiting.take()
    }
}
