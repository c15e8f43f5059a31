//! Whether the embedded model gives the answers that it gave when it was exported.

use anyhow::{Context, Result, anyhow, bail};
use candle_core::{DType, Device};
use futures::StreamExt as _;
use serde_json::{Value, json};
use vlmd_backend::KvDtype;
use vlmd_engine::{Engine, EngineConfig, Event, EventStream, GenerateRequest, Limits, Sampling};
use vlmd_media::{DecodeLimits, decode};
use vlmd_models::{Chat, LoadOptions, Message, Part, Processor, load, tiny};

/// Blocks of the KV cache: all questions side by side.
const BLOCKS: usize = 256;

/// Tokens of an answer; the longest that is known has fewer.
const MAX_TOKENS: usize = 48;

/// How the model did with weights of one type.
#[derive(Debug, Clone)]
pub(super) struct Answers {
    pub(super) dtype: &'static str,
    /// All must be equal. In 16 bits, which the reference did not compute in, they are counted
    /// alone.
    pub(super) required: bool,
    pub(super) of: usize,
    /// Those that differ: question, expected answer, answer.
    pub(super) differing: Vec<[String; 3]>,
}

impl Answers {
    pub(super) fn equal(&self) -> usize {
        self.of.saturating_sub(self.differing.len())
    }

    pub(super) fn ok(&self) -> bool {
        self.of > 0 && (!self.required || self.differing.is_empty())
    }

    pub(super) fn json(&self) -> Value {
        let differing = self.differing.iter().map(|[question, expected, answer]| {
            json!({"question": question, "expected": expected, "answer": answer})
        });
        json!({
            "dtype": self.dtype,
            "required": self.required,
            "equal": self.equal(),
            "of": self.of,
            "differing": differing.collect::<Vec<_>>(),
            "ok": self.ok(),
        })
    }
}

/// Asks the embedded model on `device`: in f32, and on a CUDA device in bf16, too, which it serves
/// in.
///
/// # Errors
/// When it cannot be loaded or asked.
pub(super) fn answers(device: &Device) -> Result<Vec<Answers>> {
    let exact = ask(device, DType::F32, KvDtype::F32, true)?;
    if device.is_cpu() {
        return Ok(vec![exact]);
    }
    Ok(vec![exact, ask(device, DType::BF16, KvDtype::Bf16, false)?])
}

fn ask(device: &Device, dtype: DType, kv_dtype: KvDtype, required: bool) -> Result<Answers> {
    let options = LoadOptions {
        device: device.clone(),
        dtype: Some(dtype),
        ..LoadOptions::default()
    };
    let loaded =
        load(&tiny::embedded(), &options).context("the embedded model cannot be loaded")?;
    let processor = loaded.processor;
    let context = loaded.model.spec().max_positions;
    let engine = Engine::start(loaded.model, EngineConfig::new(BLOCKS, kv_dtype, context))?;
    let examples = tiny::examples();
    // All at once, as a server has them.
    let streams = examples
        .iter()
        .map(|example| submit(&engine, &*processor, example))
        .collect::<Result<Vec<_>>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut differing = Vec::new();
    for (example, stream) in examples.iter().zip(streams) {
        let ids = runtime.block_on(tokens(stream))?;
        let answer = processor.tokenizer().decode(&ids, true)?;
        if answer.trim() != example.answer {
            let answer = answer.trim().to_owned();
            differing.push([example.question.clone(), example.answer.clone(), answer]);
        }
    }
    Ok(Answers {
        dtype: dtype.as_str(),
        required,
        of: examples.len(),
        differing,
    })
}

fn submit(
    engine: &Engine,
    processor: &dyn Processor,
    example: &tiny::Example,
) -> Result<EventStream> {
    let picture = decode(example.picture, &DecodeLimits::default())?;
    let question = Message {
        role: "user".to_owned(),
        parts: vec![Part::Image(0), Part::Text(example.question.clone())],
        ..Message::default()
    };
    let chat = Chat {
        messages: vec![question],
        ..Chat::default()
    };
    let prompt = processor.prepare(&chat, &[picture])?;
    let sampling = Sampling {
        temperature: 0.0,
        ..Sampling::default()
    };
    let limits = Limits {
        max_tokens: MAX_TOKENS,
        stop_ids: processor.stop_ids().to_vec(),
        ..Limits::default()
    };
    let streams = engine.submit(GenerateRequest::new(prompt, sampling, limits))?;
    let first = streams.into_iter().next();
    first.ok_or_else(|| anyhow!("the engine took a request and gave no answer"))
}

/// The tokens of an answer.
async fn tokens(mut stream: EventStream) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    while let Some(event) = stream.next().await {
        match event {
            Event::Token { id, .. } => ids.push(id),
            Event::Failed(error) => bail!("the engine gave up on a question: {error}"),
            Event::Prompt(_) | Event::Timings(_) | Event::Finished(_) => {}
        }
    }
    Ok(ids)
}
