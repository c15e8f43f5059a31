//! The books of the assets: whose they are, what they take, when they end.
//!
//! Without clock and lock: every call is told the time.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use subtle::ConstantTimeEq as _;
use uuid::Uuid;
use vlmd_api::AssetId;

use super::limits::AssetLimits;
use super::refusal::{AssetRefusal, Quota};
use crate::auth::Caller;

/// Whose assets are meant: those of an API key, or everybody's where the server has none.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Owner(Option<[u8; 32]>);

impl From<Option<Caller>> for Owner {
    fn from(caller: Option<Caller>) -> Self {
        Self(caller.map(|caller| *caller.as_bytes()))
    }
}

/// Not the digest: a weak key could be guessed from it.
impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Owner(..)")
    }
}

/// What lets someone upload: 122 random bits.
#[derive(Clone, Copy)]
pub(super) struct Token(Uuid);

impl Token {
    fn fresh() -> Self {
        Self(Uuid::new_v4())
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    pub(super) fn text(self) -> String {
        self.0.simple().to_string()
    }

    /// In a time that does not depend on the difference.
    fn matches(self, other: Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What is known of an asset beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) content_type: Arc<str>,
    pub(crate) description: Arc<str>,
    pub(crate) created: SystemTime,
}

struct Entry {
    owner: Owner,
    about: About,
    token: Token,
    /// `None` is never.
    end: Option<Instant>,
    /// Orders those that were made at the same time.
    number: u64,
    file: Option<Arc<[u8]>>,
}

/// Bytes and assets, or the most of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    bytes: usize,
    count: usize,
}

/// All assets.
pub(super) struct Ledger {
    limits: AssetLimits,
    entries: HashMap<AssetId, Entry>,
    owners: HashMap<Owner, Usage>,
    all: Usage,
    made: u64,
    /// Whether somebody will come and [`Self::sweep`].
    pub(super) swept: bool,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("limits", &self.limits)
            .field("all", &self.all)
            .finish_non_exhaustive()
    }
}

impl Ledger {
    pub(super) fn new(limits: AssetLimits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            owners: HashMap::new(),
            all: Usage::default(),
            made: 0,
            swept: false,
        }
    }

    /// Bytes of all assets, those that are on their way included.
    pub(super) fn bytes(&self) -> usize {
        self.all.bytes
    }

    /// Makes an asset without bytes.
    pub(super) fn create(
        &mut self,
        owner: Owner,
        about: About,
        now: Instant,
    ) -> Result<(AssetId, Token), AssetRefusal> {
        self.sweep(now);
        self.take(owner, Usage { bytes: 0, count: 1 }, now)?;
        let (id, token) = (AssetId::fresh(), Token::fresh());
        self.made += 1;
        let entry = Entry {
            owner,
            about,
            token,
            end: now.checked_add(self.limits.ttl),
            number: self.made,
            file: None,
        };
        self.entries.insert(id, entry);
        Ok((id, token))
    }

    /// The assets of an owner, oldest first.
    pub(super) fn list(&mut self, owner: Owner, now: Instant) -> Vec<(AssetId, About)> {
        self.sweep(now);
        let own = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.owner == owner);
        let mut own: Vec<_> = own.collect();
        own.sort_unstable_by_key(|(_, entry)| entry.number);
        own.into_iter()
            .map(|(id, entry)| (*id, entry.about.clone()))
            .collect()
    }

    /// An asset of an owner.
    pub(super) fn about(&mut self, owner: Owner, id: AssetId, now: Instant) -> Option<About> {
        Some(self.own(owner, id, now)?.about.clone())
    }

    /// Bytes of an asset of an owner, if they have come; `None` for an unknown one.
    pub(super) fn file(
        &mut self,
        owner: Owner,
        id: AssetId,
        now: Instant,
    ) -> Option<Option<Arc<[u8]>>> {
        Some(self.own(owner, id, now)?.file.clone())
    }

    fn own(&mut self, owner: Owner, id: AssetId, now: Instant) -> Option<&Entry> {
        self.sweep(now);
        self.entries.get(&id).filter(|entry| entry.owner == owner)
    }

    /// Deletes an asset of an owner; whether there was one.
    pub(super) fn delete(&mut self, owner: Owner, id: AssetId, now: Instant) -> bool {
        let found = self.own(owner, id, now).is_some();
        if found {
            self.remove(id);
        }
        found
    }

    /// Whose asset a token belongs to.
    pub(super) fn upload(
        &mut self,
        id: AssetId,
        token: Token,
        now: Instant,
    ) -> Option<(Owner, About)> {
        self.sweep(now);
        let entry = self.entries.get(&id)?;
        let matches = entry.token.matches(token);
        matches.then(|| (entry.owner, entry.about.clone()))
    }

    /// Counts bytes of an owner that are on their way.
    pub(super) fn reserve(
        &mut self,
        owner: Owner,
        bytes: usize,
        now: Instant,
    ) -> Result<(), AssetRefusal> {
        self.sweep(now);
        self.take(owner, Usage { bytes, count: 0 }, now)
    }

    /// Gives back what was reserved and not kept.
    pub(super) fn release(&mut self, owner: Owner, bytes: usize) {
        self.give_back(owner, Usage { bytes, count: 0 });
    }

    /// Makes reserved bytes those of an asset, in the place of any that it had; `false` if there
    /// is no such asset any more, and what was reserved remains so.
    pub(super) fn keep(&mut self, id: AssetId, file: Arc<[u8]>, now: Instant) -> bool {
        self.sweep(now);
        let Some(entry) = self.entries.get_mut(&id) else {
            return false;
        };
        let owner = entry.owner;
        if let Some(older) = entry.file.replace(file) {
            self.release(owner, older.len());
        }
        true
    }

    /// Drops what has come to its end.
    pub(super) fn sweep(&mut self, now: Instant) {
        let ended = |entry: &Entry| entry.end.is_some_and(|end| end <= now);
        let ended: Vec<_> = self
            .entries
            .iter()
            .filter_map(|(id, entry)| ended(entry).then_some(*id))
            .collect();
        for id in ended {
            self.remove(id);
        }
    }

    /// When the next asset comes to its end.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.entries.values().filter_map(|entry| entry.end).min()
    }

    fn remove(&mut self, id: AssetId) {
        if let Some(entry) = self.entries.remove(&id) {
            let bytes = entry.file.map_or(0, |file| file.len());
            self.give_back(entry.owner, Usage { bytes, count: 1 });
        }
    }

    fn take(&mut self, owner: Owner, more: Usage, now: Instant) -> Result<(), AssetRefusal> {
        let limits = self.limits;
        let own = self.owners.get(&owner).copied().unwrap_or_default();
        let bound = |used: usize, more: usize, limit: usize| more > limit.saturating_sub(used);
        let (quota, retry_after) = if bound(own.bytes, more.bytes, limits.owner_bytes) {
            (
                Quota::OwnerBytes(limits.owner_bytes),
                self.wait(Some(owner), now),
            )
        } else if bound(own.count, more.count, limits.owner_count) {
            (
                Quota::OwnerCount(limits.owner_count),
                self.wait(Some(owner), now),
            )
        } else if bound(self.all.bytes, more.bytes, limits.bytes) {
            (Quota::Bytes(limits.bytes), self.wait(None, now))
        } else if bound(self.all.count, more.count, limits.count) {
            (Quota::Count(limits.count), self.wait(None, now))
        } else {
            let used = self.owners.entry(owner).or_default();
            for usage in [used, &mut self.all] {
                usage.bytes = usage.bytes.saturating_add(more.bytes);
                usage.count = usage.count.saturating_add(more.count);
            }
            return Ok(());
        };
        Err(AssetRefusal::Quota { quota, retry_after })
    }

    /// Time until the next asset ends, of an owner or of all.
    fn wait(&self, owner: Option<Owner>, now: Instant) -> Option<Duration> {
        let counts = |entry: &&Entry| owner.is_none_or(|owner| owner == entry.owner);
        let ends = self.entries.values().filter(counts);
        let next = ends.filter_map(|entry| entry.end).min()?;
        Some(next.saturating_duration_since(now))
    }

    fn give_back(&mut self, owner: Owner, less: Usage) {
        let used = self.owners.entry(owner).or_default();
        for usage in [&mut *used, &mut self.all] {
            usage.bytes = usage.bytes.saturating_sub(less.bytes);
            usage.count = usage.count.saturating_sub(less.count);
        }
        if *used == Usage::default() {
            self.owners.remove(&owner);
        }
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
