//! Which blocks of the KV cache are free.
//!
//! Ownership is a value: [`Blocks`] cannot be copied or made outside the pool, and gives its
//! blocks back when it is dropped. So a block has at most one owner, is freed exactly once, and
//! cannot leak on any path, a panic's included.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A fixed number of blocks. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct BlockPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    total: usize,
    /// Read by scrapes of the counters, which must not wait for the lock.
    used: AtomicUsize,
    /// A stack: the block freed last is used next, while it is warm in the processor's cache.
    free: Mutex<Vec<u32>>,
}

impl Shared {
    fn with_free<T>(&self, change: impl FnOnce(&mut Vec<u32>) -> T) -> T {
        // No code that could panic half-way runs under this lock.
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let out = change(&mut free);
        self.used.store(self.total - free.len(), Ordering::Relaxed);
        out
    }
}

impl BlockPool {
    /// `total` blocks, all free, numbered from 0.
    pub(crate) fn new(total: u32) -> Self {
        Self {
            shared: Arc::new(Shared {
                total: total as usize,
                used: AtomicUsize::new(0),
                free: Mutex::new((0..total).rev().collect()),
            }),
        }
    }

    /// `count` blocks, or none at all if fewer are free.
    pub(crate) fn take(&self, count: usize) -> Option<Blocks> {
        let ids = self.shared.with_free(|free| {
            let rest = free.len().checked_sub(count)?;
            let mut ids = free.split_off(rest);
            ids.reverse();
            Some(ids)
        })?;
        Some(Blocks {
            ids,
            home: Arc::clone(&self.shared),
        })
    }

    /// Blocks there are.
    pub(crate) fn total(&self) -> usize {
        self.shared.total
    }

    /// Blocks that have an owner.
    pub(crate) fn used(&self) -> usize {
        self.shared.used.load(Ordering::Relaxed)
    }

    /// Blocks that have none.
    pub(crate) fn free(&self) -> usize {
        self.total() - self.used()
    }
}

/// Blocks of one owner, in the order in which its tokens fill them.
#[derive(Debug)]
pub(crate) struct Blocks {
    ids: Vec<u32>,
    home: Arc<Shared>,
}

impl Blocks {
    /// Their numbers.
    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        let ids = &mut self.ids;
        ids.reverse();
        self.home.with_free(|free| free.append(ids));
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_take_that_does_not_fit_takes_nothing() {
        let pool = BlockPool::new(4);
        let three = pool.take(3).unwrap();
        assert_eq!(three.ids(), [0, 1, 2]);
        assert!(pool.take(2).is_none());
        assert_eq!((pool.used(), pool.free(), pool.total()), (3, 1, 4));
        drop(three);
        assert_eq!(pool.take(4).unwrap().ids().len(), 4);
    }

    #[test]
    fn blocks_come_back_when_their_owner_panics() {
        let pool = BlockPool::new(4);
        let theirs = pool.clone();
        let outcome = std::panic::catch_unwind(move || {
            let _blocks = theirs.take(4);
            panic!("an owner fails");
        });
        assert!(outcome.is_err());
        assert_eq!(pool.used(), 0);
    }

    proptest! {
        /// `Some(n)` takes n blocks, `None` drops the oldest owner.
        #[test]
        fn no_block_has_two_owners_and_none_is_lost(
            total in 0_u32..40,
            moves in vec(proptest::option::weighted(0.6, 0_usize..12), 0..200),
        ) {
            let pool = BlockPool::new(total);
            let mut owners: Vec<Blocks> = Vec::new();
            for step in moves {
                match step {
                    Some(count) => {
                        let free = pool.free();
                        let taken = pool.take(count);
                        prop_assert_eq!(taken.is_some(), count <= free);
                        if let Some(blocks) = taken {
                            prop_assert_eq!(blocks.ids().len(), count);
                            owners.push(blocks);
                        }
                    }
                    None if owners.is_empty() => {}
                    None => drop(owners.remove(0)),
                }
                let mut held: Vec<u32> = owners.iter().flat_map(|o| o.ids().to_vec()).collect();
                let count = held.len();
                held.sort_unstable();
                held.dedup();
                prop_assert_eq!(held.len(), count, "a block has two owners");
                prop_assert!(held.iter().all(|&id| id < total));
                prop_assert_eq!(pool.used(), count);
            }
            owners.clear();
            prop_assert_eq!(pool.free(), total as usize);
            prop_assert!(pool.take(total as usize).is_some());
        }
    }
}
