//! What a step of the engine costs beside the model: 64 answers under a model that takes no time.
//!
//! `cargo bench -p vlmd-engine --bench engine`. An iteration is one step: plan, batch, choice of
//! 64 tokens and their events. With a vocabulary of 64 words the choice costs nothing, and what is
//! left is the scheduler; with 32,064 it is that of real models.

#![allow(missing_docs, reason = "criterion's macros")]
#![allow(
    clippy::expect_used,
    reason = "a benchmark that cannot start has nothing to tell"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use futures::StreamExt;
use futures::executor::block_on;
use futures::future::join_all;
use vlmd_backend::{Encoding, ImageInput, KvCache, KvDtype, Model, ModelSpec, Prepared, Step};
use vlmd_engine::{Engine, EngineConfig, GenerateRequest, Limits, Sampling};

const SEQUENCES: usize = 64;
const PROMPT: u32 = 200;

/// Answers at once, always the same.
struct Instantaneous {
    spec: ModelSpec,
    /// `[SEQUENCES, vocabulary]`, made once: filling them is the model's work.
    logits: Tensor,
}

impl Model for Instantaneous {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn begin_encoding(&self, _images: &[&ImageInput]) -> Result<Box<dyn Encoding>> {
        Ok(Box::new(Vec::new()))
    }

    fn forward(&self, step: &Step, _cache: &KvCache) -> Result<Tensor> {
        let rows = black_box(step).logit_rows.len();
        self.logits.narrow(0, 0, rows)
    }
}

fn engine(vocab_size: usize) -> Engine {
    let spec = ModelSpec {
        layers: 1,
        kv_heads: 1,
        head_dim: 1,
        hidden_size: 1,
        vocab_size,
        input_vocab_size: vocab_size,
        max_positions: 1 << 20,
        long_beyond: None,
        cross_feature_bytes: 0,
    };
    let logits = Tensor::zeros((SEQUENCES, vocab_size), DType::F32, &Device::Cpu)
        .expect("a tensor of zeros fits the memory");
    let config = EngineConfig::new(1 << 16, KvDtype::F32, 1 << 20);
    Engine::start(Box::new(Instantaneous { spec, logits }), config).expect("the engine starts")
}

/// Time of `steps` steps of all sequences, prompts apart.
fn decode(engine: &Engine, steps: u64) -> Duration {
    let streams = (0..SEQUENCES as u32).map(|sequence| {
        let prompt = Prepared::text((0..PROMPT).map(|at| (sequence + at) % 64).collect());
        let sampling = Sampling {
            temperature: 0.0,
            ..Sampling::default()
        };
        let limits = Limits {
            max_tokens: steps as usize + 2,
            ..Limits::default()
        };
        let request = GenerateRequest::new(prompt, sampling, limits);
        engine.submit(request).expect("it is taken").remove(0)
    });
    let mut streams: Vec<_> = streams.collect();
    // Everyone has its first token before the clock starts.
    block_on(join_all(streams.iter_mut().map(StreamExt::next)));
    let before = engine.stats().steps;
    let begin = Instant::now();
    block_on(join_all(streams.into_iter().map(StreamExt::count)));
    let took = begin.elapsed();
    let done = engine.stats().steps - before;
    took.mul_f64(steps as f64 / done.max(1) as f64)
}

fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("step of 64 sequences");
    for vocab in [64, 32_064] {
        let engine = engine(vocab);
        group.bench_function(format!("vocabulary of {vocab}"), |b| {
            b.iter_custom(|iterations| {
                decode(&engine, iterations.max(16)) * iterations as u32 / iterations.max(16) as u32
            });
        });
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
