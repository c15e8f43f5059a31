//! A model whose answers are known: it says the alphabet, or what a test has it say, whatever it
//! is asked.
//!
//! Tokens are bytes, and one more ends an answer. Every prompt ends in the byte before `a`, or with
//! the last message if that is asked for; the model's next token is always the successor of the last one, and after `z` comes the end. With a
//! [`Role`], prompts are as long as each other, and the next token is the role's by its position.

use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use candle_core::{DType, Device, Result, Tensor, bail};
use serde_json::{Map, Value, json};
use vlmd_backend::{
    Encoding, ImageInput, ImageSpan, KvCache, Model, ModelSpec, Pixels, Prepared, Step,
};
use vlmd_media::Picture;
use vlmd_models::{Chat, Ending, Entity, Grounded, ImageError, Part, PrepareError, Processor};
use vlmd_text::{Tokenizer, ToolFamily};

/// The token that ends an answer.
pub(crate) const END: u32 = 256;
const VOCAB: usize = 257;

/// The mark before calls of Mistral's models, which only models with a [`Role`] know.
const MARK: u32 = 257;
const MARK_TEXT: &str = "[TOOL_CALLS]";

/// Tokens of every prompt of a model with a [`Role`].
const ROLE_PROMPT: usize = 8;

/// A model that calls tools.
#[derive(Debug, Clone, Default)]
pub(crate) struct Role {
    /// The form in which it does; `None` for a template without tools.
    pub(crate) family: Option<ToolFamily>,
    /// All that it says.
    pub(crate) says: String,
    /// The conversations that its processor was given.
    pub(crate) heard: Arc<Mutex<Vec<Chat>>>,
}

impl Role {
    pub(crate) fn new(family: Option<ToolFamily>, says: &str) -> Self {
        Self {
            family,
            says: says.to_owned(),
            ..Self::default()
        }
    }

    /// The token at `position` of prompt and answer.
    fn token(&self, position: usize) -> u32 {
        let mut tokens = Vec::new();
        for (index, text) in self.says.split(MARK_TEXT).enumerate() {
            tokens.extend((index > 0).then_some(MARK));
            tokens.extend(text.bytes().map(u32::from));
        }
        let said = position.checked_sub(ROLE_PROMPT);
        said.and_then(|at| tokens.get(at)).copied().unwrap_or(END)
    }
}

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
    role: Option<Role>,
}

impl ScriptedModel {
    pub(crate) fn new(pace: Duration, role: Option<Role>) -> Self {
        let vocab_size = VOCAB + usize::from(role.is_some());
        let spec = ModelSpec {
            layers: 1,
            kv_heads: 1,
            head_dim: 2,
            hidden_size: 2,
            vocab_size,
            input_vocab_size: vocab_size,
            max_positions: 1 << 20,
            long_beyond: None,
            cross_feature_bytes: 0,
        };
        Self { spec, pace, role }
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
        let vocab_size = self.spec.vocab_size;
        let mut logits = vec![-30f32; step.logit_rows.len() * vocab_size];
        for (row, at) in logits.chunks_mut(vocab_size).zip(&step.logit_rows) {
            let at = *at as usize;
            let next = match (&self.role, step.tokens[at]) {
                (Some(role), _) => role.token(step.positions[at] as usize + 1),
                (None, 0x7a) => END,
                (None, END) => 0x61,
                (None, last) => last + 1,
            };
            row[next as usize] = 30.0;
        }
        Tensor::from_vec(logits, (step.logit_rows.len(), vocab_size), &Device::Cpu)
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
    role: Option<Role>,
}

impl ScriptedProcessor {
    pub(crate) fn new(points: bool, role: Option<Role>) -> Self {
        let json = tokenizer_json(role.is_some());
        let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
        Self {
            tokenizer: Arc::new(tokenizer),
            points,
            role,
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
            vec![Pixels::Values(Tensor::zeros(
                (1, 3, 2, 2),
                DType::F32,
                &Device::Cpu,
            )?)],
            (picture.height() as usize, picture.width() as usize),
            IMAGE_TOKENS,
        )?)
    }

    fn compose(
        &self,
        chat: &Chat,
        images: &[ImageInput],
    ) -> std::result::Result<Prepared, PrepareError> {
        if self.points && chat.ending == Ending::Message {
            return Err(PrepareError::Ending("it has no turns".to_owned()));
        }
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
        prompt
            .tokens
            .extend((chat.ending == Ending::Answer).then_some(0x60));
        if let Some(role) = &self.role {
            role.heard.lock().unwrap().push(chat.clone());
            prompt.tokens.resize(ROLE_PROMPT, 0x60);
        }
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

    fn tool_family(&self) -> Option<ToolFamily> {
        self.role.as_ref().and_then(|role| role.family)
    }

    fn grounding(&self) -> Option<fn(&str) -> Grounded> {
        self.points.then_some(point)
    }
}

/// Every byte is a token, spelled as GPT-2's tokenizer spells it.
fn tokenizer_json(with_mark: bool) -> Value {
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
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false})
    };
    let mut added = vec![special(END, "<end>")];
    added.extend(with_mark.then(|| special(MARK, MARK_TEXT)));
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": true, "use_regex": false});
    json!({
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
}
