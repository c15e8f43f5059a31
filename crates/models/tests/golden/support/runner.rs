//! A minimal engine: sequences over scattered pages, any number of them in a step.

use candle_core::Tensor;
use vlmd_backend::{
    BLOCK_TOKENS, CrossImage, CrossRows, KvCache, KvDtype, Model, Prepared, Splice, Step,
};

/// What a sequence tells the model of the longest that it may grow to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MaxLen {
    /// The same in every step, as an engine does.
    Fixed(usize),
    /// Its present length, but at least its prompt's: what the reference goes by.
    Present,
}

/// A prompt on its way through the model.
pub(crate) struct Sequence {
    tokens: Vec<u32>,
    prompt: Prepared,
    features: Vec<Tensor>,
    max_len: MaxLen,
    blocks: Vec<u32>,
    /// Tokens that are in the cache.
    cached: usize,
}

impl Sequence {
    pub(crate) fn new(prompt: &Prepared, features: &[Tensor], max_len: MaxLen) -> Self {
        Self {
            tokens: prompt.tokens.clone(),
            prompt: prompt.clone(),
            features: features.to_vec(),
            max_len,
            blocks: Vec::new(),
            cached: 0,
        }
    }

    pub(crate) fn push(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }

    /// Tokens that are not yet in the cache.
    pub(crate) fn pending(&self) -> usize {
        self.tokens.len() - self.cached
    }

    fn max_len(&self, length: usize) -> usize {
        match self.max_len {
            MaxLen::Fixed(length) => length,
            MaxLen::Present => length.max(self.prompt.tokens.len()),
        }
    }
}

/// The cache and the pages of it that are free.
pub(crate) struct Runner<'a> {
    model: &'a dyn Model,
    cache: KvCache,
    free: Vec<u32>,
}

impl<'a> Runner<'a> {
    /// Room for sequences of these lengths, kept as `dtype`. Pages are handed out in no order.
    pub(crate) fn new(
        model: &'a dyn Model,
        dtype: KvDtype,
        lengths: impl Iterator<Item = usize>,
    ) -> Self {
        let blocks: usize = lengths.map(|length| length.div_ceil(BLOCK_TOKENS)).sum();
        // A step that has no common divisor with the number of blocks visits each once.
        let stride = (blocks / 2..)
            .find(|&s| s > 0 && gcd(s, blocks) == 1)
            .unwrap();
        let free = (0..blocks).map(|i| (i * stride % blocks) as u32).collect();
        let device = model.device();
        Self {
            cache: KvCache::new(model.spec(), blocks, dtype, device).unwrap(),
            model,
            free,
        }
    }

    /// Feeds at most `chunk` pending tokens of each sequence that has any. Gives, for each
    /// sequence, the logits of the last token fed.
    pub(crate) fn step(
        &mut self,
        sequences: &mut [Sequence],
        chunk: usize,
    ) -> Vec<Option<Vec<f32>>> {
        let mut step = Step {
            cu_q: vec![0],
            ..Step::default()
        };
        let fed: Vec<bool> = sequences.iter().map(|s| s.pending() > 0).collect();
        let mut tables = Vec::new();
        for sequence in sequences.iter_mut().filter(|s| s.pending() > 0) {
            self.add(sequence, chunk, &mut step);
            tables.push(&sequence.blocks);
        }
        step.max_blocks = tables.iter().map(|table| table.len()).max().unwrap();
        for table in tables {
            let mut row = table.clone();
            row.resize(step.max_blocks, 0);
            step.block_table.extend(row);
        }
        let logits = self.model.forward(&step, &self.cache).unwrap();
        let mut rows = logits.to_vec2().unwrap().into_iter();
        fed.into_iter()
            .map(|fed| fed.then(|| rows.next().unwrap()))
            .collect()
    }

    fn add(&mut self, sequence: &mut Sequence, chunk: usize, step: &mut Step) {
        let from = sequence.cached;
        let to = from + sequence.pending().min(chunk);
        while sequence.blocks.len() * BLOCK_TOKENS < to {
            sequence.blocks.push(self.free.pop().unwrap());
        }
        for span in &sequence.prompt.spans {
            let (start, end) = (span.tokens.start.max(from), span.tokens.end.min(to));
            if start < end {
                let features = &sequence.features[span.image];
                step.splices.push(Splice {
                    row: step.tokens.len() + start - from,
                    features: features
                        .narrow(0, start - span.tokens.start, end - start)
                        .unwrap(),
                });
            }
        }
        for span in &sequence.prompt.cross {
            let (start, end) = (span.tokens.start.max(from), span.tokens.end.min(to));
            if start < end {
                let row = |position| step.tokens.len() + position - from;
                let seen =
                    |seen: &CrossImage| (sequence.features[seen.image].clone(), seen.visible);
                step.cross.push(CrossRows {
                    rows: row(start)..row(end),
                    images: span.images.iter().map(seen).collect(),
                    unseen: span.unseen,
                });
            }
        }
        for position in from..to {
            let block = sequence.blocks[position / BLOCK_TOKENS] as usize;
            let slot = block * BLOCK_TOKENS + position % BLOCK_TOKENS;
            step.tokens.push(sequence.tokens[position]);
            step.positions.push(position as u32);
            step.kv_slots.push(slot as u32);
        }
        step.cu_q.push(step.tokens.len() as u32);
        step.kv_len.push(to as u32);
        step.max_len.push(sequence.max_len(to) as u32);
        step.logit_rows.push(step.tokens.len() as u32 - 1);
        sequence.cached = to;
    }

    /// Feeds everything that is pending, `chunk` tokens of each sequence at a time. Gives the
    /// logits of each sequence's last token.
    pub(crate) fn finish(&mut self, sequences: &mut [Sequence], chunk: usize) -> Vec<Vec<f32>> {
        let mut last = vec![Vec::new(); sequences.len()];
        while sequences.iter().any(|s| s.pending() > 0) {
            let logits = self.step(sequences, chunk);
            for (last, logits) in last.iter_mut().zip(logits) {
                if let Some(logits) = logits {
                    *last = logits;
                }
            }
        }
        last
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
