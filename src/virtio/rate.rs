//! A limit on how much passes in a second: a token bucket that is told the time.

use std::time::{Duration, Instant};

use crate::config::{Limit, Rate};

/// A token stands for a byte or an operation; a bucket counts billionths of one, so that nothing is lost to
/// rounding at any rate.
const PARTS: u128 = 1_000_000_000;

/// One kind of tokens.
#[derive(Clone, Debug)]
struct Bucket {
    limit: Limit,
    level: u128,
    /// What a waiting request needs where that is more than a burst: the bucket fills up to it.
    wanted: u64,
}

impl Bucket {
    fn new(limit: Limit) -> Self {
        let limit = Limit { per_second: limit.per_second.max(1), burst: limit.burst.max(1) };
        Self { limit, level: u128::from(limit.burst) * PARTS, wanted: 0 }
    }

    fn fill(&mut self, elapsed: Duration) {
        let brim = u128::from(self.limit.burst.max(self.wanted)) * PARTS;
        let gained = elapsed.as_nanos().saturating_mul(u128::from(self.limit.per_second));
        self.level = self.level.saturating_add(gained).min(brim);
    }

    /// How long until `amount` is there.
    fn wait(&self, amount: u64) -> Duration {
        let missing = (u128::from(amount) * PARTS).saturating_sub(self.level);
        let nanoseconds = missing.div_ceil(u128::from(self.limit.per_second));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    fn take(&mut self, amount: u64) {
        self.level = self.level.saturating_sub(u128::from(amount) * PARTS);
        self.wanted = 0;
    }
}

/// Bytes and operations that may pass. What has passed by any time is never more than a burst and what the
/// rate allows since the start, however large one request is: one larger than a burst waits until its
/// whole size has come in.
#[derive(Clone, Debug)]
pub struct Limiter {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
    filled: Instant,
}

impl Limiter {
    /// A limiter with full buckets.
    #[must_use]
    pub fn new(rate: &Rate, now: Instant) -> Self {
        Self { bytes: rate.bytes.map(Bucket::new), operations: rate.operations.map(Bucket::new), filled: now }
    }

    /// Lets `operations` of together `bytes` pass: all of it or nothing.
    ///
    /// # Errors
    /// It is too early; the next attempt with the same amounts passes after so long. Whoever is told to
    /// wait should come back before anyone else asks.
    pub fn take(&mut self, bytes: u64, operations: u64, now: Instant) -> Result<(), Duration> {
        let elapsed = now.saturating_duration_since(self.filled);
        self.filled = self.filled.max(now);
        let mut wait = Duration::ZERO;
        let mut buckets = [(&mut self.bytes, bytes), (&mut self.operations, operations)];
        for (bucket, amount) in &mut buckets {
            if let Some(bucket) = bucket {
                bucket.fill(elapsed);
                bucket.wanted = *amount;
                wait = wait.max(bucket.wait(*amount));
            }
        }
        if !wait.is_zero() {
            return Err(wait);
        }
        for (bucket, amount) in buckets {
            if let Some(bucket) = bucket {
                bucket.take(amount);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
