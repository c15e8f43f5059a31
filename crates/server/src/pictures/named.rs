//! Pictures that clients may refer to by a name of theirs.

use std::sync::{Arc, Mutex, PoisonError};

use super::keys::NameKey;
use super::lru::ByteLru;

/// What a name takes beside its file, generously: the bound holds for tiny files too.
const ENTRY_BYTES: usize = 512;

/// Files by name, as they came. A name says nothing about what is in its file: that goes the way
/// of any other file each time, and caches know it by its content alone.
#[derive(Debug)]
pub(super) struct NamedPictures {
    files: Mutex<ByteLru<NameKey, Arc<[u8]>>>,
}

impl NamedPictures {
    /// Keeps files of `limit` bytes in all.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            files: Mutex::new(ByteLru::new(limit)),
        }
    }

    /// The file that was kept under this name last, if it still is.
    pub(super) fn find(&self, name: &NameKey) -> Option<Arc<[u8]>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.get(name).cloned()
    }

    /// Keeps a file, in the place of any other under the name.
    pub(super) fn keep(&self, name: NameKey, file: Arc<[u8]>) {
        let bytes = file.len().saturating_add(ENTRY_BYTES);
        let gone = {
            let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            files.insert(name, file, bytes)
        };
        drop(gone);
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> usize {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::Owner;
    use super::*;

    #[test]
    fn a_name_leads_to_what_it_was_given_last() {
        let named = NamedPictures::new(2 * (ENTRY_BYTES + 10));
        let name = |uuid: &str| NameKey::of(&Owner::default(), uuid);
        let file = |byte: u8, length: usize| -> Arc<[u8]> { vec![byte; length].into() };
        named.keep(name("a"), file(1, 10));
        named.keep(name("a"), file(2, 10));
        assert_eq!(named.find(&name("a")), Some(file(2, 10)));
        assert_eq!(named.bytes(), ENTRY_BYTES + 10);
        named.keep(name("b"), file(3, 10));
        named.keep(name("c"), file(4, 10));
        assert_eq!(named.find(&name("a")), None, "no longer");
        assert_eq!(named.find(&name("b")), Some(file(3, 10)));
        // One that cannot be kept does not leave an older one behind.
        named.keep(name("b"), file(5, 4 * ENTRY_BYTES));
        assert_eq!(named.find(&name("b")), None);
    }
}
