//! Tokenizer, chat template and stop tokens, where the Hugging Face layout keeps them.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use vlmd_text::{ChatTemplate, SpecialTokens, TemplateFiles, TextError, Tokenizer};

use crate::{LoadError, ModelFiles, NemoFiles, PrepareError};

const TOKENIZER_FILE: &str = "tokenizer.json";
const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
const GENERATION_CONFIG_FILE: &str = "generation_config.json";

/// A token id, several, or none: configurations spell `eos_token_id` in all three ways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TokenIds(pub(crate) Vec<u32>);

impl<'de> Deserialize<'de> for TokenIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "a token id must be an integer from 0 on, a list of such, or null"
        )]
        enum Spelling {
            One(u32),
            Many(Vec<u32>),
            None,
        }
        Ok(Self(match Spelling::deserialize(deserializer)? {
            Spelling::One(id) => vec![id],
            Spelling::Many(ids) => ids,
            Spelling::None => Vec::new(),
        }))
    }
}

/// Reads the tokenizer. `placeholders` are beginnings of what stands for a picture in a prompt,
/// which users must not be able to write.
pub(crate) fn tokenizer(files: &ModelFiles, placeholders: &[&str]) -> Result<Tokenizer, LoadError> {
    let bytes = files.read(TOKENIZER_FILE)?;
    Tokenizer::from_bytes(&bytes)
        .and_then(|tokenizer| tokenizer.with_shielded(placeholders))
        .map_err(invalid_tokenizer)
}

/// `tokenizer.json` cannot be used.
pub(crate) fn invalid_tokenizer(source: TextError) -> LoadError {
    LoadError::Tokenizer {
        file: TOKENIZER_FILE.to_owned(),
        source,
    }
}

/// Reads a SentencePiece model, as NeMo keeps it.
pub(crate) fn sentencepiece(files: &NemoFiles, name: &str) -> Result<Tokenizer, LoadError> {
    let bytes = files.read(name)?;
    Tokenizer::from_sentencepiece(&bytes).map_err(|source| LoadError::Tokenizer {
        file: name.to_owned(),
        source,
    })
}

/// The id of a token that the architecture cannot do without.
pub(crate) fn required_token(tokenizer: &Tokenizer, token: &str) -> Result<u32, LoadError> {
    tokenizer.token_to_id(token).ok_or_else(|| {
        LoadError::invalid(
            TOKENIZER_FILE,
            format!("the token `{token}` is not in the vocabulary"),
        )
    })
}

/// Checks that every token has an embedding.
pub(crate) fn check_vocabulary(tokenizer: &Tokenizer, vocab_size: usize) -> Result<(), LoadError> {
    let tokens = tokenizer.vocab_size();
    if tokens <= vocab_size {
        return Ok(());
    }
    Err(LoadError::invalid(
        TOKENIZER_FILE,
        format!("has {tokens} tokens, more than `vocab_size` ({vocab_size}) in `config.json`"),
    ))
}

/// Compiles the checkpoint's chat template, or `fallback` where it has none.
pub(crate) fn chat_template(files: &ModelFiles, fallback: &str) -> Result<ChatTemplate, LoadError> {
    let (source, specials) = template_source(files)?;
    let source = source.as_deref().unwrap_or(fallback);
    ChatTemplate::compile(source, &specials).map_err(LoadError::Template)
}

/// Compiles the chat template of a checkpoint that has one.
pub(crate) fn optional_chat_template(
    files: &ModelFiles,
) -> Result<Option<ChatTemplate>, LoadError> {
    let (source, specials) = template_source(files)?;
    let compile = |source: String| ChatTemplate::compile(&source, &specials);
    source.map(compile).transpose().map_err(LoadError::Template)
}

fn template_source(files: &ModelFiles) -> Result<(Option<String>, SpecialTokens), LoadError> {
    let jinja = files.read_optional("chat_template.jinja")?;
    let json = files.read_optional("chat_template.json")?;
    let config = files.read_optional(TOKENIZER_CONFIG_FILE)?;
    let source = TemplateFiles {
        jinja: jinja.as_deref(),
        json: json.as_deref(),
        tokenizer_config: config.as_deref(),
    }
    .source()
    .map_err(LoadError::Template)?;
    let specials = match &config {
        Some(bytes) => SpecialTokens::from_json(bytes).map_err(LoadError::Template)?,
        None => SpecialTokens::default(),
    };
    Ok((source, specials))
}

/// `generation_config.json`, as far as it matters.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Generation {
    #[serde(default)]
    pub(crate) eos_token_id: TokenIds,
    /// 0 is off.
    #[serde(default)]
    pub(crate) no_repeat_ngram_size: usize,
}

/// Reads `generation_config.json`, where there is one.
pub(crate) fn generation(files: &ModelFiles) -> Result<Generation, LoadError> {
    files.json_or_default(GENERATION_CONFIG_FILE)
}

/// `eos_token_id` of `generation_config.json`, where there is one.
pub(crate) fn generation_stops(files: &ModelFiles) -> Result<TokenIds, LoadError> {
    Ok(generation(files)?.eos_token_id)
}

/// Renders `messages`, each an object with `role` and `content`, up to where the answer begins.
pub(crate) fn render(
    template: &ChatTemplate,
    messages: &[Value],
    kwargs: &Map<String, Value>,
) -> Result<String, PrepareError> {
    let messages = Value::Array(messages.to_vec());
    template
        .render(&messages, kwargs, true)
        .map_err(|error| match error {
            TextError::Refused(reason) | TextError::Render(reason) => {
                PrepareError::Template(reason)
            }
            other => PrepareError::Template(other.to_string()),
        })
}

/// Token ids of one piece of a prompt, each of which has an embedding.
pub(crate) fn encode(
    tokenizer: &Tokenizer,
    text: &str,
    add_special_tokens: bool,
    vocab_size: usize,
) -> Result<Vec<u32>, PrepareError> {
    let ids = tokenizer
        .encode(text, add_special_tokens)
        .map_err(|error| match error {
            TextError::Encode(reason) => PrepareError::Tokenize(reason),
            other => PrepareError::Tokenize(other.to_string()),
        })?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
        return Err(PrepareError::Tokenize(format!(
            "token {id} is beyond the model's vocabulary of {vocab_size}"
        )));
    }
    Ok(ids)
}

/// The stop tokens of several sources, each once.
pub(crate) fn stop_ids(sources: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let mut ids: Vec<u32> = sources.into_iter().collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_ids_are_read_in_every_spelling() {
        let read = serde_json::from_str::<TokenIds>;
        assert_eq!(read("2").unwrap().0, [2]);
        assert_eq!(read("[2, 32007]").unwrap().0, [2, 32007]);
        assert!(read("null").unwrap().0.is_empty());
        let error = read("-1").unwrap_err().to_string();
        assert!(error.contains("integer from 0 on"), "{error}");
    }

    #[test]
    fn stop_tokens_of_several_sources_are_listed_once() {
        assert_eq!(stop_ids([32000, 2, 32007, 2]), [2, 32000, 32007]);
    }
}
