//! Responses that are kept: by the API key that they were asked with, for some time, and within
//! bounds on their number and their bytes. What was used last stays longest.
//!
//! Everything is kept as JSON text: its bytes are what it takes. A conversation is a list of turns
//! that the responses along it share; each response counts all of them as its own, so that the
//! bound holds whichever of them are left.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use tokio_util::sync::{CancellationToken, DropGuard};
use vlmd_api::responses::{ResponseFailure, ResponseObject, Status};

use super::ResponseRefusal;
use crate::auth::Caller;

/// What a response takes beside its texts, generously.
const ENTRY_BYTES: usize = 1024;

/// What a turn takes beside its text in each response that has it.
const TURN_BYTES: usize = 16;

/// How long and how much of responses is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseMemory {
    /// Bytes of all that is kept (`--responses-store`); 0 keeps none.
    pub bytes: usize,
    /// Responses that are kept (`--responses-max`).
    pub count: usize,
    /// Time for which they are, from their end (`--responses-keep`).
    pub keep: Duration,
}

impl ResponseMemory {
    /// A few thousand short conversations, or some with photographs.
    pub const DEFAULT_BYTES: usize = 64 << 20;
    /// More than a busy hour's conversations that are still open.
    pub const DEFAULT_COUNT: usize = 4096;
    /// As long as somebody may think about an answer.
    pub const DEFAULT_KEEP: Duration = Duration::from_secs(3600);
}

impl Default for ResponseMemory {
    fn default() -> Self {
        Self {
            bytes: Self::DEFAULT_BYTES,
            count: Self::DEFAULT_COUNT,
            keep: Self::DEFAULT_KEEP,
        }
    }
}

/// Whose response it is, and its id.
type Key = (Option<Caller>, String);

/// The items of one request or one answer, as a JSON array.
type Turn = Arc<str>;

/// A response as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    /// The response as JSON.
    pub(crate) json: Arc<str>,
    pub(crate) status: Status,
}

#[derive(Debug)]
struct Entry {
    kept: Kept,
    /// What a later request goes on from, the answer included once it is there.
    turns: Vec<Turn>,
    /// Turns before the answer.
    inputs: usize,
    bytes: usize,
    /// Never, where the time is too long to be told.
    expires: Option<Instant>,
    /// Of one that runs in the background.
    run: Option<InBackground>,
    is_background: bool,
}

/// Ends the run when it is dropped: nobody could ask for its answer.
#[derive(Debug)]
struct InBackground {
    /// As it began.
    opening: ResponseObject,
    _guard: DropGuard,
}

/// A response that runs in the background.
#[derive(Debug)]
pub(crate) struct Run {
    key: Key,
    turns: Vec<Turn>,
    /// Cancelled when the response is given up or kept no longer.
    pub(crate) gone: CancellationToken,
}

/// Responses that may be asked for again.
#[derive(Debug)]
pub(crate) struct ResponseStore {
    memory: ResponseMemory,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    entries: LruCache<Key, Entry>,
    bytes: usize,
}

impl ResponseStore {
    pub(crate) fn new(memory: ResponseMemory) -> Self {
        let entries = LruCache::unbounded();
        Self {
            memory,
            inner: Mutex::new(Inner { entries, bytes: 0 }),
        }
    }

    /// Whether anything is kept.
    pub(crate) fn is_on(&self) -> bool {
        self.memory.bytes > 0 && self.memory.count > 0
    }

    /// Whether a response of no output, behind the turns before it, is not too large to be kept.
    pub(crate) fn has_room(&self, response: &ResponseObject, turns: &[Turn]) -> bool {
        self.is_on() && self.fits(&self.entry(response, turns.to_vec(), None))
    }

    /// Keeps a response that has ended, behind the turns before it; tells whether it is not too
    /// large.
    pub(crate) fn keep(
        &self,
        owner: Option<Caller>,
        response: &ResponseObject,
        turns: Vec<Turn>,
    ) -> bool {
        let key = (owner, response.id.clone());
        let entry = self.ended(response, turns);
        let fits = self.fits(&entry);
        if fits {
            drop(self.put(key, entry));
        }
        fits
    }

    /// Keeps a response that runs in the background from now on.
    pub(crate) fn begin(
        &self,
        owner: Option<Caller>,
        response: &ResponseObject,
        turns: Vec<Turn>,
    ) -> Result<Run, ResponseRefusal> {
        if !self.is_on() {
            return Err(ResponseRefusal::NoStore);
        }
        let gone = CancellationToken::new();
        let run = Run {
            key: (owner, response.id.clone()),
            turns: turns.clone(),
            gone: gone.clone(),
        };
        let in_background = InBackground {
            opening: response.clone(),
            _guard: gone.drop_guard(),
        };
        let entry = self.entry(response, turns, Some(in_background));
        if !self.fits(&entry) {
            return Err(ResponseRefusal::TooLarge {
                bytes: entry.bytes,
                limit: self.memory.bytes,
            });
        }
        drop(self.put(run.key.clone(), entry));
        Ok(run)
    }

    /// Puts the end of a response in the place of its beginning, unless that is gone. One whose
    /// output is too large to be kept has failed.
    pub(crate) fn end(&self, run: Run, response: &ResponseObject) {
        let Run {
            key,
            turns,
            gone: _,
        } = run;
        let mut entry = self.ended(response, turns.clone());
        if !self.fits(&entry) {
            let failed = ResponseObject {
                status: Status::Failed,
                completed_at: None,
                incomplete_details: None,
                output: Vec::new(),
                error: Some(ResponseFailure {
                    code: "server_error",
                    message: format!(
                        "a response of {} bytes cannot be kept, {} are at most \
                         (`--responses-store`)",
                        entry.bytes, self.memory.bytes
                    ),
                }),
                ..response.clone()
            };
            entry = self.ended(&failed, turns);
        }
        entry.is_background = true;
        let mut inner = self.lock();
        let runs = inner.entries.peek(&key).map(|entry| entry.run.is_some());
        let replaced = (runs == Some(true)).then(|| inner.put(&self.memory, key, entry));
        drop(inner);
        drop(replaced);
    }

    /// A response.
    pub(crate) fn get(&self, owner: Option<Caller>, id: &str) -> Result<Kept, ResponseRefusal> {
        let mut inner = self.lock();
        let entry = inner.get(&(owner, id.to_owned()));
        let kept = entry.map(|entry| entry.kept.clone());
        kept.ok_or_else(|| ResponseRefusal::Unknown(shown(id)))
    }

    /// The turns up to the end of a response.
    pub(crate) fn turns(
        &self,
        owner: Option<Caller>,
        id: &str,
    ) -> Result<Vec<Turn>, ResponseRefusal> {
        let mut inner = self.lock();
        let entry = inner.get(&(owner, id.to_owned()));
        let entry = entry.ok_or_else(|| ResponseRefusal::UnknownPrevious(shown(id)))?;
        let status = match entry.kept.status {
            Status::Completed | Status::Incomplete => return Ok(entry.turns.clone()),
            Status::InProgress => "in progress",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        };
        let id = shown(id);
        Err(ResponseRefusal::Unfinished { id, status })
    }

    /// The turns before the answer of a response.
    pub(crate) fn inputs(
        &self,
        owner: Option<Caller>,
        id: &str,
    ) -> Result<Vec<Turn>, ResponseRefusal> {
        let mut inner = self.lock();
        let entry = inner.get(&(owner, id.to_owned()));
        let inputs = entry.and_then(|entry| Some(entry.turns.get(..entry.inputs)?.to_vec()));
        inputs.ok_or_else(|| ResponseRefusal::Unknown(shown(id)))
    }

    /// All turns of all responses of `owner`, each once, those of what was used last first.
    pub(crate) fn all_turns(&self, owner: Option<Caller>) -> Vec<Turn> {
        let now = Instant::now();
        let inner = self.lock();
        let own = inner.entries.iter();
        let own = own.filter(|((of, _), entry)| *of == owner && !entry.is_over(now));
        let turns = own.flat_map(|(_, entry)| entry.turns.iter().rev());
        let mut seen = HashSet::new();
        let new = turns.filter(|turn| seen.insert(Arc::as_ptr(turn).cast::<u8>()));
        new.cloned().collect()
    }

    /// Gives up a response that runs in the background; one that has ended stays as it is.
    pub(crate) fn cancel(&self, owner: Option<Caller>, id: &str) -> Result<Kept, ResponseRefusal> {
        let key = (owner, id.to_owned());
        let mut inner = self.lock();
        let Some(entry) = inner.get(&key) else {
            return Err(ResponseRefusal::Unknown(shown(id)));
        };
        if !entry.is_background {
            return Err(ResponseRefusal::Foreground(shown(id)));
        }
        let Some(run) = entry.run.take() else {
            return Ok(entry.kept.clone());
        };
        let turns = std::mem::take(&mut entry.turns);
        let mut response = run.opening.clone();
        response.status = Status::Cancelled;
        let mut entry = self.entry(&response, turns, None);
        entry.is_background = true;
        let kept = entry.kept.clone();
        let replaced = inner.put(&self.memory, key, entry);
        drop(inner);
        drop(replaced);
        Ok(kept)
    }

    /// Forgets a response, and gives it up if it runs.
    pub(crate) fn delete(&self, owner: Option<Caller>, id: &str) -> Result<(), ResponseRefusal> {
        let gone = self.lock().remove(&(owner, id.to_owned()));
        match gone {
            Some(_) => Ok(()),
            None => Err(ResponseRefusal::Unknown(shown(id))),
        }
    }

    fn fits(&self, entry: &Entry) -> bool {
        entry.bytes <= self.memory.bytes
    }

    /// Of a response that has ended, behind the turns before it.
    fn ended(&self, response: &ResponseObject, mut turns: Vec<Turn>) -> Entry {
        turns.push(response.kept_output().into());
        let mut entry = self.entry(response, turns, None);
        entry.inputs = entry.inputs.saturating_sub(1);
        entry
    }

    fn entry(
        &self,
        response: &ResponseObject,
        turns: Vec<Turn>,
        run: Option<InBackground>,
    ) -> Entry {
        // Nothing in a response can fail to be written as JSON.
        let json: Arc<str> = serde_json::to_string(response).unwrap_or_default().into();
        let of_turn = |turn: &Turn| turn.len().saturating_add(TURN_BYTES);
        // The beginning of one that runs is there twice.
        let copies = if run.is_some() { 2 } else { 1 };
        let bytes = turns
            .iter()
            .map(of_turn)
            .fold(json.len().saturating_mul(copies), usize::saturating_add)
            .saturating_add(ENTRY_BYTES);
        Entry {
            kept: Kept {
                json,
                status: response.status,
            },
            inputs: turns.len(),
            turns,
            bytes,
            expires: Instant::now().checked_add(self.memory.keep),
            is_background: run.is_some(),
            run,
        }
    }

    /// Gives back what had to go, to be dropped where no lock is held.
    fn put(&self, key: Key, entry: Entry) -> Vec<Entry> {
        self.lock().put(&self.memory, key, entry)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn is_over(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

impl Inner {
    fn put(&mut self, memory: &ResponseMemory, key: Key, entry: Entry) -> Vec<Entry> {
        let now = Instant::now();
        let expired = self.entries.iter();
        let expired: Vec<Key> = expired
            .filter(|(_, entry)| entry.is_over(now))
            .map(|(key, _)| key.clone())
            .collect();
        let mut gone: Vec<Entry> = expired.iter().filter_map(|key| self.remove(key)).collect();
        gone.extend(self.remove(&key));
        if memory.count == 0 || entry.bytes > memory.bytes {
            gone.push(entry);
            return gone;
        }
        // The sum cannot overflow: all sizes together are at most the limit.
        while self.entries.len() >= memory.count || self.bytes > memory.bytes - entry.bytes {
            let Some((_, oldest)) = self.entries.pop_lru() else {
                break;
            };
            self.bytes -= oldest.bytes;
            gone.push(oldest);
        }
        self.bytes += entry.bytes;
        self.entries.put(key, entry);
        gone
    }

    fn get(&mut self, key: &Key) -> Option<&mut Entry> {
        let now = Instant::now();
        if self.entries.peek(key)?.is_over(now) {
            self.remove(key);
            return None;
        }
        self.entries.get_mut(key)
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.pop(key)?;
        self.bytes -= entry.bytes;
        Some(entry)
    }
}

/// An id, short enough to repeat.
fn shown(id: &str) -> String {
    id.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use vlmd_api::responses::{ItemStatus, OutputItem, OutputText};

    use super::super::writer::tests::opening;
    use super::*;

    const KEEP: Duration = Duration::from_secs(60);

    fn store(bytes: usize, count: usize, keep: Duration) -> ResponseStore {
        ResponseStore::new(ResponseMemory { bytes, count, keep })
    }

    fn ended() -> ResponseObject {
        ResponseObject {
            status: Status::Completed,
            ..opening()
        }
    }

    fn caller(byte: u8) -> Option<Caller> {
        Some(Caller::from([byte; 32]))
    }

    #[test]
    fn a_response_is_its_owners_alone() {
        let store = store(1 << 20, 10, KEEP);
        let response = ended();
        store.keep(caller(1), &response, vec!["[1]".into()]);
        assert!(store.get(caller(1), &response.id).is_ok());
        for other in [caller(2), None] {
            assert!(store.get(other, &response.id).is_err());
            assert!(store.turns(other, &response.id).is_err());
            assert!(store.cancel(other, &response.id).is_err());
            assert!(store.delete(other, &response.id).is_err());
        }
        let turns = store.turns(caller(1), &response.id).unwrap();
        assert_eq!(turns, [Turn::from("[1]"), Turn::from("[]")]);
        store.delete(caller(1), &response.id).unwrap();
        assert!(store.get(caller(1), &response.id).is_err());
        assert_eq!(store.lock().bytes, 0);
    }

    #[test]
    fn what_was_used_last_stays_within_every_bound() {
        let large = "x".repeat(10_000);
        for store in [store(1 << 20, 2, KEEP), store(30_000, 10, KEEP)] {
            let responses = [ended(), ended(), ended()];
            for (index, response) in responses.iter().enumerate() {
                store.keep(None, response, vec![large.as_str().into()]);
                if index == 1 {
                    store.get(None, &responses[0].id).unwrap();
                }
            }
            let found = responses.map(|response| store.get(None, &response.id).is_ok());
            assert_eq!(found, [true, false, true]);
        }
        let store = store(30_000, 10, KEEP);
        let turns = vec!["x".repeat(30_000).into()];
        assert!(!store.has_room(&opening(), &turns));
        assert!(!store.keep(None, &ended(), turns));
        assert_eq!(store.lock().entries.len(), 0);
    }

    #[test]
    fn inputs_and_items_are_an_owners() {
        let store = store(1 << 20, 10, KEEP);
        let (first, second) = (ended(), ended());
        store.keep(caller(1), &first, vec!["[1]".into()]);
        let mut turns = store.turns(caller(1), &first.id).unwrap();
        assert_eq!(
            store.inputs(caller(1), &first.id).unwrap(),
            [Turn::from("[1]")]
        );
        turns.push("[2]".into());
        store.keep(caller(1), &second, turns);
        assert_eq!(store.inputs(caller(1), &second.id).unwrap().len(), 3);
        let texts: Vec<_> = store
            .all_turns(caller(1))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            texts,
            ["[]", "[2]", "[]", "[1]"],
            "each once, the newest first"
        );
        for other in [caller(2), None] {
            assert!(store.inputs(other, &first.id).is_err());
            assert!(store.all_turns(other).is_empty());
        }
        let running = opening();
        let _run = store
            .begin(caller(1), &running, vec!["[3]".into()])
            .unwrap();
        assert_eq!(store.inputs(caller(1), &running.id).unwrap().len(), 1);
        store.cancel(caller(1), &running.id).unwrap();
        assert_eq!(store.inputs(caller(1), &running.id).unwrap().len(), 1);
    }

    #[test]
    fn what_runs_in_the_background_and_becomes_too_large_has_failed() {
        let store = store(20_000, 10, KEEP);
        let response = opening();
        let run = store.begin(None, &response, Vec::new()).unwrap();
        let text = OutputText::new("x".repeat(20_000), Vec::new());
        let large = ResponseObject {
            status: Status::Completed,
            output: vec![OutputItem::message(
                "m".into(),
                ItemStatus::Completed,
                vec![text],
            )],
            ..response.clone()
        };
        store.end(run, &large);
        let kept = store.get(None, &response.id).unwrap();
        assert_eq!(kept.status, Status::Failed);
        assert!(kept.json.contains("--responses-store"), "{}", kept.json);
    }

    #[test]
    fn what_is_old_is_gone() {
        let store = store(1 << 20, 10, Duration::ZERO);
        let response = ended();
        store.keep(None, &response, Vec::new());
        assert!(store.get(None, &response.id).is_err());
        store.keep(None, &ended(), Vec::new());
        assert_eq!(store.lock().entries.len(), 1, "swept when another came");
    }

    #[test]
    fn a_run_ends_with_its_place() {
        let store = store(1 << 20, 1, KEEP);
        let first = opening();
        let run = store.begin(None, &first, Vec::new()).unwrap();
        assert!(matches!(
            store.turns(None, &first.id),
            Err(ResponseRefusal::Unfinished { .. })
        ));
        let second = opening();
        let other = store.begin(None, &second, Vec::new()).unwrap();
        assert!(run.gone.is_cancelled(), "pushed out");
        store.end(
            run,
            &ResponseObject {
                status: Status::Completed,
                ..first.clone()
            },
        );
        assert!(store.get(None, &first.id).is_err(), "and stays out");
        let cancelled = store.cancel(None, &second.id).unwrap();
        assert_eq!(cancelled.status, Status::Cancelled);
        assert!(other.gone.is_cancelled());
        store.end(
            other,
            &ResponseObject {
                status: Status::Completed,
                ..second.clone()
            },
        );
        let kept = store.cancel(None, &second.id).unwrap();
        assert_eq!(kept.status, Status::Cancelled, "an end that comes late");
        assert!(kept.json.contains("\"cancelled\""));
    }

    #[test]
    fn only_what_runs_in_the_background_is_cancelled() {
        let store = store(1 << 20, 10, KEEP);
        let response = ended();
        store.keep(None, &response, Vec::new());
        let refused = store.cancel(None, &response.id);
        assert!(matches!(refused, Err(ResponseRefusal::Foreground(_))));
        let response = opening();
        let run = store.begin(None, &response, Vec::new()).unwrap();
        let done = ResponseObject {
            status: Status::Completed,
            ..response.clone()
        };
        store.end(run, &done);
        let kept = store.cancel(None, &response.id).unwrap();
        assert_eq!(kept.status, Status::Completed, "too late");
    }

    #[test]
    fn a_store_of_nothing_keeps_nothing() {
        let store = store(0, 10, KEEP);
        assert!(!store.is_on());
        let begun = store.begin(None, &opening(), Vec::new());
        assert!(matches!(begun, Err(ResponseRefusal::NoStore)));
    }
}
