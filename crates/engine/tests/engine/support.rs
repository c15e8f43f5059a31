//! A deterministic model that keeps what it knows in the cache, and checks each step it is given.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, where a failure is to be loud; clippy only knows test functions"
)]

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use candle_core::{DType, Device, Result, Tensor, bail};
use futures::StreamExt;
use futures::future::join_all;
use vlmd_backend::{
    BLOCK_TOKENS, Encoding, ImageInput, ImageSpan, KvCache, KvDtype, Model, ModelSpec, Pixels,
    Prepared, Step,
};
use vlmd_engine::{
    Engine, EngineConfig, Event, EventStream, FinishReason, GenerateRequest, Limits, Sampling,
    StartError, SubmitError,
};

/// Ids below are answered; those from here on only occur in prompts.
pub(crate) const WORDS: u32 = 56;
/// A step with this token panics.
pub(crate) const PANICS: u32 = 60;
/// A step with this token fails.
pub(crate) const FAILS: u32 = 61;
/// A sequence with this token gets logits that are no numbers.
pub(crate) const CONFUSES: u32 = 62;
/// A step with this token gives logits of a wrong shape.
pub(crate) const MISSHAPES: u32 = 63;

/// A picture of this value cannot be encoded.
pub(crate) const BAD_PICTURE: f32 = 601.0;
/// A picture of this value makes the encoder panic.
pub(crate) const PANICKING_PICTURE: f32 = 602.0;
/// A picture of this value gets one feature too few.
pub(crate) const SHORT_PICTURE: f32 = 603.0;

/// What it takes to encode a picture, in units of [`Encoding`].
pub(crate) const PICTURE_UNITS: usize = 4;

pub(crate) const SPEC: ModelSpec = ModelSpec {
    layers: 1,
    kv_heads: 1,
    head_dim: 4,
    hidden_size: 4,
    vocab_size: 64,
    input_vocab_size: 64,
    max_positions: 4096,
    long_beyond: None,
    cross_feature_bytes: 0,
};

/// What a step was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    /// New tokens of each sequence.
    pub(crate) new: Vec<u32>,
    /// Length of each sequence after the step.
    pub(crate) len: Vec<u32>,
}

#[derive(Debug, Default)]
struct State {
    held: bool,
    permits: usize,
    entered: usize,
    dead: bool,
    ran: Vec<Ran>,
    encoder_calls: Vec<usize>,
    violations: Vec<String>,
}

/// The test's hand on the model.
#[derive(Debug, Default)]
pub(crate) struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

impl Control {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Steps from now on wait inside the model for [`Control::step`].
    pub(crate) fn hold(&self) {
        self.state().held = true;
    }

    /// Lets one step through.
    pub(crate) fn step(&self) {
        self.state().permits += 1;
        self.changed.notify_all();
    }

    /// Lets all steps through.
    pub(crate) fn release(&self) {
        self.state().held = false;
        self.changed.notify_all();
    }

    /// Waits until so many steps have reached the model since the engine started.
    pub(crate) fn wait_entered(&self, count: usize) {
        let state = self.state();
        drop(self.changed.wait_while(state, |s| s.entered < count));
    }

    /// From now on nothing works.
    pub(crate) fn kill(&self) {
        self.state().dead = true;
    }

    /// The steps that were computed since the engine started.
    pub(crate) fn ran(&self) -> Vec<Ran> {
        self.state().ran.clone()
    }

    /// How many pictures each call to the encoder had.
    pub(crate) fn encoder_calls(&self) -> Vec<usize> {
        self.state().encoder_calls.clone()
    }

    fn enter(&self) -> bool {
        let mut state = self.state();
        state.entered += 1;
        self.changed.notify_all();
        let mut state = self
            .changed
            .wait_while(state, |s| s.held && s.permits == 0)
            .unwrap();
        state.permits = state.permits.saturating_sub(1);
        !state.dead
    }
}

struct Fake {
    control: Arc<Control>,
}

impl Model for Fake {
    fn spec(&self) -> &ModelSpec {
        &SPEC
    }

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn begin_encoding(&self, images: &[&ImageInput]) -> Result<Box<dyn Encoding>> {
        self.control.state().encoder_calls.push(images.len());
        Ok(Box::new(FakeEncoding {
            images: images.iter().copied().cloned().collect(),
            features: Vec::new(),
            units: PICTURE_UNITS,
        }))
    }

    fn forward(&self, step: &Step, cache: &KvCache) -> Result<Tensor> {
        let alive = self.control.enter();
        let violations = violations(step);
        self.control.state().violations.extend(violations);
        let mut keys = Pages::load(&cache.layers[0].k.data)?;
        let mut values = Pages::load(&cache.layers[0].v.data)?;

        let told = |token| step.tokens.contains(&token);
        if !alive || told(PANICS) || told(FAILS) {
            // The blocks that a step writes to are undefined if it fails.
            for slot in &step.kv_slots {
                let first = *slot as usize / BLOCK_TOKENS * BLOCK_TOKENS;
                keys.0[first..first + BLOCK_TOKENS].fill([f32::MAX; 4]);
            }
            keys.store(&cache.layers[0].k.data)?;
            assert!(!told(PANICS), "a step that panics");
            bail!("a step that fails");
        }

        let mut embeddings: Vec<[f32; 4]> = step.tokens.iter().map(|&t| embedding(t)).collect();
        for splice in &step.splices {
            for (row, feature) in splice.features.to_vec2::<f32>()?.into_iter().enumerate() {
                embeddings[splice.row + row] = feature.try_into().unwrap();
            }
        }
        for (token, embedding) in embeddings.into_iter().enumerate() {
            let slot = step.kv_slots[token] as usize;
            keys.0[slot] = embedding;
            values.0[slot] = [step.positions[token] as f32, 0.0, 0.0, 0.0];
        }
        keys.store(&cache.layers[0].k.data)?;
        values.store(&cache.layers[0].v.data)?;

        let mut logits = Vec::new();
        for &wanted in &step.logit_rows {
            let sequence = step
                .cu_q
                .iter()
                .rposition(|&start| start <= wanted)
                .unwrap();
            let end = step.positions[wanted as usize];
            let context: Vec<_> = (0..=end)
                .map(|at| {
                    let position = values.at(step, sequence, at)[0];
                    (*keys.at(step, sequence, at), position)
                })
                .collect();
            logits.extend(logits_of(&context));
        }
        let per_sequence = |range: &[u32]| range[1] - range[0];
        self.control.state().ran.push(Ran {
            new: step.cu_q.windows(2).map(per_sequence).collect(),
            len: step.kv_len.clone(),
        });
        let rows = step.logit_rows.len();
        if told(MISSHAPES) {
            return Tensor::zeros((rows, 3), DType::F32, &Device::Cpu);
        }
        Tensor::from_vec(logits, (rows, SPEC.vocab_size), &Device::Cpu)
    }
}

/// Pictures one after the other.
struct FakeEncoding {
    /// Those that are not done.
    images: VecDeque<ImageInput>,
    features: Vec<Tensor>,
    /// Units that the first of `images` takes.
    units: usize,
}

impl Encoding for FakeEncoding {
    fn remaining(&self) -> usize {
        match self.images.len() {
            0 => 0,
            images => self.units + (images - 1) * PICTURE_UNITS,
        }
    }

    fn advance(&mut self, units: usize) -> Result<()> {
        for _ in 0..units.max(1).min(self.remaining()) {
            self.units -= 1;
            if self.units > 0 {
                continue;
            }
            let image = self.images.pop_front().unwrap();
            self.features.push(encoded(&image)?);
            self.units = PICTURE_UNITS;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Tensor>> {
        if self.remaining() > 0 {
            bail!("{} units are not done", self.remaining());
        }
        Ok(self.features)
    }
}

fn encoded(image: &ImageInput) -> Result<Tensor> {
    let value = value_of(image)?;
    if value == BAD_PICTURE {
        bail!("a bad picture");
    }
    assert!(value != PANICKING_PICTURE, "a picture that panics");
    let rows = image.features - usize::from(value == SHORT_PICTURE);
    let values: Vec<f32> = (0..rows).flat_map(|row| feature(value, row)).collect();
    Tensor::from_vec(values, (rows, 4), &Device::Cpu)
}

/// A host copy of a cache tensor, by slot.
struct Pages(Vec<[f32; 4]>);

impl Pages {
    fn load(tensor: &Tensor) -> Result<Self> {
        let flat = tensor.flatten_all()?.to_vec1::<f32>()?;
        Ok(Self(flat.as_chunks().0.to_vec()))
    }

    fn store(&self, tensor: &Tensor) -> Result<()> {
        let source = Tensor::from_slice(self.0.as_flattened(), tensor.dims(), &Device::Cpu)?;
        tensor.slice_set(&source, 0, 0)
    }

    /// Through the block table, as attention reads.
    fn at(&mut self, step: &Step, sequence: usize, position: u32) -> &mut [f32; 4] {
        let position = position as usize;
        let table = &step.block_table[sequence * step.max_blocks..];
        let block = table[position / BLOCK_TOKENS] as usize;
        &mut self.0[block * BLOCK_TOKENS + position % BLOCK_TOKENS]
    }
}

fn embedding(token: u32) -> [f32; 4] {
    [token as f32, 0.0, 0.0, 1.0]
}

fn feature(value: f32, row: usize) -> [f32; 4] {
    [value, row as f32, 1.0, 0.0]
}

/// By everything that came before.
fn logits_of(context: &[([f32; 4], f32)]) -> Vec<f32> {
    let confused = embedding(CONFUSES);
    if context.iter().any(|(embedding, _)| *embedding == confused) {
        return vec![f32::NAN; SPEC.vocab_size];
    }
    let mix = |hash: u64, bits: u64| {
        let mixed = (hash ^ bits).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^ (mixed >> 29)
    };
    let numbers = context.iter().flat_map(|(e, p)| e.iter().chain([p]));
    let hash = numbers.fold(1, |hash, n| mix(hash, u64::from(n.to_bits())));
    let logit = |id: u32| {
        if id >= WORDS {
            return f32::NEG_INFINITY;
        }
        let word = mix(mix(hash, u64::from(id) + 1), 7);
        (word >> 40) as f32 / (1 << 21) as f32 - 4.0
    };
    (0..64).map(logit).collect()
}

/// What is wrong with a step by the contract of `vlmd_backend::Step`.
fn violations(step: &Step) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |holds: bool, what: &str| {
        if !holds {
            found.push(format!("{what}: {step:?}"));
        }
    };
    let rows = step.tokens.len();
    let sequences = step.kv_len.len();
    check(rows > 0, "no rows");
    let vocab = SPEC.vocab_size as u32;
    check(step.tokens.iter().all(|&id| id < vocab), "unknown ids");
    check(step.positions.len() == rows, "positions");
    check(step.kv_slots.len() == rows, "slots");
    check(step.max_len.len() == sequences, "max_len");
    check(step.cu_q.len() == sequences + 1, "cu_q");
    check(step.cu_q.first() == Some(&0), "cu_q begins");
    check(step.cu_q.last() == Some(&(rows as u32)), "cu_q ends");
    check(step.cu_q.is_sorted_by(|a, b| a < b), "cu_q falls");
    let cells = sequences * step.max_blocks;
    check(step.block_table.len() == cells, "block table");
    check(step.logit_rows.is_sorted_by(|a, b| a < b), "logit rows");
    let blocks_of = |slots: &[u32]| -> HashSet<u32> {
        let block = |slot: &u32| slot / BLOCK_TOKENS as u32;
        slots.iter().map(block).collect()
    };
    let mut written = HashSet::new();
    for sequence in step.cu_q.windows(2) {
        let slots = &step.kv_slots[sequence[0] as usize..sequence[1] as usize];
        for block in blocks_of(slots) {
            check(written.insert(block), "a block that two sequences write to");
        }
    }
    for sequence in 0..sequences {
        let (first, end) = (step.cu_q[sequence], step.cu_q[sequence + 1]);
        let len = step.kv_len[sequence];
        check(len <= step.max_len[sequence], "longer than its maximum");
        let table = &step.block_table[sequence * step.max_blocks..][..step.max_blocks];
        let blocks = (len as usize).div_ceil(BLOCK_TOKENS);
        let own = blocks_of(&step.kv_slots[first as usize..end as usize]);
        for block in &table[..blocks] {
            let read_only = !own.contains(block);
            check(
                !read_only || !written.contains(block),
                "a block that one sequence writes to and another reads",
            );
        }
        for row in first..end {
            let position = len - (end - row);
            let at = position as usize;
            let slot = table[at / BLOCK_TOKENS] as usize * BLOCK_TOKENS + at % BLOCK_TOKENS;
            check(step.positions[row as usize] == position, "position");
            check(step.kv_slots[row as usize] == slot as u32, "slot");
        }
    }
    let mut free_from = 0;
    for splice in &step.splices {
        check(splice.row >= free_from, "splices overlap");
        free_from = splice.row + splice.features.dims()[0];
        check(free_from <= rows, "a splice beyond the rows");
    }
    found
}

/// An engine over the fake, checked for violations when it goes.
pub(crate) struct Rig {
    pub(crate) engine: Engine,
    pub(crate) control: Arc<Control>,
}

impl Rig {
    pub(crate) fn new(change: impl FnOnce(&mut EngineConfig)) -> Self {
        Self::try_new(Arc::default(), change).unwrap()
    }

    pub(crate) fn try_new(
        control: Arc<Control>,
        change: impl FnOnce(&mut EngineConfig),
    ) -> std::result::Result<Self, StartError> {
        let mut config = EngineConfig::new(64, KvDtype::F32, 512);
        config.max_num_seqs = 16;
        // What a step costs is no test's business but those of the pacer.
        config.max_step_stretch = f64::INFINITY;
        change(&mut config);
        let model = Box::new(Fake {
            control: Arc::clone(&control),
        });
        let engine = Engine::start(model, config)?;
        // The warm-up is not the tests' business.
        *control.state() = State::default();
        Ok(Self { engine, control })
    }

    pub(crate) fn submit(&self, request: GenerateRequest) -> EventStream {
        self.try_submit(request).unwrap()
    }

    pub(crate) fn try_submit(
        &self,
        request: GenerateRequest,
    ) -> std::result::Result<EventStream, SubmitError> {
        let mut streams = self.engine.submit(request)?;
        assert_eq!(streams.len(), 1);
        Ok(streams.remove(0))
    }

    pub(crate) async fn run(&self, request: GenerateRequest) -> Answer {
        collect(self.submit(request)).await
    }

    /// All answers to a request.
    pub(crate) async fn run_all(&self, request: GenerateRequest) -> Vec<Answer> {
        let streams = self.engine.submit(request).unwrap();
        join_all(streams.into_iter().map(collect)).await
    }

    /// All that the only answer's stream carries.
    pub(crate) async fn events(&self, request: GenerateRequest) -> Vec<Event> {
        self.submit(request).collect().await
    }

    /// Nothing waits, runs or holds a block.
    pub(crate) fn assert_idle(&self) {
        let stats = self.engine.stats();
        assert_eq!((stats.waiting, stats.running, stats.blocks_used), (0, 0, 0));
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.control.release();
        if !std::thread::panicking() {
            assert_eq!(self.control.state().violations, Vec::<String>::new());
        }
    }
}

/// All that a stream carried.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) ids: Vec<u32>,
    /// The event after the tokens.
    pub(crate) end: Event,
}

impl Answer {
    /// A greedy answer at its full length.
    pub(crate) fn full(ids: Vec<u32>) -> Self {
        let end = Event::Finished(FinishReason::Length);
        Self { ids, end }
    }
}

/// Reads a stream to its end, which is one event that is no token and then nothing.
pub(crate) async fn collect(mut stream: EventStream) -> Answer {
    let mut ids = Vec::new();
    loop {
        match stream.next().await.unwrap() {
            Event::Token { id, .. } => ids.push(id),
            Event::Timings(_) => {}
            end => {
                assert_eq!(stream.next().await, None);
                return Answer { ids, end };
            }
        }
    }
}

/// A prompt of `len` words, another for each `seed`.
pub(crate) fn words(seed: u32, len: usize) -> Vec<u32> {
    let word = |at: u32| (seed.wrapping_mul(2_654_435_761) ^ at.wrapping_mul(40_503)) >> 7;
    (1..).map(|at| word(at) % WORDS).take(len).collect()
}

/// A greedy answer of `max_tokens` tokens to a prompt of text.
pub(crate) fn ask(tokens: Vec<u32>, max_tokens: usize) -> GenerateRequest {
    ask_prepared(Prepared::text(tokens), max_tokens)
}

/// An answer of `max_tokens` tokens that are drawn.
pub(crate) fn seeded(seed: u64, tokens: Vec<u32>, max_tokens: usize) -> GenerateRequest {
    let mut request = ask(tokens, max_tokens);
    request.sampling.temperature = 1.0;
    request.sampling.seed = Some(seed);
    request
}

/// A greedy answer of `max_tokens` tokens.
pub(crate) fn ask_prepared(prompt: Prepared, max_tokens: usize) -> GenerateRequest {
    let sampling = Sampling {
        temperature: 0.0,
        ..Sampling::default()
    };
    let limits = Limits {
        max_tokens,
        ..Limits::default()
    };
    GenerateRequest::new(prompt, sampling, limits)
}

/// A picture of one value.
pub(crate) fn picture(value: f32, features: usize) -> ImageInput {
    let pixels = Tensor::full(value, (1, 3, 2, 2), &Device::Cpu).unwrap();
    ImageInput::new(vec![Pixels::Values(pixels)], (2, 2), features).unwrap()
}

fn value_of(picture: &ImageInput) -> Result<f32> {
    let values = picture.pixels[0].values()?;
    Ok(values.flatten_all()?.to_vec1()?[0])
}

pub(crate) fn span(image: usize, tokens: Range<usize>) -> ImageSpan {
    ImageSpan { image, tokens }
}

/// What the fake answers greedily, computed without engine, cache or batch.
pub(crate) fn expected(prompt: &Prepared, max_tokens: usize) -> Vec<u32> {
    let mut embeddings: Vec<[f32; 4]> = prompt.tokens.iter().map(|&t| embedding(t)).collect();
    for span in &prompt.spans {
        let value = value_of(&prompt.images[span.image]).unwrap();
        for (row, at) in span.tokens.clone().enumerate() {
            embeddings[at] = feature(value, row);
        }
    }
    let mut answer = Vec::new();
    while answer.len() < max_tokens {
        let positions = (0..).map(|position: u16| f32::from(position));
        let context: Vec<_> = embeddings.iter().copied().zip(positions).collect();
        let logits = logits_of(&context);
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let id = logits.iter().position(|l| *l == best).unwrap() as u32;
        answer.push(id);
        embeddings.push(embedding(id));
    }
    answer
}
