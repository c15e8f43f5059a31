//! The keys that open the server.

use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest as _, Sha256};
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};

use super::account::Account;
use super::file::{self, KeyFileError};
use super::watch::Stamp;

/// SHA-256 of a key.
pub(super) type Digest = [u8; 32];

/// The keys that open the server. Only their SHA-256 digests are kept. Clones share them, and see
/// when a key file has changed.
#[derive(Clone, Default)]
pub struct ApiKeys {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// What the command line or the environment gave; stays.
    given: Vec<Definition>,
    /// Where the others come from.
    file: Option<PathBuf>,
    /// That file as it was before it was first read.
    first_stamp: Option<Stamp>,
    current: RwLock<Arc<[Arc<Key>]>>,
}

/// A key as it was defined.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Definition {
    /// How logs and metrics call it.
    pub(super) name: String,
    pub(super) digest: Digest,
    pub(super) limits: KeyLimits,
    /// Keys with the same salt share what is cached of prompts and pictures; a key without one
    /// shares with none.
    pub(super) cache_salt: Option<String>,
}

/// How much the holder of a key may ask for. `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct KeyLimits {
    pub(super) requests_per_minute: Option<NonZeroU32>,
    pub(super) concurrent_requests: Option<NonZeroU32>,
}

/// A key in use.
pub(super) struct Key {
    pub(super) name: Arc<str>,
    pub(super) limits: KeyLimits,
    pub(super) caller: Caller,
    pub(super) account: Arc<Account>,
    digest: Digest,
}

impl ApiKeys {
    /// Takes keys without limits; empty ones are left out. Their names are `key-1`, `key-2`, ...
    pub fn new<K: AsRef<str>>(keys: impl IntoIterator<Item = K>) -> Self {
        let keys = keys.into_iter();
        let given = keys.filter(|key| !key.as_ref().is_empty()).zip(1_u32..);
        let given = given.map(|(key, number)| Definition {
            name: format!("key-{number}"),
            digest: digest(key.as_ref().as_bytes()),
            limits: KeyLimits::default(),
            cache_salt: None,
        });
        let given: Vec<_> = given.collect();
        let current = RwLock::new(in_use(given.clone(), &[]));
        Self {
            shared: Arc::new(Shared {
                given,
                file: None,
                first_stamp: None,
                current,
            }),
        }
    }

    /// Adds the keys of a file. It is read again when it changes; see the file's forms in
    /// `SECURITY.md`.
    ///
    /// # Errors
    /// When the file cannot be read, or is wrong, or has no key: a server that asks for none
    /// would be open.
    pub fn with_file(self, path: &Path) -> Result<Self, KeyFileError> {
        let keys = Self {
            shared: Arc::new(Shared {
                given: self.shared.given.clone(),
                file: Some(path.to_owned()),
                first_stamp: Stamp::of(path),
                current: RwLock::default(),
            }),
        };
        keys.reload()?;
        Ok(keys)
    }

    /// Whether every request is let in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.current().is_empty()
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.current().len()
    }

    /// The file that keys come from.
    pub(super) fn file(&self) -> Option<&Path> {
        self.shared.file.as_deref()
    }

    /// The file as it was before it was first read.
    pub(super) fn first_stamp(&self) -> Option<Stamp> {
        self.shared.first_stamp
    }

    /// All keys.
    pub(super) fn current(&self) -> Arc<[Arc<Key>]> {
        let current = self.shared.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the key file again, if there is one. Keys that stay keep their accounts: nobody gets
    /// a new minute's requests by it. Gives the number of keys.
    ///
    /// # Errors
    /// As [`Self::with_file`]; the keys are as before then.
    pub(super) fn reload(&self) -> Result<usize, KeyFileError> {
        let mut all = self.shared.given.clone();
        if let Some(path) = &self.shared.file {
            file::read(path, &mut all)?;
        }
        let before = self.current();
        let after = in_use(all, &before);
        let count = after.len();
        let mut current = self.shared.current.write();
        *current
            .as_deref_mut()
            .unwrap_or_else(|poisoned| poisoned.get_mut()) = after;
        Ok(count)
    }

    /// Whose key this is. Compares digests, all of them and in constant time, so that the time
    /// taken tells nothing about a key.
    pub(super) fn accept(&self, key: &[u8]) -> Option<Arc<Key>> {
        let given = digest(key);
        let keys = self.current();
        let mut found = u32::MAX;
        for (index, known) in (0_u32..).zip(keys.iter()) {
            found.conditional_assign(&index, known.digest.ct_eq(&given));
        }
        keys.get(usize::try_from(found).ok()?).cloned()
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({})", self.len())
    }
}

/// Puts keys to use, with the accounts of those that were there before.
fn in_use(definitions: Vec<Definition>, before: &[Arc<Key>]) -> Arc<[Arc<Key>]> {
    let account = |digest: &Digest| {
        let same = before.iter().find(|key| key.digest == *digest);
        same.map_or_else(Arc::default, |key| Arc::clone(&key.account))
    };
    let keys = definitions.into_iter().map(|definition| {
        Arc::new(Key {
            account: account(&definition.digest),
            caller: Caller::of(&definition),
            name: definition.name.into(),
            limits: definition.limits,
            digest: definition.digest,
        })
    });
    keys.collect()
}

/// SHA-256 of a key.
pub(super) fn digest(key: &[u8]) -> Digest {
    Sha256::digest(key).into()
}

/// For whom a request is made, where the server asks for keys: what is remembered of it serves
/// the same caller only. An extension of each request that was let in by a key.
///
/// The digest of the key that was presented, or of the salt that the key shares with others.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Caller([u8; 32]);

impl Caller {
    fn of(definition: &Definition) -> Self {
        match &definition.cache_salt {
            None => Self(definition.digest),
            // No key begins like this: none has a control character.
            Some(salt) => Self(digest(format!("cache salt\0{salt}").as_bytes())),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
impl From<[u8; 32]> for Caller {
    fn from(digest: [u8; 32]) -> Self {
        Self(digest)
    }
}

/// Not the digest: a weak key could be guessed from it.
impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Caller(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_keys_are_accepted() {
        let keys = ApiKeys::new(["alpha", "", "beta", "nvapi-Zm9v_bar-0"]);
        assert_eq!(keys.len(), 3);
        for (key, name) in [
            ("alpha", "key-1"),
            ("beta", "key-2"),
            ("nvapi-Zm9v_bar-0", "key-3"),
        ] {
            assert_eq!(&*keys.accept(key.as_bytes()).unwrap().name, name);
        }
        for wrong in [
            "",
            "alph",
            "alphaa",
            "ALPHA",
            "alpha\0",
            "alphabeta",
            "nvapi-",
        ] {
            assert!(keys.accept(wrong.as_bytes()).is_none(), "{wrong}");
        }
        assert!(ApiKeys::default().accept(b"").is_none());
    }

    #[test]
    fn callers_are_told_apart_unless_they_share_a_salt() {
        let caller = |key: &str, salt: Option<&str>| {
            Caller::of(&Definition {
                name: "n".into(),
                digest: digest(key.as_bytes()),
                limits: KeyLimits::default(),
                cache_salt: salt.map(str::to_owned),
            })
        };
        assert!(caller("a", None) != caller("b", None));
        assert!(caller("a", Some("s")) == caller("b", Some("s")));
        assert!(caller("a", Some("s")) != caller("a", Some("t")));
        assert!(caller("a", Some("s")) != caller("a", None));
        assert!(caller("a", Some("b")) != caller("b", None));
    }

    #[test]
    fn debug_output_shows_no_key() {
        let keys = ApiKeys::new(["alpha"]);
        assert_eq!(format!("{keys:?}"), "ApiKeys(1)");
        let caller = keys.accept(b"alpha").unwrap().caller;
        assert_eq!(format!("{caller:?}"), "Caller(..)");
    }
}
