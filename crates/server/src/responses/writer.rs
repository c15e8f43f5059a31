//! From the pieces of an answer to a response, and the events that tell of it.

use vlmd_api::responses::{
    EventKind, IncompleteDetails, ItemStatus, OutputItem, OutputText, ResponseEvent,
    ResponseObject, Status, item_id, message_id,
};
use vlmd_api::{FinishReason, TokenLogprob, ToolCallDelta, Usage};

use crate::answer::Piece;
use crate::error::Refusal;
use crate::state::unix_time;

/// A response while it is written.
#[derive(Debug)]
pub(crate) struct Writer {
    response: ResponseObject,
    open: Option<Open>,
    /// Of tokens whose text is not out yet.
    withheld: Vec<TokenLogprob>,
    has_logprobs: bool,
    next_event: u64,
}

/// The item that is being written.
#[derive(Debug)]
enum Open {
    Text {
        id: String,
        text: String,
        logprobs: Vec<TokenLogprob>,
    },
    Call {
        id: String,
        call_id: String,
        name: String,
        arguments: String,
    },
}

impl Writer {
    /// Begins with a response that has no output.
    pub(crate) fn new(response: ResponseObject, has_logprobs: bool) -> Self {
        Self {
            response,
            open: None,
            withheld: Vec::new(),
            has_logprobs,
            next_event: 0,
        }
    }

    /// The response so far.
    pub(crate) fn response(&self) -> &ResponseObject {
        &self.response
    }

    /// Notes that the response could not be kept.
    pub(crate) fn note_unkept(&mut self) {
        self.response.settings.store = false;
    }

    /// The first events.
    pub(crate) fn opening(&mut self) -> Vec<ResponseEvent> {
        let response = self.response.clone();
        let kinds = vec![
            EventKind::Created {
                response: response.clone(),
            },
            EventKind::InProgress { response },
        ];
        self.number(kinds)
    }

    /// The events of the next piece; with the last one, of the end.
    pub(crate) fn piece(&mut self, mut piece: Piece, usage: &Usage) -> Vec<ResponseEvent> {
        let mut kinds = Vec::new();
        if self.has_logprobs {
            self.withheld.append(&mut piece.logprobs);
        }
        if !piece.text.is_empty() {
            self.text(piece.text, &mut kinds);
        }
        for call in piece.calls {
            self.call(call, &mut kinds);
        }
        if let Some(end) = piece.end {
            if self.response.output.is_empty() && self.open.is_none() {
                self.open_text(&mut kinds);
            }
            let is_cut = end.reason == FinishReason::Length;
            let status = if is_cut {
                ItemStatus::Incomplete
            } else {
                ItemStatus::Completed
            };
            self.close(status, &mut kinds);
            self.response.usage = Some(usage.into());
            if is_cut {
                self.response.status = Status::Incomplete;
                self.response.incomplete_details = Some(IncompleteDetails {
                    reason: "max_output_tokens",
                });
                let response = self.response.clone();
                kinds.push(EventKind::Incomplete { response });
            } else {
                self.response.status = Status::Completed;
                self.response.completed_at = Some(unix_time());
                let response = self.response.clone();
                kinds.push(EventKind::Completed { response });
            }
        }
        self.number(kinds)
    }

    /// The events of an answer that broke off. What there is of it stays.
    pub(crate) fn broken(&mut self, refusal: &Refusal) -> Vec<ResponseEvent> {
        let mut kinds = Vec::new();
        self.close(ItemStatus::Incomplete, &mut kinds);
        self.response.status = Status::Failed;
        self.response.error = Some(refusal.body().error.into());
        let response = self.response.clone();
        kinds.push(EventKind::Failed { response });
        self.number(kinds)
    }

    fn text(&mut self, delta: String, kinds: &mut Vec<EventKind>) {
        if !matches!(self.open, Some(Open::Text { .. })) {
            self.close(ItemStatus::Completed, kinds);
            self.open_text(kinds);
        }
        let output_index = self.response.output.len();
        if let Some(Open::Text { id, text, logprobs }) = &mut self.open {
            text.push_str(&delta);
            let new = std::mem::take(&mut self.withheld);
            logprobs.extend_from_slice(&new);
            kinds.push(EventKind::TextDelta {
                item_id: id.clone(),
                output_index,
                content_index: 0,
                delta,
                logprobs: new,
            });
        }
    }

    fn open_text(&mut self, kinds: &mut Vec<EventKind>) {
        let id = message_id();
        let output_index = self.response.output.len();
        kinds.push(EventKind::ItemAdded {
            output_index,
            item: OutputItem::message(id.clone(), ItemStatus::InProgress, Vec::new()),
        });
        kinds.push(EventKind::PartAdded {
            item_id: id.clone(),
            output_index,
            content_index: 0,
            part: OutputText::new(String::new(), Vec::new()),
        });
        self.open = Some(Open::Text {
            id,
            text: String::new(),
            logprobs: Vec::new(),
        });
    }

    fn call(&mut self, call: ToolCallDelta, kinds: &mut Vec<EventKind>) {
        if let (Some(call_id), Some(name)) = (call.id, call.function.name) {
            self.close(ItemStatus::Completed, kinds);
            let id = item_id();
            kinds.push(EventKind::ItemAdded {
                output_index: self.response.output.len(),
                item: OutputItem::FunctionCall {
                    id: id.clone(),
                    call_id: call_id.clone(),
                    name: name.clone(),
                    arguments: String::new(),
                    status: ItemStatus::InProgress,
                },
            });
            self.open = Some(Open::Call {
                id,
                call_id,
                name,
                arguments: String::new(),
            });
        }
        let output_index = self.response.output.len();
        let delta = call.function.arguments;
        if let Some(Open::Call { id, arguments, .. }) = &mut self.open
            && !delta.is_empty()
        {
            arguments.push_str(&delta);
            kinds.push(EventKind::ArgumentsDelta {
                item_id: id.clone(),
                output_index,
                delta,
            });
        }
    }

    /// Ends the item that is being written, if there is one.
    fn close(&mut self, status: ItemStatus, kinds: &mut Vec<EventKind>) {
        let output_index = self.response.output.len();
        let item = match self.open.take() {
            None => return,
            Some(Open::Text {
                id,
                text,
                mut logprobs,
            }) => {
                // Of tokens without text: the one that ends an answer.
                logprobs.append(&mut self.withheld);
                let part = OutputText::new(text, logprobs);
                kinds.push(EventKind::TextDone {
                    item_id: id.clone(),
                    output_index,
                    content_index: 0,
                    text: part.text.clone(),
                    logprobs: part.logprobs.clone(),
                });
                kinds.push(EventKind::PartDone {
                    item_id: id.clone(),
                    output_index,
                    content_index: 0,
                    part: part.clone(),
                });
                OutputItem::message(id, status, vec![part])
            }
            Some(Open::Call {
                id,
                call_id,
                name,
                arguments,
            }) => {
                self.withheld.clear();
                kinds.push(EventKind::ArgumentsDone {
                    item_id: id.clone(),
                    output_index,
                    name: name.clone(),
                    arguments: arguments.clone(),
                });
                OutputItem::FunctionCall {
                    id,
                    call_id,
                    name,
                    arguments,
                    status,
                }
            }
        };
        kinds.push(EventKind::ItemDone {
            output_index,
            item: item.clone(),
        });
        self.response.output.push(item);
    }

    fn number(&mut self, kinds: Vec<EventKind>) -> Vec<ResponseEvent> {
        kinds
            .into_iter()
            .map(|kind| {
                let sequence_number = self.next_event;
                self.next_event += 1;
                ResponseEvent {
                    sequence_number,
                    kind,
                }
            })
            .collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use vlmd_api::TopLogprob;
    use vlmd_api::responses::read_response;

    use super::*;
    use crate::answer::End;

    /// A response that has not begun.
    pub(in crate::responses) fn opening() -> ResponseObject {
        let read = read_response(br#"{"model": "m", "input": "hi"}"#).unwrap();
        ResponseObject::opening(read.settings, 7)
    }

    fn end(reason: FinishReason) -> Piece {
        Piece {
            end: Some(End { reason, stop: None }),
            ..Piece::default()
        }
    }

    fn text(text: &str) -> Piece {
        let token = TopLogprob::new(text.into(), -0.5);
        Piece {
            text: text.into(),
            logprobs: vec![TokenLogprob::new(token, Vec::new())],
            ..Piece::default()
        }
    }

    fn write(pieces: Vec<Piece>, has_logprobs: bool) -> (Vec<String>, ResponseObject) {
        let mut writer = Writer::new(opening(), has_logprobs);
        let mut events = writer.opening();
        let usage = Usage::new(3, 2);
        for piece in pieces {
            events.extend(writer.piece(piece, &usage));
        }
        let numbers: Vec<_> = events.iter().map(|event| event.sequence_number).collect();
        assert!(numbers.iter().copied().eq(0..events.len() as u64));
        let names = events.iter().map(|event| event.kind.name().to_owned());
        (names.collect(), writer.response().clone())
    }

    #[test]
    fn a_text_is_told_from_its_beginning_to_its_end() {
        let pieces = vec![text("a"), text("b"), end(FinishReason::Stop)];
        let (events, response) = write(pieces, true);
        let expected = [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed",
        ];
        assert_eq!(events, expected.map(|name| format!("response.{name}")));
        assert_eq!(response.status, Status::Completed);
        assert_eq!(response.usage.unwrap().total_tokens, 5);
        let [OutputItem::Message { content, .. }] = response.output.as_slice() else {
            panic!("{response:?}");
        };
        assert_eq!(content[0].text, "ab");
        assert_eq!(content[0].logprobs.len(), 2);
    }

    #[test]
    fn calls_are_items_of_their_own() {
        let calls = vec![
            ToolCallDelta::opening(0, "c0".into(), "look".into()),
            ToolCallDelta::arguments(0, "{}".into()),
            ToolCallDelta::opening(1, "c1".into(), "look".into()),
        ];
        let calls = Piece {
            calls,
            ..Piece::default()
        };
        let (events, response) = write(vec![text("a"), calls, end(FinishReason::ToolCalls)], false);
        assert_eq!(response.output.len(), 3);
        let count = |name: &str| events.iter().filter(|event| event.ends_with(name)).count();
        assert_eq!(count("output_item.added"), 3);
        assert_eq!(count("output_item.done"), 3);
        assert_eq!(count("function_call_arguments.delta"), 1);
        assert_eq!(count("function_call_arguments.done"), 2);
        let OutputItem::Message { content, .. } = &response.output[0] else {
            panic!("{response:?}");
        };
        assert!(content[0].logprobs.is_empty(), "not asked for");
    }

    #[test]
    fn what_is_cut_short_is_incomplete_and_silence_is_an_empty_text() {
        let (events, response) = write(vec![end(FinishReason::Length)], false);
        assert_eq!(events.last().unwrap(), "response.incomplete");
        assert_eq!(response.status, Status::Incomplete);
        assert!(matches!(
            response.output.as_slice(),
            [OutputItem::Message {
                status: ItemStatus::Incomplete,
                ..
            }]
        ));
    }

    #[test]
    fn what_breaks_off_says_why_and_keeps_what_there_is() {
        let mut writer = Writer::new(opening(), false);
        writer.piece(text("a"), &Usage::new(1, 1));
        let events = writer.broken(&Refusal::Internal);
        assert_eq!(events.last().unwrap().kind.name(), "response.failed");
        let response = writer.response();
        assert_eq!(response.error.as_ref().unwrap().code, "server_error");
        assert_eq!(response.output.len(), 1);
    }
}
