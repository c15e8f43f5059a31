//! Where a model repository keeps its chat template and its special tokens.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::TextError;

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CHAT_TEMPLATE_JSON: &str = "chat_template.json";

/// The named tokens of a tokenizer (`bos_token`, `eos_token`, ...) as templates see them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens(BTreeMap<String, String>);

impl SpecialTokens {
    /// Reads the contents of a `tokenizer_config.json` or a `special_tokens_map.json`: every field
    /// named `..._token` that is a string or an object with a string `content`.
    ///
    /// # Errors
    /// [`TextError::InvalidConfig`] where it is no JSON object.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TextError> {
        let fields = object(TOKENIZER_CONFIG, bytes)?;
        Ok(fields
            .iter()
            .filter(|(name, _)| name.ends_with("_token"))
            .filter_map(|(name, token)| {
                let content = token.get("content").unwrap_or(token).as_str()?;
                Some((name.clone(), content.to_owned()))
            })
            .collect())
    }

    /// The token called `name`, such as `bos_token`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn variables(&self) -> BTreeMap<String, String> {
        self.0.clone()
    }
}

impl<N: Into<String>, T: Into<String>> FromIterator<(N, T)> for SpecialTokens {
    fn from_iter<I: IntoIterator<Item = (N, T)>>(tokens: I) -> Self {
        Self(
            tokens
                .into_iter()
                .map(|(name, token)| (name.into(), token.into()))
                .collect(),
        )
    }
}

/// The contents of the files that may hold a chat template.
#[derive(Debug, Clone, Copy, Default)]
pub struct TemplateFiles<'f> {
    /// `chat_template.jinja`, the template itself.
    pub jinja: Option<&'f [u8]>,
    /// `chat_template.json`, an object with a field `chat_template`.
    pub json: Option<&'f [u8]>,
    /// `tokenizer_config.json`, where the field may also be a list of named templates.
    pub tokenizer_config: Option<&'f [u8]>,
}

impl TemplateFiles<'_> {
    /// The source of the template: of the first file that has one, in the order of the fields,
    /// which is the order of transformers.
    ///
    /// # Errors
    /// [`TextError::InvalidConfig`] where a file is malformed, or has named templates only and none
    /// is called `default`.
    pub fn source(&self) -> Result<Option<String>, TextError> {
        if let Some(bytes) = self.jinja {
            return match std::str::from_utf8(bytes) {
                Ok(source) => Ok(Some(source.to_owned())),
                Err(error) => Err(TextError::InvalidConfig {
                    file: "chat_template.jinja",
                    reason: error.to_string(),
                }),
            };
        }
        for (file, bytes) in [
            (CHAT_TEMPLATE_JSON, self.json),
            (TOKENIZER_CONFIG, self.tokenizer_config),
        ] {
            if let Some(bytes) = bytes
                && let Some(template) = object(file, bytes)?.get("chat_template")
                && let Some(source) = default_template(file, template)?
            {
                return Ok(Some(source));
            }
        }
        Ok(None)
    }
}

fn default_template(file: &'static str, template: &Value) -> Result<Option<String>, TextError> {
    let invalid = |reason: &str| {
        Err(TextError::InvalidConfig {
            file,
            reason: reason.to_owned(),
        })
    };
    match template {
        Value::Null => Ok(None),
        Value::String(source) => Ok(Some(source.clone())),
        Value::Array(templates) => {
            let default = templates.iter().find(|t| t["name"] == "default");
            match default.and_then(|t| t["template"].as_str()) {
                Some(source) => Ok(Some(source.to_owned())),
                None => invalid("`chat_template` has no template named `default`"),
            }
        }
        _ => invalid("`chat_template` is neither a string nor a list of named templates"),
    }
}

fn object(file: &'static str, bytes: &[u8]) -> Result<serde_json::Map<String, Value>, TextError> {
    serde_json::from_slice(bytes).map_err(|error| TextError::InvalidConfig {
        file,
        reason: error.to_string(),
    })
}
