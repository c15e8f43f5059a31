//! Answers that are sent once they are there.

use std::collections::BTreeMap;

use vlmd_api::{Entity, PromptLogprob, TokenLogprob, ToolCall};

use crate::answer::End;
use crate::error::Refusal;
use crate::generation::Generation;
use crate::tool_calls;

/// All answers to a request.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    pub(crate) answers: Vec<WholeAnswer>,
    pub(crate) prompt_logprobs: Option<Vec<Option<BTreeMap<u32, PromptLogprob>>>>,
}

/// One answer.
#[derive(Debug)]
pub(crate) struct WholeAnswer {
    pub(crate) text: String,
    pub(crate) calls: Vec<ToolCall>,
    pub(crate) logprobs: Vec<TokenLogprob>,
    pub(crate) entities: Option<Vec<Entity>>,
    pub(crate) end: End,
}

/// One that is being put together.
#[derive(Debug, Default)]
struct Draft {
    text: String,
    calls: Vec<ToolCall>,
    logprobs: Vec<TokenLogprob>,
    entities: Option<Vec<Entity>>,
    end: Option<End>,
}

/// Waits for all answers. Dropped with the connection, which gives them up.
pub(crate) async fn collect(generation: &mut Generation) -> Result<Whole, Refusal> {
    let mut drafts: Vec<Draft> = Vec::new();
    let mut prompt_logprobs = None;
    drafts.resize_with(generation.len(), Draft::default);
    while let Some(next) = generation.next().await {
        let (index, mut piece) = next?;
        let draft = &mut drafts[index];
        draft.text.push_str(&piece.text);
        tool_calls::append(&mut draft.calls, piece.calls);
        draft.logprobs.append(&mut piece.logprobs);
        prompt_logprobs = piece.prompt_logprobs.or(prompt_logprobs);
        draft.entities = piece.entities;
        draft.end = piece.end;
    }
    let answers = drafts.into_iter().map(Draft::finish);
    Ok(Whole {
        answers: answers.collect::<Result<_, _>>()?,
        prompt_logprobs,
    })
}

impl Draft {
    fn finish(self) -> Result<WholeAnswer, Refusal> {
        Ok(WholeAnswer {
            text: self.text,
            calls: self.calls,
            logprobs: self.logprobs,
            entities: self.entities,
            end: self.end.ok_or(Refusal::Internal)?,
        })
    }
}
