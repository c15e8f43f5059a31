//! Answers as Anthropic's events: `message_start`, then each block between `content_block_start`
//! and `content_block_stop`, then `message_delta` and `message_stop`, or `error` at any place.

use axum::response::Response;
use axum::response::sse::{Event, KeepAlive};
use serde_json::Map;
use vlmd_api::anthropic::{
    ApiError, ApiErrorType, BlockDelta, ContentBlock, MessageBody, MessageDelta, StopReason,
    StreamEvent,
};
use vlmd_api::{ToolCallDelta, Usage};

use crate::answer::Piece;
use crate::error::Refusal;
use crate::generation::Generation;
use crate::narrate::{self, Narrator};
use crate::sse::KEEP_ALIVE;

/// Sends an answer while it is written.
pub(crate) fn respond(generation: Generation, model: String) -> Response {
    let message = MessageBody::opening(model, (&generation.usage()).into());
    let opening = [StreamEvent::MessageStart { message }, StreamEvent::Ping {}];
    let opening = opening.iter().map(frame).collect();
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let keep_alive = keep_alive.event(frame(&StreamEvent::Ping {}));
    narrate::respond(generation, opening, Blocks::default(), keep_alive)
}

fn frame(event: &StreamEvent) -> Event {
    narrate::frame(event.name(), event)
}

/// The blocks of an answer while they come.
#[derive(Debug, Default)]
struct Blocks {
    begun: usize,
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Text,
    Call,
}

impl Narrator for Blocks {
    fn piece(&mut self, piece: Piece, usage: &Usage) -> Vec<Event> {
        self.events(piece, usage).iter().map(frame).collect()
    }

    fn broken(&mut self, refusal: &Refusal) -> Vec<Event> {
        let error = ApiError {
            r#type: ApiErrorType::of_status(refusal.status().as_u16()),
            message: refusal.body().error.message,
        };
        vec![frame(&StreamEvent::Error { error })]
    }
}

impl Blocks {
    fn events(&mut self, piece: Piece, usage: &Usage) -> Vec<StreamEvent> {
        let mut events = Vec::new();
        if !piece.text.is_empty() {
            self.text(&mut events);
            let delta = BlockDelta::TextDelta { text: piece.text };
            self.delta(delta, &mut events);
        }
        for call in piece.calls {
            self.call(call, &mut events);
        }
        if let Some(end) = piece.end {
            if self.begun == 0 {
                self.text(&mut events);
            }
            self.close(&mut events);
            let (stop_reason, stop_sequence) = StopReason::of(end.reason, end.stop.as_ref());
            let delta = MessageDelta {
                stop_reason: Some(stop_reason),
                stop_sequence,
            };
            let usage = usage.into();
            events.push(StreamEvent::MessageDelta { delta, usage });
            events.push(StreamEvent::MessageStop {});
        }
        events
    }

    fn text(&mut self, events: &mut Vec<StreamEvent>) {
        if self.open != Some(Open::Text) {
            let text = String::new();
            self.start(Open::Text, ContentBlock::Text { text }, events);
        }
    }

    fn call(&mut self, call: ToolCallDelta, events: &mut Vec<StreamEvent>) {
        if let (Some(id), Some(name)) = (call.id, call.function.name) {
            let input = Map::new();
            let block = ContentBlock::ToolUse { id, name, input };
            self.start(Open::Call, block, events);
        }
        let partial_json = call.function.arguments;
        if self.open == Some(Open::Call) && !partial_json.is_empty() {
            self.delta(BlockDelta::InputJsonDelta { partial_json }, events);
        }
    }

    fn start(&mut self, open: Open, content_block: ContentBlock, events: &mut Vec<StreamEvent>) {
        self.close(events);
        events.push(StreamEvent::ContentBlockStart {
            index: self.begun,
            content_block,
        });
        self.begun += 1;
        self.open = Some(open);
    }

    fn delta(&self, delta: BlockDelta, events: &mut Vec<StreamEvent>) {
        let index = self.begun.saturating_sub(1);
        events.push(StreamEvent::ContentBlockDelta { index, delta });
    }

    fn close(&mut self, events: &mut Vec<StreamEvent>) {
        if self.open.take().is_some() {
            let index = self.begun.saturating_sub(1);
            events.push(StreamEvent::ContentBlockStop { index });
        }
    }
}

#[cfg(test)]
mod tests {
    use vlmd_api::FinishReason;

    use super::*;
    use crate::answer::End;

    fn text(text: &str) -> Piece {
        Piece {
            text: text.into(),
            ..Piece::default()
        }
    }

    fn calls(calls: Vec<ToolCallDelta>) -> Piece {
        Piece {
            calls,
            ..Piece::default()
        }
    }

    fn end() -> Piece {
        let end = End {
            reason: FinishReason::Stop,
            stop: None,
        };
        Piece {
            end: Some(end),
            ..Piece::default()
        }
    }

    /// Names of the events, those of blocks with their index.
    fn told(pieces: Vec<Piece>) -> Vec<String> {
        let mut blocks = Blocks::default();
        let usage = Usage::new(1, 1);
        let events = pieces
            .into_iter()
            .flat_map(|piece| blocks.events(piece, &usage));
        events
            .map(|event| match &event {
                StreamEvent::ContentBlockStart { index, .. } => format!("start {index}"),
                StreamEvent::ContentBlockDelta { index, .. } => format!("delta {index}"),
                StreamEvent::ContentBlockStop { index } => format!("stop {index}"),
                other => other.name().to_owned(),
            })
            .collect()
    }

    #[test]
    fn every_block_is_opened_once_and_closed() {
        let open = |index| ToolCallDelta::opening(index, "c".into(), "look".into());
        let more = |index| ToolCallDelta::arguments(index, "{}".into());
        let pieces = vec![
            text("a"),
            text("b"),
            text(""),
            calls(vec![open(0), more(0), open(1)]),
            calls(vec![more(1)]),
            end(),
        ];
        let expected = "start 0,delta 0,delta 0,stop 0,start 1,delta 1,stop 1,start 2,delta 2,stop 2,\
            message_delta,message_stop";
        assert_eq!(told(pieces).join(","), expected);
    }

    #[test]
    fn silence_is_an_empty_text() {
        let expected = "start 0,stop 0,message_delta,message_stop";
        assert_eq!(told(vec![end()]).join(","), expected);
    }
}
