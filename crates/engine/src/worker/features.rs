//! Features of pictures that were encoded before.

use std::collections::{BTreeMap, HashMap};

use candle_core::Tensor;
use vlmd_backend::ImageKey;

/// The most recently used features, within a bound of bytes.
///
/// An entry is a handle: what a running sequence holds stays alive when the cache lets go of it.
#[derive(Debug)]
pub(super) struct FeatureCache {
    capacity: usize,
    bytes: usize,
    entries: HashMap<ImageKey, Entry>,
    /// By time of use.
    uses: BTreeMap<u64, ImageKey>,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    features: Tensor,
    bytes: usize,
    used: u64,
}

impl FeatureCache {
    /// An empty one for `capacity` bytes.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            bytes: 0,
            entries: HashMap::new(),
            uses: BTreeMap::new(),
            clock: 0,
        }
    }

    /// Bytes of the features in it.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The features of a picture, if they are there.
    pub(super) fn get(&mut self, key: ImageKey) -> Option<&Tensor> {
        let entry = self.entries.get_mut(&key)?;
        self.uses.remove(&entry.used);
        entry.used = self.clock;
        self.uses.insert(self.clock, key);
        self.clock += 1;
        Some(&entry.features)
    }

    /// Keeps features, if they fit at all, instead of those that were not used for longest.
    pub(super) fn insert(&mut self, key: ImageKey, features: Tensor) {
        let size = features.dtype().size_in_bytes();
        let bytes = features.elem_count().saturating_mul(size);
        if bytes > self.capacity || self.entries.contains_key(&key) {
            return;
        }
        while self.bytes + bytes > self.capacity {
            let Some((_, oldest)) = self.uses.pop_first() else {
                break;
            };
            if let Some(entry) = self.entries.remove(&oldest) {
                self.bytes -= entry.bytes;
            }
        }
        self.bytes += bytes;
        self.uses.insert(self.clock, key);
        let used = self.clock;
        self.clock += 1;
        let entry = Entry {
            features,
            bytes,
            used,
        };
        self.entries.insert(key, entry);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use vlmd_backend::{ImageInput, Pixels};

    use super::*;

    fn key(value: f32) -> ImageKey {
        let pixels = Tensor::full(value, (1, 3, 1, 1), &Device::Cpu).unwrap();
        let pixels = vec![Pixels::Values(pixels)];
        ImageInput::new(pixels, (1, 1), 1).unwrap().key()
    }

    fn features(count: usize) -> Tensor {
        Tensor::zeros(count, DType::F32, &Device::Cpu).unwrap()
    }

    #[test]
    fn the_least_recently_used_make_room() {
        let mut cache = FeatureCache::new(100);
        for (value, count) in [(1.0, 10), (2.0, 10), (3.0, 5)] {
            cache.insert(key(value), features(count));
        }
        assert_eq!(cache.bytes(), 100);
        assert!(cache.get(key(1.0)).is_some());
        cache.insert(key(4.0), features(1));
        assert!(cache.get(key(2.0)).is_none(), "was not used since");
        assert_eq!(cache.bytes(), 64);
        for value in [1.0, 3.0, 4.0] {
            assert!(cache.get(key(value)).is_some(), "{value}");
        }
    }

    #[test]
    fn what_does_not_fit_is_not_kept_and_pushes_nothing_out() {
        let mut cache = FeatureCache::new(100);
        cache.insert(key(1.0), features(25));
        cache.insert(key(2.0), features(26));
        assert!(cache.get(key(1.0)).is_some() && cache.get(key(2.0)).is_none());
        cache.insert(key(1.0), features(25));
        assert_eq!(cache.bytes(), 100);
        let mut none = FeatureCache::new(0);
        none.insert(key(1.0), features(1));
        assert!(none.get(key(1.0)).is_none());
    }
}
