//! Values that take memory, of which those that were used last stay.

use std::hash::Hash;

use lru::LruCache;

/// A map bounded by the bytes of its values.
#[derive(Debug)]
pub(super) struct ByteLru<K: Hash + Eq, V> {
    entries: LruCache<K, (V, usize)>,
    bytes: usize,
    limit: usize,
}

impl<K: Hash + Eq, V> ByteLru<K, V> {
    /// Holds values of `limit` bytes in all; none where that is 0.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            entries: LruCache::unbounded(),
            bytes: 0,
            limit,
        }
    }

    /// The value of `key`, which counts as used.
    pub(super) fn get(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|(value, _)| value)
    }

    /// Puts a value of `bytes` into its place. Gives back what had to go: what the key had before,
    /// those that nobody used for the longest time, or the value itself where it alone is too
    /// large. To be dropped where no lock is held: freeing much memory takes time.
    #[must_use]
    pub(super) fn insert(&mut self, key: K, value: V, bytes: usize) -> Vec<(K, V)> {
        let mut gone = Vec::new();
        if let Some((key, (value, size))) = self.entries.pop_entry(&key) {
            self.bytes -= size;
            gone.push((key, value));
        }
        if bytes > self.limit {
            gone.push((key, value));
            return gone;
        }
        // Neither sum can overflow: all sizes together are at most the limit.
        while self.bytes > self.limit - bytes
            && let Some((key, (value, size))) = self.entries.pop_lru()
        {
            self.bytes -= size;
            gone.push((key, value));
        }
        self.entries.put(key, (value, bytes));
        self.bytes += bytes;
        gone
    }

    /// Bytes of all values.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_stays() {
        let mut lru = ByteLru::new(10);
        assert!(lru.insert('a', 1, 4).is_empty());
        assert!(lru.insert('b', 2, 4).is_empty());
        assert_eq!(lru.get(&'a'), Some(&mut 1));
        assert_eq!(lru.insert('c', 3, 3), [('b', 2)]);
        assert_eq!((lru.bytes(), lru.len()), (7, 2));
        // Room for it takes both.
        assert_eq!(lru.insert('d', 4, 10), [('a', 1), ('c', 3)]);
        assert_eq!((lru.bytes(), lru.len()), (10, 1));
    }

    #[test]
    fn a_value_takes_the_place_of_the_one_before() {
        let mut lru = ByteLru::new(10);
        assert!(lru.insert('a', 1, 6).is_empty());
        assert_eq!(lru.insert('a', 2, 8), [('a', 1)]);
        assert_eq!((lru.get(&'a').copied(), lru.bytes()), (Some(2), 8));
    }

    #[test]
    fn what_is_too_large_goes_at_once_and_leaves_nothing_outdated() {
        let mut lru = ByteLru::new(10);
        assert!(lru.insert('a', 1, 6).is_empty());
        assert!(lru.insert('b', 2, 2).is_empty());
        assert_eq!(lru.insert('a', 3, 11), [('a', 1), ('a', 3)]);
        assert_eq!((lru.get(&'a').copied(), lru.bytes()), (None, 2));
        assert_eq!(lru.insert('b', 4, usize::MAX), [('b', 2), ('b', 4)]);
        let mut none = ByteLru::new(0);
        assert_eq!(none.insert('a', 1, 1), [('a', 1)]);
        assert_eq!((none.len(), none.bytes()), (0, 0));
    }
}
