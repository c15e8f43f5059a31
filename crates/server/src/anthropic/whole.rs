//! Answers that are sent once they are there.

use serde_json::{Map, Value};
use vlmd_api::anthropic::{ContentBlock, MessageBody, StopReason};
use vlmd_api::{FinishReason, ToolCall, Usage};

use crate::whole::WholeAnswer;

/// An answer in Anthropic's form.
pub(crate) fn message(model: String, answer: WholeAnswer, usage: &Usage) -> MessageBody {
    let (stop_reason, stop_sequence) = StopReason::of(answer.end.reason, answer.end.stop.as_ref());
    let mut content = Vec::new();
    // An answer without words or calls is an empty text: clients take the first block unseen.
    if !answer.text.is_empty() || answer.calls.is_empty() {
        content.push(ContentBlock::Text { text: answer.text });
    }
    let is_cut = answer.end.reason == FinishReason::Length;
    content.extend(
        answer
            .calls
            .into_iter()
            .filter_map(|call| block(call, is_cut)),
    );
    MessageBody {
        content,
        stop_reason: Some(stop_reason),
        stop_sequence,
        ..MessageBody::opening(model, usage.into())
    }
}

/// A call; none if it was cut short, as its input would be another than the one that was meant.
fn block(call: ToolCall, is_cut: bool) -> Option<ContentBlock> {
    let input = match serde_json::from_str::<Map<String, Value>>(&call.function.arguments) {
        Ok(input) => input,
        Err(_) if is_cut => return None,
        // A call without arguments at all.
        Err(_) => Map::new(),
    };
    Some(ContentBlock::ToolUse {
        id: call.id,
        name: call.function.name,
        input,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::answer::End;

    fn answer(text: &str, arguments: &[&str], reason: FinishReason) -> Value {
        let call = |arguments: &&str| {
            let mut call = ToolCall::new("c".into(), "look".into());
            call.function.arguments = (*arguments).to_owned();
            call
        };
        let answer = WholeAnswer {
            text: text.into(),
            calls: arguments.iter().map(call).collect(),
            logprobs: Vec::new(),
            entities: None,
            end: End { reason, stop: None },
        };
        json!(message("m".into(), answer, &Usage::new(3, 2)).content)
    }

    #[test]
    fn calls_stand_behind_the_text() {
        let look = json!({"type": "tool_use", "id": "c", "name": "look", "input": {"at": 1}});
        assert_eq!(
            answer("a", &[r#"{"at": 1}"#], FinishReason::ToolCalls),
            json!([{"type": "text", "text": "a"}, look])
        );
        assert_eq!(
            answer("", &[r#"{"at": 1}"#], FinishReason::ToolCalls),
            json!([look])
        );
    }

    #[test]
    fn a_call_that_was_cut_short_is_left_out() {
        let complete = r#"{"at": 1}"#;
        let content = answer("", &[complete, r#"{"at": "#], FinishReason::Length);
        assert_eq!(content.as_array().unwrap().len(), 1);
    }

    #[test]
    fn silence_is_an_empty_text() {
        let content = answer("", &[], FinishReason::Stop);
        assert_eq!(content, json!([{"type": "text", "text": ""}]));
    }
}
