//! Bodies of the routes that show what a model would read: `/tokenize`, `/detokenize` and
//! `/v1/.../render`, in vLLM's shapes.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::completion::token_ids;
use crate::reader::Fields;
use crate::request::read_messages;
use crate::{ChatRequest, RequestError};

/// A text or a conversation whose tokens are wanted.
#[derive(Debug, Clone, PartialEq, ToSchema)]
pub struct TokenizeRequest {
    /// Name of a served model; may be left out.
    pub model: Option<String>,
    /// Whether the answer spells the tokens out. Default false.
    #[schema(required = false)]
    pub return_token_strs: bool,
    /// What is tokenised.
    #[schema(ignore)]
    pub input: TokenizeInput,
}

/// What is tokenised.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenizeInput {
    /// A text as it stands: control tokens that are written out are control tokens.
    Text {
        /// The text.
        prompt: String,
        /// Whether the tokenizer puts its own tokens around it.
        add_special_tokens: bool,
    },
    /// A conversation, by the model's template. Its model is empty where the request names none.
    Chat(Box<ChatRequest>),
}

impl TokenizeRequest {
    /// Reads and checks a request body.
    ///
    /// # Errors
    /// The first thing that is wrong with it; see [`RequestError`].
    pub fn from_slice(body: &[u8]) -> Result<Self, RequestError> {
        let mut fields = Fields::new(json(body)?, String::new())?;
        let model = fields.string("model")?;
        let return_token_strs = fields.boolean("return_token_strs")?.unwrap_or(false);
        let input = match (
            fields.peek("prompt").is_some(),
            fields.peek("messages").is_some(),
        ) {
            (true, true) => {
                return Err(RequestError::Conflict {
                    field: fields.at("prompt"),
                    problem: "cannot be given beside `messages`".into(),
                });
            }
            (false, true) => {
                let model = model.clone().unwrap_or_default();
                let about = |fields: &mut Fields| Ok((model, read_messages(fields)?));
                TokenizeInput::Chat(Box::new(ChatRequest::read(fields, about)?))
            }
            (_, false) => TokenizeInput::Text {
                prompt: fields
                    .string("prompt")?
                    .ok_or_else(|| fields.missing("prompt"))?,
                add_special_tokens: fields.boolean("add_special_tokens")?.unwrap_or(true),
            },
        };
        Ok(Self {
            model,
            return_token_strs,
            input,
        })
    }
}

/// The tokens of a text or of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Tokenized {
    /// How many there are.
    pub count: usize,
    /// Most tokens of prompt and answer together.
    pub max_model_len: usize,
    /// Their ids. Where features of a picture stand, 0 for each.
    pub tokens: Vec<u32>,
    /// As the vocabulary spells them, if the request asked for it.
    pub token_strs: Option<Vec<String>>,
}

/// Tokens whose text is wanted.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
pub struct DetokenizeRequest {
    /// Name of a served model; may be left out.
    pub model: Option<String>,
    /// Their ids.
    pub tokens: Vec<u32>,
}

impl DetokenizeRequest {
    /// Reads and checks a request body.
    ///
    /// # Errors
    /// The first thing that is wrong with it; see [`RequestError`].
    pub fn from_slice(body: &[u8]) -> Result<Self, RequestError> {
        let mut fields = Fields::new(json(body)?, String::new())?;
        let model = fields.string("model")?;
        let tokens = fields
            .array("tokens")?
            .ok_or_else(|| fields.missing("tokens"))?;
        let tokens = if tokens.is_empty() {
            Vec::new()
        } else {
            token_ids("tokens", &tokens)?
        };
        Ok(Self { model, tokens })
    }
}

/// The text of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Detokenized {
    /// Control tokens included.
    pub prompt: String,
}

/// A prompt as the model would read it.
///
/// As vLLM's `GenerateRequest`, without the settings of sampling, and with the text that its
/// users ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RenderedPrompt {
    /// `chatcmpl-` or `cmpl-` and 32 hexadecimal digits.
    pub request_id: String,
    /// The model's name as the request gave it.
    pub model: String,
    /// The text, as the model's template writes it, with what stands for pictures in it. Null for
    /// a prompt that was given as token ids.
    pub prompt: Option<String>,
    /// Its tokens. Where features of a picture stand, 0 for each.
    pub token_ids: Vec<u32>,
    /// Null without pictures.
    pub features: Option<MultiModalFeatures>,
}

impl RenderedPrompt {
    /// The id of a rendered conversation or, with `text`, of a rendered text.
    #[must_use]
    pub fn id(text: bool) -> String {
        let kind = if text { "cmpl" } else { "chatcmpl" };
        format!("{kind}-{}", Uuid::new_v4().simple())
    }
}

/// The pictures of a prompt, by their kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct MultiModalFeatures {
    /// The pictures' digests, in the order in which they are first shown.
    pub mm_hashes: Images<String>,
    /// Where their features stand in the prompt, in its order. None for models that reach pictures
    /// by cross-attention.
    pub mm_placeholders: Images<PlaceholderRange>,
}

/// What is known of each picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Images<T> {
    /// One entry for each.
    pub image: Vec<T>,
}

/// Tokens of a prompt that are features of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlaceholderRange {
    /// Index of the first.
    pub offset: usize,
    /// Their number.
    pub length: usize,
}

fn json(body: &[u8]) -> Result<Value, RequestError> {
    serde_json::from_slice(body).map_err(|error| RequestError::Syntax(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tokenize(body: &Value) -> Result<TokenizeRequest, RequestError> {
        TokenizeRequest::from_slice(body.to_string().as_bytes())
    }

    #[test]
    fn a_text_or_a_conversation_is_tokenised() {
        let text = tokenize(&json!({"prompt": "a"})).unwrap();
        assert_eq!(text.model, None);
        assert!(matches!(
            text.input,
            TokenizeInput::Text {
                add_special_tokens: true,
                ..
            }
        ));
        let chat = tokenize(&json!({"model": "m", "return_token_strs": true,
            "messages": [{"role": "user", "content": "a"}], "add_generation_prompt": false,
            "add_special_tokens": false}))
        .unwrap();
        assert!(chat.return_token_strs);
        assert!(matches!(chat.input, TokenizeInput::Chat(chat) if chat.messages.len() == 1));
        for (body, field) in [
            (json!({}), "prompt"),
            (json!({"prompt": 7}), "prompt"),
            (json!({"prompt": "a", "messages": []}), "prompt"),
            (json!({"messages": []}), "messages"),
            (
                json!({"messages": [{"role": "user", "content": "a"}],
                    "add_generation_prompt": true, "continue_final_message": true}),
                "continue_final_message",
            ),
            (
                json!({"prompt": "a", "return_token_strs": 1}),
                "return_token_strs",
            ),
        ] {
            let error = tokenize(&body).unwrap_err();
            assert_eq!(error.param(), Some(field), "{body}: {error}");
        }
    }

    #[test]
    fn tokens_are_ids() {
        let read = |body: &Value| DetokenizeRequest::from_slice(body.to_string().as_bytes());
        assert_eq!(read(&json!({"tokens": [1, 2]})).unwrap().tokens, [1, 2]);
        assert!(read(&json!({"tokens": []})).unwrap().tokens.is_empty());
        for (body, field) in [
            (json!({}), "tokens"),
            (json!({"tokens": "a"}), "tokens"),
            (json!({"tokens": [1, -1]}), "tokens[1]"),
        ] {
            assert_eq!(read(&body).unwrap_err().param(), Some(field), "{body}");
        }
    }
}
