//! Calls of tools: whether a request may have them, and taking them out of its answers.
//!
//! A model writes its calls as text. Where a request has tools that may be called, the text of
//! each answer goes through the parser of the model's family ([`vlmd_text::ToolParser`]), streamed
//! or not; where it has none, nothing is looked for.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;
use vlmd_api::{
    ChatRequest, ConstraintKind, FinishReason, Function, ToolCall, ToolCallDelta, ToolChoice,
    tool_call_id,
};
use vlmd_text::constraint::Grammar;
use vlmd_text::{CallGrammar, ToolFamily, ToolParser, ToolPiece};

use crate::answer::Piece;
use crate::constraint;
use crate::error::Refusal;
use crate::state::{AppState, ServedModel};

/// Refuses tools, and calls in the conversation, where the model's template has no place for them.
pub(crate) fn check(model: &ServedModel, request: &ChatRequest) -> Result<(), Refusal> {
    if model.processor.tool_family().is_some() {
        return Ok(());
    }
    let calling = request.messages.iter();
    let calling = calling
        .enumerate()
        .find(|(_, message)| !message.tool_calls.is_empty());
    let field = match calling {
        _ if !request.usable_tools().is_empty() && request.speaks_of_functions() => {
            "functions".to_owned()
        }
        _ if !request.usable_tools().is_empty() => "tools".to_owned(),
        Some((index, _)) => format!("messages[{index}].tool_calls"),
        None => return Ok(()),
    };
    Err(Refusal::Tools { field })
}

/// The mark before a call, where decoding the answer would leave it out with other special tokens.
pub(crate) fn mark(model: &ServedModel, request: &ChatRequest) -> Option<(u32, &'static str)> {
    let literal = family(model, request)?.mark();
    let tokenizer = model.processor.tokenizer();
    let id = tokenizer.token_to_id(literal)?;
    let is_sampled = (id as usize) < model.vocab_size;
    (is_sampled && tokenizer.is_special(id)).then_some((id, literal))
}

/// The form in which an answer may call tools.
fn family(model: &ServedModel, request: &ChatRequest) -> Option<ToolFamily> {
    let family = model.processor.tool_family();
    family.filter(|_| !request.usable_tools().is_empty())
}

/// The grammar of the answers: of calls, if they must be calls; else what the request says, or a
/// call where it may have one.
pub(crate) async fn grammar(
    state: &AppState,
    model: &ServedModel,
    request: &ChatRequest,
) -> Result<Option<Grammar>, Refusal> {
    check(model, request)?;
    let Some(family) = family(model, request) else {
        return constraint::of_request(state, model, request).await;
    };
    let document = match request.constraint().map(|constraint| constraint.kind) {
        Some(ConstraintKind::JsonObject) => Some(json!({"type": "object"})),
        Some(ConstraintKind::JsonSchema(schema)) => Some(schema),
        _ => None,
    };
    let otherwise = document.filter(|_| !request.must_call());
    if otherwise.is_none() && !request.must_call() {
        return constraint::of_request(state, model, request).await;
    }
    let is_named = matches!(request.tool_choice, Some(ToolChoice::Function(_)));
    let functions = callable(request);
    let functions = functions.map(|function| (function.name.clone(), function.schema()));
    let calls = CallGrammar {
        family,
        functions: functions.collect(),
        parallel: !is_named && request.parallel_tool_calls != Some(false),
        mark: mark(model, request).map(|(id, _)| id),
        otherwise,
    };
    constraint::compile(state, model, "tools", Some(calls.source())).await
}

/// The functions that the answer may call.
fn callable(request: &ChatRequest) -> impl Iterator<Item = &Function> {
    let tools = request.usable_tools().iter().map(|tool| &tool.function);
    tools.filter(|function| match &request.tool_choice {
        Some(ToolChoice::Function(named)) => named.function.name == function.name,
        _ => true,
    })
}

/// Takes the calls out of the answers to a request.
#[derive(Debug)]
pub(crate) struct CallReaders {
    /// One for each answer; none where no tool may be called.
    readers: Vec<CallReader>,
}

/// Takes the calls out of one answer.
#[derive(Debug)]
struct CallReader {
    /// `None` once the answer has ended.
    parser: Option<ToolParser>,
    family: ToolFamily,
    /// Calls that have begun.
    begun: u32,
    /// Most calls that are given.
    most: u32,
}

impl CallReaders {
    /// For `answers` of them.
    pub(crate) fn new(model: &ServedModel, request: &ChatRequest, answers: usize) -> Self {
        let Some(family) = family(model, request) else {
            return Self {
                readers: Vec::new(),
            };
        };
        let names: BTreeSet<String> = callable(request)
            .map(|function| function.name.clone())
            .collect();
        let names = Arc::new(names);
        let most = match request.parallel_tool_calls {
            Some(false) => 1,
            _ => u32::MAX,
        };
        let reader = || CallReader {
            parser: Some(ToolParser::new(family, Arc::clone(&names))),
            family,
            begun: 0,
            most,
        };
        Self {
            readers: std::iter::repeat_with(reader).take(answers).collect(),
        }
    }

    /// Takes the next piece of the answer `index`. Gives what of it is text, and its calls.
    pub(crate) fn read(&mut self, index: usize, piece: Piece) -> Piece {
        match self.readers.get_mut(index) {
            Some(reader) => reader.read(piece),
            None => piece,
        }
    }
}

impl CallReader {
    fn read(&mut self, mut piece: Piece) -> Piece {
        let Some(parser) = &mut self.parser else {
            return piece;
        };
        let mut found = parser.push(&std::mem::take(&mut piece.text));
        if let Some(end) = &mut piece.end {
            found.extend(self.parser.take().map_or_else(Vec::new, ToolParser::finish));
            self.sort(found, &mut piece.text, &mut piece.calls);
            if self.begun > 0 && end.reason == FinishReason::Stop {
                end.reason = FinishReason::ToolCalls;
            }
        } else {
            self.sort(found, &mut piece.text, &mut piece.calls);
        }
        piece
    }

    fn sort(&mut self, found: Vec<ToolPiece>, text: &mut String, calls: &mut Vec<ToolCallDelta>) {
        for piece in found {
            match piece {
                ToolPiece::Text(more) => text.push_str(&more),
                ToolPiece::CallStart { name } => {
                    if self.begun < self.most {
                        let id = call_id(self.family);
                        calls.push(ToolCallDelta::opening(self.begun, id, name));
                    }
                    self.begun = self.begun.saturating_add(1);
                }
                ToolPiece::Arguments(more) => {
                    let index = self.begun.saturating_sub(1);
                    match calls.last_mut() {
                        _ if index >= self.most => {}
                        Some(call) if call.index == index => {
                            call.function.arguments.push_str(&more);
                        }
                        _ => calls.push(ToolCallDelta::arguments(index, more)),
                    }
                }
                ToolPiece::CallEnd => {}
            }
        }
    }
}

/// Puts calls together again for a whole answer.
pub(crate) fn append(calls: &mut Vec<ToolCall>, deltas: Vec<ToolCallDelta>) {
    for delta in deltas {
        if let (Some(id), Some(name)) = (delta.id, delta.function.name) {
            calls.push(ToolCall::new(id, name));
        }
        if let Some(call) = calls.get_mut(delta.index as usize) {
            call.function.arguments.push_str(&delta.function.arguments);
        }
    }
}

/// A fresh id for a call. Mistral's template refuses all but nine letters and digits.
fn call_id(family: ToolFamily) -> String {
    let id = tool_call_id();
    match family {
        ToolFamily::Mistral => id.chars().rev().take(9).collect(),
        ToolFamily::Llama3Json | ToolFamily::Hermes => id,
    }
}
