//! Conversations that are too long, and may lose their beginning (`"truncation": "auto"`).

use std::sync::Arc;

use tokio::task::spawn_blocking;
use vlmd_api::responses::ReadResponse;
use vlmd_api::{RequestError, Translated};

use crate::entrance::Entrance;
use crate::error::Refusal;
use crate::state::AppState;

/// A request behind the turns that it goes on from, of which it may lose some.
#[derive(Debug, Clone)]
pub(crate) struct Shortening {
    pub(crate) read: Arc<ReadResponse>,
    pub(crate) turns: Arc<[Arc<str>]>,
}

impl Shortening {
    /// The request in chat's form without the fewest of the user's messages with which it fits:
    /// `None` if it does not fit even with the last one alone. All of them are known to be too
    /// many. The prompt is made a few times to find out; its pictures are remembered.
    pub(crate) async fn shortest(
        &self,
        state: &AppState,
        entrance: &Entrance,
    ) -> Result<Option<(ReadResponse, Translated)>, Refusal> {
        let counting = self.clone();
        let beginnings = spawn_blocking(move || counting.read.beginnings(&counting.turns));
        let beginnings = beginnings.await.map_err(|_| Refusal::Internal)??;
        let (mut too_few, mut enough) = (0, beginnings.saturating_sub(1));
        if enough == 0 || !self.fits(state, entrance, enough).await? {
            return Ok(None);
        }
        while enough - too_few > 1 {
            let middle = too_few.midpoint(enough);
            if self.fits(state, entrance, middle).await? {
                enough = middle;
            } else {
                too_few = middle;
            }
        }
        tracing::debug!(dropped = enough, "a conversation lost its beginning");
        self.without(enough).await.map(Some)
    }

    /// Whether there is room without the first `dropped` of the user's messages.
    async fn fits(
        &self,
        state: &AppState,
        entrance: &Entrance,
        dropped: usize,
    ) -> Result<bool, Refusal> {
        let (_, Translated { mut chat, names }) = self.without(dropped).await?;
        let wanted = chat.max_new_tokens().unwrap_or(1) as usize;
        match entrance.clone().count(state, &mut chat).await {
            Ok(tokens) => {
                let limit = entrance.model.engine.max_model_len();
                Ok(tokens.saturating_add(wanted) <= limit)
            }
            Err(refusal) if refusal.is_of_length() => Ok(false),
            Err(refusal) => Err(refusal.renamed(&names)),
        }
    }

    async fn without(&self, dropped: usize) -> Result<(ReadResponse, Translated), Refusal> {
        let Self { read, turns } = self.clone();
        // Whole conversations with their pictures: too much for an async worker.
        let work = spawn_blocking(move || {
            let mut read = (*read).clone();
            let translated = read.translate_from(&turns, dropped)?;
            Ok::<_, RequestError>((read, translated))
        });
        Ok(work.await.map_err(|_| Refusal::Internal)??)
    }
}
