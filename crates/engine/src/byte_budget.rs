//! How much memory requests hold outside of the KV cache.
//!
//! Where answers look at pictures by cross-attention, the pictures' keys and values live as long
//! as the request, beside the paged cache. As with blocks, a share is a value that gives itself
//! back when it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A fixed number of bytes. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct ByteBudget {
    total: usize,
    used: Arc<AtomicUsize>,
}

impl ByteBudget {
    /// `total` bytes, all free.
    pub(crate) fn new(total: usize) -> Self {
        Self {
            total,
            used: Arc::default(),
        }
    }

    /// A share of `bytes`, or none if fewer are free.
    pub(crate) fn take(&self, bytes: usize) -> Option<Share> {
        let grow = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= self.total);
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, grow)
            .ok()?;
        Some(Share {
            bytes,
            home: Arc::clone(&self.used),
        })
    }

    /// Bytes there are.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Bytes that have an owner.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Bytes that have none.
    pub(crate) fn free(&self) -> usize {
        self.total.saturating_sub(self.used())
    }
}

/// Bytes of one owner.
#[derive(Debug)]
pub(crate) struct Share {
    bytes: usize,
    home: Arc<AtomicUsize>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.home.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_exceed_the_budget_and_come_back() {
        let budget = ByteBudget::new(10);
        let first = budget.take(7).unwrap();
        assert!(budget.take(4).is_none() && budget.take(usize::MAX).is_none());
        let second = budget.take(3).unwrap();
        assert_eq!((budget.used(), budget.free(), budget.total()), (10, 0, 10));
        drop(first);
        assert_eq!(budget.free(), 7);
        drop(second);
        assert_eq!(budget.used(), 0);
    }
}
