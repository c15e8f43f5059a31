//! Responses as server-sent events.

use axum::response::Response;
use axum::response::sse::{Event, KeepAlive};
use vlmd_api::Usage;
use vlmd_api::responses::ResponseEvent;

use super::Writer;
use crate::answer::Piece;
use crate::error::Refusal;
use crate::generation::Generation;
use crate::narrate::{self, Narrator};
use crate::sse::KEEP_ALIVE;

/// Hands over a response that has ended; tells whether it is kept.
type Keep = Box<dyn FnOnce(&Writer) -> bool + Send>;

/// Sends a response while it is written, and hands it to `keep` when it has ended.
pub(crate) fn respond(generation: Generation, mut writer: Writer, keep: Option<Keep>) -> Response {
    let opening = writer.opening().iter().map(frame).collect();
    let told = Told { writer, keep };
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("ping");
    narrate::respond(generation, opening, told, keep_alive)
}

struct Told {
    writer: Writer,
    keep: Option<Keep>,
}

impl Narrator for Told {
    fn piece(&mut self, piece: Piece, usage: &Usage) -> Vec<Event> {
        let is_end = piece.end.is_some();
        let mut events = self.writer.piece(piece, usage);
        if is_end {
            self.hand_over(&mut events);
        }
        events.iter().map(frame).collect()
    }

    fn broken(&mut self, refusal: &Refusal) -> Vec<Event> {
        let mut events = self.writer.broken(refusal);
        self.hand_over(&mut events);
        events.iter().map(frame).collect()
    }
}

impl Told {
    /// Has the response kept; the last of its events say so if it is not.
    fn hand_over(&mut self, events: &mut [ResponseEvent]) {
        if let Some(keep) = self.keep.take()
            && !keep(&self.writer)
        {
            for event in events {
                event.kind.note_unkept();
            }
        }
    }
}

fn frame(event: &ResponseEvent) -> Event {
    narrate::frame(event.kind.name(), event)
}
