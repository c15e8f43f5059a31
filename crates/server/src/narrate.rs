//! One answer as the events of a dialect.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::response::Response;
use axum::response::sse::{Event, KeepAlive};
use futures::Stream;
use serde::Serialize;
use vlmd_api::Usage;

use crate::answer::Piece;
use crate::error::Refusal;
use crate::generation::Generation;
use crate::sse;

/// Tells an answer as a dialect does.
pub(crate) trait Narrator: Send + 'static {
    /// The events of the next piece; with the last one, of the end. `usage` is so far.
    fn piece(&mut self, piece: Piece, usage: &Usage) -> Vec<Event>;

    /// The events of an answer that broke off.
    fn broken(&mut self, refusal: &Refusal) -> Vec<Event>;
}

/// Sends an answer, and `opening` before it. The response body owns the generation, so a client
/// that goes away gives it up.
pub(crate) fn respond(
    generation: Generation,
    opening: VecDeque<Event>,
    narrator: impl Narrator,
    keep_alive: KeepAlive,
) -> Response {
    sse::response(frames(generation, opening, narrator), keep_alive)
}

/// A frame with its name.
pub(crate) fn frame(name: &str, event: &impl Serialize) -> Event {
    match Event::default().event(name).json_data(event) {
        Ok(frame) => frame,
        // Nothing in an event can fail to be written as JSON.
        Err(error) => {
            tracing::error!(%error, "an event was lost");
            Event::default().comment("lost")
        }
    }
}

fn frames(
    generation: Generation,
    opening: VecDeque<Event>,
    narrator: impl Narrator,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let start = (Some(generation), opening, narrator);
    futures::stream::unfold(
        start,
        |(mut generation, mut queue, mut narrator)| async move {
            loop {
                if let Some(event) = queue.pop_front() {
                    return Some((Ok(event), (generation, queue, narrator)));
                }
                // Nothing queued and nothing to come: the end.
                let running = generation.as_mut()?;
                match running.next().await {
                    Some(Ok((_, piece))) => {
                        let usage = running.usage();
                        queue.extend(narrator.piece(piece, &usage));
                    }
                    Some(Err(refusal)) => {
                        if refusal.status().is_server_error() {
                            tracing::error!(error = %refusal, "a stream broke off");
                        }
                        queue.extend(narrator.broken(&refusal));
                        generation = None;
                    }
                    None => generation = None,
                }
            }
        },
    )
}
