//! Places for fetches: so many over all, and so many for each host.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::MediaError;

/// Hosts that are known at a time before those that nobody asks any more are forgotten.
const FORGET_BEYOND: usize = 256;

/// Where fetches wait for their turn.
#[derive(Debug)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    per_host: usize,
    hosts: Mutex<HashMap<String, Weak<Semaphore>>>,
    patience: Duration,
}

/// A place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _all: OwnedSemaphorePermit,
    _host: OwnedSemaphorePermit,
    /// Known as long as somebody is there.
    _known: Arc<Semaphore>,
}

impl Places {
    /// `all` places, `per_host` of them for one host, each waited for up to `patience`.
    pub(crate) fn new(all: usize, per_host: usize, patience: Duration) -> Self {
        let all = all.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            all: Arc::new(Semaphore::new(all)),
            per_host: per_host.clamp(1, all),
            hosts: Mutex::default(),
            patience,
        }
    }

    /// Waits for a place to fetch from `host`.
    ///
    /// # Errors
    /// [`MediaError::Busy`] if there is none in time.
    pub(crate) async fn wait(&self, host: &str) -> Result<Place, MediaError> {
        let known = self.of(host);
        // The host's first: who waits for a busy host takes no place from others.
        let places = async {
            let host = Arc::clone(&known).acquire_owned().await?;
            let all = Arc::clone(&self.all).acquire_owned().await?;
            Ok::<_, tokio::sync::AcquireError>((host, all))
        };
        match tokio::time::timeout(self.patience, places).await {
            Ok(Ok((host, all))) => Ok(Place {
                _all: all,
                _host: host,
                _known: known,
            }),
            Ok(Err(error)) => {
                tracing::error!(%error, "the places for fetches are closed");
                Err(MediaError::Internal)
            }
            Err(_) => Err(MediaError::Busy),
        }
    }

    fn of(&self, host: &str) -> Arc<Semaphore> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = hosts.get(host).and_then(Weak::upgrade) {
            return known;
        }
        if hosts.len() >= FORGET_BEYOND {
            hosts.retain(|_, places| places.strong_count() > 0);
        }
        let places = Arc::new(Semaphore::new(self.per_host));
        hosts.insert(host.to_owned(), Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_busy_host_leaves_places_for_others() {
        let places = Places::new(3, 2, PATIENCE);
        let held = [places.wait("slow").await, places.wait("slow").await];
        assert_eq!(places.wait("slow").await.unwrap_err(), MediaError::Busy);
        let other = places.wait("other").await.unwrap();
        assert_eq!(places.wait("third").await.unwrap_err(), MediaError::Busy);
        drop(other);
        assert!(places.wait("third").await.is_ok());
        drop(held);
        assert!(places.wait("slow").await.is_ok());
    }

    #[tokio::test]
    async fn who_waits_for_a_busy_host_takes_nothing_from_others() {
        let places = Places::new(2, 1, Duration::from_secs(60));
        let held = places.wait("slow").await.unwrap();
        let mut waiting = Box::pin(places.wait("slow"));
        assert!(futures::poll!(&mut waiting).is_pending());
        assert!(places.wait("other").await.is_ok());
        drop(held);
        assert!(waiting.await.is_ok());
    }

    #[tokio::test]
    async fn hosts_that_nobody_asks_are_forgotten() {
        let places = Places::new(8, 8, PATIENCE);
        let held = places.wait("kept").await.unwrap();
        for number in 0..10 * FORGET_BEYOND {
            places.wait(&number.to_string()).await.unwrap();
        }
        let hosts = places.hosts.lock().unwrap();
        assert!(hosts.len() <= FORGET_BEYOND, "{}", hosts.len());
        assert!(hosts.contains_key("kept"));
        drop(held);
    }
}
