//! The state of one answer, from its request to its end.

mod choice;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Tensor;
use vlmd_backend::{BLOCK_TOKENS, CrossSpan, ImageInput, ImageKey, ImageSpan};

use crate::batch::Slice;
use crate::block_pool::{BlockPool, Blocks};
use crate::byte_budget::Share;
use crate::prefix::{BlockKey, Chain, Sights};
use crate::request::{Event, Limits, PromptScore};
use crate::rows::Rows;
use crate::sampler::Sampler;
use crate::scheduler::{Demand, Hold, Rank, Work};
use crate::speculation::Speculation;
use crate::stats::{Ending, Ticket};
pub(crate) use choice::Chosen;

/// Most tokens that are computed at once as a decode; more are a prompt's business.
const DECODE_TOKENS: usize = 32;

/// Most rows of one step whose log probabilities are all reported: their logits are on the host
/// at the same time.
const SCORED_ROWS: usize = 64;

/// What the answers to one prompt share.
#[derive(Debug)]
pub(crate) struct Prompt {
    /// Of the prompt.
    pub(crate) len: usize,
    pub(crate) spans: Vec<ImageSpan>,
    pub(crate) cross: Vec<CrossSpan>,
    /// Kept as long as the request lives: who steps back may have to encode them again.
    pub(crate) images: Vec<ImageInput>,
    pub(crate) keys: Vec<ImageKey>,
    pub(crate) limits: Limits,
    /// Most that prompt and answer may grow to.
    pub(crate) max_len: usize,
    /// What the model computes it as: the longest that it comes to with what follows.
    pub(crate) context: usize,
    /// Memory beside the cache while it runs.
    pub(crate) cross_bytes: usize,
}

/// Whose answer it is, and how it is chosen.
#[derive(Debug)]
pub(crate) struct Voice {
    pub(crate) sampler: Sampler,
    pub(crate) ticket: Ticket,
}

/// When a request is given up.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Deadlines {
    /// If it has not entered by then.
    pub(crate) entry: Option<Instant>,
    /// If it has not ended by then.
    pub(crate) end: Option<Instant>,
}

/// The log probabilities of a prompt's tokens, as far as they are computed.
#[derive(Debug)]
pub(crate) struct Scores {
    pub(crate) top: usize,
    pub(crate) tokens: Vec<Option<PromptScore>>,
}

/// One answer: in the line, or running.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Before `voice`: fields are dropped in order of declaration, and the client must not see
    /// the end of its request before the blocks are free.
    blocks: Blocks,
    features: Vec<Option<Tensor>>,
    /// After `features`, whose memory it stands for. Shared with answers that came out of this.
    cross_share: Option<Arc<Share>>,
    rank: Rank,
    prompt: Arc<Prompt>,
    /// Prompt, answer, and guesses at what follows.
    tokens: Vec<u32>,
    /// How many of `tokens` are guesses, at their end. 0 between steps.
    guessed: usize,
    /// How many of `tokens` have their keys and values in the cache.
    cached: usize,
    /// `None` where prefixes are not looked up.
    chain: Option<Chain>,
    published: usize,
    scores: Option<Scores>,
    deadlines: Deadlines,
    entered: bool,
    voice: Voice,
    /// Further answers to the same prompt, which become sequences when it is cached.
    others: VecDeque<Voice>,
}

/// What a sequence is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) rank: Rank,
    pub(crate) prompt: Arc<Prompt>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) chain: Option<Chain>,
    pub(crate) scores: Option<Scores>,
    pub(crate) deadlines: Deadlines,
    pub(crate) voice: Voice,
    pub(crate) others: VecDeque<Voice>,
}

impl Sequence {
    /// A request that has just come.
    pub(crate) fn new(parts: Parts, pool: &BlockPool) -> Self {
        let Parts {
            rank,
            prompt,
            tokens,
            chain,
            scores,
            deadlines,
            voice,
            others,
        } = parts;
        let mut sequence = Self {
            blocks: pool.none(),
            features: vec![None; prompt.images.len()],
            cross_share: None,
            rank,
            prompt,
            tokens,
            guessed: 0,
            cached: 0,
            chain,
            published: 0,
            scores,
            deadlines,
            entered: false,
            voice,
            others,
        };
        sequence.extend_chain();
        sequence
    }

    /// Whether it has run before.
    pub(crate) fn has_entered(&self) -> bool {
        self.entered
    }

    pub(crate) fn rank(&self) -> Rank {
        self.rank
    }

    /// Lets go of the answers that nobody waits for. False if none is left.
    pub(crate) fn heed_cancellation(&mut self) -> bool {
        self.others.retain(|voice| !voice.ticket.is_cancelled());
        if !self.voice.ticket.is_cancelled() {
            return true;
        }
        match self.others.pop_front() {
            Some(next) => {
                self.voice = next;
                true
            }
            None => false,
        }
    }

    /// Whether its time is over, and what to say then.
    pub(crate) fn overdue(&self, now: Instant) -> Option<Ending> {
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if passed(self.deadlines.end) {
            return Some(Ending::TIMED_OUT);
        }
        (!self.entered && passed(self.deadlines.entry)).then_some(Ending::QUEUED_TOO_LONG)
    }

    /// Frees what it holds and ends all answers that it stands for.
    pub(crate) fn end(mut self, ending: &Ending) {
        self.blocks.clear();
        self.features.clear();
        self.cross_share = None;
        for voice in self.others.iter_mut().chain([&mut self.voice]) {
            voice.ticket.end(ending.clone());
        }
    }

    /// Tokens that are known for certain.
    fn known(&self) -> usize {
        self.tokens.len() - self.guessed
    }

    fn sights(&self) -> Sights<'_> {
        Sights {
            spans: &self.prompt.spans,
            cross: &self.prompt.cross,
            images: &self.prompt.keys,
        }
    }

    fn extend_chain(&mut self) {
        if let Some(mut chain) = self.chain.take() {
            chain.extend(&self.tokens[..self.known()], self.sights());
            self.chain = Some(chain);
        }
    }

    /// Keys of the blocks that it could find in the cache: the last token is always computed,
    /// since its logits are wanted.
    fn findable(&self) -> &[BlockKey] {
        // What is to be scored must be computed.
        if self.scores.is_some() {
            return &[];
        }
        let keys = self.chain.as_ref().map_or(&[][..], Chain::keys);
        let most = (self.known() - 1) / BLOCK_TOKENS;
        &keys[..keys.len().min(most)]
    }

    /// What it needs to enter.
    pub(crate) fn demand(&self, pool: &BlockPool) -> Demand {
        let found = pool.known(self.findable());
        Demand {
            blocks: self.blocks_needed() - found.blocks + found.idle,
            cross_bytes: self.prompt.cross_bytes,
        }
    }

    /// Takes its blocks and goes to work. Gives how many of its tokens are cached already, and
    /// `None` if there is less room than it was told.
    pub(crate) fn enter(&mut self, share: Share) -> Option<usize> {
        let findable = self.findable().to_vec();
        let found = self.blocks.find(&findable);
        if !self.grow() {
            return None;
        }
        self.cross_share = Some(Arc::new(share));
        self.cached = found * BLOCK_TOKENS;
        self.published = found;
        self.entered = true;
        let cached = self.cached.min(self.prompt.len);
        for voice in self.others.iter_mut().chain([&mut self.voice]) {
            voice.ticket.run();
            voice.ticket.note_cached(cached);
        }
        Some(cached)
    }

    /// Tokens of the prompt.
    pub(crate) fn prompt_len(&self) -> usize {
        self.prompt.len
    }

    /// Gives everything back and returns to the line.
    pub(crate) fn step_back(&mut self) {
        self.blocks.clear();
        self.features.fill(None);
        self.cross_share = None;
        self.cached = 0;
        self.published = 0;
        self.forget_guesses();
        if let Some(scores) = &mut self.scores
            && scores.tokens.len() < self.prompt.len
        {
            scores.tokens.clear();
        }
        for voice in self.others.iter_mut().chain([&mut self.voice]) {
            voice.ticket.requeue();
        }
    }

    /// Whether any token that is still to be computed needs the picture.
    fn needs(&self, image: usize) -> bool {
        let stands = |span: &ImageSpan| span.image == image && span.tokens.end > self.cached;
        let looks = |span: &CrossSpan| {
            span.tokens.end > self.cached && span.images.iter().any(|seen| seen.image == image)
        };
        self.prompt.spans.iter().any(stands) || self.prompt.cross.iter().any(looks)
    }

    /// Pictures that are still to be encoded.
    pub(crate) fn unseen(&self) -> impl Iterator<Item = &ImageInput> {
        let images = self.prompt.images.iter().zip(&self.features).enumerate();
        images
            .filter(|&(index, (_, features))| features.is_none() && self.needs(index))
            .map(|(_, (image, _))| image)
    }

    /// Takes the features of a picture, if it waits for them.
    pub(crate) fn see(&mut self, key: ImageKey, features: &Tensor) -> bool {
        let mut waited = false;
        for index in 0..self.features.len() {
            let its = self.prompt.keys.get(index) == Some(&key);
            if its && self.features[index].is_none() && self.needs(index) {
                self.features[index] = Some(features.clone());
                waited = true;
            }
        }
        waited
    }

    /// Takes note of the time at which it got features that it had to wait for.
    pub(crate) fn note_seen(&mut self) {
        for voice in self.others.iter_mut().chain([&mut self.voice]) {
            voice.ticket.note_seen();
        }
    }

    /// Tokens, from the first that is not cached on, that can be computed with the pictures that
    /// are encoded.
    fn ready(&self) -> usize {
        let blind = |image: usize| self.features.get(image).is_none_or(Option::is_none);
        let from_spans = self.prompt.spans.iter().filter(|span| blind(span.image));
        let from_spans = from_spans.map(|span| &span.tokens);
        let from_cross = self.prompt.cross.iter();
        let from_cross = from_cross.filter(|span| span.images.iter().any(|seen| blind(seen.image)));
        let from_cross = from_cross.map(|span| &span.tokens);
        let stop = from_spans
            .chain(from_cross)
            .filter(|tokens| tokens.end > self.cached && !tokens.is_empty())
            .map(|tokens| tokens.start.max(self.cached))
            .min()
            .unwrap_or(usize::MAX);
        self.tokens.len().min(stop) - self.cached
    }

    /// Whether the next token is one of the answer.
    fn decodes(&self) -> bool {
        self.cached >= self.prompt.len && self.known() - self.cached <= DECODE_TOKENS
    }

    /// Guesses at what follows the next token.
    pub(crate) fn guess(&mut self, speculation: &Speculation) {
        // A guess must leave room for the token after it.
        let room = self.prompt.max_len.saturating_sub(self.known() + 1);
        if self.scores_open() || !self.decodes() || self.known() - self.cached != 1 {
            return;
        }
        let guess = speculation.look_up(&self.tokens);
        let guess = guess.start..guess.end.min(guess.start + room);
        self.guessed = guess.len();
        self.tokens.extend_from_within(guess);
        // Nobody steps back for what may be wrong.
        if !self.blocks.grow(self.tokens.len().div_ceil(BLOCK_TOKENS)) {
            self.forget_guesses();
        }
    }

    fn forget_guesses(&mut self) {
        self.tokens.truncate(self.known());
        self.guessed = 0;
    }

    /// What it could compute now.
    pub(crate) fn work(&self) -> Work {
        let ready = self.ready();
        match ready.checked_sub(1) {
            Some(more) if self.decodes() => Work::Decode { more },
            _ if self.scores_open() => Work::Prefill {
                ready: ready.min(SCORED_ROWS),
            },
            _ => Work::Prefill { ready },
        }
    }

    /// Blocks that it needs more for all that it knows.
    pub(crate) fn missing(&self) -> usize {
        self.blocks_needed().saturating_sub(self.blocks.ids().len())
    }

    /// Blocks that it needs more, and those it would free.
    pub(crate) fn hold(&self) -> Hold {
        Hold {
            needs: self.missing(),
            gives: self.blocks.exclusive(),
        }
    }

    fn blocks_needed(&self) -> usize {
        self.known().div_ceil(BLOCK_TOKENS)
    }

    /// Takes the blocks that it needs. False if there are too few.
    pub(crate) fn grow(&mut self) -> bool {
        self.blocks.grow(self.blocks_needed())
    }

    /// Keeps only as many guesses as a chunk of `tokens` has room for.
    pub(crate) fn trim(&mut self, tokens: usize) {
        let end = (self.cached + tokens).max(self.known());
        if end < self.tokens.len() {
            self.guessed -= self.tokens.len() - end;
            self.tokens.truncate(end);
        }
    }

    fn scores_open(&self) -> bool {
        let open = |scores: &Scores| scores.tokens.len() < self.prompt.len;
        self.scores.as_ref().is_some_and(open)
    }

    /// The last rows of those that lead to a choice or to a score.
    fn wanted(&self, rows: &Range<usize>) -> usize {
        if self.scores_open() {
            return rows.len();
        }
        (rows.end + 1).saturating_sub(self.known())
    }

    /// The next `tokens` tokens, as a part of a step.
    pub(crate) fn slice(&self, tokens: usize) -> Slice<'_> {
        let rows = self.cached..self.cached + tokens;
        Slice {
            known: &self.tokens,
            logits: self.wanted(&rows),
            rows,
            blocks: self.blocks.ids(),
            max_len: self.prompt.context,
            spans: &self.prompt.spans,
            cross: &self.prompt.cross,
            features: &self.features,
        }
    }

    /// Notes that the next `tokens` tokens are cached, guesses apart, and reports the scores that
    /// lie in `logits`. Gives how many tokens were the prompt's, and the rows
    /// that lead to a choice.
    pub(crate) fn advance<'l>(
        &mut self,
        tokens: usize,
        logits: Rows<'l>,
        scratch: &mut Vec<u32>,
    ) -> (usize, Rows<'l>) {
        let rows = self.cached..self.cached + tokens;
        let before = self.cached.min(self.prompt.len);
        if self.scores_open() {
            self.score(&rows, &logits, scratch);
        }
        self.cached = rows.end.min(self.known());
        if self.cached >= self.prompt.len && self.prompt.cross.is_empty() {
            self.features.fill(None);
        }
        self.publish();
        let choosing = (rows.end + 1).saturating_sub(self.known());
        let from = logits.len().saturating_sub(choosing);
        let prefilled = self.cached.min(self.prompt.len) - before;
        (prefilled, logits.skip(from))
    }

    /// Lets others find the blocks that are full.
    fn publish(&mut self) {
        let keys = self.chain.as_ref().map_or(&[][..], Chain::keys);
        let full = keys.len().min(self.cached / BLOCK_TOKENS);
        for (index, key) in keys.iter().enumerate().take(full).skip(self.published) {
            self.blocks.publish(index, *key);
        }
        self.published = self.published.max(full);
    }

    /// A row's logits tell how probable the token after it was.
    fn score(&mut self, rows: &Range<usize>, logits: &Rows<'_>, room: &mut Vec<u32>) {
        let Some(scores) = &mut self.scores else {
            return;
        };
        if scores.tokens.is_empty() {
            scores.tokens.push(None);
        }
        for (row, position) in logits.all().zip(rows.clone()) {
            if position + 1 < self.prompt.len {
                let token = self.tokens[position + 1];
                let score = Sampler::score(row, token, scores.top, room);
                let score = score.map(|logprobs| PromptScore {
                    id: token,
                    logprobs,
                });
                scores.tokens.push(score);
            }
        }
        if scores.tokens.len() == self.prompt.len {
            let scores = std::mem::take(&mut scores.tokens);
            self.scores = None;
            self.voice.ticket.tell(Event::Prompt(scores));
        }
    }

    /// Whether other answers are to come out of it now.
    pub(crate) fn has_others(&self) -> bool {
        !self.others.is_empty()
    }

    /// The other answers to its prompt, which is cached, as sequences of their own. They share
    /// its full blocks and have none for the tokens behind those: `in_last` tells how many tokens
    /// that are.
    pub(crate) fn fork(&mut self) -> Vec<Self> {
        let full = self.cached / BLOCK_TOKENS;
        let others = std::mem::take(&mut self.others);
        let fork = |voice| Self {
            blocks: self.blocks.fork(full),
            features: self.features.clone(),
            cross_share: self.cross_share.clone(),
            rank: self.rank,
            prompt: Arc::clone(&self.prompt),
            tokens: self.tokens[..self.known()].to_vec(),
            guessed: 0,
            cached: self.cached,
            chain: self.chain.clone(),
            published: self.published,
            scores: None,
            deadlines: self.deadlines,
            entered: true,
            voice,
            others: VecDeque::new(),
        };
        others.into_iter().map(fork).collect()
    }

    /// For a sequence that came out of `origin`: takes a block for the tokens behind the full
    /// blocks. Gives the blocks to copy from and to; `None` if there is no room.
    pub(crate) fn take_last(&mut self, origin: &Self) -> Option<Option<(u32, u32)>> {
        let full = self.blocks.ids().len();
        if self.cached <= full * BLOCK_TOKENS {
            return Some(None);
        }
        if !self.blocks.grow(full + 1) {
            return None;
        }
        let copy = (
            *origin.blocks.ids().get(full)?,
            *self.blocks.ids().get(full)?,
        );
        Some(Some(copy))
    }
}
