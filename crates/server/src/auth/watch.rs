//! Key files that change while the server runs.

use std::fs::Metadata;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::ApiKeys;

/// How often the file is looked at.
const POLL: Duration = Duration::from_secs(2);

/// What changes with a file, however it is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

impl Stamp {
    /// Of the file behind all links: orchestrators replace secrets by moving one.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            modified: metadata.modified().ok(),
            len: metadata.len(),
            inode: inode(&metadata),
        })
    }
}

#[cfg(unix)]
fn inode(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}

impl ApiKeys {
    /// Reads the key file again whenever it has changed, and on SIGHUP whether or not. A file
    /// that is gone or wrong leaves the keys as they were. Never ends.
    pub(crate) async fn watch(&self) {
        let Some(path) = self.file() else {
            return std::future::pending().await;
        };
        let mut hangups = Hangups::new();
        let mut poll = interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A change since the file was first read counts, too.
        let mut known = self.first_stamp();
        loop {
            let asked = tokio::select! {
                () = hangups.next() => true,
                _ = poll.tick() => false,
            };
            let found = stamp(path).await;
            if asked || found != known {
                known = found;
                self.reload_and_tell(path).await;
            }
        }
    }

    async fn reload_and_tell(&self, path: &Path) {
        let keys = self.clone();
        match spawn_blocking(move || keys.reload()).await {
            Ok(Ok(count)) => tracing::info!(path = %path.display(), count, "API keys read again"),
            Ok(Err(error)) => {
                tracing::error!(%error, "API keys stay as they were: the new ones cannot be used");
            }
            Err(error) => tracing::error!(%error, "API keys stay as they were"),
        }
    }
}

async fn stamp(path: &Path) -> Option<Stamp> {
    let path = path.to_owned();
    spawn_blocking(move || Stamp::of(&path))
        .await
        .ok()
        .flatten()
}

/// The signals by which an operator asks for it.
#[cfg(unix)]
struct Hangups(Option<tokio::signal::unix::Signal>);

#[cfg(unix)]
impl Hangups {
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let signals = signal(SignalKind::hangup());
        if let Err(error) = &signals {
            tracing::warn!(%error, "SIGHUP is not listened to");
        }
        Self(signals.ok())
    }

    async fn next(&mut self) {
        let heard = match &mut self.0 {
            Some(signals) => signals.recv().await,
            None => None,
        };
        if heard.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(not(unix))]
struct Hangups;

#[cfg(not(unix))]
impl Hangups {
    fn new() -> Self {
        Self
    }

    async fn next(&mut self) {
        std::future::pending::<()>().await;
    }
}
