//! What has been compiled lately.

use std::collections::HashMap;

/// The entries used last, at most `capacity` of them.
#[derive(Debug)]
pub(super) struct Cache<V> {
    capacity: usize,
    /// Rises with every use.
    clock: u64,
    entries: HashMap<String, (u64, V)>,
}

impl<V: Clone> Cache<V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            clock: 0,
            entries: HashMap::new(),
        }
    }

    pub(super) fn get(&mut self, key: &str) -> Option<V> {
        self.clock = self.clock.saturating_add(1);
        let (used, value) = self.entries.get_mut(key)?;
        *used = self.clock;
        Some(value.clone())
    }

    /// Puts an entry in, and the one that was not used for the longest time out.
    pub(super) fn insert(&mut self, key: String, value: V) {
        self.clock = self.clock.saturating_add(1);
        self.entries.insert(key, (self.clock, value));
        if self.entries.len() > self.capacity {
            let oldest = self.entries.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.entries.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mut cache = Cache::new(2);
        cache.insert("a".into(), 1);
        cache.insert("b".into(), 2);
        assert_eq!(cache.get("a"), Some(1));
        cache.insert("c".into(), 3);
        assert_eq!(cache.get("b"), None);
        assert_eq!((cache.get("a"), cache.get("c")), (Some(1), Some(3)));
    }

    #[test]
    fn a_new_value_takes_no_further_place() {
        let mut cache = Cache::new(2);
        cache.insert("a".into(), 1);
        cache.insert("b".into(), 2);
        cache.insert("b".into(), 3);
        assert_eq!((cache.get("a"), cache.get("b")), (Some(1), Some(3)));
    }
}
