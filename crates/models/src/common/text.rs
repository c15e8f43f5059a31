//! Tokenizer, chat template and stop tokens, where the Hugging Face layout keeps them.

use serde::{Deserialize, Deserializer};
use vlmd_text::{ChatTemplate, SpecialTokens, TemplateFiles, TextError, Tokenizer};

use super::fields::CONFIG;
use crate::{LoadError, ModelFiles, NemoFiles};

const TOKENIZER_FILE: &str = "tokenizer.json";
const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
const GENERATION_CONFIG_FILE: &str = "generation_config.json";

/// A token id, several, or none: configurations spell `eos_token_id` in all three ways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TokenIds(pub(crate) Vec<u32>);

impl TokenIds {
    /// Those of `others` where there are none.
    pub(crate) fn or(self, others: &Self) -> Self {
        if self.0.is_empty() {
            others.clone()
        } else {
            self
        }
    }
}

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
    required_in(TOKENIZER_FILE, tokenizer, token)
}

/// The same, of the tokenizer in `file`.
pub(crate) fn required_in(
    file: &str,
    tokenizer: &Tokenizer,
    token: &str,
) -> Result<u32, LoadError> {
    let missing = || format!("the token `{token}` is not in the vocabulary");
    let id = tokenizer.token_to_id(token);
    id.ok_or_else(|| LoadError::invalid(file, missing()))
}

/// The id of the token that stands for a picture, which the configuration must give, too.
pub(crate) fn image_token(
    tokenizer: &Tokenizer,
    token: &str,
    configured: u32,
) -> Result<u32, LoadError> {
    let id = required_token(tokenizer, token)?;
    if id == configured {
        return Ok(id);
    }
    let bound = format!("be {id}, the id of `{token}` in the tokenizer");
    Err(CONFIG.must("image_token_index", bound, configured))
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
pub(crate) fn chat_template(
    files: &ModelFiles,
    fallback: Option<&str>,
) -> Result<Option<ChatTemplate>, LoadError> {
    let (source, specials) = template_source(files)?;
    let source = source.as_deref().or(fallback);
    let compile = |source| ChatTemplate::compile(source, &specials);
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
}
