//! A model whose answers are known: it says the alphabet, whatever it is asked.
//!
//! Tokens are bytes, and one more ends an answer. Every prompt ends in the byte before `a`; the
//! model's next token is always the successor of the last one, and after `z` comes the end.

use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use candle_core::{DType, Device, Result, Tensor, bail};
use serde_json::{Map, Value, json};
use vlmd_backend::{Encoding, ImageInput, ImageSpan, KvCache, Model, ModelSpec, Prepared, Step};
use vlmd_media::Picture;
use vlmd_models::{Chat, Entity, Grounded, ImageError, Part, PrepareError, Processor};
use vlmd_text::Tokenizer;

/// The token that ends an answer.
pub(crate) const END: u32 = 256;
const VOCAB: usize = 257;

/// What the model says if nobody stops it.
pub(crate) const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyz";

/// Tokens that every picture takes.
pub(crate) const IMAGE_TOKENS: usize = 2;

/// A prompt with this byte makes its step fail.
pub(crate) const POISON: &str = "\u{1}";

/// A prompt with this text makes the processor panic.
pub(crate) const BOMB: &str = "panic!";

/// A picture of this width is refused by the processor.
pub(crate) const UNLUCKY_WIDTH: u32 = 13;

pub(crate) struct ScriptedModel {
    spec: ModelSpec,
    /// How long a step takes.
    pub(crate) pace: Duration,
}

impl ScriptedModel {
    pub(crate) fn new(pace: Duration) -> Self {
        let spec = ModelSpec {
            layers: 1,
            kv_heads: 1,
            head_dim: 2,
            hidden_size: 2,
            vocab_size: VOCAB,
            input_vocab_size: VOCAB,
            max_positions: 1 << 20,
            long_beyond: None,
            cross_feature_bytes: 0,
        };
        Self { spec, pace }
    }
}

impl Model for ScriptedModel {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn begin_encoding(&self, images: &[&ImageInput]) -> Result<Box<dyn Encoding>> {
        let features = |_: &&ImageInput| Tensor::zeros((IMAGE_TOKENS, 2), DType::F32, &Device::Cpu);
        let features: Vec<Tensor> = images.iter().map(features).collect::<Result<_>>()?;
        Ok(Box::new(features))
    }

    fn forward(&self, step: &Step, _cache: &KvCache) -> Result<Tensor> {
        sleep(self.pace);
        if step.tokens.contains(&1) {
            bail!("poisoned");
        }
        let mut logits = vec![-30f32; step.logit_rows.len() * VOCAB];
        for (row, at) in logits.chunks_mut(VOCAB).zip(&step.logit_rows) {
            let next = match step.tokens[*at as usize] {
                0x7a => END,
                END => 0x61,
                last => last + 1,
            };
            row[next as usize] = 30.0;
        }
        Tensor::from_vec(logits, (step.logit_rows.len(), VOCAB), &Device::Cpu)
    }
}

/// Points at the first three letters of an answer.
pub(crate) fn point(answer: &str) -> Grounded {
    Grounded {
        text: answer.to_uppercase(),
        entities: vec![Entity {
            phrase: answer[..3].to_owned(),
            span: (0, 3),
            boxes: vec![[0.25, 0.0, 1.0, 0.5]],
        }],
    }
}

pub(crate) struct ScriptedProcessor {
    tokenizer: Arc<Tokenizer>,
    /// Whether answers point at what they name.
    points: bool,
}

impl ScriptedProcessor {
    pub(crate) fn new(points: bool) -> Self {
        let tokenizer = Tokenizer::from_bytes(tokenizer_json().to_string().as_bytes()).unwrap();
        Self {
            tokenizer: Arc::new(tokenizer),
            points,
        }
    }
}

impl Processor for ScriptedProcessor {
    fn image(&self, picture: &Picture) -> std::result::Result<ImageInput, ImageError> {
        if picture.width() == UNLUCKY_WIDTH {
            let reason = format!("width must not be {UNLUCKY_WIDTH}");
            return Err(ImageError::Refused(reason));
        }
        Ok(ImageInput::new(
            Tensor::zeros((1, 3, 2, 2), DType::F32, &Device::Cpu)?,
            (picture.height() as usize, picture.width() as usize),
            IMAGE_TOKENS,
        )?)
    }

    fn compose(
        &self,
        chat: &Chat,
        images: &[ImageInput],
    ) -> std::result::Result<Prepared, PrepareError> {
        let mut prompt = Prepared {
            images: images.to_vec(),
            ..Prepared::default()
        };
        for part in chat.messages.iter().flat_map(|message| &message.parts) {
            match part {
                Part::Text(text) if text.contains(BOMB) => panic!("{BOMB}"),
                Part::Text(text) => prompt.tokens.extend(text.bytes().map(u32::from)),
                Part::Image(index) => {
                    let start = prompt.tokens.len();
                    prompt.tokens.resize(start + IMAGE_TOKENS, 0);
                    prompt.spans.push(ImageSpan {
                        image: *index,
                        tokens: start..start + IMAGE_TOKENS,
                    });
                }
            }
        }
        prompt.tokens.push(0x60);
        Ok(prompt)
    }

    fn render(&self, _chat: &Chat) -> std::result::Result<String, PrepareError> {
        Ok(String::new())
    }

    fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    fn stop_ids(&self) -> &[u32] {
        &[END]
    }

    fn grounding(&self) -> Option<fn(&str) -> Grounded> {
        self.points.then_some(point)
    }
}

/// Every byte is a token, spelled as GPT-2's tokenizer spells it.
fn tokenizer_json() -> Value {
    let mut spare = 0;
    let vocab: Map<_, _> = (0..=255u8)
        .map(|byte| {
            let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
            let code = if printable {
                u32::from(byte)
            } else {
                spare += 1;
                255 + spare
            };
            (char::from_u32(code).unwrap().to_string(), json!(byte))
        })
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": true, "use_regex": false});
    json!({
        "version": "1.0",
        "added_tokens": [{"id": END, "content": "<end>", "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false}],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
}
