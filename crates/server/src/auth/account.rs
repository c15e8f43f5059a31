//! What the holder of a key has asked for, and may still.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::keys::KeyLimits;

/// Over which requests are counted.
const MINUTE: Duration = Duration::from_secs(60);

/// The books of one key.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// When all of a minute's requests will be there again: the theoretical arrival time of the
    /// generic cell rate algorithm (ITU-T I.371), which is a token bucket without a clock of its
    /// own. `None` before the first request.
    full: Mutex<Option<Instant>>,
    running: AtomicUsize,
    admitted: AtomicU64,
    refused: AtomicU64,
}

/// How much of a minute's requests is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// Requests a minute.
    pub(super) limit: u32,
    /// Requests that could be sent at once.
    pub(super) remaining: u32,
    /// Until all are there again.
    pub(super) reset: Duration,
}

/// Why a request has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limited {
    /// The minute's requests are used up; the next is there after the given time.
    Rate(Standing, Duration),
    /// As many as may are under way.
    Concurrency(u32),
}

/// A request that counts as under way until this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    account: Arc<Account>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.account.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Account {
    /// Enters a request at the time `now`.
    ///
    /// # Errors
    /// When it is over a limit. It has used up nothing then.
    pub(super) fn enter(
        self: &Arc<Self>,
        limits: KeyLimits,
        now: Instant,
    ) -> Result<(Running, Option<Standing>), Limited> {
        let entered = self.try_enter(limits, now);
        let counter = match entered {
            Ok(_) => &self.admitted,
            Err(_) => &self.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        entered
    }

    fn try_enter(
        self: &Arc<Self>,
        limits: KeyLimits,
        now: Instant,
    ) -> Result<(Running, Option<Standing>), Limited> {
        let before = self.running.fetch_add(1, Ordering::Relaxed);
        let running = Running {
            account: Arc::clone(self),
        };
        if let Some(limit) = limits.concurrent_requests.map(NonZeroU32::get)
            && before >= usize::try_from(limit).unwrap_or(usize::MAX)
        {
            return Err(Limited::Concurrency(limit));
        }
        let standing = limits
            .requests_per_minute
            .map(|limit| self.take(limit, now));
        Ok((running, standing.transpose()?))
    }

    /// Takes one of a minute's requests.
    fn take(&self, limit: NonZeroU32, now: Instant) -> Result<Standing, Limited> {
        let each = MINUTE / limit.get();
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        let used = full.map_or(Duration::ZERO, |full| full.saturating_duration_since(now));
        let standing = |used: Duration| {
            let left = MINUTE.saturating_sub(used).as_nanos() / each.as_nanos().max(1);
            Standing {
                limit: limit.get(),
                remaining: u32::try_from(left).unwrap_or(u32::MAX).min(limit.get()),
                reset: used,
            }
        };
        let after = used + each;
        if after > MINUTE {
            return Err(Limited::Rate(standing(used), after - MINUTE));
        }
        *full = now.checked_add(after);
        Ok(standing(after))
    }

    /// Requests under way.
    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Requests that were let in so far, and that were not for a limit's sake.
    pub(super) fn totals(&self) -> [u64; 2] {
        [&self.admitted, &self.refused].map(|counter| counter.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(rate: u32, concurrent: u32) -> KeyLimits {
        KeyLimits {
            requests_per_minute: NonZeroU32::new(rate),
            concurrent_requests: NonZeroU32::new(concurrent),
        }
    }

    #[test]
    fn a_minutes_requests_may_come_at_once_and_come_back_one_by_one() {
        let account = Arc::new(Account::default());
        let start = Instant::now();
        for remaining in (0..6).rev() {
            let (_, standing) = account.enter(limits(6, 0), start).unwrap();
            assert_eq!(standing.unwrap().remaining, remaining);
        }
        let Err(Limited::Rate(standing, wait)) = account.enter(limits(6, 0), start) else {
            panic!("a seventh is too many");
        };
        assert_eq!(wait, Duration::from_secs(10));
        assert_eq!((standing.limit, standing.remaining), (6, 0));
        assert_eq!(standing.reset, MINUTE);
        assert!(account.enter(limits(6, 0), start + wait / 2).is_err());
        assert!(account.enter(limits(6, 0), start + wait).is_ok());
        assert!(account.enter(limits(6, 0), start + wait).is_err());
        assert_eq!(account.totals(), [7, 3]);
    }

    #[test]
    fn a_place_is_free_again_when_its_request_has_ended() {
        let account = Arc::new(Account::default());
        let now = Instant::now();
        let first = account.enter(limits(0, 2), now).unwrap();
        let second = account.enter(limits(0, 2), now).unwrap();
        let third = account.enter(limits(0, 2), now);
        assert_eq!(third.unwrap_err(), Limited::Concurrency(2));
        assert_eq!(account.running(), 2);
        drop(first);
        assert!(account.enter(limits(0, 2), now).is_ok());
        drop(second);
        assert_eq!(account.running(), 0);
    }

    #[test]
    fn a_request_that_finds_no_place_costs_nothing() {
        let account = Arc::new(Account::default());
        let now = Instant::now();
        let held = account.enter(limits(2, 1), now).unwrap();
        for _ in 0..10 {
            assert!(account.enter(limits(2, 1), now).is_err());
        }
        drop(held);
        assert!(account.enter(limits(2, 1), now).is_ok());
    }

    proptest! {
        /// Whatever the pattern, no window of a minute lets in more than two minutes' worth, and
        /// none that begins with a full account more than its rate and what came back.
        #[test]
        fn no_pattern_gets_more_than_the_rate(
            rate in 1_u32..50,
            gaps in prop::collection::vec(0_u64..3000, 1..300),
        ) {
            let account = Arc::new(Account::default());
            let start = Instant::now();
            let (mut at, mut admitted) = (Duration::ZERO, 0_u64);
            for gap in gaps {
                at += Duration::from_millis(gap);
                admitted += u64::from(account.enter(limits(rate, 0), start + at).is_ok());
                let back = at.as_secs_f64() * f64::from(rate) / 60.0;
                prop_assert!(admitted as f64 <= f64::from(rate) + back + 1e-6);
            }
        }
    }
}
