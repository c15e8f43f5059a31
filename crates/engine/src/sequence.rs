//! The state of one request, before and after it has a seat.

use candle_core::Tensor;
use vlmd_backend::{BLOCK_TOKENS, CrossSpan, ImageInput, ImageSpan, Prepared};

use crate::batch::Slice;
use crate::block_pool::Blocks;
use crate::byte_budget::Share;
use crate::prompt;
use crate::request::{Event, FinishReason, GenerateRequest, Limits};
use crate::sampler::{Choice, Sampler};
use crate::scheduler::Demand;
use crate::stats::{Ending, Ticket};

/// A request in the line.
#[derive(Debug)]
pub(crate) struct Pending {
    prompt: Prepared,
    limits: Limits,
    max_len: usize,
    cross_bytes: usize,
    sampler: Sampler,
    ticket: Ticket,
}

impl Pending {
    /// For a prompt that [`prompt::check`] has passed; `max_len` is more than its length, and
    /// `cross_bytes` is what its pictures take while the answer looks at them.
    pub(crate) fn new(
        request: GenerateRequest,
        max_len: usize,
        cross_bytes: usize,
        ticket: Ticket,
    ) -> Self {
        let GenerateRequest {
            mut prompt,
            sampling,
            limits,
            constraint,
        } = request;
        let sampler =
            Sampler::new(sampling, constraint, prompt::text(&prompt)).after(&prompt.tokens);
        // Fillers may be any number, and a model may look up all rows before it splices.
        for span in &prompt.spans {
            prompt.tokens[span.tokens.clone()].fill(0);
        }
        Self {
            prompt,
            limits,
            max_len,
            cross_bytes,
            sampler,
            ticket,
        }
    }

    /// What it holds from its admission to its end: once it runs it can finish.
    pub(crate) fn demand(&self) -> Demand {
        Demand {
            blocks: self.max_len.div_ceil(BLOCK_TOKENS),
            cross_bytes: self.cross_bytes,
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.ticket.is_cancelled()
    }

    /// Ends the request.
    pub(crate) fn end(mut self, ending: Ending) {
        self.ticket.end(ending);
    }

    /// Gives the request its seat.
    pub(crate) fn admit(self, blocks: Blocks, cross_share: Share) -> Sequence {
        let Self {
            prompt,
            limits,
            max_len,
            cross_bytes: _,
            sampler,
            mut ticket,
        } = self;
        ticket.run();
        Sequence {
            blocks,
            prompt_len: prompt.tokens.len(),
            tokens: prompt.tokens,
            cached: 0,
            max_len,
            spans: prompt.spans,
            cross: prompt.cross,
            images: prompt.images,
            features: Vec::new(),
            _cross_share: cross_share,
            sampler,
            limits,
            ticket,
        }
    }
}

/// A request that runs.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Before `ticket`: fields are dropped in order of declaration, and the client must not see
    /// the end of its request before the blocks are free.
    blocks: Blocks,
    /// Prompt and answer.
    tokens: Vec<u32>,
    prompt_len: usize,
    /// How many of `tokens` have their keys and values in the cache.
    cached: usize,
    /// Most that `tokens` may grow to.
    max_len: usize,
    spans: Vec<ImageSpan>,
    cross: Vec<CrossSpan>,
    /// Until they are encoded.
    images: Vec<ImageInput>,
    /// From then on, one per image: until the prompt is cached, or to the end where the answer
    /// looks at them.
    features: Vec<Tensor>,
    /// After `features`, whose memory it stands for.
    _cross_share: Share,
    sampler: Sampler,
    limits: Limits,
    ticket: Ticket,
}

impl Sequence {
    pub(crate) fn is_cancelled(&self) -> bool {
        self.ticket.is_cancelled()
    }

    /// Frees the blocks and ends the request.
    pub(crate) fn end(mut self, ending: Ending) {
        self.ticket.end(ending);
    }

    /// Pictures that are still to be encoded.
    pub(crate) fn images(&self) -> &[ImageInput] {
        &self.images
    }

    /// Takes the features of all pictures and lets go of the pixels.
    pub(crate) fn set_features(&mut self, features: Vec<Tensor>) {
        self.images = Vec::new();
        self.features = features;
    }

    /// Tokens that are known and not cached yet: never 0 between steps.
    pub(crate) fn pending(&self) -> usize {
        self.tokens.len() - self.cached
    }

    /// The next `tokens` tokens, as a part of a step.
    pub(crate) fn slice(&self, tokens: usize) -> Slice<'_> {
        Slice {
            known: &self.tokens,
            rows: self.cached..self.cached + tokens,
            blocks: self.blocks.ids(),
            max_len: self.max_len,
            spans: &self.spans,
            cross: &self.cross,
            features: &self.features,
        }
    }

    /// Notes that the next `tokens` tokens are cached. Returns how many were the prompt's.
    pub(crate) fn advance(&mut self, tokens: usize) -> usize {
        let before = self.cached.min(self.prompt_len);
        self.cached += tokens;
        if self.cached >= self.prompt_len && self.cross.is_empty() {
            self.features = Vec::new();
        }
        self.cached.min(self.prompt_len) - before
    }

    /// Chooses and sends the next token of the answer, given its logits. Returns the ending if
    /// this was the last one.
    pub(crate) fn sample(&mut self, logits: &mut [f32], scratch: &mut Vec<u32>) -> Option<Ending> {
        let answered = self.tokens.len() - self.prompt_len;
        let suppressed: &[u32] = if answered < self.limits.min_tokens {
            &self.limits.stop_ids
        } else {
            &[]
        };
        let Choice { id, logprobs } = match self.sampler.choose(logits, suppressed, scratch) {
            Ok(choice) => choice,
            Err(error) => return Some(Ending::Failed(error)),
        };
        self.tokens.push(id);
        self.ticket.send(Event::Token { id, logprobs });
        if self.limits.stop_ids.contains(&id) {
            return Some(Ending::Finished(FinishReason::Stop(id)));
        }
        (self.tokens.len() >= self.max_len).then_some(Ending::Finished(FinishReason::Length))
    }
}
