//! Which blocks of the KV cache are whose, and what the free ones still hold.
//!
//! Ownership is a value: [`Blocks`] can only be made by the pool, and gives its blocks back when
//! it is dropped, on any path, a panic's included. A block may have several owners if it is full:
//! full blocks are never written again. The last block of a sequence, which is, has one.
//!
//! A full block whose content is known by a [`BlockKey`] is *published*. It can be found by that
//! key while it is owned, and longer: without owners it waits, least recently used first, to be
//! found again or to be taken for something else.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::prefix::BlockKey;

/// A fixed number of blocks. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct BlockPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    total: usize,
    /// Read by scrapes of the counters, which must not wait for the lock.
    owned: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// A stack: the block freed last is used next, while it is warm in the processor's cache.
    free: Vec<u32>,
    blocks: Vec<Block>,
    published: HashMap<BlockKey, u32>,
    /// Published blocks without owners, by when they lost the last one.
    idle: BTreeMap<u64, u32>,
    clock: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Block {
    owners: u32,
    key: Option<BlockKey>,
    /// Its place in `idle`.
    idle_since: u64,
}

impl State {
    fn block(&mut self, id: u32) -> &mut Block {
        // Ids come from this pool alone.
        &mut self.blocks[id as usize]
    }

    fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// A block that nobody owns; what it held is forgotten.
    fn claim(&mut self) -> Option<u32> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                let (_, id) = self.idle.pop_first()?;
                if let Some(key) = self.block(id).key.take() {
                    self.published.remove(&key);
                }
                id
            }
        };
        self.block(id).owners = 1;
        Some(id)
    }

    fn share(&mut self, id: u32) {
        let block = self.block(id);
        block.owners += 1;
        if block.owners == 1 {
            let since = block.idle_since;
            self.idle.remove(&since);
        }
    }

    fn release(&mut self, id: u32) {
        let clock = self.clock;
        let block = self.block(id);
        block.owners -= 1;
        if block.owners > 0 {
            return;
        }
        if block.key.is_some() {
            block.idle_since = clock;
            self.idle.insert(clock, id);
            self.clock += 1;
        } else {
            self.free.push(id);
        }
    }
}

impl Shared {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        // No code that could panic half-way runs under this lock.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let out = change(&mut state);
        self.owned.store(self.total - state.available(), Relaxed);
        out
    }
}

/// What the pool knows of a chain of keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// How many from the first on are published.
    pub(crate) blocks: usize,
    /// How many of those have no owner: taking them leaves fewer for others.
    pub(crate) idle: usize,
}

impl BlockPool {
    /// `total` blocks, all free, numbered from 0.
    pub(crate) fn new(total: u32) -> Self {
        Self {
            shared: Arc::new(Shared {
                total: total as usize,
                owned: AtomicUsize::new(0),
                state: Mutex::new(State {
                    free: (0..total).rev().collect(),
                    blocks: vec![Block::default(); total as usize],
                    ..State::default()
                }),
            }),
        }
    }

    /// No blocks yet, of this pool.
    pub(crate) fn none(&self) -> Blocks {
        Blocks {
            ids: Vec::new(),
            home: Arc::clone(&self.shared),
        }
    }

    /// How much of a chain is there.
    pub(crate) fn known(&self, chain: &[BlockKey]) -> Known {
        self.shared.with(|state| {
            let mut known = Known::default();
            for key in chain {
                let Some(&id) = state.published.get(key) else {
                    break;
                };
                known.blocks += 1;
                known.idle += usize::from(state.block(id).owners == 0);
            }
            known
        })
    }

    /// Blocks there are.
    pub(crate) fn total(&self) -> usize {
        self.shared.total
    }

    /// Blocks that have an owner.
    pub(crate) fn used(&self) -> usize {
        self.shared.owned.load(Relaxed)
    }

    /// Blocks that have none, whatever they still hold.
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

    /// Becomes a co-owner of the published blocks at the head of `chain`. To be called while
    /// there are none. Returns how many it has now.
    pub(crate) fn find(&mut self, chain: &[BlockKey]) -> usize {
        let ids = &mut self.ids;
        self.home.with(|state| {
            for key in chain {
                let Some(&id) = state.published.get(key) else {
                    break;
                };
                state.share(id);
                ids.push(id);
            }
        });
        self.ids.len()
    }

    /// Takes more until there are `count`, or none at all if fewer are free.
    #[must_use]
    pub(crate) fn grow(&mut self, count: usize) -> bool {
        let more = count.saturating_sub(self.ids.len());
        if more == 0 {
            return true;
        }
        let ids = &mut self.ids;
        self.home.with(|state| {
            if more > state.available() {
                return false;
            }
            ids.extend((0..more).map_while(|_| state.claim()));
            true
        })
    }

    /// Makes the full block at `index` findable. If another one is known by that key already,
    /// that one stays the one to be found.
    pub(crate) fn publish(&mut self, index: usize, key: BlockKey) {
        let Some(&id) = self.ids.get(index) else {
            return;
        };
        self.home.with(|state| {
            if state.published.contains_key(&key) || state.block(id).key.is_some() {
                return;
            }
            state.block(id).key = Some(key);
            state.published.insert(key, id);
        });
    }

    /// Another owner of the first `count` blocks, which are full.
    pub(crate) fn fork(&self, count: usize) -> Self {
        let ids: Vec<u32> = self.ids.iter().copied().take(count).collect();
        self.home
            .with(|state| ids.iter().for_each(|&id| state.share(id)));
        Self {
            ids,
            home: Arc::clone(&self.home),
        }
    }

    /// Blocks that nobody else owns: as many come free when these are given back.
    pub(crate) fn exclusive(&self) -> usize {
        let alone = |state: &mut State| {
            let ids = self.ids.iter();
            ids.filter(|&&id| state.block(id).owners == 1).count()
        };
        self.home.with(alone)
    }

    /// Gives all of them back.
    pub(crate) fn clear(&mut self) {
        let ids = std::mem::take(&mut self.ids);
        // The last first: a chain without its end is still of use, without its beginning not.
        self.home
            .with(|state| ids.iter().rev().for_each(|&id| state.release(id)));
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn key(n: u32) -> BlockKey {
        BlockKey::test(n)
    }

    fn take(pool: &BlockPool, count: usize) -> Option<Blocks> {
        let mut blocks = pool.none();
        blocks.grow(count).then_some(blocks)
    }

    #[test]
    fn a_take_that_does_not_fit_takes_nothing() {
        let pool = BlockPool::new(4);
        let mut three = take(&pool, 3).unwrap();
        assert_eq!(three.ids(), [0, 1, 2]);
        assert!(take(&pool, 2).is_none());
        assert!(!three.grow(5));
        assert_eq!((pool.used(), pool.free(), pool.total()), (3, 1, 4));
        drop(three);
        assert_eq!(take(&pool, 4).unwrap().ids().len(), 4);
    }

    #[test]
    fn blocks_come_back_when_their_owner_panics() {
        let pool = BlockPool::new(4);
        let theirs = pool.clone();
        let outcome = std::panic::catch_unwind(move || {
            let _blocks = take(&theirs, 4);
            panic!("an owner fails");
        });
        assert!(outcome.is_err());
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn published_blocks_are_found_while_owned_and_until_they_are_needed() {
        let pool = BlockPool::new(3);
        let mut first = take(&pool, 2).unwrap();
        first.publish(0, key(1));
        first.publish(1, key(2));
        let chain = [key(1), key(2), key(3)];
        assert_eq!(pool.known(&chain), Known { blocks: 2, idle: 0 });
        let mut second = pool.none();
        assert_eq!(second.find(&chain), 2);
        assert_eq!(second.ids(), first.ids());
        assert_eq!((first.exclusive(), pool.used()), (0, 2));
        drop(first);
        assert_eq!((second.exclusive(), pool.used()), (2, 2));
        drop(second);
        assert_eq!((pool.used(), pool.free()), (0, 3));
        assert_eq!(pool.known(&chain), Known { blocks: 2, idle: 2 });
        // The end of the chain goes before its beginning.
        let other = take(&pool, 2).unwrap();
        assert_eq!(pool.known(&chain), Known { blocks: 1, idle: 1 });
        drop(other);
        let _all = take(&pool, 3).unwrap();
        assert_eq!(pool.known(&chain), Known::default());
    }

    #[test]
    fn the_least_recently_used_is_taken_first() {
        let pool = BlockPool::new(3);
        for n in 0..3 {
            let mut blocks = take(&pool, 1).unwrap();
            blocks.publish(0, key(n));
        }
        let mut again = pool.none();
        assert_eq!(again.find(&[key(0)]), 1);
        drop(again);
        let _taken = take(&pool, 1).unwrap();
        assert_eq!(pool.known(&[key(1)]).blocks, 0);
        assert_eq!(pool.known(&[key(0)]).blocks, 1);
        assert_eq!(pool.known(&[key(2)]).blocks, 1);
    }

    #[test]
    fn of_two_blocks_with_one_content_the_first_is_found() {
        let pool = BlockPool::new(2);
        let (mut a, mut b) = (take(&pool, 1).unwrap(), take(&pool, 1).unwrap());
        a.publish(0, key(7));
        b.publish(0, key(7));
        let mut found = pool.none();
        found.find(&[key(7)]);
        assert_eq!(found.ids(), a.ids());
        drop((a, b, found));
        assert_eq!(pool.free(), 2);
        assert_eq!(pool.known(&[key(7)]), Known { blocks: 1, idle: 1 });
    }

    #[derive(Debug, Clone)]
    enum Move {
        Take(usize),
        Grow(usize, usize),
        Publish(usize, usize, u32),
        Find(Vec<u32>),
        Fork(usize, usize),
        Clear(usize),
        Drop(usize),
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            (0_usize..8).prop_map(Move::Take),
            (any::<usize>(), 0_usize..12).prop_map(|(o, n)| Move::Grow(o, n)),
            (any::<usize>(), 0_usize..12, 0_u32..12).prop_map(|(o, i, k)| Move::Publish(o, i, k)),
            vec(0_u32..12, 0..5).prop_map(Move::Find),
            (any::<usize>(), 0_usize..12).prop_map(|(o, n)| Move::Fork(o, n)),
            any::<usize>().prop_map(Move::Clear),
            any::<usize>().prop_map(Move::Drop),
        ];
        vec(one, 0..200)
    }

    proptest! {
        /// A model of the pool: who owns what, and what each key leads to.
        #[test]
        fn no_block_is_lost_taken_twice_or_found_under_a_wrong_key(
            total in 0_u32..40,
            moves in moves(),
        ) {
            let pool = BlockPool::new(total);
            let mut owners: Vec<Blocks> = Vec::new();
            // What was published where, as long as nobody has taken it for something else.
            let mut published: HashMap<u32, u32> = HashMap::new();
            for step in moves {
                let count = owners.len();
                let pick = |at: usize| at.checked_rem(count);
                match step {
                    Move::Take(n) => {
                        let free = pool.free();
                        let taken = take(&pool, n);
                        prop_assert_eq!(taken.is_some(), n <= free);
                        if let Some(blocks) = taken {
                            published.retain(|_, id| !blocks.ids().contains(id));
                            owners.push(blocks);
                        }
                    }
                    Move::Grow(at, n) => if let Some(at) = pick(at) {
                        let before = owners[at].ids().to_vec();
                        let more = n.saturating_sub(before.len());
                        let fits = more <= pool.free();
                        prop_assert_eq!(owners[at].grow(n), fits);
                        let after = owners[at].ids().to_vec();
                        prop_assert_eq!(&after[..before.len()], &before[..]);
                        let fresh = &after[before.len()..];
                        prop_assert_eq!(fresh.len(), if fits { more } else { 0 });
                        published.retain(|_, id| !fresh.contains(id));
                    },
                    Move::Publish(at, index, k) => if let Some(at) = pick(at) {
                        owners[at].publish(index, key(k));
                        if let Some(&id) = owners[at].ids().get(index)
                            && !published.contains_key(&k)
                            && !published.values().any(|&known| known == id)
                        {
                            published.insert(k, id);
                        }
                    },
                    Move::Find(keys) => {
                        let chain: Vec<_> = keys.iter().map(|&k| key(k)).collect();
                        let expected: Vec<u32> =
                            keys.iter().map_while(|k| published.get(k).copied()).collect();
                        prop_assert_eq!(pool.known(&chain).blocks, expected.len());
                        let mut found = pool.none();
                        found.find(&chain);
                        prop_assert_eq!(found.ids(), &expected[..]);
                        owners.push(found);
                    }
                    Move::Fork(at, n) => if let Some(at) = pick(at) {
                        let fork = owners[at].fork(n);
                        let kept = n.min(owners[at].ids().len());
                        prop_assert_eq!(fork.ids(), &owners[at].ids()[..kept]);
                        owners.push(fork);
                    },
                    Move::Clear(at) => if let Some(at) = pick(at) {
                        owners[at].clear();
                        prop_assert!(owners[at].ids().is_empty());
                    },
                    Move::Drop(at) => if let Some(at) = pick(at) {
                        drop(owners.remove(at));
                    },
                }
                let mut held: Vec<u32> = owners.iter().flat_map(|o| o.ids().to_vec()).collect();
                held.sort_unstable();
                held.dedup();
                prop_assert!(held.iter().all(|&id| id < total));
                prop_assert_eq!(pool.used(), held.len());
                for (&k, &id) in &published {
                    let mut found = pool.none();
                    found.find(&[key(k)]);
                    prop_assert_eq!(found.ids(), [id], "key {} leads elsewhere", k);
                }
            }
            owners.clear();
            prop_assert_eq!(pool.free(), total as usize);
            prop_assert!(take(&pool, total as usize).is_some());
        }
    }
}
